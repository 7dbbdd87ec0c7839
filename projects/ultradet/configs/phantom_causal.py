"""UltraDet (Yu et al., MICCAI 2023, arXiv 2305.18060), small, on the phantom, causal: what was computed for a frame is kept.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/ultradet/configs/phantom_causal.py
Metrics:  AP50 97.0, 97.4, 97.3, FP80 0.5, 0.0, 0.0 (seeds 0, 1, 2).
Hardware: 2 cores of a CPU, no GPU.
"""

from ultravid.config import get_config

_recipe = get_config("common/phantom_recipe.py")

data, dataloader = _recipe.data, _recipe.dataloader
model = get_config("common/models/ultradet_small.py").model
train, prepared_model = _recipe.train, _recipe.prepared_model
checkpointer, trainer = _recipe.checkpointer, _recipe.trainer
optimizer, lr_multiplier = _recipe.optimizer, _recipe.lr_multiplier

train.output_dir = "./outputs/ultradet_causal_phantom"
