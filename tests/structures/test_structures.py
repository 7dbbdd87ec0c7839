import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, box_iou

from ultravid.structures import (
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    matched_pairwise_iou,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)


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


def test_box_modes_have_the_values_of_json_files():
    assert json.loads(json.dumps({"mode": BoxMode.XYWH_REL})) == {"mode": 3}
    assert [BoxMode(i).name for i in range(5)] == ["XYXY_ABS", "XYWH_ABS", "XYXY_REL", "XYWH_REL", "XYWHA_ABS"]


@pytest.mark.parametrize("make", [list, tuple])
def test_a_box_in_a_list_stays_a_list_and_whole_numbers_stay_whole(make):
    box = make([5, 6, 10, 12])
    found = BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert found == make([5, 6, 5, 6]) and all(isinstance(number, int) for number in found)
    assert isinstance(BoxMode.convert(make([5.0, 6, 10, 12]), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)[0], float)
    with pytest.raises(ValueError, match="has 4 numbers"):
        BoxMode.convert([box], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_boxes_in_arrays_and_tensors_keep_dtype_and_shape(dtype):
    boxes = np.array([[[5, 5, 10, 10]], [[1, 1, 2, 3]]], dtype)
    for given in (boxes, torch.from_numpy(boxes)):
        found = BoxMode.convert(given, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        assert type(found) is type(given) and found.dtype == given.dtype
        assert found.tolist() == [[[5, 5, 5, 5]], [[1, 1, 1, 2]]]
        back = BoxMode.convert(found, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        assert back.tolist() == boxes.tolist()
        same = BoxMode.convert(given, BoxMode.XYXY_ABS, BoxMode.XYXY_ABS)
        same[:] = 0
        assert boxes.any()  # a copy was changed


def test_box_modes_agree_with_torchvision():
    boxes = torch.rand(20, 4) * 50
    boxes[:, 2:] += boxes[:, :2]
    expected = box_convert(boxes, "xyxy", "xywh")
    assert torch.equal(BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS), expected)
    expected = box_convert(expected, "xywh", "xyxy")
    assert torch.equal(
        BoxMode.convert(box_convert(boxes, "xyxy", "xywh"), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS), expected
    )


def test_relative_boxes_are_shares_of_width_and_height():
    box = [10, 5, 30, 20]
    size = (40, 50)  # height, width
    relative = BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYXY_REL, image_size=size)
    assert relative == pytest.approx([0.2, 0.125, 0.6, 0.5])
    assert BoxMode.convert(relative, BoxMode.XYXY_REL, BoxMode.XYWH_REL) == pytest.approx([0.2, 0.125, 0.4, 0.375])
    back = BoxMode.convert(torch.tensor([relative]), BoxMode.XYXY_REL, BoxMode.XYWH_ABS, image_size=size)
    assert torch.allclose(back, torch.tensor([[10.0, 5, 20, 15]]))
    assert BoxMode.convert(np.array([box]), BoxMode.XYXY_ABS, BoxMode.XYXY_REL, size).dtype == np.float32
    with pytest.raises(ValueError, match="image_size"):
        BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYXY_REL)


def test_a_rotated_box_becomes_the_upright_one_around_it():
    boxes = torch.tensor([[50.0, 50, 30, 20, 0], [50, 50, 30, 20, 90], [1, 1, 2**0.5, 2**0.5, -45]])
    upright = torch.tensor([[35.0, 40, 65, 60], [40, 35, 60, 65], [0, 0, 2, 2]])
    assert torch.allclose(BoxMode.convert(boxes, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS), upright, atol=1e-5)
    assert BoxMode.convert([50, 50, 31, 20], BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS) == [65.5, 60, 31, 20, 0]


def test_overlaps_by_hand_and_as_torchvision():
    a, b = Boxes([[0, 0, 2, 2], [0, 0, 4, 4]]), Boxes([[1, 1, 3, 3], [0, 0, 1, 1]])
    assert pairwise_ioa(a, b).tolist() == [[0.25, 1.0], [1.0, 1.0]]  # the share of the second that the first covers
    assert torch.allclose(matched_pairwise_iou(a, b), torch.tensor([1 / 7, 1 / 16]))
    assert torch.allclose(pairwise_iou(a, b).diag(), matched_pairwise_iou(a, b))
    assert pairwise_ioa(a, Boxes([[1, 1, 1, 1]])).tolist() == [[0.0], [0.0]]  # an empty box
    many = Boxes(torch.rand(10, 2).repeat(1, 2) + torch.cat((torch.zeros(10, 2), torch.rand(10, 2)), dim=1))
    assert torch.allclose(pairwise_iou(many, many), box_iou(many.tensor, many.tensor))
    with pytest.raises(ValueError, match="got 2 and 1"):
        matched_pairwise_iou(a, b[0])


def test_distances_of_a_point_are_positive_inside():
    distances = pairwise_point_box_distance(torch.tensor([[1.0, 2.0], [9.0, 2.0]]), Boxes([[0, 0, 4, 8]]))
    assert distances.tolist() == [[[1, 2, 3, 6]], [[9, 2, -5, 6]]]


def test_instances_are_indexed_from_both_ends_and_joined_by_field():
    table = Instances((4, 6), ids=torch.arange(3), names=["a", "b", "c"], areas=np.array([1, 2, 3]))
    assert table[-1].names == ["c"] and table[1:].ids.tolist() == [1, 2]
    for row in (3, -4):
        with pytest.raises(IndexError, match="no row"):
            table[row]
    joined = Instances.cat([table[0], table[2]])
    assert joined.names == ["a", "c"] and joined.areas.tolist() == [1, 3] and joined.image_size == (4, 6)
    assert table.has("ids") and table.get("ids") is table.ids
    table.remove("ids")
    assert not table.has("ids") and "3 rows" in repr(table)
    with pytest.raises(ValueError, match="different fields"):
        Instances.cat([table, joined])
    with pytest.raises(ValueError, match="at least one"):
        Instances.cat([])


def test_images_are_padded_as_a_backbone_asks():
    images = [torch.ones(1, 3, 5), torch.ones(1, 4, 2)]
    square = ImageList.from_tensors(images, padding_constraints={"square_size": 8})
    assert square.tensor.shape == (2, 1, 8, 8) and square.image_sizes == [(3, 5), (4, 2)]
    multiple = ImageList.from_tensors(images, pad_value=7.0, padding_constraints={"size_divisibility": 4})
    assert multiple.tensor.shape == (2, 1, 4, 8) and multiple.tensor[0, 0, 3, 0] == 7
    with pytest.raises(ValueError, match="square of 4"):
        ImageList.from_tensors(images, padding_constraints={"square_size": 4})
    with pytest.raises(ValueError, match="Unknown padding"):
        ImageList.from_tensors(images, padding_constraints={"square": 4})
