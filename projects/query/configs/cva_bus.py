"""Deformable DETR (Zhu et al., ICLR 2021) on CVA-BUS, full size: ResNet-34, 900,000 px, 8 clips of 16 frames per batch.

Command:   python tools/lazyconfig_train.py --config-file projects/query/configs/cva_bus.py \
               train.init_checkpoint=resnet34.pth dataloader.train.fold=0
           (torchvision's ResNet-34 weights, unchanged; ULTRAVID_DATASETS names the folder that holds CVA-BUS)
Metrics:   not measured here; UltraDet's paper reports AP50 90.5, Pr80 90.1, FP80 5.6 over four folds.
Hardware:  8 GPUs, one clip each (--num-gpus 8).
"""

from ultravid.config import LazyCall as L
from ultravid.config import get_config
from ultravid.solver import FactorByName

_data = get_config("common/data/cva_bus.py")
_train = get_config("common/train.py")

data = _data.data
dataloader = _data.dataloader
model = get_config("common/models/deformable_detr.py").model
train = _train.train
prepared_model, checkpointer, trainer = _train.prepared_model, _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
optimizer.weight_decay = 1e-4
optimizer.params.lr_factor_func = L(FactorByName)(
    factors=dict(backbone=0.1, reference_points=0.1, sampling_offsets=0.1)
)
lr_multiplier = get_config("common/schedules.py").steps_60_80

train.output_dir = "./outputs/deformable_detr_cva_bus"
