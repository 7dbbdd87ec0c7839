"""BasicDet (after RDN, Deng et al., ICCV 2019), small, on the phantom.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom.py
Metrics:  AP50 95.3 and 93.6, FP80 4.7 and 8.9 (seeds 0 and 1).
Hardware: 2 cores of a CPU, no GPU; 5 to 7 minutes.
"""

from ultravid.config import get_config

_recipe = get_config("common/phantom_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/basicdet_small.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

train.output_dir = "./outputs/phantom"
