"""Hooks that one line adds to a run: `trainer.hooks.ema = get_config("common/hooks.py").EMA`, or on the command line
`trainer.hooks.ema=common/hooks.py:EMA`.
"""

from ultravid.config import LazyCall as L
from ultravid.config import ref
from ultravid.engine import hooks

EMA = L(hooks.EMA)(model=ref("model"), checkpointer=ref("checkpointer"), decay=0.999)

PreciseBN = L(hooks.PreciseBN)(
    period=ref("train.eval_period"), model=ref("model"), data_loader=ref("dataloader.train"), num_iter=200
)
