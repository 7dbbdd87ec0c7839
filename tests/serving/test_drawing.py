"""Boxes in pictures: one colour for lesions and one for detections, at the place that the detections state."""

import numpy as np
import pytest
import torch

from ultravid.evaluation.report import strips
from ultravid.serving import Detection, FrameDetections
from ultravid.serving.drawing import draw
from ultravid.structures import Boxes, Instances
from ultravid.utils.drawing import DETECTION, TRUTH, css


def coloured(picture, colour):
    """Bounds (x1, y1, x2, y2) of the pixels of a colour."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - colour).max(axis=2) < 40)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_box_runs_along_the_edges_of_what_it_encloses():
    image = np.zeros((240, 320, 3), np.uint8)
    picture = draw(image, FrameDetections(0, 0.0, (Detection((100, 80, 140, 130), 0.9, 0),)))
    x1, y1, x2, y2 = coloured(picture[78:], DETECTION)  # the label is above
    assert np.abs(np.array([x1, y1 + 78, x2, y2 + 78]) - [100, 80, 140, 130]).max() <= 1
    assert not image.any()  # the caller's image stays as it is
    assert picture[90:120, 110:130].max() == 0  # nothing inside


def test_lesions_and_detections_have_the_colours_of_the_report():
    image = np.full((200, 200, 3), 90, np.uint8)
    truth = Instances((200, 200), gt_boxes=Boxes([[20, 20, 60, 60]]))
    found = Instances(
        (200, 200),
        pred_boxes=Boxes([[100, 100, 150, 160]]),
        scores=torch.tensor([0.8]),
        pred_classes=torch.tensor([0]),
        track_ids=torch.tensor([4]),
    )
    picture = draw(image, found, truth=truth)
    assert np.abs(np.array(coloured(picture, TRUTH)) - [20, 20, 60, 60]).max() <= 1
    assert coloured(picture, DETECTION)[2:] == pytest.approx((150, 160), abs=1)
    assert (css(TRUTH), css(DETECTION)) == (strips.LESION, strips.DETECTION)
    blue_first = draw(image[..., ::-1], found, truth=truth, channels="BGR")
    assert (blue_first[..., ::-1] == picture).all()
    assert (draw(torch.from_numpy(image).permute(2, 0, 1), found, truth=truth) == picture).all()
    assert (draw(image[..., 0], found, truth=truth) == picture).all()
    assert (draw(image, found, min_score=0.81) == 90).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (33, 21), (1000, 40)])
def test_a_picture_of_any_size_and_boxes_beyond_its_edge_can_be_drawn(shape):
    boxes = ((-50, -50, 500, 500), (0, 0, 1, 1), (shape[1], shape[0], shape[1], shape[0]), (1e7, -1e7, 1e8, 1e7))
    found = [Detection(box, 0.5, k, k) for k, box in enumerate(boxes)]
    picture = draw(np.zeros((*shape, 3), np.uint8), found, class_names=("a class with a long name", "b"))
    assert picture.shape == (*shape, 3) and picture.any()


def test_what_is_no_frame_is_refused():
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), torch.zeros(4, 4, 3)):
        with pytest.raises(ValueError, match="frame"):
            draw(wrong, [])
