"""A detector that boxes the white square of the tests' movies, to find out on which frame each box is drawn."""

import torch

from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.types import Detections


class SquareDetector(VideoDetector):
    """Boxes what is brighter than 210, with a score of 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Parameter(torch.tensor(0.9))

    def initial_state(self, image_size, organ=""):
        return {}

    def _step(self, image, state, phase):
        rows, columns = (image.mean(dim=0) > 210).nonzero(as_tuple=True)
        if not len(rows):
            none = torch.zeros(1)
            return Detections.of(torch.zeros(1, 4), none, none.long(), none.bool()), {}
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = torch.stack(corners).float()[None]
        one = torch.ones(1)
        return Detections.of(box, self.score * one, one.long() * 0, one.bool()), {}

    def detect_clip(self, frames, organ=""):
        raise NotImplementedError

    def losses(self, clips):
        raise NotImplementedError
