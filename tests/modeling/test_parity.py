"""The full-size detectors give the detections that the published code of UltraDet (arXiv 2305.18060) gave with the same weights and frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.modeling import filled
from ultravid.config import get_config, instantiate

# Boxes and scores a frame, recorded on the CPU in float32 with the weights and frames of filled.py.
EXPECTED = np.load(Path(__file__).with_name("parity.npz"))

MODELS = {
    "FasterRCNN": (
        "faster_rcnn",
        6.8,
        -0.16,
        0.02,
        "7bb23540b4fd0c7b3ea342ea0024b44ea6bc7e309772547e96ab156ed09c7555",
    ),
    "BasicDet": (
        "basicdet",
        6.7,
        -0.32,
        0.04,
        "0a11d611de6efe935c20269b3468b6583921831772d073692f7c237aefcfd4e6",
    ),
}
# (number, frames, height, width, output height, output width); L outlives the memory of 16 frames.
VIDEOS = {"B": (1, 5, 256, 320, 256, 320), "D": (3, 3, 234, 310, 351, 465), "L": (2, 20, 192, 256, 192, 256)}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    config, scale, shift, tolerance, digest = MODELS[request.param]
    description = get_config(f"common/models/{config}.py").model
    description.backbone.depth = 18
    model = instantiate(description).eval()
    weights = filled.state_dict(model.state_dict(), scale, shift)
    assert filled.digest(weights.items()) == digest  # the names, their order, constants and every value
    model.load_state_dict(weights)
    return request.param, model, tolerance


@pytest.mark.parametrize("video", VIDEOS)
def test_detections_equal_the_recorded_ones(model, video):
    name, detector, box_tolerance = model
    if f"{name}_{video}_num" not in EXPECTED:
        pytest.skip("one frame's model remembers nothing: two videos are enough")
    number, count, h, w, height, width = VIDEOS[video]
    splits = np.cumsum(EXPECTED[f"{name}_{video}_num"])[:-1]
    boxes, scores = (np.split(EXPECTED[f"{name}_{video}_{a}"], splits) for a in ("boxes", "scores"))
    for t, image in enumerate(filled.frames(number, count, h, w)):
        frame = {
            "image": torch.from_numpy(image),
            "height": height,
            "width": width,
            "video_id": video,
        }
        (output,) = detector([frame])
        found = output["instances"]
        # Scores of one frame may be closer than rounding noise, so partners are sought, not taken by order.
        gap = np.abs(found.pred_boxes.tensor.numpy()[:, None] - boxes[t][None]).max(axis=2)
        partner = gap.argmin(axis=1)
        assert sorted(partner) == list(range(len(boxes[t])))
        assert gap.min(axis=1).max() < box_tolerance
        assert np.abs(found.scores.numpy() - scores[t][partner]).max() < 1e-3
