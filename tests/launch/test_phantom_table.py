"""The table of all detectors on the phantom: which rows are trained, resumed or kept, and what is written."""

import json
import re

import pytest

from projects import phantom_table
from tests.conftest import PHANTOM_CONFIG
from ultravid.config import load_checked
from ultravid.utils.tool import run_tool

SMALL = [
    "dataloader.train.frame_sampler.num_frames=3",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
]


@pytest.fixture
def table(phantom, tmp_path):
    """The command's arguments for one row that is trained in seconds."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{phantom_table.BEGIN}\nold\n{phantom_table.END}\nafter\n")
    own = ["--models", "BasicDet", "--seeds", "0", "--iterations", "3", "--output", str(tmp_path / "table")]
    return [*own, "--readme", str(readme), f"data.root={phantom}", *SMALL, "train.checkpointer.period=2"]


def rows_of(arguments):
    args = phantom_table.parse_args(arguments)
    return phantom_table.load_rows(args, phantom_table.chosen_models(args.models))


def test_a_finished_row_stays_an_interrupted_one_is_resumed_and_a_changed_one_is_retrained(
    table, launch_run, tmp_path, capfd, monkeypatch
):
    (row,) = rows_of(table)
    assert launch_run(phantom_table.job_of(row).command[2:]) == 0
    monkeypatch.setattr(phantom_table, "run_jobs", lambda jobs, *_: pytest.fail(f"started {jobs}") if jobs else NOTHING)
    assert run_tool(phantom_table.main, table) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    line = next(line for line in text.splitlines() if line.startswith("| BasicDet"))
    assert re.search(r"\| 0\.67 +\| \d+ +\| \d+ +\| \d+ +\| 3 +\| 0 +\|", line)
    speeds = json.loads((tmp_path / "table/speeds.json").read_text())["BasicDet-seed0"]
    assert speeds["frames"] == 24 and speeds["p50"] <= speeds["p95"] <= speeds["worst"]
    # Another value of a key that counts, then a run that was killed after its checkpoint.
    (changed,) = rows_of([*table, "optimizer.lr=0.5"])
    assert not phantom_table.is_trained(changed.run, changed.cfg)
    assert "--resume" not in phantom_table.job_of(changed).command
    assert phantom_table.why_unfinished(changed) == "to be retrained: 1 key changed, as optimizer.lr"
    for file in ("model_final.pth", "inference/metrics.json"):
        (row.run.path / file).unlink()
    row.run.last_checkpoint.write_text("model_0000001.pth")
    assert not phantom_table.is_trained(row.run, row.cfg) and "--resume" in phantom_table.job_of(row).command
    assert run_tool(phantom_table.main, [*table, "--table-only"]) == 1
    assert re.search(r"\| BasicDet +(\| - +){11}\|", (tmp_path / "README.md").read_text())


def test_a_config_file_that_is_missing_or_has_the_name_of_another_is_refused_before_anything_is_trained(table, capfd):
    twice = f"{PHANTOM_CONFIG},{PHANTOM_CONFIG.parents[2] / 'ultradet/configs/phantom.py'}"
    for models, message in (("BasicDet,nope.py", "there is no file nope.py"), (twice, "have one name, phantom")):
        assert run_tool(phantom_table.main, [*table, "--models", models]) == 2
        assert message in capfd.readouterr().err


NOTHING = phantom_table.JobResults({}, stopped=False)


def test_rows_have_three_seeds_where_the_table_promises_them_and_wrong_names_are_refused(table, tmp_path, capfd):
    (default,) = rows_of(table)
    assert default.cfg.train.max_iter == 3 and default.config.samefile(PHANTOM_CONFIG)
    without = [a for a in table if a not in ("--seeds", "0")]
    assert [row.name for row in rows_of(without)] == ["BasicDet-seed0", "BasicDet-seed1", "BasicDet-seed2"]
    assert run_tool(phantom_table.main, [*table, "--models", "YOLO9"]) == 2
    assert "'YOLO9' is not one of FasterRCNN, RelationNet" in capfd.readouterr().err
    (tmp_path / "README.md").write_text("no markers")
    assert run_tool(phantom_table.main, [*table, "--table-only"]) == 2
    assert "each once" in capfd.readouterr().err


def test_every_config_of_the_table_is_there_and_fits_its_place():
    for model, file in phantom_table.MODELS.items():
        config = phantom_table.ROOT / "projects" / file
        if config.is_file():
            assert load_checked(config, required=["model", "trainer", "train.max_iter"]).train.eval_period == 0, model
