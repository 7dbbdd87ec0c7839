"""Names that were changed: tables from old names to new ones.

A config that was saved, or written, for an earlier version goes on loading: `ultravid.config.upgrade` applies these tables
and notes each change. To rename or move something that a config can name, add one line to the table that fits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

__all__ = [
    "ARGUMENTS",
    "KEPT_TARGETS",
    "KEYS",
    "PARTS",
    "PAST_DEFAULTS",
    "PLAIN_VALUES",
    "RECOMPOSED",
    "REGROUPED",
    "TARGETS",
    "PastDefault",
    "Recomposed",
    "Regrouped",
    "current_target",
    "keys_below",
]

TARGETS: dict[str, str] = {
    # old dotted name of a class, a function or a whole module -> the one of today; of several the longest counts.
    # --- 0.2
    "ultravid.data.audit": "ultravid.datasets.audit",
    "ultravid.data.catalog": "ultravid.datasets.catalog",
    "ultravid.data.choice": "ultravid.data.clip_planner",
    "ultravid.data.choice.Chosen": "ultravid.data.clip_planner.PlannedClip",
    "ultravid.data.choice.ClipChoice": "ultravid.data.clip_planner.ClipPlanner",
    "ultravid.data.convert": "ultravid.datasets.convert",
    "ultravid.data.datasets": "ultravid.datasets.formats",
    "ultravid.data.datasets.formats": "ultravid.datasets.formats.by_name",
    "ultravid.data.faults": "ultravid.datasets.faults",
    "ultravid.data.faults.Faults": "ultravid.datasets.faults.FileFaults",
    "ultravid.data.faults.gather_faults": "ultravid.datasets.faults.FaultSink",
    "ultravid.data.fingerprint": "ultravid.datasets.fingerprint",
    "ultravid.data.folds": "ultravid.datasets.folds",
    "ultravid.data.groups": "ultravid.datasets.groups",
    "ultravid.data.image_io": "ultravid.datasets.image_io",
    "ultravid.data.index_cache": "ultravid.datasets.index",
    "ultravid.data.phantom": "ultravid.datasets.phantom",
    "ultravid.data.pixels.deliver": "ultravid.data.pixels.to_contiguous",
    "ultravid.data.readers": "ultravid.datasets.readers",
    "ultravid.data.readers.pictures": "ultravid.datasets.readers.images",
    "ultravid.data.readers.pictures.PictureSource": "ultravid.datasets.readers.images.ImageFolderSource",
    "ultravid.data.readers.pictures.list_pictures": "ultravid.datasets.readers.images.list_images",
    "ultravid.data.readers.source.is_dicom": "ultravid.datasets.readers.kinds.is_dicom",
    "ultravid.data.readers.source.is_recording": "ultravid.datasets.readers.opener.is_recording",
    "ultravid.data.readers.source.open_source": "ultravid.datasets.readers.opener.open_source",
    "ultravid.data.samplers.FocusedFrameSampler": "ultravid.data.samplers.AnchoredFrameSampler",
    "ultravid.data.video": "ultravid.datasets.video",
    "ultravid.datasets.faults.Faults": "ultravid.datasets.faults.FileFaults",
    "ultravid.datasets.faults.gather_faults": "ultravid.datasets.faults.FaultSink",
    "ultravid.datasets.readers.opener.is_dicom": "ultravid.datasets.readers.kinds.is_dicom",
    "ultravid.datasets.readers.pictures": "ultravid.datasets.readers.images",
    "ultravid.datasets.readers.pictures.PictureSource": "ultravid.datasets.readers.images.ImageFolderSource",
    "ultravid.datasets.readers.pictures.list_pictures": "ultravid.datasets.readers.images.list_images",
    "ultravid.engine.averaging": "ultravid.engine.hooks.averaging",
    "ultravid.engine.averaging.EMA": "ultravid.engine.hooks.EMA",
    "ultravid.engine.capsule": "ultravid.engine.step_dump",
    "ultravid.engine.capsule.Capsule": "ultravid.engine.step_dump.StepDump",
    "ultravid.engine.defaults.load_to_evaluate": "ultravid.engine.defaults.load_evaluation_weights",
    "ultravid.engine.defaults.settle_resume": "ultravid.engine.defaults.resolve_resume",
    **{
        f"ultravid.engine.cfg_builders.{name}": f"ultravid.engine.DefaultTrainer.{name}"
        for name in ("build_lr_scheduler", "build_model", "build_optimizer", "build_test_loader", "build_train_loader")
    },
    "ultravid.engine.hang": "ultravid.engine.hooks.watchdog",
    "ultravid.engine.hang.HangReport": "ultravid.engine.hooks.Watchdog",
    "ultravid.engine.hooks.HangReport": "ultravid.engine.hooks.Watchdog",
    "ultravid.engine.hooks.TimeLedger": "ultravid.engine.hooks.TimeBreakdown",
    "ultravid.engine.ledger": "ultravid.engine.hooks.timing",
    "ultravid.engine.ledger.TimeLedger": "ultravid.engine.hooks.TimeBreakdown",
    "ultravid.engine.load_to_evaluate": "ultravid.engine.load_evaluation_weights",
    "ultravid.engine.profiling": "ultravid.engine.hooks.profiling",
    **{
        f"ultravid.engine.profiling.{name}": f"ultravid.engine.hooks.{name}"
        for name in ("AutogradProfiler", "TorchMemoryStats", "TorchProfiler")
    },
    "ultravid.engine.progress.ProgressBar": "ultravid.engine.hooks.ProgressBar",
    "ultravid.engine.settle_resume": "ultravid.engine.resolve_resume",
    "ultravid.engine.time_breakdown": "ultravid.engine.hooks.timing",
    "ultravid.engine.time_breakdown.TimeBreakdown": "ultravid.engine.hooks.TimeBreakdown",
    "ultravid.engine.watchdog": "ultravid.engine.hooks.watchdog",
    "ultravid.engine.watchdog.Watchdog": "ultravid.engine.hooks.Watchdog",
    "ultravid.evaluation.JudgedVideo": "ultravid.evaluation.MatchedVideo",
    "ultravid.evaluation.all_figures": "ultravid.evaluation.all_metrics",
    "ultravid.evaluation.figures": "ultravid.evaluation.metrics",
    "ultravid.evaluation.figures.all_figures": "ultravid.evaluation.metrics.all_metrics",
    "ultravid.evaluation.judge_video": "ultravid.evaluation.match_video",
    **{
        f"ultravid.evaluation.report.{name}": f"ultravid.evaluation.tables.{name}"
        for name in (
            "flatten_results_dict",
            "format_columns",
            "format_interval",
            "format_results",
            "format_undefined",
            "format_value",
            "print_csv_format",
        )
    },
    "ultravid.evaluation.results.JudgedVideo": "ultravid.evaluation.results.MatchedVideo",
    "ultravid.evaluation.prediction_files": "ultravid.evaluation.prediction_store",
    "ultravid.evaluation.results.judge_video": "ultravid.evaluation.matching.match_video",
    "ultravid.evaluation.results.match_video": "ultravid.evaluation.matching.match_video",
    "ultravid.evaluation.video_metrics.FrameResult": "ultravid.evaluation.results.FrameResult",
    "ultravid.evaluation.video_metrics.VideoResult": "ultravid.evaluation.results.VideoResult",
    "ultravid.layers.box_tensors.centre_to_corners": "ultravid.layers.box_tensors.center_to_corners",
    "ultravid.layers.fixed_nms.apart_by_class": "ultravid.layers.fixed_nms.offset_boxes_by_class",
    "ultravid.modeling.FrameMemory": "ultravid.modeling.FrameWindow",
    "ultravid.modeling.assign.base.centre_regions": "ultravid.modeling.assign.base.center_regions",
    "ultravid.modeling.context": "ultravid.modeling",
    "ultravid.modeling.context.memory": "ultravid.modeling",
    "ultravid.modeling.detector.BasicDet": "ultravid.modeling.BasicDet",
    "ultravid.modeling.detector.FasterRCNN": "ultravid.modeling.FasterRCNN",
    "ultravid.modeling.detector.relation_mask": "ultravid.modeling.token_mixer.relation.temporal_mask",
    "ultravid.modeling.heads": "ultravid.modeling.roi",
    "ultravid.modeling.heads.roi_heads.FCBoxHead": "ultravid.modeling.roi.FCBoxHead",
    "ultravid.modeling.proposal": "ultravid.modeling.dense",
    "ultravid.modeling.token_mixer.kept": "ultravid.modeling.token_mixer.cache",
    "ultravid.utils.jobs": "ultravid.experiments.local",
}

KEPT_TARGETS: dict[str, str] = {
    # As TARGETS, for names that can still be imported: a saved config gets the name that is saved today, without a note.
    # --- 0.2
    **{
        f"ultravid.data.{name}": f"ultravid.datasets.{name}"
        for name in (
            "DataError",
            "DatasetCatalog",
            "Frame",
            "FrameSource",
            "Metadata",
            "MetadataCatalog",
            "Video",
            "fold_of_patient",
            "get_videos",
            "group_by_metadata",
            "label_groups",
            "load_coco_stills",
            "load_coco_video",
            "load_cva_bus",
            "load_cvat_video",
            "load_hospital_csv",
            "load_labelme",
            "load_recordings",
            "open_source",
            "select_group",
            "split_fold",
        )
    },
}

KEYS: dict[str, str] = {
    # old full key -> the one of today, as "train.old": "train.new"; for arguments of a call there is ARGUMENTS.
}

ARGUMENTS: dict[str, dict[str, str]] = {
    # target -> {old argument: the one of today}; with a dot it is an argument of a call in PARTS.
    # --- 0.2
    "ultravid.data.mapper.ClipDataset": {"choice": "planner"},
    **{
        f"ultravid.engine.{name}": {
            "accumulate": "accumulation.num_batches",
            "skip_nonfinite": "nonfinite.max_skipped",
            "capsule_dir": "nonfinite.dump_dir",
        }
        for name in ("AMPTrainer", "SimpleTrainer", "train_loop.AMPTrainer", "train_loop.SimpleTrainer")
    },
}
for _name in ("ultravid.engine.SimpleTrainer", "ultravid.engine.train_loop.SimpleTrainer"):  # see RECOMPOSED
    ARGUMENTS[_name] |= {"enabled": "precision.enabled"}

PARTS: dict[str, dict[str, object]] = {
    # name of an argument that ARGUMENTS lead into -> the call to make if the config has none, as a shipped config writes it
    "accumulation": {"_target_": "ultravid.engine.steps.Accumulation", "num_batches": 1},
    "nonfinite": {"_target_": "ultravid.engine.steps.NonfinitePolicy", "max_skipped": 0, "dump_dir": None},
    "precision": {"_target_": "ultravid.engine.steps.MixedPrecision", "enabled": False, "dtype": None},
}

PLAIN_VALUES: dict[str, tuple[str, type]] = {
    # name of an argument that is a call of PARTS -> its argument that a plain value of this type means, as in
    # `trainer.precision=float16`, which set a word before the argument held an object
    "accumulation": ("num_batches", int),
    "precision": ("dtype", str),
}


@dataclass(frozen=True)
class Recomposed:
    """A call that a shipped config writes in another way today: some arguments are those of a call of their own.

    Attributes:
        target: the target of the call today.
        part: its argument that is the new call.
        call: target of the new call.
        arguments: of the call before -> of the new call.
    """

    target: str
    part: str
    call: str
    arguments: dict[str, str]


@dataclass(frozen=True)
class PastDefault:
    """What a call meant by an argument that it did not set, or set to None, where today's default means something else.

    Attributes:
        argument: its name.
        value: what it is set to, so that it goes on meaning the same.
        meaning: what it meant, for the note.
        otherwise: what is added to a text that was set, because the default was for what the text leaves open.
    """

    argument: str
    value: str
    meaning: str
    otherwise: str


_SIDE_CUT = PastDefault(
    "patients", "stem_without_side", "the name of the video's file without its side", " else stem_without_side"
)

PAST_DEFAULTS: dict[str, PastDefault] = {
    # target by a name with which only an earlier version saved it -> the default of that version
    # --- 0.2
    **{
        f"ultravid.data.{module}{name}": _SIDE_CUT
        for name, its_module in (
            ("load_coco_video", "coco_video"),
            ("load_cva_bus", "coco_video"),
            ("load_cvat_video", "cvat_video"),
            ("load_hospital_csv", "hospital_csv"),
            ("load_labelme", "labelme"),
        )
        for module in ("", "datasets.", f"datasets.{its_module}.")
    },
}

RECOMPOSED: dict[str, Recomposed] = {
    # target in a config that ultravid saved -> how the same is written today; a user's own config is left as it is.
    # --- 0.2
    "ultravid.engine.AMPTrainer": Recomposed(
        target="ultravid.engine.SimpleTrainer",
        part="precision",
        call="ultravid.engine.steps.MixedPrecision",
        arguments={
            "enabled": "enabled",
            "precision": "dtype",
            "grad_scaler": "grad_scaler",
            "log_grad_scaler": "log_grad_scaler",
        },
    ),
}


@dataclass(frozen=True)
class Regrouped:
    """A call in a saved config whose arguments are grouped in another way today.

    Attributes:
        target: the target of the call today.
        keys: key below the call before -> today's.
        groups: argument before -> names of the target of the call that it held; of another call nothing is known, and all stays
            as it is.
        parts: argument today -> the target of the call that it holds.
        optional: argument today -> the key before without which it is None.
        values: key below the call today -> what it is set to, because the call before meant it.
    """

    target: str
    keys: dict[str, str]
    groups: dict[str, tuple[str, ...]]
    parts: dict[str, str]
    optional: dict[str, str]
    values: dict[str, object]


_TWO_STAGE_KEYS = {
    "proposal_generator": "proposal_head",
    "roi_heads.box_pooler": "roi_pooler.box_pooler",
    "roi_heads.box_head": "roi_pooler.head",
    "roi_heads.roi_scale": "roi_pooler.roi_scale",
    "roi_heads.proposal_matcher": "roi_sampler.matcher",
    "roi_heads.batch_size_per_image": "roi_sampler.num_samples",
    "roi_heads.positive_fraction": "roi_sampler.positive_fraction",
    "roi_heads.gt_copies": "roi_sampler.gt_copies",
    "roi_heads.gt_jitter": "roi_sampler.gt_jitter",
    "roi_heads.box_predictor": "box_predictor",
    "roi_heads.relation": "token_mixer.relation",
    "context_frames": "token_mixer.context_frames",
    "context_stride": "token_mixer.context_stride",
    "causal": "token_mixer.causal",
}


def _two_stage(**values: object) -> Regrouped:
    return Regrouped(
        target="ultravid.modeling.TwoStage",
        keys=_TWO_STAGE_KEYS,
        groups={"roi_heads": ("ultravid.modeling.RoIHeads", "ultravid.modeling.roi.roi_heads.RoIHeads")},
        parts={
            "roi_pooler": "ultravid.modeling.RoIPooler",
            "roi_sampler": "ultravid.modeling.RoISampler",
            "token_mixer": "ultravid.modeling.RelationMixer",
        },
        optional={"token_mixer": "roi_heads.relation"},
        values={f"token_mixer.{name}": value for name, value in values.items()},
    )


REGROUPED: dict[str, Regrouped] = {
    # target in a config that ultravid saved -> how the same is written today; a user's own config is left as it is.
    # --- 0.2
    **{f"ultravid.modeling.{module}BasicDet": _two_stage() for module in ("", "named.")},
    **{f"ultravid.modeling.{module}FasterRCNN": _two_stage(context_frames=0) for module in ("", "named.")},
}

_KEYS_BELOW: dict[str, dict[str, str]] = {
    # target of today -> {key that it had below it: the one of today}, for overrides by the keys of an earlier version
    # --- 0.2
    "ultravid.modeling.TwoStage": _TWO_STAGE_KEYS,
    "ultravid.modeling.families.TwoStage": _TWO_STAGE_KEYS,
    "ultravid.modeling.families.two_stage.TwoStage": _TWO_STAGE_KEYS,
}


def keys_below(target: str) -> dict[str, str]:
    """Earlier keys below a call of a target, and today's."""
    return _KEYS_BELOW.get(target, {})


@functools.lru_cache(maxsize=1024)
def current_target(name: str, kept: bool = False) -> str:
    """Today's name of a target; a name that did not change comes back as it is.

    Args:
        name: dotted, ``ultravid.data.readers.open_source``.
        kept: change also names that can still be imported (`KEPT_TARGETS`).
    """
    for _ in range(len(TARGETS)):  # a name may have changed more than once
        old = name
        prefix = name
        while prefix and prefix not in TARGETS:
            prefix = prefix.rpartition(".")[0]
        if prefix:
            name = TARGETS[prefix] + name[len(prefix) :]
        if name == old:
            break
    return KEPT_TARGETS.get(name, name) if kept else name
