import json

import pytest
import torch

from ultravid.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    FramePictures,
    VideoDetectionEvaluator,
    format_results,
    inference_context,
    inference_on_dataset,
)
from ultravid.evaluation.prediction_store import read_videos
from ultravid.structures import Boxes, Instances
from ultravid.utils.errors import UserError


class Perfect(torch.nn.Module):
    """Finds exactly the lesions; counts how often it is reset."""

    def __init__(self):
        super().__init__()
        self.resets = 0

    def reset(self):
        self.resets += 1

    def forward(self, inputs):
        assert not self.training
        gt = [i["instances"].gt_boxes for i in inputs]
        return [{"instances": Instances((40, 40), pred_boxes=b, scores=torch.ones(len(b)))} for b in gt]


def item(video, index, boxes=((1, 1, 20, 20),)):
    return {
        "image": torch.zeros(3, 40, 40, dtype=torch.uint8),
        "height": 40,
        "width": 40,
        "video_id": video,
        "frame_index": index,
        "image_id": 100 * ord(video) + index,
        "fps": 30.0,
        "instances": Instances((40, 40), gt_boxes=Boxes(list(boxes))),
    }


def test_a_model_is_run_evaluated_and_left_in_training(tmp_path):
    model = Perfect().train()
    loader = [[item("b", 0)], [item("a", 1)], [item("a", 0, [])]]
    evaluators = [VideoDetectionEvaluator(tmp_path), FramePictures(tmp_path)]
    results = inference_on_dataset(model, loader, DatasetEvaluators(evaluators))
    assert results["AP50"] == 100 and results["FP90"] == 0
    assert model.training and model.resets == 2
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [(r["video_id"], r["frame_index"], r["bbox"], r["score"]) for r in rows] == [
        ("a", 1, [1, 1, 19, 19], 1),
        ("b", 0, [1, 1, 19, 19], 1),
    ]
    assert json.loads((tmp_path / "metrics.json").read_text())["AP50"] == 100
    assert (tmp_path / "frames.png").stat().st_size > 500


def test_undefined_metrics_are_null_and_a_dash(tmp_path):
    results = inference_on_dataset(Perfect(), [[item("a", 0, [])]], VideoDetectionEvaluator(tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text())["AP50"] is None
    assert format_results(results).count("-  ") or " - " in format_results(results)


def test_a_frame_seen_twice_is_refused():
    evaluator = VideoDetectionEvaluator()
    with pytest.raises(UserError, match="Video 'a' frame 0 was evaluated twice"):
        inference_on_dataset(Perfect(), [[item("a", 0)], [item("a", 0)]], evaluator)


def test_two_evaluators_must_not_return_the_same_metric():
    class One(DatasetEvaluator):
        def evaluate(self):
            return {"x": 1.0}

    with pytest.raises(ValueError, match="'x'"):
        inference_on_dataset(Perfect(), [], [One(), One()])


def test_evaluators_may_be_nested_have_no_result_or_be_missing():
    class Counter(DatasetEvaluator):
        def __init__(self, name):
            self.name = name

        def reset(self):
            self.seen = 0

        def process(self, inputs, outputs):
            self.seen += len(inputs)

        def evaluate(self):
            return {self.name: self.seen} if self.name else None

    nested = DatasetEvaluators([Counter("a"), DatasetEvaluators([Counter("b"), Counter("")])])
    loader = [[item("a", 0)], [item("a", 1)]]
    assert inference_on_dataset(Perfect(), loader, nested) == {"a": 2, "b": 2}
    assert inference_on_dataset(Perfect(), loader, Counter("")) == {}
    model = Perfect().train()
    assert inference_on_dataset(model, loader, None) == {} and model.training and model.resets == 2
    with inference_context(model):
        assert not model.training
    assert model.training


class Detector(torch.nn.Module):
    """Finds each lesion, slightly shifted, and one false positive; may be interrupted at a call."""

    def __init__(self, shift=1.0, stop_at=None):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(shift))
        self.calls, self.stop_at = 0, stop_at

    def forward(self, inputs):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        outputs = []
        for given in inputs:
            boxes = torch.cat([given["instances"].gt_boxes.tensor + self.shift, torch.tensor([[0.0, 0, 5, 5]])])
            scores = torch.linspace(0.9, 0.3, len(boxes)) + given["frame_index"] / 100
            found = Instances(
                (40, 40), pred_boxes=Boxes(boxes), scores=scores, pred_classes=torch.zeros(len(boxes)).long()
            )
            outputs.append({"instances": found})
        return outputs


def frames_of_three_videos(**changes):
    items = [[item(video, index)] for video in "abc" for index in range(4)]
    items[1][0] |= changes
    return items


def evaluate(folder, model, items, **kwargs):
    evaluators = [VideoDetectionEvaluator(folder, **kwargs), FramePictures(folder)]
    return inference_on_dataset(model, items, evaluators)


def files_in(folder):
    files = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "record.json"
    ]  # it says when and by whom
    return {p.relative_to(folder): p.read_bytes() for p in files}


def interrupted(folder):
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, Detector(stop_at=10), frames_of_three_videos())
    assert len(list((folder / "predictions").iterdir())) == 2  # a and b; c is unfinished
    return folder


def test_an_interrupted_evaluation_is_resumed_and_leaves_the_same_files(tmp_path):
    whole = evaluate(tmp_path / "whole", Detector(), frames_of_three_videos())
    model = Detector()
    resumed = evaluate(interrupted(tmp_path / "cut"), model, frames_of_three_videos(), resume=True)
    assert model.calls == 4 and resumed == whole
    assert files_in(tmp_path / "cut") == files_in(tmp_path / "whole")
    # A finished evaluation is done again, not reused.
    evaluate(tmp_path / "cut", again := Detector(), frames_of_three_videos(), resume=True)
    assert again.calls == 12


@pytest.mark.parametrize(("model", "resume"), [(Detector(shift=2.0), True), (Detector(), False)])
def test_predictions_of_other_weights_or_without_resume_are_not_reused(tmp_path, model, resume):
    evaluate(interrupted(tmp_path / "cut"), model, frames_of_three_videos(), resume=resume)
    assert model.calls == 12
    evaluate(tmp_path / "whole", Detector(shift=model.shift.item()), frames_of_three_videos())
    assert files_in(tmp_path / "cut") == files_in(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        {"image": torch.ones(3, 40, 40, dtype=torch.uint8)},
        {"image": torch.zeros(3, 48, 40, dtype=torch.uint8)},
        {"instances": Instances((40, 40), gt_boxes=Boxes([[1.0, 1, 20, 21]]))},
    ],
)
def test_resuming_over_frames_that_have_changed_is_refused(tmp_path, change):
    interrupted(tmp_path)
    with pytest.raises(UserError, match="Video 'a' frame 1: its image, size or annotation has changed"):
        evaluate(tmp_path, Detector(), frames_of_three_videos(**change), resume=True)


def test_a_stream_of_frames_of_all_videos_is_evaluated_as_their_videos(tmp_path):
    items = frames_of_three_videos()
    stream = [[{**items[4 * v + t][0], "stream_id": "all"}] for t in range(4) for v in range(3)]
    assert evaluate(tmp_path / "stream", Detector(), stream) == evaluate(tmp_path / "videos", Detector(), items)
    assert (tmp_path / "stream/predictions.json").read_bytes() == (tmp_path / "videos/predictions.json").read_bytes()


def test_a_video_that_comes_back_and_a_nan_of_the_model_are_refused():
    with pytest.raises(UserError, match="Video 'a' frame 1: the video was evaluated already"):
        inference_on_dataset(Perfect(), [[item("a", 0)], [item("b", 0)], [item("a", 1)]], VideoDetectionEvaluator())
    with pytest.raises(UserError, match=r"Video 'a' frame 0: detection 0 of the model: box .* contains nan"):
        inference_on_dataset(Detector(shift=float("nan")), [[item("a", 0)]], VideoDetectionEvaluator())


def test_further_metrics_patient_and_metadata_are_in_the_files_but_not_in_the_log(tmp_path, caplog):
    items = frames_of_three_videos(patient="p", metadata={"device": "x"})
    items[0][0] |= {"patient": "p", "metadata": {"device": "x"}}
    with caplog.at_level("INFO"):
        results = evaluate(tmp_path, Detector(), items)
    assert list(results) == ["AP50", "AP75", "mAP", "Pr80", "Pr90", "FP80", "FP90", "R@16"]
    assert "legacy" not in caplog.text and "FROC" not in caplog.text
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert {"legacy/P@R0.7", "lesion/FROC@1", "per_video/AP50", "mAP_s", "Pr70", "count/frames"} <= set(written)
    videos = list(read_videos(tmp_path / "predictions/manifest.json"))
    assert (videos[0].patient, videos[0].metadata, videos[1].patient) == ("p", {"device": "x"}, None)
