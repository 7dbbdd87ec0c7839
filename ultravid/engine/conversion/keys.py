"""The keys of the predecessor's YAML configs, and their meaning for each of its models.

Its keys are detectron2's and its own. Each of those that decide what a trained model detects is either an argument of a part here, or
supported with one value alone. Keys that decide about training or data alone are listed, so that nothing is left out in silence.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ARCHITECTURES",
    "ARGUMENTS",
    "BY_HAND",
    "CLIPS",
    "NAMES",
    "ONE_VALUE",
    "OTHER_MODELS",
    "QUERY",
    "TRAINING",
    "TWO_STAGE",
]

# the models, by what they have in common
TWO_STAGE = ("FasterRCNN", "RelationNet", "BasicDet", "SELSA", "MEGA", "UltraDet", "FGFA")
_RELATION = ("RelationNet", "BasicDet", "MEGA", "UltraDet")
_WINDOW = ("BasicDet", "SELSA", "UltraDet")
_YOLOX = ("YOLOX", "TrackYOLO")
QUERY = ("DeformDETR", "CVANet", "TransVOD", "PTSEFormer")
_ALL = (*TWO_STAGE, "RetinaNet", "FCOS", "DeFCN", *_YOLOX, *QUERY)

ARGUMENTS: tuple[tuple[tuple[str, ...], dict[str, tuple[Any, str]]], ...] = (
    # models, {key: (the predecessor's default, arguments of the model here that have its value)}
    (
        _ALL,
        {
            "MODEL.PIXEL_MEAN": ([103.53, 116.28, 123.675], "pixel_mean"),
            "MODEL.PIXEL_STD": ([1.0, 1.0, 1.0], "pixel_std"),
            "MODEL.BACKBONE.FREEZE_AT": (-1, "backbone.freeze_at"),
            "MODEL.RESNETS.DEPTH": (34, "backbone.depth"),
        },
    ),
    (
        TWO_STAGE,
        {
            "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0, "proposal_head.anchor_generator.offset"),
            "MODEL.RPN.PRE_NMS_TOPK_TEST": (256, "proposal_head.pre_nms_topk"),
            "MODEL.RPN.POST_NMS_TOPK_TEST": (128, "proposal_head.post_nms_topk"),
            "MODEL.RPN.NMS_THRESH": (0.7, "proposal_head.nms_threshold"),
            "MODEL.RPN.BBOX_REG_WEIGHTS": ([1.0, 1.0, 1.0, 1.0], "proposal_head.box2box_transform.weights"),
            "MODEL.RPN.IOU_THRESHOLDS": ([0.3, 0.7], "proposal_head.anchor_matcher.thresholds"),
            "MODEL.RPN.IOU_LABELS": ([0, -1, 1], "proposal_head.anchor_matcher.labels"),
            "MODEL.RPN.BATCH_SIZE_PER_IMAGE": (256, "proposal_head.batch_size_per_image"),
            "MODEL.RPN.POSITIVE_FRACTION": (0.5, "proposal_head.positive_fraction"),
            "MODEL.RPN.LOSS_WEIGHT": (1.0, "proposal_head.loss_weight"),
            "MODEL.ROI_HEADS.NUM_CLASSES": (1, "box_predictor.num_classes"),
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0.0, "box_predictor.score_threshold"),
            "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0.5, "box_predictor.nms_threshold"),
            "MODEL.ROI_HEADS.IOU_THRESHOLDS": ([0.5], "roi_sampler.matcher.thresholds"),
            "MODEL.ROI_HEADS.IOU_LABELS": ([0, 1], "roi_sampler.matcher.labels"),
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": (16, "roi_sampler.num_samples"),
            "MODEL.ROI_HEADS.POSITIVE_FRACTION": (0.5, "roi_sampler.positive_fraction"),
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (14, "roi_pooler.box_pooler.output_size"),
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": (0, "roi_pooler.box_pooler.sampling_ratio"),
            "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": ([10.0, 10.0, 5.0, 5.0], "box_predictor.box2box_transform.weights"),
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": (1.0, "box_predictor.box_loss_weight"),
            "TEST.DETECTIONS_PER_IMAGE": (100, "box_predictor.max_detections"),
        },
    ),
    (
        _RELATION,
        {
            "MODEL.ROI_BOX_HEAD.RELATION_HEAD_NUMS": (8, "token_mixer.relation.num_heads"),
            "MODEL.ROI_BOX_HEAD.RELATION_LAYER_NUMS": (2, "token_mixer.relation.num_layers"),
        },
    ),
    (("SELSA",), {"MODEL.ROI_BOX_HEAD.SELSA_LAYER_NUMS": (2, "token_mixer.relation.num_layers")}),
    (_WINDOW, {"MODEL.ROI_BOX_HEAD.INTERVAL_PRE_TEST": (15, "token_mixer.context_frames")}),
    (
        ("UltraDet",),
        {
            "MODEL.CONTEXT_STEP_LEN": (8, "token_mixer.key_interval"),
            "MODEL.CONTEXT_FLOW_FRAMES": (2, "token_mixer.num_contexts"),
        },
    ),
    (
        ("RetinaNet",),
        {
            "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0, "dense_head.anchor_generator.offset"),
            "MODEL.RETINANET.NUM_CLASSES": (80, "dense_head.num_classes"),
            "MODEL.RETINANET.NUM_CONVS": (4, "dense_head.num_convs"),
            "MODEL.RETINANET.SCORE_THRESH_TEST": (0.05, "dense_head.score_threshold"),
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": (1000, "dense_head.pre_nms_topk"),
            "MODEL.RETINANET.NMS_THRESH_TEST": (0.5, "dense_head.nms_threshold"),
            "MODEL.RETINANET.BBOX_REG_WEIGHTS": ([1.0, 1.0, 1.0, 1.0], "dense_head.box2box_transform.weights"),
            "MODEL.RETINANET.IOU_THRESHOLDS": ([0.4, 0.5], "dense_head.anchor_matcher.thresholds"),
            "MODEL.RETINANET.IOU_LABELS": ([0, -1, 1], "dense_head.anchor_matcher.labels"),
            "MODEL.RETINANET.FOCAL_LOSS_ALPHA": (0.25, "dense_head.focal_alpha"),
            "MODEL.RETINANET.FOCAL_LOSS_GAMMA": (2.0, "dense_head.focal_gamma"),
            "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": (0.1, "dense_head.smooth_l1_beta"),
            "TEST.DETECTIONS_PER_IMAGE": (100, "dense_head.max_detections"),
        },
    ),
    (
        ("FCOS",),
        {
            "MODEL.FCOS.NUM_CLASSES": (1, "dense_head.num_classes"),
            "MODEL.FCOS.INFERENCE_TH_TEST": (0.05, "dense_head.score_threshold"),
            "MODEL.FCOS.PRE_NMS_TOPK_TEST": (256, "dense_head.pre_nms_topk"),
            "MODEL.FCOS.NMS_TH": (0.6, "dense_head.nms_threshold"),
            "MODEL.FCOS.POST_NMS_TOPK_TEST": (16, "dense_head.max_detections"),
            "MODEL.FCOS.LOSS_ALPHA": (0.5, "dense_head.focal_alpha"),
            "MODEL.FCOS.LOSS_GAMMA": (2, "dense_head.focal_gamma"),
            "MODEL.FCOS.POS_RADIUS": (1.5, "dense_head.assigner.radius"),
        },
    ),
    (
        ("DeFCN",),
        {
            "MODEL.DeFCN.PRE_NMS_TOPK": (256, "dense_head.pre_nms_topk"),
            "MODEL.DeFCN.NMS_THRESH_TEST": (0.6, "dense_head.nms_threshold"),
            "MODEL.DeFCN.NUM_PROPOSALS": (16, "dense_head.max_detections"),
            "MODEL.DeFCN.FOCAL_LOSS_ALPHA": (0.25, "dense_head.focal_alpha"),
            "MODEL.DeFCN.FOCAL_LOSS_GAMMA": (2.0, "dense_head.focal_gamma"),
            "MODEL.DeFCN.REG_WEIGHT": (2.0, "dense_head.box_loss_weight"),
            "MODEL.POTO.ALPHA": (0.8, "dense_head.assigner.iou_power dense_head.aux_assigner.iou_power"),
            "MODEL.POTO.CENTER_SAMPLING_RADIUS": (1.5, "dense_head.assigner.radius"),
            "MODEL.POTO.AUX_TOPK": (9, "dense_head.aux_assigner.topk"),
        },
    ),
    (
        _YOLOX,
        {
            "MODEL.YOLOX.PRE_NMS_TOPK": (256, "dense_head.pre_nms_topk"),
            "MODEL.YOLOX.NMS_THRESH_TEST": (0.7, "dense_head.nms_threshold"),
            "MODEL.YOLOX.NUM_PROPOSALS": (16, "dense_head.max_detections"),
        },
    ),
    (
        ("TrackYOLO",),
        {
            "MODEL.TRACKER.VALID_SCORE_THRESH": (0.05, "tracker.min_score"),
            "MODEL.TRACKER.SPARSE_NMS_THRESH": (0.5, "tracker.nms_threshold"),
            "MODEL.TRACKER.KALMAN_IOU_THRESH": (0.5, "tracker.match_threshold"),
            "MODEL.TRACKER.NEW_SCORE_THRESH": (0.2, "tracker.new_track_score"),
            "MODEL.TRACKER.TRACK_BUFFER_SIZE": (20, "tracker.buffer"),
        },
    ),
    (
        QUERY,
        {
            "MODEL.DeformableDETR.NUM_CLASSES": (1, "decoder.num_classes"),
            "MODEL.DeformableDETR.NUM_QUERIES": (16, "decoder.num_queries"),
            "MODEL.DeformableDETR.ENCODER_LAYERS": (6, "encoder.num_layers"),
            "MODEL.DeformableDETR.DECODER_LAYERS": (6, "decoder.num_layers"),
            "MODEL.DeformableDETR.DIM_FEEDFORWARD": (1024, "encoder.ffn_dim decoder.ffn_dim"),
            "MODEL.DeformableDETR.ENCODER_N_POINTS": (4, "encoder.num_points"),
            "MODEL.DeformableDETR.DECODER_N_POINTS": (4, "decoder.num_points"),
            "MODEL.DeformableDETR.DROPOUT": (0.1, "encoder.dropout decoder.dropout"),
            "MODEL.DeformableDETR.NMS_THRESH": (0.7, "nms_threshold"),
            "MODEL.DeformableDETR.CLASS_WEIGHT": (2.0, "criterion.class_weight criterion.assigner.class_cost"),
            "MODEL.DeformableDETR.L1_WEIGHT": (5.0, "criterion.l1_weight criterion.assigner.l1_cost"),
            "MODEL.DeformableDETR.GIOU_WEIGHT": (2.0, "criterion.giou_weight criterion.assigner.giou_cost"),
        },
    ),
    (
        ("TransVOD",),
        {
            "MODEL.DeformableDETR.NUM_CLASSES": (1, "decoder.num_classes query_context.num_classes"),
            "MODEL.DeformableDETR.NUM_QUERIES": (16, "decoder.num_queries query_context.num_queries"),
            "MODEL.DeformableDETR.DECODER_N_POINTS": (4, "decoder.num_points query_context.num_points"),
            "MODEL.DeformableDETR.DIM_FEEDFORWARD": (1024, "encoder.ffn_dim decoder.ffn_dim query_context.ffn_dim"),
            "MODEL.DeformableDETR.DROPOUT": (0.1, "encoder.dropout decoder.dropout query_context.dropout"),
            "MODEL.DeformableDETR.QUERY_ENCODER_LAYERS": (3, "query_context.num_layers"),
            "MODEL.DeformableDETR.TEMPORAL_DECODER_LAYERS": (1, "query_context.num_decoder_layers"),
        },
    ),
)

ONE_VALUE: tuple[tuple[tuple[str, ...], dict[str, tuple[Any, Any]]], ...] = (
    # models, {key: (the predecessor's default, the value without which it is another model)}
    (
        _ALL,
        {
            "MODEL.BACKBONE.NAME": ("build_resnet_backbone", "build_resnet_backbone"),
            "MODEL.RESNETS.NORM": ("FrozenBN", "FrozenBN"),
            "MODEL.RESNETS.OUT_FEATURES": (["res4"], ["res4"]),
            "MODEL.RESNETS.NUM_GROUPS": (1, 1),
            "MODEL.RESNETS.WIDTH_PER_GROUP": (64, 64),
            "MODEL.RESNETS.RES2_OUT_CHANNELS": (64, 64),
            "MODEL.RESNETS.STEM_OUT_CHANNELS": (64, 64),
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4, [False] * 4),
            "MODEL.ORGAN_SPECIFIC.ENABLE": ([], []),
            "MODEL.MASK_ON": (False, False),
            "MODEL.KEYPOINT_ON": (False, False),
            "MODEL.LOAD_PROPOSALS": (False, False),
            "MODEL.RPN_ONLY_TEST": (False, False),
            "INPUT.SCALE_TEST": (1.0, 1.0),
            "TEST.AUG.ENABLED": (False, False),
        },
    ),
    (
        TWO_STAGE,
        {
            "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator", "DefaultAnchorGenerator"),
            "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": (0, 0),
            "MODEL.RPN.HEAD_NAME": ("StandardRPNHead", "StandardRPNHead"),
            "MODEL.RPN.IN_FEATURES": (["res4"], ["res4"]),
            "MODEL.RPN.CONV_DIMS": ([-1], [-1]),
            "MODEL.ROI_HEADS.IN_FEATURES": (["res4"], ["res4"]),
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlignV2"),
            "MODEL.ROI_BOX_HEAD.INTERVAL_AFTER_TEST": (0, 0),
            "MODEL.ROI_BOX_HEAD.CAUSAL_RELATION": (False, False),
            "MODEL.ROI_BOX_HEAD.ROI_REL_POSITION": (False, False),
            "MODEL.ROI_BOX_HEAD.USE_ATTENTION": (False, False),
            "MODEL.ROI_BOX_HEAD.USE_ONE_LAYER": (False, False),
            "MODEL.RESNETS.HALF_CHANNEL": (True, True),
            "MODEL.RESNETS.RES5_OUT_CHANNEL": (512, 512),
            "MODEL.RESNETS.RES5_DILATION": (1, 1),
        },
    ),
    (
        ("UltraDet",),
        {
            "MODEL.ROI_BOX_HEAD.RELATION_HEAD_NUMS": (8, 8),  # of the contexts' attention too, perhaps
            "MODEL.ROI_BOX_HEAD.NTCA_LAYER_INDEX": (0, 0),
            "MODEL.CONTEXT_FEATURE": (["p5"], ["res4"]),
            "MODEL.CONTEXT_TEMP_AGGREGATION": (True, True),
            "MODEL.CONTEXT_IOF_ALIGN": (True, True),
            "MODEL.FLOWNET_METHOD": ("DFF", "DFF"),
        },
    ),
    (("FGFA",), {"MODEL.FLOWNET_METHOD": ("DFF", "FGFA")}),
    (("UltraDet", "FGFA"), {"MODEL.FLOWNET_POOL_STRIDE": (4, 4)}),
    (
        ("RetinaNet",),
        {
            "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator", "DefaultAnchorGenerator"),
            "MODEL.RETINANET.IN_FEATURES": (["p3", "p4", "p5", "p6", "p7"], ["res4"]),
            "MODEL.RETINANET.NORM": ("", ""),
            "MODEL.RETINANET.INTERVAL_PRE_TEST": (15, 15),
            "MODEL.RETINANET.INTERVAL_AFTER_TEST": (0, 0),
        },
    ),
    (
        ("FCOS",),
        {
            "MODEL.FCOS.IN_FEATURES": (["res4"], ["res4"]),
            "MODEL.FCOS.FPN_STRIDES": ([16], [16]),
            "MODEL.FCOS.NORM": ("GN", "GN"),
            "MODEL.FCOS.USE_SCALE": (True, True),
            "MODEL.FCOS.THRESH_WITH_CTR": (False, False),
            "MODEL.FCOS.USE_DEFORMABLE": (False, False),
            "MODEL.FCOS.NUM_CLS_CONVS": (4, 4),
            "MODEL.FCOS.NUM_BOX_CONVS": (4, 4),
            "MODEL.FCOS.NUM_SHARE_CONVS": (0, 0),
            "MODEL.FCOS.YIELD_PROPOSAL": (False, False),
        },
    ),
    (
        ("DeFCN",),
        {
            "MODEL.ROI_HEADS.NUM_CLASSES": (1, 1),
            "MODEL.DeFCN.IN_FEATURES": (["res4"], ["res4"]),
            "MODEL.DeFCN.FPN_STRIDES": ([16], [16]),
            "MODEL.DeFCN.NUM_CONVS": (4, 4),
            "MODEL.DeFCN.NORM_REG_TARGETS": (True, True),
            "MODEL.DeFCN.NMS_TYPE": ("normal", "normal"),
            "MODEL.DeFCN.BBOX_REG_WEIGHTS": ([1.0] * 4, [1.0] * 4),
            "MODEL.SHIFT_GENERATOR.NUM_SHIFTS": (1, 1),
            "MODEL.SHIFT_GENERATOR.OFFSET": (0.5, 0.5),
            "MODEL.POTO.FILTER_KERNEL_SIZE": (3, 3),
            "MODEL.POTO.FILTER_TAU": (2, 2),
        },
    ),
    (
        _YOLOX,
        {
            "MODEL.ROI_HEADS.NUM_CLASSES": (1, 1),
            "MODEL.YOLOX.IN_FEATURES": (["res4"], ["res4"]),
            "MODEL.YOLOX.STRIDES": ([16], [16]),
            "MODEL.YOLOX.NMS_TYPE": ("normal", "normal"),
        },
    ),
    (
        QUERY,
        {
            "MODEL.POSITION_EMBEDDING_TEMPERATURE": (10000, 10000),
            "MODEL.DeformableDETR.POS_EMBED_TYPE": ("sine", "sine"),
            "MODEL.DeformableDETR.IN_FEATURES": (["res4"], ["res4"]),
            "MODEL.DeformableDETR.TWO_STAGE": (False, False),
            "MODEL.DeformableDETR.NUM_FEATURE_LEVELS": (1, 1),
            "MODEL.DeformableDETR.HIDDEN_DIM": (256, 256),
            "MODEL.DeformableDETR.NHEADS": (8, 8),
            "MODEL.DeformableDETR.WITH_BOX_REFINE": (False, True),
            "MODEL.DeformableDETR.TEMPORAL_ATTN": (False, False),
            "MODEL.DeformableDETR.USE_TEMPORAL_ENCODER": (False, False),
            "MODEL.DeformableDETR.USE_FLOW_CONTEXT": (False, False),
            "MODEL.DeformableDETR.USE_NMS": (True, True),
        },
    ),
)

TRAINING = frozenset(
    # Keys of a model that change its training alone, and those without an effect.
    {
        *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.FLOWNET_WEIGHTS"),
        *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "MODEL.RPN.BOUNDARY_THRESH"),
        *("MODEL.RPN.SMOOTH_L1_BETA", "MODEL.RPN.BBOX_REG_LOSS_TYPE", "MODEL.RPN.BBOX_REG_LOSS_WEIGHT"),
        *(
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
            "MODEL.ROI_BOX_HEAD.NO_AUX_LOSS",
        ),
        *("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT"),
        *("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"),
        *("MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER", "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES"),
        *("MODEL.ORGAN_SPECIFIC.BREAST_LOSS_WEIGHT", "MODEL.ORGAN_SPECIFIC.THYROID_LOSS_WEIGHT"),
        *("MODEL.RETINANET.PRIOR_PROB", "MODEL.RETINANET.BBOX_REG_LOSS_TYPE"),
        *("MODEL.FCOS.PRIOR_PROB", "MODEL.FCOS.INFERENCE_TH_TRAIN", "MODEL.FCOS.PRE_NMS_TOPK_TRAIN"),
        *("MODEL.FCOS.POST_NMS_TOPK_TRAIN", "MODEL.FCOS.SIZES_OF_INTEREST", "MODEL.FCOS.CENTER_SAMPLE"),
        *("MODEL.FCOS.LOC_LOSS_TYPE", "MODEL.DeFCN.PRIOR_PROB", "MODEL.DeFCN.IOU_LOSS_TYPE"),
        *("MODEL.TRACKER.DUPLICATE_IOU_THRESH", "MODEL.TRACKER.DURATION_THRESH"),
        *("MODEL.DeformableDETR.AUX_LOSS", "MODEL.RESNETS.STRIDE_IN_1X1"),  # basic blocks have no 1x1 convolution
        *(
            "MODEL.ROI_BOX_HEAD.NAME",
            "MODEL.ROI_BOX_HEAD.NUM_FC",
            "MODEL.ROI_BOX_HEAD.FC_DIM",
            "MODEL.ROI_BOX_HEAD.NUM_CONV",
        ),
        *("MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ANCHOR_GENERATOR.ANGLES"),
        *("MODEL.RESNETS.DEFORM_MODULATED", "MODEL.RESNETS.DEFORM_NUM_GROUPS"),
        "MODEL.ROI_BOX_HEAD.INTERVAL_PRE_TEST",  # of the models without it in ARGUMENTS, MEGA and FGFA too
    }
)

CLIPS: dict[str, tuple[int, str]] = {
    # the clips that a model is trained on: {key: (the predecessor's default, argument of the frame sampler here)}. FGFA, MEGA and CVA-Net
    # remember as many frames as these clips have.
    "INPUT.TRAIN_FRAME_SAMPLER.NUM_OUT_FRAMES": (16, "num_frames"),
    "INPUT.TRAIN_FRAME_SAMPLER.INTERVAL": (30, "window"),
    "INPUT.TRAIN_FRAME_SAMPLER.MEMORY_FRAMES": (16, "num_memory"),
    "INPUT.TRAIN_FRAME_SAMPLER.MEMORY_INTERVAL": (30, "memory_interval"),
}

NAMES = frozenset({"MODEL.META_ARCHITECTURE", "MODEL.ROI_HEADS.NAME", "MODEL.PROPOSAL_GENERATOR.NAME"})
BY_HAND = frozenset(
    {"MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"}
)
OTHER_MODELS = (
    # groups of detectron2 and of the predecessor that none of these models reads
    *(
        "MODEL.FPN.",
        "MODEL.ROI_MASK_HEAD.",
        "MODEL.ROI_KEYPOINT_HEAD.",
        "MODEL.ROI_BOX_CASCADE_HEAD.",
        "MODEL.SEM_SEG_HEAD.",
    ),
    *("MODEL.PANOPTIC_FPN.", "MODEL.SWIN."),
)

_TWO_STAGE_HEADS = {
    "SingleFrameRes5ROIHeads": "FasterRCNN",
    "Res5RelationROIBoxHeads": "RelationNet",
    "Res5TemporalROIBoxHeads": "BasicDet",
    "Res5SELSAHeads": "SELSA",
    "Res5FlowContextHeads": "UltraDet",
}
_ONE_STAGE_HEADS = {"FCOS": "FCOS", "DeFCN": "DeFCN", "YOLOXHead": "YOLOX"}
ARCHITECTURES: dict[str, tuple[str, dict[str, str]]] = {
    # MODEL.META_ARCHITECTURE -> the key that says which model it is, and what its values mean; "" for one model alone
    "TemporalRCNN": ("MODEL.ROI_HEADS.NAME", _TWO_STAGE_HEADS),
    "MEGA": ("MODEL.ROI_HEADS.NAME", {"MEGAHeads": "MEGA"}),
    "FGFA": ("MODEL.ROI_HEADS.NAME", {"SingleFrameRes5ROIHeads": "FGFA"}),
    "SingleFrameRetinaNet": ("", {"": "RetinaNet"}),
    "TemporalProposalNetwork": ("MODEL.PROPOSAL_GENERATOR.NAME", _ONE_STAGE_HEADS),
    "TrackTemporalProposalNetwork": ("MODEL.PROPOSAL_GENERATOR.NAME", {"YOLOXHead": "TrackYOLO"}),
    "DeformableDETR": ("", {"": "DeformDETR"}),
    **{name: ("", {"": name}) for name in ("CVANet", "TransVOD", "PTSEFormer")},
}
