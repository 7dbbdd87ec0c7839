"""CVA-BUS and datasets in its layout. ``dataloader.train.fold=2`` tests on fold 2 and trains on the others."""

from ultravid.config import LazyCall as L
from ultravid.config import Node, ref
from ultravid.data import (
    RandomColor,
    RandomFlip,
    ResizeToArea,
    WindowFrameSampler,
    build_video_test_loader,
    build_video_train_loader,
    load_cva_bus,
)
from ultravid.evaluation import DatasetEvaluators, FramePictures, VideoDetectionEvaluator

data = Node(
    root="${oc.env:ULTRAVID_DATASETS,datasets}/CVA-BUS",
    splits=["trainval", "test"],  # names of JSON files in `root`
    patients="stem_without_side",  # a rule or a table: docs/patients.md
    classes=None,  # names of categories in the order of their numbers; None: by category id
    class_agnostic=True,  # one class, "lesion"; False keeps the annotations' classes, and needs the model's `num_classes`
    videos=L(load_cva_bus)(
        root=ref("data.root"),
        splits=ref("data.splits"),
        patients=ref("data.patients"),
        classes=ref("data.classes"),
        class_agnostic=ref("data.class_agnostic"),
    ),
)

dataloader = Node(
    train=L(build_video_train_loader)(
        videos=ref("data.videos"),
        fold=0,
        num_folds=4,
        frame_sampler=L(WindowFrameSampler)(num_frames=16, window=30),
        transforms=[
            L(ResizeToArea)(area=900_000, factor=(0.3, 1.5)),
            L(RandomColor)(contrast=(0.7, 1.3), sharpness=(0.7, 1.3), saturation=(0.7, 1.3)),
            L(RandomFlip)(prob=0.5),
        ],
        device_transforms=[],  # augmentation after `transforms` that can run on another device, the key below
        device=None,  # "auto": on the GPU if there is one; None: in the workers
        negative_share=None,  # share of clips from videos without a lesion; None: all videos in turn
        mining=None,  # L(HardMining)(path=...): use videos and frames listed by tools/mine_false_positives.py more often
        static=None,  # L(StaticClips)(rate=...): repeat one frame in some clips, as if the probe were held still
        total_batch_size=8,
        seed=ref("train.seed"),
        num_workers=4,
    ),
    test=L(build_video_test_loader)(
        videos=ref("data.videos"),
        fold=ref("dataloader.train.fold"),
        num_folds=ref("dataloader.train.num_folds"),
        area=900_000,
        num_workers=4,
    ),
    evaluator=L(DatasetEvaluators)(
        evaluators=[
            L(VideoDetectionEvaluator)(output_dir="${train.output_dir}/inference", resume=False),
            L(FramePictures)(output_dir="${train.output_dir}/inference"),
        ]
    ),
)
