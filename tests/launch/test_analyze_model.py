"""tools/analyze_model.py on the phantom's small model."""

import re
import subprocess

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import PHANTOM_CONFIG, ROOT
from tests.quick_python import quick_python
from ultravid.config import Builder, load_checked


def analyze(cwd, *arguments):
    command = [quick_python(), str(ROOT / "tools/analyze_model.py"), "--config-file", str(PHANTOM_CONFIG), *arguments]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def number_after(name, text, column):
    (row,) = re.findall(rf"^{re.escape(name)} +(.+)$", text, re.MULTILINE)
    return float(row.split()[column].rstrip(",;"))


def test_a_frames_operations_are_those_that_torch_counts(tmp_path):
    arguments = ["--size", "96", "128", "--num-inputs", "3", "--tasks", "flop", "model.token_mixer.causal=true"]
    code, out, err = analyze(tmp_path, *arguments)
    assert code == 0 and err == ""
    # A convolution of 7 x 7 from 3 to 16 channels at stride 2, and two numbers a value for its normalisation.
    expected = (48 * 64) * 16 * (7 * 7 * 3 + 2) / 1e6
    assert number_after("backbone.stem.conv1", out, 1) == pytest.approx(expected, abs=5e-4)
    model = Builder(load_checked(PHANTOM_CONFIG, ["model.token_mixer.causal=true"])).build("model").eval()
    frame = {"image": torch.zeros(3, 96, 128, dtype=torch.uint8), "video_id": "a"}
    with FlopCounterMode(display=False) as counter:  # counts a multiplication and its addition as two
        model([frame])
    counted = counter.get_flop_counts()["Global"]
    conv = sum(n for operator, n in counted.items() if "conv" in str(operator)) / 2e6
    shown = {name: float(n) for name, n in re.findall(r"(\w+) ([\d.]+)", re.search("By operator: (.+)", out)[1])}
    assert shown["conv"] == pytest.approx(conv, abs=5e-4)
    assert shown["linear"] + shown["matmul"] == pytest.approx(sum(counted.values()) / 2e6 - conv, abs=1e-3)
    first, last = map(float, re.search(r"first frame ([\d.]+), last ([\d.]+)", out).groups())
    assert first == last  # the memory has a fixed shape from the first frame on
    assert last == pytest.approx(sum(shown.values()), abs=2e-3)
    assert len(re.findall("^Not counted, calls per frame: .*nms_mask 2", out, re.MULTILINE)) == 1


def test_all_tasks_on_the_frames_of_a_data_set(phantom, tmp_path):
    arguments = ["--num-inputs", "2", "--depth", "2", "--tasks", "parameter", "activation", "shape", "structure"]
    code, out, err = analyze(tmp_path, *arguments, f"data.root={phantom}", "dataloader.test.num_workers=0")
    assert code == 0, err
    model = Builder(load_checked(PHANTOM_CONFIG)).build("model")
    assert f"Parameters: {sum(p.numel() for p in model.parameters()):,}, trainable" in out
    # Frames are 64 px: 16 channels at 32 x 32 from the stem, at 16 x 16 from the first stage.
    assert re.search(r"^backbone\.res2 +Stage +\(1, 16, 16, 16\)$", out, re.MULTILINE)
    assert re.search(r"^model +TwoStage +\(\d+, 4\) \(\d+,\) \(\d+,\)$", out, re.MULTILINE)
    assert number_after("backbone.stem", out.partition("Activations")[2], 1) == pytest.approx(0.016, abs=1e-3)
    assert "backbone.stem.conv1" not in out.partition("(backbone)")[0]
    assert str(model) in out


def test_mistakes_get_one_message(tmp_path):
    code, _, err = analyze(tmp_path, "--tasks", "flops", "parameter")
    assert (code, err) == (2, "error: --tasks flops: the tasks are parameter, flop, activation, shape, structure.\n")
    code, _, err = analyze(tmp_path, "data.root=nowhere")
    assert code == 2 and "nowhere" in err and "--size HEIGHT WIDTH" in err and "Traceback" not in err
