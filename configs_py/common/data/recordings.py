"""Movies, DICOM files and image folders without annotations, to run a detector on: ``data.path=clips`` or ``data.path=one.mp4``.

It replaces another data file's ``dataloader.test`` and ``dataloader.evaluator``; it has no training data. To look at recordings:

    python tools/visualize_data.py --config-file configs_py/common/data/recordings.py --split test data.path=clips
"""

from ultravid.config import LazyCall as L
from ultravid.config import Node, ref
from ultravid.data import build_video_test_loader, load_recordings
from ultravid.evaluation import DatasetEvaluators, FramePictures

data = Node(
    path="${oc.env:ULTRAVID_DATASETS,datasets}/recordings",
    crop=True,  # crop DICOM frames to their ultrasound region
    blank_outside_region=False,  # black out what is outside of it instead
    masks=None,  # a JSON or YAML table of what to black out besides, by device and image size: ultravid.datasets.masks
    patients=None,  # a rule or a table: docs/patients.md; None: what the files state
    allow_burned_in_text=False,  # draw DICOM frames that show more than their region: names may be burnt in
    videos=L(load_recordings)(
        path=ref("data.path"),
        crop=ref("data.crop"),
        blank_outside_region=ref("data.blank_outside_region"),
        masks=ref("data.masks"),
        patients=ref("data.patients"),
    ),
)

train = Node(output_dir="./outputs/recordings")  # if this file is used by itself

dataloader = Node(
    test=L(build_video_test_loader)(videos=ref("data.videos"), area=900_000, num_workers=1),
    evaluator=L(DatasetEvaluators)(
        evaluators=[
            L(FramePictures)(
                output_dir="${train.output_dir}/inference", allow_burned_in_text=ref("data.allow_burned_in_text")
            )
        ]
    ),
)
