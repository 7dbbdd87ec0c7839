"""UltraDet (Yu et al., MICCAI 2023, arXiv 2305.18060) on CVA-BUS, full size: ResNet-34, 900,000 px, 8 clips of 16 frames per batch.

The recipe is the published one: AdamW at 2e-4, a tenth after 6,000 and 8,000 of 10,000 iterations, gradients not clipped.

Command:   python tools/lazyconfig_train.py --config-file projects/ultradet/configs/cva_bus.py \
               train.init_checkpoint=resnet34.pth dataloader.train.fold=0
           (torchvision's ResNet-34 weights, unchanged; ULTRAVID_DATASETS names the folder that holds CVA-BUS)
Metrics:   not measured here; the paper reports AP50 91.6, Pr80 95.7, FP80 1.9 over four folds.
Hardware:  8 GPUs, one clip each (--num-gpus 8).
"""

from ultravid.config import get_config

_recipe = get_config("common/cva_bus_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/ultradet.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

train.output_dir = "./outputs/ultradet_cva_bus"
