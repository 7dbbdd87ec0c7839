"""tools/mine_false_positives.py and tools/visualize_data.py, called in this process with a command line's arguments."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import PHANTOM_CONFIG, load_tool
from tests.datasets.recordings import write_dicom
from tests.evaluation.cases import FAR, NEAR_A, A, random_videos, video, write_coco
from ultravid.data import HardMining, build_video_test_loader, load_cva_bus, load_recordings
from ultravid.data.mining import read_hard_list
from ultravid.evaluation import FramePictures, match_video
from ultravid.evaluation.prediction_store import write_manifest, write_video
from ultravid.evaluation.video_metrics import false_positive_sequences
from ultravid.structures import Boxes, Instances
from ultravid.utils.tool import run_tool


@pytest.fixture
def run(capsys):
    def call(name, *arguments):
        returncode = run_tool(load_tool(name).main, list(map(str, arguments)))
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=returncode, stdout=printed.out, stderr=printed.err)

    return call


MOVED = [50, 50, 60, 61]  # IoU above 0.5 with FAR

# The lesion A is found in frames 0 to 3. FAR fires in 1, 2 and, after a pause, 4: one sequence. In frame 6 a detection of the
# lesion's old place fires alone: another. 0.2 lies below the threshold.
VIDEOS = [
    video(
        ([A], [A], [0.9]),
        ([A], [A, FAR], [0.9, 0.8]),
        ([A], [A, MOVED], [0.9, 0.7]),
        ([A], [NEAR_A, FAR], [0.9, 0.2]),
        ([], [FAR], [0.6]),
        ([], [], []),
        ([], [[0, 80, 10, 90]], [0.5]),
        name="benign/a",
    ),
    video(([A], [A], [0.9]), ([A], [A], [0.9]), name="benign/b"),
    video(([], [FAR], [0.55]), name="benign/c"),
]


def test_false_sequences_of_a_run_become_a_list_that_a_config_takes(run, tmp_path):
    predictions = tmp_path / "run/inference/predictions"
    predictions.mkdir(parents=True)
    write_manifest(predictions, {v.video_id: write_video(predictions, v) for v in VIDEOS})
    hard = tmp_path / "lists/hard.json"
    done = run("mine_false_positives", "--predictions", tmp_path / "run", "--score-threshold", 0.5, "--output", hard)
    assert done.returncode == 0, done.stderr
    assert "3 false sequences at scores from 0.5, in 2 of 3 videos and 5 frames" in " ".join(done.stdout.split())
    mined = read_hard_list(hard)
    assert mined.videos == {"benign/a": 2, "benign/c": 1}
    assert mined.frames == {"benign/a": [1, 2, 4, 6], "benign/c": [0]}
    assert HardMining(path=hard).hard == mined
    # The same detections as COCO results, and the default threshold: all lesions are found at 0.9.
    annotations, detections = write_coco(tmp_path, VIDEOS)
    arguments = ["--predictions", detections, "--annotations", annotations, "--output", tmp_path / "coco.json"]
    assert run("mine_false_positives", *arguments, "--score-threshold", 0.5).returncode == 0
    assert read_hard_list(tmp_path / "coco.json").frames == mined.frames
    none = run("mine_false_positives", *arguments)
    assert none.returncode == 2
    assert "no detection that scores at least 0.9 belongs to a false sequence" in none.stderr


def test_as_many_sequences_are_mined_as_the_metric_counts():
    tool = load_tool("mine_false_positives")
    for v in random_videos(np.random.default_rng(5), num_videos=30):
        for threshold in (0.05, 0.4, 0.8):
            matched = match_video(v)
            assert len(tool.false_sequences([matched], threshold)) == false_positive_sequences(matched, threshold)


def test_clips_are_shown_after_augmentation_and_test_videos_as_they_are(run, phantom, tmp_path):
    common = ["--config-file", PHANTOM_CONFIG, "--output", tmp_path / "look", "--num-clips", 2]
    overrides = [f"data.root={phantom}", "dataloader.train.frame_sampler.num_frames=3"]
    done = run("visualize_data", *common, "--movie", *overrides, "dataloader.train.num_workers=0")
    assert done.returncode == 0, done.stderr
    done = run("visualize_data", *common, "--split", "test", "--tile", 64, *overrides, "dataloader.test.area=1024")
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (tmp_path / "look").iterdir())
    videos = [v.video_id.replace("/", "_") for v in load_cva_bus(root=phantom, splits=["test"])]
    clips = [f"train_000000_{k}.{suffix}" for k in range(2) for suffix in ("mp4", "png")]
    assert names == sorted([*clips, *(f"test_{v}.png" for v in videos)])
    sheets = [cv2.imread(str(tmp_path / "look" / name)) for name in names if name.endswith(".png")]
    assert any((sheet.std(axis=2) > 40).any() for sheet in sheets)  # boxes are in colour, frames are grey
    movie = cv2.VideoCapture(str(tmp_path / "look/train_000000_0.mp4"))
    assert [int(movie.get(p)) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH)] == [3, 64]


def test_frames_that_may_show_a_name_are_not_drawn_unless_that_is_allowed(run, tmp_path):
    bright = np.full((2, 40, 60), 250, np.uint8)
    write_dicom(tmp_path / "a.dcm", bright)
    config = tmp_path / "config.py"
    config.write_text(
        'from ultravid.config import get_config\n\nfound = get_config("common/data/recordings.py")\n'
        "data, dataloader = found.data, found.dataloader\ntrain = {'output_dir': 'out'}\ndel found\n"
    )
    command = ("visualize_data", "--config-file", config, "--split", "test", "--output", tmp_path / "look")
    overrides = (f"data.path={tmp_path / 'a.dcm'}", "dataloader.test.num_workers=0")
    refused = run(*command, *overrides)
    assert refused.returncode == 2 and "nothing is burnt in: --allow-burned-in-text" in refused.stderr
    assert not (tmp_path / "look").exists()
    (tmp_path / "masks.json").write_text('{"": {"60x40": [[0, 0, 60, 10]]}}')
    assert run(*command, *overrides, f"data.masks={tmp_path / 'masks.json'}").returncode == 0
    assert run(*command, "--allow-burned-in-text", *overrides).returncode == 0
    (tmp_path / "frames").mkdir()
    for allowed in (False, True):
        pictures = FramePictures(tmp_path / "frames", tile=60, allow_burned_in_text=allowed)
        empty = Instances((40, 60), pred_boxes=Boxes([]), scores=torch.zeros(0))
        for (item,) in build_video_test_loader(videos=load_recordings(path=tmp_path / "a.dcm"), num_workers=0):
            pictures.process([item], [{"instances": empty}])
        pictures.evaluate()
        drawn = cv2.imread(str(tmp_path / "frames" / "frames.png"))
        assert ((drawn[45:, :50] == 250).mean() > 0.5) == allowed


def test_boxes_of_a_resized_test_frame_are_drawn_where_they_are():
    instances = Instances((40, 60), gt_boxes=Boxes([[20, 10, 40, 30]]), gt_ids=torch.tensor([-1]))
    item = {"image": torch.zeros(3, 20, 30, dtype=torch.uint8), "height": 40, "width": 60, "instances": instances}
    drawn = load_tool("visualize_data").draw_item(item, "BGR")
    rows, columns = np.nonzero(drawn[..., 1] > 128)
    # the outermost pixels inside of the box
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 14, 10, 19)


def test_mistakes_of_the_tools_are_reported_in_one_message(run, phantom, tmp_path):
    wrong = run("visualize_data", "--config-file", PHANTOM_CONFIG, f"data.root={phantom}", "dataloader.tran.seed=1")
    assert wrong.returncode == 2 and "Did you mean" in wrong.stderr and "Traceback" not in wrong.stderr
    missing = run("mine_false_positives", "--predictions", tmp_path, "--output", tmp_path / "x.json")
    assert missing.returncode == 2 and "has no predictions" in missing.stderr
    (tmp_path / "hard.json").write_text(json.dumps({"frames": {"a": "3"}}))
    bad = run(
        *("visualize_data", "--config-file", PHANTOM_CONFIG, f"data.root={phantom}"),
        f"dataloader.train.mining={{_target_: ultravid.data.HardMining, path: {tmp_path / 'hard.json'}}}",
    )
    assert bad.returncode == 2 and "video 'a' has the frames '3'" in bad.stderr, bad.stderr
