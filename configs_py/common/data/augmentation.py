"""Augmentation for ultrasound, to replace a training loader's transforms:

`dataloader.train.transforms = get_config("common/data/augmentation.py").ultrasound`, or on the command line
`dataloader.train.transforms=common/data/augmentation.py:ultrasound`.

With `dataloader.train.device=auto` the transforms in `dataloader.train.device_transforms` run on the GPU if there is one; the
random draws are the same, whichever of the two lists a transform is in.
"""

from ultravid.config import LazyCall as L
from ultravid.data import (
    CropToRegion,
    RandomContrast,
    RandomDepthGain,
    RandomFlip,
    RandomGamma,
    RandomSpeckle,
    ResizeToArea,
)

ultrasound = [
    L(CropToRegion)(),
    L(ResizeToArea)(area=900_000, factor=(0.3, 1.5)),
    L(RandomContrast)(factor=(0.7, 1.3)),
    L(RandomGamma)(gamma=(0.7, 1.4)),
    L(RandomDepthGain)(max_db=4.0, num_sliders=8),
    L(RandomSpeckle)(sd=(0.0, 0.15)),
    L(RandomFlip)(prob=0.5),
]
