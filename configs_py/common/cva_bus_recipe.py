"""All of a run on CVA-BUS but the model, as UltraDet's comparison trained each detector; what a detector has else is in its config."""

from torch.nn.utils import clip_grad_value_

from ultravid.config import LazyCall as L
from ultravid.config import LazyPartial, get_config
from ultravid.data import MemoryFrameSampler
from ultravid.solver import FactorByName

_data = get_config("common/data/cva_bus.py")
_train = get_config("common/train.py")

data, dataloader = _data.data, _data.dataloader
train, prepared_model = _train.train, _train.prepared_model
checkpointer, trainer = _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").steps_60_80

# What some of the detectors have in place of these.
clip_grad = LazyPartial(clip_grad_value_)(clip_value=1.0)
query_optimizer = get_config("common/optim.py").AdamW
query_optimizer.weight_decay = 1e-4
query_optimizer.params.lr_factor_func = L(FactorByName)(
    factors=dict(backbone=0.1, reference_points=0.1, sampling_offsets=0.1)
)
mega_clips = L(MemoryFrameSampler)(num_memory=6, memory_interval=10, num_frames=10, window=20)
cvanet_clips = L(MemoryFrameSampler)(num_memory=8, memory_interval=15, num_frames=8, window=15)
