"""BasicDet on CVA-BUS, full size: ResNet-34, 900,000 px, 8 clips of 16 frames per batch.

Command:   python tools/lazyconfig_train.py --config-file projects/basicdet/configs/cva_bus.py \
               train.init_checkpoint=resnet34.pth dataloader.train.fold=0
           (torchvision's ResNet-34 weights, unchanged; ULTRAVID_DATASETS names the folder that holds CVA-BUS)
Metrics:   not measured here; the paper reports AP50 88.7, Pr80 92.4, FP80 3.8 over four folds.
Hardware:  8 GPUs, one clip each (--num-gpus 8).
"""

from ultravid.config import get_config

_recipe = get_config("common/cva_bus_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/basicdet.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

trainer.clip_grad = _recipe.clip_grad
train.output_dir = "./outputs/basicdet_cva_bus"
