"""The three launchers: one run, from a config in Python, as a loop that is written out, and from a config in YAML."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool, load_weights, read_rows, same_weights, small_arguments
from tests.quick_python import quick_python
from ultravid.config import LazyConfig
from ultravid.engine import run_tool

PHANTOM_YAML = PHANTOM_CONFIG.with_suffix(".yaml")


def small_yaml_arguments(output_dir, config=PHANTOM_YAML, max_iter=8):
    """The arguments of `small_arguments`, for tools/train_net.py: the rate falls at 65 and 85 of 100 parts, so at 6 and 7 of 8."""
    return [
        *("--config-file", str(config), "OUTPUT_DIR", str(output_dir), "SOLVER.MAX_ITER", str(max_iter)),
        *("SOLVER.STEPS", "(6, 7)", "SOLVER.WARMUP_ITERS", str(0.055 * 8), "SOLVER.CHECKPOINT_PERIOD", "3"),
        *("LOG_PERIOD", "1", "INPUT.CLIP.NUM_FRAMES", "3", "DATALOADER.NUM_WORKERS", "0"),
    ]


def run(tool, arguments):
    return run_tool(load_tool(tool).main, arguments)


def arguments_of(tool, phantom, output_dir):
    return small_yaml_arguments(output_dir) if tool == "train_net" else small_arguments(phantom, output_dir)


def losses(folder):
    """What all three tools record of each iteration."""
    rows = read_rows(folder / "metrics.json")
    return [{k: v for k, v in row.items() if k not in ("time", "data_time", "grad_norm")} for row in rows]


@pytest.fixture(autouse=True)
def datasets(phantom, monkeypatch):
    monkeypatch.setenv("ULTRAVID_DATASETS", str(phantom.parent))


@pytest.fixture(scope="module")
def runs(phantom, tmp_path_factory):
    """A finished run of each tool: its folder by the tool's name."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULTRAVID_DATASETS", str(phantom.parent))
        for tool in ("lazyconfig_train", "plain_train_net", "train_net"):
            folders[tool] = tmp_path_factory.mktemp(tool) / "run"
            assert run(tool, arguments_of(tool, phantom, folders[tool])) == 0
    return folders


@pytest.mark.parametrize("tool", ["plain_train_net", "train_net"])
def test_three_tools_train_one_run_bit_for_bit(runs, tool):
    expected = losses(runs["lazyconfig_train"])
    assert [row["iteration"] for row in expected] == list(range(9))
    assert len({row["lr"] for row in expected[:8]}) == 4  # the warm-up and both steps of the schedule are in it
    assert losses(runs[tool]) == expected
    assert same_weights(runs[tool] / "model_final.pth", runs["lazyconfig_train"] / "model_final.pth")
    predictions = [(runs[t] / "inference/predictions.json").read_bytes() for t in (tool, "lazyconfig_train")]
    assert predictions[0] == predictions[1]


@pytest.mark.parametrize("tool", ["plain_train_net", "train_net"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(runs, phantom, tmp_path, tool):
    folder = tmp_path / "run"
    whole = runs[tool]
    folder.mkdir()
    for name in ("model_0000005.pth", "metrics.json", "config.yaml"):
        (folder / name).write_bytes((whole / name).read_bytes())
    (folder / "last_checkpoint").write_text("model_0000005.pth")
    assert run(tool, [*arguments_of(tool, phantom, folder), "--resume"]) == 0
    assert losses(folder) == losses(whole)
    assert same_weights(folder / "model_final.pth", whole / "model_final.pth")


@pytest.mark.parametrize("tool", ["plain_train_net", "train_net"])
def test_eval_only_gives_the_detections_of_the_end_of_training(runs, phantom, tmp_path, tool):
    weights = str(runs[tool] / "model_final.pth")
    given = ["MODEL.WEIGHTS", weights] if tool == "train_net" else [f"train.init_checkpoint={weights}"]
    assert run(tool, [*arguments_of(tool, phantom, tmp_path), "--eval-only", *given]) == 0
    for name in ("predictions.json", "metrics.json"):
        assert (tmp_path / "inference" / name).read_bytes() == (runs[tool] / "inference" / name).read_bytes()
    trained, loaded = (json.loads((f / "inference/record.json").read_text()) for f in (runs[tool], tmp_path))
    assert (trained["by"], trained["weights"]["path"]) == ("training", None)
    assert (loaded["by"], loaded["weights"]["path"]) == ("command", weights)
    assert trained["weights"]["iteration"] == loaded["weights"]["iteration"] == 7
    assert trained["weights"]["model_sha256"] == loaded["weights"]["model_sha256"]
    assert trained["identity"] == loaded["identity"]
    assert not (tmp_path / "config.yaml").exists() and (tmp_path / "config_eval.yaml").is_file()


@pytest.mark.distributed
@pytest.mark.parametrize("tool", ["plain_train_net", "train_net"])
def test_two_processes_train_on_their_shares_of_the_batch(phantom, tmp_path, tool):
    folder = tmp_path / "run"
    arguments = arguments_of(tool, phantom, folder)
    arguments += (
        ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.STEP_FACTORS", "[]"]
        if tool == "train_net"
        else ["train.max_iter=2"]
    )
    command = [quick_python(), str(ROOT / f"tools/{tool}.py"), *arguments, "--num-gpus", "2"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["iteration"] for row in read_rows(folder / "metrics.json")] == [0, 1, 2]
    assert all(torch.isfinite(value).all() for value in load_weights(folder / "model_final.pth").values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOLVER.BASE_LRR", "1"], "Unknown key 'SOLVER.BASE_LRR'. Did you mean 'SOLVER.BASE_LR'?"),
        (["SOLVER.MAX_ITER=5"], "write SOLVER.MAX_ITER 5, without '='"),
        (["LOG_PERIOD", "0"], "LOG_PERIOD is 0, not at least 1. (LOG_PERIOD, command line)"),
        (["INPUT.FORMAT", "GBR"], "INPUT.FORMAT is 'GBR'. Did you mean 'BGR'? (INPUT.FORMAT, command line)"),
        (["MODEL.OPTS", "['backbone.dpth=18']"], "(MODEL.OPTS[0] 'backbone.dpth=18'; MODEL.OPTS, command line)"),
        (
            ["MODEL.CONFIG", "basicdet.py"],
            "MODEL.CONFIG is 'basicdet.py': there is no such file, and no shipped config",
        ),
        (["SOLVER.BETAS", "(0.9,)"], "(SOLVER.BETAS, command line)"),
        (["DATASETS.TRAIN", "('fantom_train',)"], "Did you mean 'phantom_train'?"),
        (["DATASETS.TRAIN", "()"], "set at DATASETS.TRAIN, command line"),
        (["MODEL.META_ARCHITECTURE", "BasicDett"], "Did you mean 'BasicDet'?"),
        (
            ["MODEL.RESNETS.DEPTH", "34"],
            "takes either depth or num_blocks, which is (1, 1, 1) here; '~model.backbone.num_blocks' removes it",
        ),
        (["MODEL.ANCHOR_GENERATOR.SHAPES", "[]", "MODEL.ANCHOR_GENERATOR.SIZES", "[[1], [2]]"], "one feature map"),
        (["SOLVER.OPTIMIZER", "Adagrad"], "SOLVER.OPTIMIZER is 'Adagrad'. Known here: Adam, AdamW, SGD."),
        (["SOLVER.STEP_FACTORS", "[0.1]"], "SOLVER.STEP_FACTORS has 1 factors for 2 SOLVER.STEPS."),
        (["MODEL.WEIGHTS", "{tmp}/gone.pth"], "gone.pth does not exist"),
        (
            ["MODEL.DEVICE", "gpu"],
            "takes 'auto', 'cpu', 'cuda' or 'cuda:1' for 'device' (prepared_model.device refers to it). (MODEL.DEVICE, command line)",
        ),
        (["--eval-only"], "--eval-only needs weights: give MODEL.WEIGHTS FILE"),
        (
            ["--config-file", str(PHANTOM_CONFIG)],
            "is not a .yaml file; tools/lazyconfig_train.py reads configs in Python",
        ),
    ],
)
def test_an_error_in_a_yaml_run_gets_one_message_and_no_training(tmp_path, capfd, arguments, message):
    given = [a.format(tmp=tmp_path) for a in arguments]
    assert run("train_net", [*small_yaml_arguments(tmp_path / "run"), *given]) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.glob("run/model_*"))


def test_the_plain_loop_does_not_resume_a_run_of_another_tool(runs, phantom, tmp_path, capfd):
    for name in ("model_final.pth", "last_checkpoint"):
        (tmp_path / name).write_bytes((runs["lazyconfig_train"] / name).read_bytes())
    assert run("plain_train_net", [*small_arguments(phantom, tmp_path), "--resume", "train.max_iter=9"]) == 2
    assert "holds a run of another tool" in capfd.readouterr().err


def test_a_run_in_yaml_is_resumed_as_one_in_python_and_the_other_way_round(runs, phantom, tmp_path):
    for ending, tool, other in (("a", "train_net", "lazyconfig_train"), ("b", "lazyconfig_train", "train_net")):
        folder = tmp_path / ending
        folder.mkdir()
        (folder / "model_0000005.pth").write_bytes((runs[other] / "model_0000005.pth").read_bytes())
        (folder / "last_checkpoint").write_text("model_0000005.pth")
        assert run(tool, [*arguments_of(tool, phantom, folder), "--resume"]) == 0
        assert same_weights(folder / "model_final.pth", runs[other] / "model_final.pth")


def test_the_saved_config_describes_the_whole_run_for_either_launcher(runs, tmp_path):
    saved = Path(runs["train_net"]) / "config.yaml"
    assert run("train_net", ["--config-file", str(saved), "OUTPUT_DIR", str(tmp_path)]) == 0
    assert same_weights(tmp_path / "model_final.pth", runs["train_net"] / "model_final.pth")
    assert run("lazyconfig_train", ["--config-file", str(saved), f"train.output_dir={tmp_path}/lazy"]) == 0
    assert same_weights(tmp_path / "lazy/model_final.pth", runs["train_net"] / "model_final.pth")


# The keys that the run of tests/saved/0.1/yacs was started with.
EARLIER_KEYS = {
    "MODEL.RESNETS.OUT_CHANNELS": "[4, 8, 16]",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "4",
    "MODEL.ROI_BOX_HEAD.DIM": "16",
    "MODEL.RELATION.NUM_HEADS": "2",
    "MODEL.RELATION.GEOMETRY_DIM": "16",
}


@pytest.mark.parametrize("tool", ["train_net", "lazyconfig_train"])
def test_a_run_of_version_01_with_keys_of_model_parts_is_resumed(phantom, tmp_path, tool):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "model_0000001.pth"):
        (folder / name).write_bytes((ROOT / "tests/saved/0.1/yacs" / name).read_bytes())
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    own = folder / "config.yaml"
    if tool == "train_net":
        own = PHANTOM_YAML
        keys = [*("SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "[2, 3]", "SOLVER.CHECKPOINT_PERIOD", "2", "LOG_PERIOD", "1")]
        keys += ["INPUT.CLIP.NUM_FRAMES", "3", "OUTPUT_DIR", str(folder)]
        keys += [part for pair in EARLIER_KEYS.items() for part in pair]
    else:
        keys = [f"train.output_dir={folder}"]
    assert run(tool, ["--config-file", str(own), "--resume", *keys]) == 0
    rows = losses(folder)[:2]
    expected = losses(ROOT / "tests/saved/0.1/yacs")
    for row, of_then in zip(rows, expected, strict=True):
        assert row == pytest.approx(of_then, rel=0.2)  # boxes for the loss are sampled by other random numbers today
    assert "holds the state of a hook" not in (folder / "log.txt").read_text() or tool == "lazyconfig_train"
    # The resumed run saves the layout of today.
    assert LazyConfig.load(folder / "config.yaml").model.token_mixer.relation.dim == 16
