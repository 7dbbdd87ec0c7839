"""The predecessor's models and weights (HaojunYu1998/UltraDet, arXiv 2305.18060) and those of our earlier versions, translated to current names.

`RENAMES` brings names of weights up to date; the checkpointer applies it to names that a model does not have, so that published
checkpoints and those of version 0.1 still load. `PUBLISHED_MODELS` says which shipped config computes what a published model
computes.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

__all__ = ["PUBLISHED_MODELS", "RENAMES", "SKIPPED", "PublishedModel", "current_names", "skip_reason"]

RENAMES: tuple[tuple[str, str], ...] = (
    # (regular expression, replacement) for a weight's whole name. The rules are tried in order, each on the name itself and on what
    # earlier rules made of it; the first result that is a name of the model counts. So two models may call one old name differently.
    # --- two-stage detectors; version 0.1 had the predecessor's names
    (r"^proposal_generator\.rpn_head\.", "proposal_head.rpn_head."),
    (r"^roi_heads\.res5\.", "roi_pooler.head."),
    (r"^roi_heads\.relation\.", "token_mixer.relation."),
    (r"^token_mixer\.relation\.selsa_layers\.", "token_mixer.relation.layers."),
    (r"^roi_heads\.box_predictor\.", "box_predictor."),
    # --- one-stage detectors
    (r"^head\.", "dense_head."),  # RetinaNet, detectron2's too
    (r"^proposal_generator\.(fcos_head|head)\.", "dense_head."),  # FCOS, DeFCN
    (r"^(dense_head)\.cls_subnet\.", r"\1.cls_tower."),
    (r"^(dense_head)\.(bbox_subnet|bbox_tower)\.", r"\1.box_tower."),
    (r"^(dense_head)\.cls_logits\.", r"\1.cls_score."),
    (r"^(dense_head)\.ctrness\.", r"\1.centerness."),
    (r"^(dense_head)\.scales\.0\.scale$", r"\1.scale"),
    (r"^(dense_head)\.max3d\.", r"\1.max_filter."),
    (r"^(dense_head)\.filter\.", r"\1.filter_score."),
    (r"^proposal_generator\.(?=(stems|(cls|reg)_convs|(cls|reg|obj)_preds)\.0\.)", "dense_head."),  # YOLOX
    (r"^(dense_head)\.stems\.0\.", r"\1.stem."),
    (r"^(dense_head)\.cls_convs\.0\.", r"\1.cls_branch."),
    (r"^(dense_head)\.reg_convs\.0\.", r"\1.box_branch."),
    (r"^(dense_head)\.cls_preds\.0\.", r"\1.cls_score."),
    (r"^(dense_head)\.reg_preds\.0\.", r"\1.bbox_pred."),
    (r"^(dense_head)\.obj_preds\.0\.", r"\1.objectness."),
    (r"^(dense_head\..*)\.conv\.(?=weight$)", r"\1."),
    (r"^(dense_head\..*)\.bn\.", r"\1.norm."),
    # UltraDet and FGFA
    (r"^token_mixer\.relation\.flow_layers\.(\d+)\.temporal_attn\.", r"token_mixer.context_layers.\1."),
    (r"^token_mixer\.relation\.flow_layers\.(\d+)\.norm1\.", r"token_mixer.context_layers.\1.norm."),
    (r"^roi_heads\.flownet\.", "token_mixer.warp.estimator."),
    (r"^flownet\.", "feature_context.warp.estimator."),
    (r"\.estimator\.(?:flow_)?conv(\d)\.", r".estimator.levels.\1.0."),
    (r"\.estimator\.conv(\d)_1\.", r".estimator.levels.\1.2."),
    (r"\.estimator\.deconv(\d)\.", r".estimator.refinements.\1.upsample."),
    (r"\.estimator\.upsample_flow\dto(\d)\.", r".estimator.refinements.\1.upsample_flow."),
    (r"\.estimator\.Convolution1\.", ".estimator.refinements.5.flow."),
    (r"\.estimator\.Convolution2\.", ".estimator.refinements.4.flow."),
    (r"\.estimator\.Convolution3\.", ".estimator.refinements.3.flow."),
    (r"\.estimator\.Convolution4\.", ".estimator.refinements.2.flow."),
    (r"\.estimator\.Convolution5\.", ".estimator.flow."),
    (r"\.estimator\.Convolution5_scale\.", ".estimator.scale."),
    (r"^embednet\.embed_conv1\.", "feature_context.embedding.0."),
    (r"^embednet\.embed_conv2\.", "feature_context.embedding.2."),
    (r"^embednet\.embed_conv3\.", "feature_context.embedding.4."),
    # --- query-based detectors
    (r"^transformer\.level_embed$", "encoder.level_embed"),
    (r"^transformer\.reference_points\.", "decoder.reference_points."),
    (r"^transformer\.(encoder|decoder)\.layers\.", r"\1.layers."),
    (r"^transformer\.temporal_query_encoder\.layers\.", "query_context.layers."),
    (r"^transformer\.temporal_decoder\.layers\.", "query_context.decoder."),
    (r"^((?:encoder|decoder|query_context)\..*\d)\.(self|cross)_attn\.", r"\1.\2_attention."),
    (r"^((?:encoder|decoder|query_context)\..*\d)\.(linear[12])\.", r"\1.ffn.\2."),
    (r"^(encoder\.layers\.\d)\.norm1\.", r"\1.norm."),
    (r"^(encoder\.layers\.\d)\.norm2\.", r"\1.ffn.norm."),
    (r"^((?:decoder|query_context)\..*\d)\.norm2\.", r"\1.self_norm."),
    (r"^((?:decoder|query_context)\..*\d)\.norm1\.", r"\1.cross_norm."),
    (r"^((?:decoder|query_context)\..*\d)\.norm3\.", r"\1.ffn.norm."),
    (r"^input_proj\.0\.0\.", "encoder.input_proj."),
    (r"^input_proj\.0\.1\.", "encoder.input_norm."),
    (r"^query_embed\.", "decoder.query_embed."),
    (r"^class_embed\.", "decoder.class_heads."),
    (r"^bbox_embed\.", "decoder.box_heads."),
    (r"^temp_class_embed\.", "query_context.class_head."),
    (r"^temp_bbox_embed\.", "query_context.box_head."),
    (r"^transformer\.corr\.layers\.", "memory_context.transition."),
    (r"^transformer\.s_decoder1\.layers\.", "memory_context.temporal."),
    (r"^transformer\.s_decoder2\.layers\.", "memory_context.spatial."),
    (r"^transformer\.our_decoder\.layers\.", "memory_context.fusion."),
    (r"^(memory_context\..*\d)\.multihead_attn\.", r"\1.attention."),
    (r"^(memory_context\..*\d)\.norm2\.", r"\1.norm."),
    (r"^(memory_context\..*\d)\.norm3\.", r"\1.ffn_norm."),
    (r"^(memory_context\..*\d)\.se\.w_z\.", r"\1.gate."),
)

SKIPPED: tuple[tuple[str, str], ...] = (
    # (regular expression, reason) for names of a file that no model needs.
    (r"\.anchor_generator\.cell_anchors\.", "anchors are computed"),
    (r"^pixel_(mean|std)$", "the config has them"),
    (r"^flownet\.", "FGFA's published code overwrites its flow with zeros"),
    (r"^transformer\.decoder\.bbox_embed\.", "the same tensors as bbox_embed"),
    (r"^transformer\.class_embed\.", "the same tensors as class_embed.3"),
    (r"^transformer\.(pre_decoder|reference_points1)\.", "PTSEFormer does not use them"),
    (r"^transformer\.(corr|s_decoder[12]|our_decoder)\.layers\.\d\.norm1\.", "PTSEFormer does not use them"),
)


@dataclass(frozen=True)
class PublishedModel:
    """How a model of the predecessor is composed here.

    Attributes:
        config: short name of a shipped config that has it as ``model``.
        overrides: the overrides of that model, as in ``MODEL.OPTS`` of a YAML config: they switch on what the published code does unlike the
            paper, and unlike the shipped config.
    """

    config: str
    overrides: tuple[str, ...] = ()


PUBLISHED_MODELS: dict[str, PublishedModel] = {
    # the predecessor's name -> ours
    "FasterRCNN": PublishedModel("common/models/faster_rcnn.py"),
    "RelationNet": PublishedModel("common/models/relationnet.py"),
    "BasicDet": PublishedModel("common/models/basicdet.py"),
    "UltraDet": PublishedModel(
        "common/models/ultradet.py",
        (
            "token_mixer.warp.estimator.flow_unit=40.0",
            "token_mixer.warp.estimator.image_divisor=255.0",
            "token_mixer.warp.mixed_corners=True",
        ),
    ),
    "FGFA": PublishedModel(
        "common/models/fgfa.py",
        (
            "feature_context.warp.estimator={_target_: ultravid.modeling.flow.ZeroFlow}",
            "feature_context.warp.mixed_corners=True",
            "feature_context.causal=False",
        ),
    ),
    "RetinaNet": PublishedModel("common/models/retinanet.py"),
    "FCOS": PublishedModel("common/models/fcos.py", ("dense_head.keep_ties=True", "dense_head.giou_plus_one=True")),
    "DeFCN": PublishedModel("common/models/defcn.py"),
    "YOLOX": PublishedModel("common/models/yolox.py", ("dense_head.scale_by_padded_size=True",)),
    "TrackYOLO": PublishedModel(
        "common/models/trackyolo.py",
        ("dense_head.scale_by_padded_size=True", "tracker.forget_lost=True", "tracker.new_tracks_first=True"),
    ),
    "DeformDETR": PublishedModel("common/models/deformable_detr.py"),
    "TransVOD": PublishedModel("common/models/transvod.py", ("criterion.final_weights=[1.0,1.0,1.0]",)),
    "CVANet": PublishedModel("common/models/cvanet.py", ("feature_context.channel_pairs=True",)),
    "PTSEFormer": PublishedModel("common/models/ptseformer.py", ("memory_context.num_transitions=1",)),
    "SELSA": PublishedModel("common/models/selsa.py"),
    "MEGA": PublishedModel(
        "common/models/mega.py", ("token_mixer.recent_memory_frames=10", "token_mixer.gt_memory_keys=True")
    ),
}


def skip_reason(name: str) -> str:
    """Why no model needs a weight of a file; "" if `SKIPPED` does not say so."""
    return next((reason for pattern, reason in SKIPPED if re.search(pattern, name)), "")


def current_names(names: Iterable[str], expected: Container[str]) -> dict[str, str]:
    """Names of a file's weights as a model has them.

    Args:
        names: those of the file.
        expected: those of the model.

    Returns:
        for each name that the model does not have, but that it has under another name, that one; "" for a name that no
        model needs. The others are not in it.
    """
    found: dict[str, str] = {}
    for name in names:
        if name in expected:
            continue
        new = _current_name(name, expected)
        if new is not None:
            found[name] = new
        elif skip_reason(name):
            found[name] = ""
    return found


def _current_name(name: str, expected: Container[str]) -> str | None:
    candidates = [name]
    for pattern, replacement in RENAMES:
        for candidate in tuple(candidates):
            new = re.sub(pattern, replacement, candidate)
            if new in expected:
                return new
            if new != candidate:
                candidates.append(new)
    return None
