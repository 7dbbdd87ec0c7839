"""All of a run on CVA-BUS but the model, as UltraDet's comparison trained each detector; what a detector has else is in its config."""

from ultravid.config import get_config

_data = get_config("common/data/cva_bus.py")
_train = get_config("common/train.py")

data, dataloader = _data.data, _data.dataloader
train, prepared_model = _train.train, _train.prepared_model
checkpointer, trainer = _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").steps_60_80
