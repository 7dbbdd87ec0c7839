"""RetinaNet (Lin et al., ICCV 2017) on CVA-BUS, full size: ResNet-34, 900,000 px, 8 clips of 16 frames per batch.

Command:   python tools/lazyconfig_train.py --config-file projects/one_stage/configs/cva_bus.py \
               train.init_checkpoint=resnet34.pth dataloader.train.fold=0
           (torchvision's ResNet-34 weights, unchanged; ULTRAVID_DATASETS names the folder that holds CVA-BUS)
Metrics:   not measured here; UltraDet's paper reports AP50 84.5, Pr80 75.7, FP80 9.3 over four folds.
Hardware:  8 GPUs, one clip each (--num-gpus 8).
"""

from ultravid.config import get_config

_data = get_config("common/data/cva_bus.py")
_train = get_config("common/train.py")

data = _data.data
dataloader = _data.dataloader
model = get_config("common/models/retinanet.py").model
model.dense_head.normalizer_momentum = 0.9
train = _train.train
prepared_model, checkpointer, trainer = _train.prepared_model, _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").steps_60_80

train.output_dir = "./outputs/retinanet_cva_bus"
