"""Instead of DDP, a model sharded over all processes (FSDP2), with checkpoints in shards (DCP). In a config:

    prepared_model, checkpointer = (get_config("common/fsdp.py")[k] for k in ("prepared_model", "checkpointer"))

On the command line: `prepared_model=common/fsdp.py:prepared_model checkpointer=common/fsdp.py:checkpointer`.
"""

from ultravid.checkpoint import DistributedCheckpointer
from ultravid.config import LazyCall as L
from ultravid.config import ref
from ultravid.engine import prepare_model

prepared_model = L(prepare_model)(model=ref("model"), device=ref("train.device"), fsdp=dict(units=[]))

checkpointer = L(DistributedCheckpointer)(
    model=ref("model"),
    save_dir=ref("train.output_dir"),
    optimizer=ref("optimizer"),
    on_error=ref("train.checkpointer.on_error"),
    partial_init=False,  # whether train.init_checkpoint may fit a part of the model; the rest starts from scratch
)
