"""A small Faster R-CNN on still images with COCO annotations, trained from scratch.

Command:   python tools/lazyconfig_train.py --config-file projects/basicdet/configs/coco_stills.py \
               data.train=PATH/a.json data.test=PATH/b.json
Metrics:   AP50 83.4 on 150 images of BUS-BRA after 300 iterations with train.max_iter=450 (the best constant box: 6.0).
Hardware:  2 cores of a CPU, no GPU.
"""

from fvcore.common.param_scheduler import CosineParamScheduler
from torch.nn.utils import clip_grad_norm_

from ultravid.config import LazyCall as L
from ultravid.config import LazyPartial, get_config
from ultravid.modeling import anchor_shapes
from ultravid.solver import WarmupParamScheduler

_data = get_config("common/data/coco_stills.py")
_train = get_config("common/train.py")

data = _data.data
dataloader = _data.dataloader
model = get_config("common/models/faster_rcnn_small.py").model
model.backbone.channels = (32, 64, 128)
model.backbone.num_blocks = (2, 2, 2)
model.backbone.strides = (1, 2, 2)
model.backbone.stem_channels = 32
model.proposal_head.rpn_head.in_channels = 128
model.proposal_head.rpn_head.num_anchors = 12
model.proposal_head.anchor_generator.shapes = L(anchor_shapes)(sizes=[20, 34, 56, 90], aspect_ratios=[0.45, 0.75, 1.2])
model.proposal_head.anchor_generator.stride = 16
model.roi_pooler.box_pooler.spatial_scale = 1 / 16
model.roi_pooler.head.in_channels = 128

train = _train.train
prepared_model, checkpointer, trainer = _train.prepared_model, _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 1e-3
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_factor=0.01,
    warmup_length=0.05,
)
trainer.clip_grad = LazyPartial(clip_grad_norm_)(max_norm=5.0)

train.output_dir = "./outputs/coco_stills"
train.max_iter = 1000
train.eval_period = 500
train.checkpointer.period = 500
