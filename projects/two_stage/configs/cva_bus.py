"""Faster R-CNN (Ren et al., NeurIPS 2015) on CVA-BUS, full size: ResNet-34, 900,000 px, 8 clips of 16 frames per batch.

Command:   python tools/lazyconfig_train.py --config-file projects/two_stage/configs/cva_bus.py \
               train.init_checkpoint=resnet34.pth dataloader.train.fold=0
           (torchvision's ResNet-34 weights, unchanged; ULTRAVID_DATASETS names the folder that holds CVA-BUS)
Metrics:   not measured here; UltraDet's paper reports AP50 88.0, Pr80 91.3, FP80 6.9 over four folds.
Hardware:  8 GPUs, one clip each (--num-gpus 8).
"""

from ultravid.config import get_config

_data = get_config("common/data/cva_bus.py")
_train = get_config("common/train.py")

data = _data.data
dataloader = _data.dataloader
model = get_config("common/models/faster_rcnn.py").model
train = _train.train
prepared_model, checkpointer, trainer = _train.prepared_model, _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").steps_60_80

train.output_dir = "./outputs/faster_rcnn_cva_bus"
