"""Writers that one line adds to a run: `trainer.hooks.writer.writers.wandb = get_config("common/writers.py").wandb`, or on the
command line `+trainer.hooks.writer.writers.wandb=common/writers.py:wandb`.
"""

from ultravid.config import LazyCall as L
from ultravid.config import ref
from ultravid.utils.events import CSVWriter
from ultravid.utils.trackers import MLflowWriter, WandbWriter

csv = L(CSVWriter)(csv_file="${train.output_dir}/metrics.csv")
wandb = L(WandbWriter)(
    output_dir=ref("train.output_dir"), project="ultravid", mode=None, config="${train.output_dir}/config.yaml"
)
mlflow = L(MLflowWriter)(
    output_dir=ref("train.output_dir"),
    experiment="ultravid",
    tracking_uri="sqlite:///${train.output_dir}/mlflow.db",  # or a server that several runs share
    config="${train.output_dir}/config.yaml",
)
