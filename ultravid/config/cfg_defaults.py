"""All keys of a YAML config with their defaults and meanings; `get_cfg`.

The names are detectron2's where the two have the same thing. The model is a Python config (``MODEL.CONFIG``), and
``MODEL.OPTS`` overrides its values; the other keys describe the run. The defaults are those of
``projects/basicdet/configs/cva_bus.py``, without a data set. If a comment names a class, the keys of that group are its
arguments, and its docstring says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultravid.config.cfg_node import CfgNode
from ultravid.config.cfg_node import CfgNode as CN  # noqa: N817  # as everybody writes it

__all__ = ["DEFAULTS", "get_cfg", "global_cfg", "set_global_cfg"]

_C = CN()
_C.VERSION = 1  # of these keys: a file may say which version it was written for

_C.MODEL = CN()
_C.MODEL.CONFIG = "common/models/basicdet.py"  # a Python file with `model`: beside the YAML file, a path, or shipped
_C.MODEL.OPTS = []  # overrides of that model: ["backbone.depth=18", "roi_heads.box_predictor.score_threshold=0.05"]
_C.MODEL.DEVICE = "auto"  # CUDA if there is a device, else the CPU
_C.MODEL.WEIGHTS = ""  # weights to start from, to evaluate or to predict with

_C.INPUT = CN()
_C.INPUT.FORMAT = "RGB"  # or BGR: the order of channels that the model gets. DefaultPredictor takes BGR in either case
_C.INPUT.CLIP = CN()
_C.INPUT.CLIP.SAMPLER = "WindowFrameSampler"  # or StridedFrameSampler: which frames of a video make a training clip
_C.INPUT.CLIP.NUM_FRAMES = 16
_C.INPUT.CLIP.WINDOW = 30  # frames, for WindowFrameSampler
_C.INPUT.CLIP.STRIDE = 1  # frames, for StridedFrameSampler
_C.INPUT.AREA_TRAIN = 900_000  # square px that a clip is resized to; 0 keeps its size
_C.INPUT.AREA_FACTOR_TRAIN = [0.3, 1.5]  # range of a random factor of the sides
_C.INPUT.AREA_TEST = 900_000  # square px that a frame is resized to; 0 keeps its size
_C.INPUT.SCALE = CN({"ENABLED": False})  # RandomScale
_C.INPUT.SCALE.FACTOR = [0.8, 1.25]
_C.INPUT.SCALE.ASPECT = [1.0, 1.0]
_C.INPUT.SCALE.MIN_VISIBLE = 0.3
_C.INPUT.COLOR = CN({"ENABLED": True})  # RandomColor
_C.INPUT.COLOR.CONTRAST = [0.7, 1.3]
_C.INPUT.COLOR.SHARPNESS = [0.7, 1.3]
_C.INPUT.COLOR.SATURATION = [0.7, 1.3]
_C.INPUT.RANDOM_FLIP = "horizontal"  # every second clip, on average, is mirrored; or none
_C.INPUT.RANDOM_TIME_FLIP = False  # every second clip, on average, is played backwards

_C.DATASETS = CN()
_C.DATASETS.TRAIN = ()  # names in the DatasetCatalog; their videos are joined
_C.DATASETS.TEST = ()  # names in the DatasetCatalog; each is evaluated separately
_C.DATASETS.FOLD = -1  # train on the patients of the other folds, test on those of this one; -1 takes all
_C.DATASETS.NUM_FOLDS = 4
_C.DATASETS.FOREIGN_CONTEXT = False  # a control: context frames of other videos, in training and in evaluation

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 4

_C.SOLVER = CN()
_C.SOLVER.OPTIMIZER = "AdamW"  # Adam, AdamW or SGD
_C.SOLVER.BASE_LR = 2e-4
_C.SOLVER.BETAS = (0.9, 0.99)  # Adam and AdamW
_C.SOLVER.MOMENTUM = 0.9  # SGD
_C.SOLVER.NESTEROV = False  # SGD
_C.SOLVER.WEIGHT_DECAY = 0.05
_C.SOLVER.WEIGHT_DECAY_NORM = None  # a weight decay for norm layers only
_C.SOLVER.WEIGHT_DECAY_BIAS = None  # a weight decay for biases only
_C.SOLVER.BIAS_LR_FACTOR = 1.0
_C.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"  # or WarmupCosineLR
_C.SOLVER.MAX_ITER = 10000
_C.SOLVER.STEPS = (6000, 8000)  # iterations at which the rate falls; those at or past MAX_ITER are ignored
_C.SOLVER.GAMMA = 0.1  # by this factor each time
_C.SOLVER.STEP_FACTORS = []  # factors of BASE_LR after each of STEPS, instead of GAMMA; [] uses GAMMA
_C.SOLVER.BASE_LR_END = 0.0  # rate at the end, WarmupCosineLR
_C.SOLVER.WARMUP_FACTOR = 0.001
_C.SOLVER.WARMUP_ITERS = 1000.0  # need not be an integer
_C.SOLVER.WARMUP_METHOD = "linear"  # or constant
_C.SOLVER.RESCALE_INTERVAL = False  # squeeze the schedule into the iterations after the warm-up
_C.SOLVER.IMS_PER_BATCH = 8  # clips an iteration, all processes together
_C.SOLVER.ACCUMULATE = 1  # batches whose mean gradient makes one step
_C.SOLVER.SKIP_NONFINITE = 0  # how many steps in a row may be skipped because their gradient is not finite
_C.SOLVER.CHECKPOINT_PERIOD = 1000
_C.SOLVER.CHECKPOINTS_TO_KEEP = 5  # 0 keeps all
_C.SOLVER.CLIP_GRADIENTS = CN({"ENABLED": True})
_C.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"  # norm: of each parameter; full_model: the norm of all together
_C.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
_C.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
_C.SOLVER.AMP = CN({"ENABLED": False})
_C.SOLVER.AMP.PRECISION = "bfloat16"  # or float16

_C.TEST = CN()
_C.TEST.EVAL_PERIOD = 1000  # iterations; 0 evaluates at the end only
_C.TEST.BEST_METRIC = "AP50"  # model_best.pth is the best by this metric; "" keeps none
_C.TEST.PRECISE_BN = CN({"ENABLED": False})  # PreciseBN
_C.TEST.PRECISE_BN.NUM_ITER = 200

_C.OUTPUT_DIR = "./output"
_C.SEED = 0  # a negative seed draws one
_C.DETERMINISTIC = False  # on CUDA: the same bits each time, slower; the CPU gives them anyway
_C.LOG_PERIOD = 20  # iterations
_C.WALL_TIME_S = 0.0  # seconds that a job may take: then it saves and stops; 0 for no limit

DEFAULTS = _C
"""The defaults themselves; `get_cfg` returns a copy that may be changed."""


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults."""
    return DEFAULTS.clone()


global_cfg = CfgNode()
"""A config for the whole process, for code that expects one: empty until `set_global_cfg`. Nothing in ultravid reads it."""


def set_global_cfg(cfg: Mapping[str, Any]) -> None:
    """Let `global_cfg` hold this config's keys.

    Args:
        cfg: the config whose keys replace all that `global_cfg` holds; its values are not copied.
    """
    global_cfg.clear()
    global_cfg.update(cfg)
