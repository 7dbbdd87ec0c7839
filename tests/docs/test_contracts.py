"""The parts on docs/reference/contracts.md train, stop, resume and evaluate as they stand there."""

import json
import os
import re
import runpy
import shlex
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, load_tool, load_weights, read_rows, same_weights, without_times
from ultravid.config import Builder, importable_project, load_checked
from ultravid.engine import HookBase
from ultravid.evaluation.prediction_store import read_video
from ultravid.modeling import VideoStream

PAGE = (ROOT / "docs/reference/contracts.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.replace("\\\n", " ")) for line in re.findall(r"^    (python (?:.+\\\n)*.+)", PAGE, re.MULTILINE)
]
SHORT = ["train.max_iter=8", "train.eval_period=4", "train.log_period=2", "train.num_threads=1"]
INTERRUPTED = f"+trainer.hooks.interrupt={{_target_: {ROOT}/tests/docs/test_contracts.py:InterruptsOnce}}"


class InterruptsOnce(HookBase):
    """Asks the run to stop after its fifth iteration, as a scheduler does, unless it is a resumed one."""

    def after_step(self) -> None:
        if self.trainer.start_iter == 0 and self.trainer.iter == 4:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page and the data that they write."""
    folder = tmp_path_factory.mktemp("contracts")
    files = defaultdict(list)
    for name, block in re.findall(r'^```python title="(.+?)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL):
        files[name].append(block)
    for name, blocks in files.items():
        (folder / name).write_text("\n\n".join(blocks), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runpy.run_path("parts.py", run_name="__main__")
    return folder


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_parts_train_stop_resume_and_evaluate(in_folder, launch_run, capsys):
    train, evaluate = (command[2:] for command in COMMANDS[1:3])
    assert launch_run([*train, *SHORT, "train.output_dir=whole"]) == 0
    parted = [*train, *SHORT, "train.output_dir=parted", INTERRUPTED]
    assert launch_run(parted) == 75
    assert launch_run([*parted, "--resume"]) == 0
    assert launch_run([*evaluate, *SHORT, "train.output_dir=whole"]) == 0

    rows = read_rows(Path("whole/metrics.json"))
    assert without_times(read_rows(Path("parted/metrics.json"))) == without_times(rows)  # loader, optimizer, hook
    *rows, last = rows
    assert same_weights(Path("parted/model_final.pth"), Path("whole/model_final.pth"))
    assert [row["lr"] for row in rows] == pytest.approx([3e-3 * 0.5 ** (2 * i / 8) for i in (1, 3, 5, 7)])  # schedule
    assert all(row["largest_weight"] > 0 for row in rows)  # hook
    texts = [Path(run, "rows.txt").read_text().splitlines() for run in ("whole", "parted")]  # writer
    assert [[int(line.split()[0]) for line in lines] for lines in texts] == [[1, 3, 5, 7, 8]] * 2
    evaluated = [(row["center_px"], row["iteration"]) for row in (*rows, last) if "center_px" in row]  # evaluator
    assert [iteration for _, iteration in evaluated] == [3, 8]
    assert "Metrics after iteration 3:" in capsys.readouterr().out  # those of the evaluators that do not log them
    best = torch.load("whole/model_best.pth", weights_only=True)  # its metric
    assert Path("whole/best_checkpoint").read_text() == "model_best.pth" and best["iteration"] == min(
        min(evaluated)[1], 7
    )
    saved = torch.load("whole/model_final.pth", weights_only=True)["trainer"]["optimizer"]["state"]
    assert all("average" in state for state in saved.values()) and len(saved) == 2  # optimizer
    assert json.loads(Path("whole/inference/record.json").read_text())["metrics"]["center_px"] == last["center_px"]
    assert len(json.loads(Path("whole/inference/predictions.json").read_text())) == 20  # test loader and model


def test_loader_sampler_and_transform_are_those_of_the_page(in_folder):
    with importable_project("run.py"):
        loader = Builder(load_checked("run.py")).build("dataloader.train")
    batches = loader.iterate_from(0)
    first, second = next(batches), next(batches)
    assert [(c[2] - c[1], c[1] - c[0]) for c in (clip.frame_indices for clip in first)] == [(2, 2)] * 2  # sampler
    greys = {int(clip.frames.min()) for clip in (*first, *second)}
    assert len(greys) > 1 and all(32 <= grey <= 44 for grey in greys)  # transform: 40 times a factor
    assert [clip.position for clip in (*first, *second)] == [0, 1, 2, 3]
    again = next(loader.iterate_from(1))
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(again, second, strict=True))


def test_the_detector_in_video_and_its_tracker_run_with_ultravids_loaders(in_folder, launch_run):
    _, _, *arguments = COMMANDS[3]
    assert launch_run([*arguments, *SHORT]) == 0
    overrides = [each for each in arguments if "=" in each]
    with importable_project("run.py"):
        builder = Builder(load_checked("run.py", overrides))
        model, loader = builder.build("model").eval(), builder.build("dataloader.test")
    model.load_state_dict(load_weights(Path("outputs/video/model_final.pth")))
    clip = torch.stack([inputs[0]["image"] for inputs, _ in zip(loader, range(4), strict=False)])
    stream = VideoStream(model, (64, 64))
    found = [stream(image) for image in clip]
    assert all(each.track_ids.tolist() == [0] for each in found)  # tracker
    boxes = torch.cat([each.pred_boxes.tensor for each in found])
    assert torch.allclose(model.detect_clip(clip).boxes[:, 0].clamp(0, 64), boxes, atol=1e-4)
    stored = sorted(Path("outputs/video/inference/predictions").glob("*.npz"))
    assert [len(read_video(path).video.frames) for path in stored] == [10, 10]


def test_the_other_commands_of_the_page_parse(in_folder, monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: True)  # outputs/video
    assert [Path(command[1]).stem for command in COMMANDS[4:]] == ["export", "predict"]
    for _, file, *arguments in COMMANDS[4:]:
        load_tool(Path(file).stem).parse_args(arguments)


BUILT = ["dataloader.train._target_=ultravid.data.build_video_train_loader"]
IN_VIDEO = ["model._target_=parts.OneBoxInVideo", "+model.tracker={_target_: parts.OneLesion}"]
BROKEN = {  # what is replaced by what, overrides, and the message
    ', "image_id": frame.image_id': ("", [], "An item of the test loader has no 'image_id', but 'image', 'video_id'"),
    "gt_boxes=Boxes(torch.from_numpy(frame.boxes)), **fields)": (
        "gt_boxes=torch.from_numpy(frame.boxes), **fields)",
        BUILT,
        "the item has gt_boxes that are a Tensor as ground truth.",
    ),
    ', "track_ids": np.zeros(1, np.int64)': ("", [], "'video_0' frame 0: has 1 boxes, 1 classes and 0 track_ids."),
    "return dataclasses.replace(clip, frames": (
        "dataclasses.replace(clip, frames",
        BUILT,
        "The transform RandomBrightness returned NoneType, not a Clip.",
    ),
    "frames=(clip.frames * factor)": (
        "frames=(clip.frames[1:] * factor)",
        BUILT,
        "The transform RandomBrightness returned a clip of 2 frames with 3 instances",
    ),
    "np.minimum(start + 2 * np.arange(self.num_frames), num_frames - 1)": (
        "10 + np.arange(self.num_frames)",
        BUILT,
        "The frame sampler EverySecond chose frame 10 of video",
    ),
    'return detector_postprocess(found, item["height"], item["width"])': (
        "found.pred_boxes = found.pred_boxes.tensor; return found",
        [],
        "the model returned pred_boxes that are a Tensor, not Boxes",
    ),
    "return detections._replace(track_ids=torch.zeros_like(detections.track_ids)), state": (
        "return detections",
        [*BUILT, *IN_VIDEO],
        "OneLesion.update must return two values: the detections with track_ids, and the next state.",
    ),
}


@pytest.mark.parametrize("removed", BROKEN, ids=lambda text: re.sub(r"\W+", "_", text)[:30])
def test_what_a_part_of_your_own_gets_wrong_is_one_message(in_folder, launch_run, capsys, removed):
    instead, overrides, message = BROKEN[removed]
    parts = Path("parts.py").read_text()
    assert parts.count(removed) == 1
    name = f"parts_{list(BROKEN).index(removed)}"
    Path(f"{name}.py").write_text(parts.replace(removed, instead))
    Path("broken.py").write_text(Path("run.py").read_text().replace("import parts", f"import {name} as parts"))
    overrides = [each.replace("parts.", f"{name}.") for each in overrides]
    assert launch_run(["--config-file", "broken.py", *SHORT, f"train.output_dir={name}", *overrides]) == 2
    assert message in capsys.readouterr().err
