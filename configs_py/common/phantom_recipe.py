"""All of a run on the phantom but the model: its data, and 900 iterations of AdamW, minutes on a CPU."""

from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch.nn.utils import clip_grad_norm_

from ultravid.config import LazyCall as L
from ultravid.config import LazyPartial, get_config
from ultravid.solver import WarmupParamScheduler

_data = get_config("common/data/phantom.py")
_train = get_config("common/train.py")

data, dataloader = _data.data, _data.dataloader
train, prepared_model = _train.train, _train.prepared_model
checkpointer, trainer = _train.checkpointer, _train.trainer

optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 1e-3
optimizer.weight_decay = 0.01

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.3, 0.1], milestones=[65, 85, 100]),
    warmup_factor=0.01,
    warmup_length=0.055,
)
trainer.clip_grad = LazyPartial(clip_grad_norm_)(max_norm=5.0)

train.max_iter = 900
train.eval_period = 0  # only at the end
train.checkpointer.period = 200
