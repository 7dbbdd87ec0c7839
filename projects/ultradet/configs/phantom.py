"""UltraDet (Yu et al., MICCAI 2023, arXiv 2305.18060), small, on the phantom, as published: a key frame looks again at the whole window.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file projects/ultradet/configs/phantom.py
Metrics:  not measured.
Hardware: 2 cores of a CPU, no GPU.
"""

from .phantom_causal import *

model.token_mixer.causal = False
train.output_dir = "./outputs/ultradet_phantom"
