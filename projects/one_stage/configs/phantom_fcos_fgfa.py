"""A detector that is in no paper: FCOS on the features of FGFA (Zhu et al., ICCV 2017), the mean of 8 frames' maps warped by flow.

It shows how parts of two detectors are combined: this file is all that it takes.

Command:  python tools/lazyconfig_train.py --config-file projects/one_stage/configs/phantom_fcos_fgfa.py
Metrics:  not measured.
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom_fcos import *

model.feature_context = get_config("common/models/fgfa_small.py").model.feature_context
train.output_dir = "./outputs/fcos_fgfa_phantom"
