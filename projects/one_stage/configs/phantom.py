"""RetinaNet (Lin et al., "Focal loss for dense object detection", ICCV 2017), small, on the phantom, one frame at a time.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/one_stage/configs/phantom.py
Metrics:  AP50 75.1, FP80 47.3 (seed 0).
Hardware: 2 cores of a CPU, no GPU.
"""

from ultravid.config import get_config

_recipe = get_config("common/phantom_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/retinanet_small.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

train.output_dir = "./outputs/retinanet_phantom"
