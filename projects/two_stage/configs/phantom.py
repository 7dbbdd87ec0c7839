"""Faster R-CNN (Ren et al., NeurIPS 2015), small, on the phantom, one frame at a time.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/two_stage/configs/phantom.py
Metrics:  AP50 67.9, 68.9, 65.9, FP80 53.0, 48.3, 46.4 (seeds 0, 1, 2).
Hardware: 2 cores of a CPU, no GPU.
"""

from ultravid.config import get_config

_recipe = get_config("common/phantom_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/faster_rcnn_small.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

train.output_dir = "./outputs/faster_rcnn_phantom"
