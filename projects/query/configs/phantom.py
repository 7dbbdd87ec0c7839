"""Deformable DETR (Zhu et al., ICLR 2021), small, on the phantom, one frame at a time.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/query/configs/phantom.py
Metrics:  AP50 70.2, FP80 43.1 (seed 0).
Hardware: 2 cores of a CPU, no GPU.
"""

from ultravid.config import get_config

_recipe = get_config("common/phantom_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/deformable_detr_small.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

optimizer.weight_decay = 1e-4
train.output_dir = "./outputs/query_phantom"
train.max_iter = 1500
train.checkpointer.period = 250
