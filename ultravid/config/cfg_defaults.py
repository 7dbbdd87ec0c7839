"""Every key of a YAML config, its default, and what it does.

The names are detectron2's where the two have the same thing. The defaults are BasicDet at full size, as
``configs_py/common/models/basicdet.py`` and ``projects/basicdet/configs/cva_bus.py`` describe it, with no data set.
Settings of a part are the arguments of its class, whose docstring says more; the class is named beside its group.
"""

from __future__ import annotations

from ultravid.config.cfg_node import CfgNode as CN  # noqa: N817  # as everybody writes it

__all__ = ["DEFAULTS"]

_C = CN()
_C.VERSION = 1  # of these keys: a file may say which it was written for

_C.MODEL = CN()
_C.MODEL.DEVICE = "auto"  # CUDA where there is one, else the CPU
_C.MODEL.META_ARCHITECTURE = "BasicDet"  # of ultravid.modeling, or the dotted name of a class with the same arguments
_C.MODEL.WEIGHTS = ""  # weights to start from, to evaluate or to predict with
_C.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]  # in the order of INPUT.FORMAT, 0..255
_C.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]

_C.MODEL.BACKBONE = CN()
_C.MODEL.BACKBONE.NAME = "ResNet"  # of ultravid.modeling, or a dotted name; called with RESNETS and FREEZE_AT
_C.MODEL.BACKBONE.FREEZE_AT = 2  # 0 nothing, 1 the stem, 2 the stem and res2, and so on
_C.MODEL.RESNETS = CN()
_C.MODEL.RESNETS.DEPTH = 34  # 18 or 34; 0 where NUM_BLOCKS says the blocks of each stage instead
_C.MODEL.RESNETS.NUM_BLOCKS = []
_C.MODEL.RESNETS.NORM = "FrozenBN"  # FrozenBN, BN, SyncBN, GN
_C.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
_C.MODEL.RESNETS.OUT_CHANNELS = [64, 128, 256]  # of each stage from res2 on; the last one's map is the feature
_C.MODEL.RESNETS.STRIDES = [1, 2, 2]  # of each stage; the stem has 4

_C.MODEL.ANCHOR_GENERATOR = CN()  # AnchorGenerator, on one feature map
_C.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64, 128, 256, 512]]  # px; every size by every ratio
_C.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.33, 0.5, 0.66, 1.0, 2.0, 3.0]]  # height over width
_C.MODEL.ANCHOR_GENERATOR.SHAPES = []  # (width, height) in px of each anchor instead, where there are any
_C.MODEL.ANCHOR_GENERATOR.OFFSET = 0.0  # of the centre in its cell, as a share of the stride

_C.MODEL.RPN = CN()  # RPN
_C.MODEL.RPN.IOU_THRESHOLDS = [0.3, 0.7]
_C.MODEL.RPN.IOU_LABELS = [0, -1, 1]
_C.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
_C.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 256
_C.MODEL.RPN.POSITIVE_FRACTION = 0.5
_C.MODEL.RPN.PRE_NMS_TOPK = 256  # in training and in evaluation
_C.MODEL.RPN.POST_NMS_TOPK = 16
_C.MODEL.RPN.NMS_THRESH = 0.7
_C.MODEL.RPN.LOSS_WEIGHT = 1.0

_C.MODEL.ROI_HEADS = CN()  # RoIHeads
_C.MODEL.ROI_HEADS.NUM_CLASSES = 1
_C.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.5]
_C.MODEL.ROI_HEADS.IOU_LABELS = [0, 1]
_C.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
_C.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.5
_C.MODEL.ROI_HEADS.GT_COPIES = 1  # of each ground-truth box among the proposals of training
_C.MODEL.ROI_HEADS.GT_JITTER = 0.0  # by how much the copies are moved, as a share of the box
_C.MODEL.ROI_HEADS.ROI_SCALE = 1.0  # boxes are enlarged so much before they are pooled
_C.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
_C.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5

_C.MODEL.ROI_BOX_HEAD = CN()  # RoIAlign, the head and BoxPredictor
_C.MODEL.ROI_BOX_HEAD.NAME = "Res5Head"  # a stage of the ResNet (make_stage), or FCBoxHead, two linear layers
_C.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14
_C.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 0
_C.MODEL.ROI_BOX_HEAD.DIM = 256  # of a box's token
_C.MODEL.ROI_BOX_HEAD.RES5_NUM_BLOCKS = 3
_C.MODEL.ROI_BOX_HEAD.RES5_STRIDE = 2
_C.MODEL.ROI_BOX_HEAD.RES5_NORM = "FrozenBN"
_C.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_C.MODEL.ROI_BOX_HEAD.CLS_LOSS_WEIGHT = 1.0
_C.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 1.0

_C.MODEL.RELATION = CN()  # RelationModule, for BasicDet
_C.MODEL.RELATION.NUM_LAYERS = 2
_C.MODEL.RELATION.NUM_HEADS = 8
_C.MODEL.RELATION.GEOMETRY_DIM = 256
_C.MODEL.CONTEXT = CN()  # BasicDet
_C.MODEL.CONTEXT.FRAMES = 15  # earlier frames that a frame's boxes relate to; 0: a detector of single frames
_C.MODEL.CONTEXT.STRIDE = 1
_C.MODEL.CONTEXT.CAUSAL = False

_C.INPUT = CN()
_C.INPUT.FORMAT = "RGB"  # or BGR: the order of channels that the model gets. DefaultPredictor is given BGR in any case
_C.INPUT.CLIP = CN()
_C.INPUT.CLIP.SAMPLER = "WindowFrameSampler"  # or StridedFrameSampler: which frames of a video make a training clip
_C.INPUT.CLIP.NUM_FRAMES = 16
_C.INPUT.CLIP.WINDOW = 30  # of WindowFrameSampler, frames
_C.INPUT.CLIP.STRIDE = 1  # of StridedFrameSampler, frames
_C.INPUT.AREA_TRAIN = 900_000  # square px that a clip is resized to; 0 keeps its size
_C.INPUT.AREA_FACTOR_TRAIN = [0.3, 1.5]  # range of a random factor of the sides
_C.INPUT.AREA_TEST = 900_000
_C.INPUT.SCALE = CN({"ENABLED": False})  # RandomScale
_C.INPUT.SCALE.FACTOR = [0.8, 1.25]
_C.INPUT.SCALE.ASPECT = [1.0, 1.0]
_C.INPUT.SCALE.MIN_VISIBLE = 0.3
_C.INPUT.COLOR = CN({"ENABLED": True})  # RandomColor
_C.INPUT.COLOR.CONTRAST = [0.7, 1.3]
_C.INPUT.COLOR.SHARPNESS = [0.7, 1.3]
_C.INPUT.COLOR.SATURATION = [0.7, 1.3]
_C.INPUT.RANDOM_FLIP = "horizontal"  # or none: every second clip is mirrored
_C.INPUT.RANDOM_TIME_FLIP = False  # every second clip is played backwards

_C.DATASETS = CN()
_C.DATASETS.TRAIN = ()  # names in the DatasetCatalog; their videos are joined
_C.DATASETS.TEST = ()  # each is evaluated by itself
_C.DATASETS.FOLD = -1  # train on the other folds' patients, test on this one's; -1 takes all
_C.DATASETS.NUM_FOLDS = 4
_C.DATASETS.FOREIGN_CONTEXT = False  # a control: context of other videos, in training and in evaluation

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 4

_C.SOLVER = CN()
_C.SOLVER.OPTIMIZER = "AdamW"  # Adam, AdamW or SGD
_C.SOLVER.BASE_LR = 2e-4
_C.SOLVER.BETAS = (0.9, 0.99)  # of Adam and AdamW
_C.SOLVER.MOMENTUM = 0.9  # of SGD
_C.SOLVER.NESTEROV = False  # of SGD
_C.SOLVER.WEIGHT_DECAY = 0.05
_C.SOLVER.WEIGHT_DECAY_NORM = None  # of norm layers instead
_C.SOLVER.WEIGHT_DECAY_BIAS = None  # of biases instead
_C.SOLVER.BIAS_LR_FACTOR = 1.0
_C.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"  # or WarmupCosineLR
_C.SOLVER.MAX_ITER = 10000
_C.SOLVER.STEPS = (6000, 8000)  # iterations at which the rate falls; those at or past MAX_ITER don't count
_C.SOLVER.GAMMA = 0.1  # by this factor each time
_C.SOLVER.STEP_FACTORS = []  # factors of BASE_LR after each of STEPS instead, where there are any
_C.SOLVER.BASE_LR_END = 0.0  # rate at the end, of WarmupCosineLR
_C.SOLVER.WARMUP_FACTOR = 0.001
_C.SOLVER.WARMUP_ITERS = 1000.0  # need not be whole
_C.SOLVER.WARMUP_METHOD = "linear"  # or constant
_C.SOLVER.RESCALE_INTERVAL = False  # squeeze the schedule into what the warm-up leaves
_C.SOLVER.IMS_PER_BATCH = 8  # clips an iteration, all processes together
_C.SOLVER.ACCUMULATE = 1  # batches whose mean gradient makes one step
_C.SOLVER.SKIP_NONFINITE = 0  # so many steps in a row may be left out because their gradient is not finite
_C.SOLVER.CHECKPOINT_PERIOD = 1000
_C.SOLVER.CHECKPOINTS_TO_KEEP = 5  # 0 keeps all
_C.SOLVER.CLIP_GRADIENTS = CN({"ENABLED": True})
_C.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"  # norm: of each parameter by itself; full_model: of all together
_C.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
_C.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
_C.SOLVER.AMP = CN({"ENABLED": False})
_C.SOLVER.AMP.PRECISION = "bfloat16"  # or float16

_C.TEST = CN()
_C.TEST.EVAL_PERIOD = 1000  # iterations; 0 evaluates at the end alone
_C.TEST.BEST_METRIC = "AP50"  # model_best.pth is the best by this figure; "" keeps none
_C.TEST.DETECTIONS_PER_IMAGE = 100
_C.TEST.PRECISE_BN = CN({"ENABLED": False})  # PreciseBN
_C.TEST.PRECISE_BN.NUM_ITER = 200

_C.OUTPUT_DIR = "./output"
_C.SEED = 0  # negative draws one
_C.DETERMINISTIC = False  # on CUDA: the same bits each time, slower; the CPU gives them anyway
_C.LOG_PERIOD = 20  # iterations
_C.WALL_TIME_S = 0.0  # seconds that a job may take; 0 does not count them

DEFAULTS = _C
"""The defaults themselves; `ultravid.config.get_cfg` gives a copy that may be changed."""
