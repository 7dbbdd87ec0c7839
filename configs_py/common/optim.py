"""Optimizers. Each takes the parameters of the prepared model: an optimizer built before the model is sharded would update nothing."""

import torch

from ultravid.config import LazyCall as L
from ultravid.config import ref
from ultravid.solver import get_default_optimizer_params

# base_lr repeats lr for the parameter groups, so that params can scale it (lr_factor_func, bias_lr_factor).
AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(model=ref("prepared_model"), base_lr=ref("..lr")),
    lr=2e-4,
    betas=(0.9, 0.99),
    weight_decay=0.05,
)

SGD = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(model=ref("prepared_model"), base_lr=ref("..lr"), weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
