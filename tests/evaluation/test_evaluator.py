import json

import pytest
import torch

from ultravid.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    FramePictures,
    VideoDetectionEvaluator,
    format_results,
    inference_on_dataset,
)
from ultravid.structures import Boxes, Instances
from ultravid.utils.errors import UserError


class Perfect(torch.nn.Module):
    """Finds what there is; counts how often it is reset."""

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


def test_undefined_figures_are_null_and_a_dash(tmp_path):
    results = inference_on_dataset(Perfect(), [[item("a", 0, [])]], VideoDetectionEvaluator(tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text())["AP50"] is None
    assert format_results(results).count("-  ") or " - " in format_results(results)


def test_a_frame_seen_twice_is_refused():
    evaluator = VideoDetectionEvaluator()
    with pytest.raises(UserError, match="Video 'a' frame 0 was evaluated twice"):
        inference_on_dataset(Perfect(), [[item("a", 0)], [item("a", 0)]], evaluator)


def test_evaluators_must_not_give_one_figure_twice():
    class One(DatasetEvaluator):
        def evaluate(self):
            return {"x": 1.0}

    with pytest.raises(ValueError, match="'x'"):
        inference_on_dataset(Perfect(), [], [One(), One()])
