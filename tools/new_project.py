#!/usr/bin/env python
"""Create the folder of a new project: a README, a config, a module, and a test that passes.

    python tools/new_project.py NAME [--folder projects]

The config trains a small detector on the phantom and uses one part that the project itself defines, a hook. Replace it with
your own.
"""

import argparse
import importlib.util
import keyword
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template

from ultravid.utils.errors import UserError
from ultravid.utils.tool import ToolParser, run_tool

FILES = {
    "README.md": """# ${name}

What it is: one sentence, and the paper.

## How to run it

    python tools/make_phantom.py --output datasets/phantom
    python tools/lazyconfig_train.py --config-file ${folder}/${name}/configs/phantom.py

`--check` checks the config without training, `--print` shows it, `--explain KEY` shows where a value was set.

## Results

| config | AP50 | command, hardware, time |
|---|---|---|
| `configs/phantom.py` | not measured yet | |

## Files

- `configs/phantom.py`: the run.
- `${name}/hooks.py`: a hook of this project, which the config names as `${name}.hooks.WeightNorm`.
- `tests/`: `pytest ${folder}/${name}/tests`.
""",
    "configs/phantom.py": '''"""What it is, on the phantom.

Command:  python tools/make_phantom.py --output datasets/phantom
          python tools/lazyconfig_train.py --config-file ${folder}/${name}/configs/phantom.py
Result:   not measured yet.
Hardware: not measured yet.
"""

from ultravid.config import LazyCall as L
from ultravid.config import get_config, ref

_data = get_config("common/data/phantom.py")
_train = get_config("common/train.py")

data = _data.data
dataloader = _data.dataloader
model = get_config("common/models/basicdet_small.py").model
train = _train.train
prepared_model, checkpointer, trainer = _train.prepared_model, _train.checkpointer, _train.trainer
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedules.py").cosine

train.output_dir = "./outputs/${name}"
train.max_iter = 900
train.eval_period = 0  # only at the end

trainer.hooks.weight_norm = L("${name}.hooks.WeightNorm")(period=ref("train.log_period"))  # defined by this project
''',
    "${name}/__init__.py": '''"""The project's own modules."""
''',
    "${name}/hooks.py": '''"""Hooks of this project."""

import torch

from ultravid.engine import HookBase
from ultravid.engine.hooks import Every
from ultravid.utils.events import get_event_storage


class WeightNorm(HookBase):
    """Records the norm of all weights as ``weight_norm``.

    Args:
        period: iterations from one record to the next.
    """

    def __init__(self, period: int = 20) -> None:
        self._every = Every(period)

    def after_step(self) -> None:
        if self._every.is_due(self.trainer):
            norms = [p.detach().norm() for p in self.trainer.model.parameters()]
            get_event_storage().put_scalar("weight_norm", torch.stack(norms).norm())
''',
    "tests/test_${name}.py": """import json
from pathlib import Path

from ultravid.config import Builder, importable_project, load_checked
from ultravid.datasets.phantom import write_phantom_dataset

CONFIG = Path(__file__).resolve().parents[1] / "configs/phantom.py"


def test_the_config_trains_two_steps_and_the_hook_records(tmp_path):
    list(write_phantom_dataset(tmp_path / "phantom", 4, 6, 64, seed=0, test_fraction=0.25, num_workers=1))
    overrides = [
        f"data.root={tmp_path / 'phantom'}",
        f"train.output_dir={tmp_path / 'run'}",
        "train.max_iter=2",
        "train.log_period=1",
        "dataloader.train.frame_sampler.num_frames=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
    ]
    (tmp_path / "run").mkdir()
    with importable_project(CONFIG):
        Builder(load_checked(CONFIG, overrides)).build("trainer").train()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert all(row["weight_norm"] > 0 for row in rows if "total_loss" in row)
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="name of the project and of its package, a Python name")
    parser.add_argument("--folder", type=Path, default=Path("projects"), help="folder of the projects (projects)")
    args = parser.parse_args(argv)
    if not args.name.isidentifier() or keyword.iskeyword(args.name) or args.name != args.name.lower():
        raise UserError(f"{args.name!r} is not a package name: use lower-case letters, digits and underscores.")
    if args.name in ("configs", "tests"):
        raise UserError(f"{args.name!r} is a folder of every project; choose another name.")
    if importlib.util.find_spec(args.name) is not None:
        raise UserError(f"A module {args.name!r} is installed already; it would be imported in place of the project's.")
    project = args.folder / args.name
    if project.exists():
        raise UserError(f"{project} exists already.")
    words = {"name": args.name, "folder": args.folder.as_posix()}
    try:
        for name, text in FILES.items():
            path = project / Template(name).substitute(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{project} can't be written: {error.strerror}.") from error
    print(f"Wrote {project}. Test it with: pytest {project}/tests. {project / 'README.md'} says how to run it.")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
