"""Movies, DICOM files and image folders without annotations, to run a detector on: ``data.path=clips`` or ``data.path=one.mp4``.

It replaces another data file's ``dataloader.test`` and ``dataloader.evaluator``; it has no training data.
"""

from ultravid.config import LazyCall as L
from ultravid.config import Node, ref
from ultravid.data import build_video_test_loader, load_recordings
from ultravid.evaluation import DatasetEvaluators, FramePictures

data = Node(
    path="${oc.env:ULTRAVID_DATASETS,datasets}/recordings",
    videos=L(load_recordings)(path=ref("data.path"), crop=True),  # crop DICOM frames to their ultrasound region
)

dataloader = Node(
    test=L(build_video_test_loader)(videos=ref("data.videos"), area=900_000, num_workers=1),
    evaluator=L(DatasetEvaluators)(evaluators=[L(FramePictures)(output_dir="${train.output_dir}/inference")]),
)
