"""Plain COCO annotations; each image is a video of one frame. ``data.train=a.json data.test=b.json`` uses other files.

``data.class_agnostic=False`` keeps the annotations' classes; the model's ``num_classes`` must be their number.
"""

from ultravid.config import LazyCall as L
from ultravid.config import Node, ref
from ultravid.data import (
    RandomColor,
    RandomFlip,
    RandomScale,
    ResizeToArea,
    StridedFrameSampler,
    load_coco_stills,
)

from .cva_bus import dataloader

data = Node(
    train="${oc.env:ULTRAVID_DATASETS,datasets}/stills/train.json",
    test="${oc.env:ULTRAVID_DATASETS,datasets}/stills/test.json",
    image_root=None,  # file names are relative to it; None: the folder of the JSON
    patients=None,  # a rule or a table: docs/patients.md; None: what the JSON states
    class_agnostic=True,  # one class, "lesion"
    classes=None,  # names of categories in the order of their numbers; None: by category id
    train_videos=L(load_coco_stills)(
        json_file=ref("data.train"),
        image_root=ref("data.image_root"),
        patients=ref("data.patients"),
        classes=ref("data.classes"),
        class_agnostic=ref("data.class_agnostic"),
    ),
    test_videos=L(load_coco_stills)(
        json_file=ref("data.test"),
        image_root=ref("data.image_root"),
        patients=ref("data.patients"),
        classes=ref("data.classes"),
        class_agnostic=ref("data.class_agnostic"),
    ),
)

dataloader.train.videos = ref("data.train_videos")
dataloader.train.fold = None
dataloader.train.num_folds = None
dataloader.train.frame_sampler = L(StridedFrameSampler)(num_frames=1)
dataloader.train.transforms = [
    L(ResizeToArea)(area=25_600),
    L(RandomScale)(factor=(0.7, 1.4), aspect=(0.8, 1.25)),
    L(RandomColor)(contrast=(0.6, 1.4), sharpness=(0.5, 1.5), saturation=(1.0, 1.0)),
    L(RandomFlip)(prob=0.5),
]
dataloader.train.total_batch_size = 16
dataloader.train.num_workers = 1
dataloader.test.videos = ref("data.test_videos")
dataloader.test.area = 25_600
dataloader.test.fold = None
dataloader.test.num_folds = None
dataloader.test.num_workers = 1
