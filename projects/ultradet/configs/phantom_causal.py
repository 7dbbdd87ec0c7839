"""UltraDet (Yu et al., MICCAI 2023, arXiv 2305.18060), small, on the phantom, causal: what was computed for a frame is kept.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/ultradet/configs/phantom_causal.py
Metrics:  not measured.
Hardware: 2 cores of a CPU, no GPU.
"""

from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch.nn.utils import clip_grad_norm_

from ultravid.config import LazyCall as L
from ultravid.config import LazyPartial, get_config
from ultravid.solver import WarmupParamScheduler

_data = get_config("common/data/phantom.py")
_train = get_config("common/train.py")

data = _data.data
dataloader = _data.dataloader
model = get_config("common/models/ultradet_small.py").model
train = _train.train
prepared_model, checkpointer, trainer = _train.prepared_model, _train.checkpointer, _train.trainer

optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 1e-3
optimizer.weight_decay = 0.01

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.3, 0.1], milestones=[65, 85, 100]),
    warmup_factor=0.01,
    warmup_length=0.055,
)
trainer.clip_grad = LazyPartial(clip_grad_norm_)(max_norm=5.0)

train.output_dir = "./outputs/ultradet_causal_phantom"
train.max_iter = 900
train.eval_period = 0  # at the end alone
train.checkpointer.period = 200
