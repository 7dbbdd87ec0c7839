import pytest
import torch

from ultravid.structures import Boxes, BoxMode, ImageList, Instances, pairwise_iou


def test_iou_by_hand_and_of_boxes_that_only_touch():
    a = Boxes([[0, 0, 2, 2], [5, 5, 5, 5]])
    b = Boxes([[1, 1, 3, 3], [2, 0, 4, 2]])
    assert torch.allclose(pairwise_iou(a, b), torch.tensor([[1 / 7, 0.0], [0.0, 0.0]]))


def test_boxes_are_clipped_scaled_and_indexed():
    boxes = Boxes([[-1, 2, 30, 40], [1, 1, 1, 5]])
    boxes.clip((20, 10))
    assert boxes.tensor.tolist() == [[0, 2, 10, 20], [1, 1, 1, 5]]
    assert boxes.nonempty().tolist() == [True, False]
    boxes.scale(2, 0.5)
    assert boxes[0].tensor.tolist() == [[0, 1, 20, 10]]
    assert len(Boxes([])) == 0
    with pytest.raises(ValueError, match="shape"):
        Boxes(torch.zeros(3, 5))


def test_box_modes_convert_what_they_are_given():
    assert BoxMode.convert([1.0, 2.0, 3.0, 4.0], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]
    assert torch.equal(
        BoxMode.convert(torch.tensor([[1.0, 2, 4, 6]]), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS),
        torch.tensor([[1.0, 2, 3, 4]]),
    )


def test_instances_keep_their_fields_together():
    table = Instances(
        (4, 6),
        scores=torch.tensor([0.1, 0.9]),
        names=["a", "b"],
        pred_boxes=Boxes([[0, 0, 1, 1], [1, 1, 2, 2]]),
    )
    chosen = table[table.scores > 0.5]
    assert chosen.names == ["b"] and chosen.pred_boxes.tensor.tolist() == [[1, 1, 2, 2]]
    assert len(Instances.cat([table, chosen])) == 3
    with pytest.raises(ValueError, match="1 rows"):
        table.classes = torch.zeros(1)
    with pytest.raises(AttributeError, match="no field 'score'"):
        _ = table.score


def test_images_are_padded_to_the_largest_and_a_multiple():
    images = ImageList.from_tensors([torch.ones(3, 5, 4), torch.ones(3, 2, 9)], size_divisibility=8)
    assert images.tensor.shape == (2, 3, 8, 16)
    assert images[1].shape == (3, 2, 9) and images.tensor[1].sum() == 3 * 2 * 9
