"""Breast and thyroid in one run, from hospitals' tables; tested by organ and device, with rare devices in one group.

A batch is of one organ, drawn in each iteration; `Clip.organ` is its name. After an evaluation
`tools/evaluate.py --predictions RUN --output-dir OUT --strata organ,device_group` gives the metrics of each. To test on one device
group, set `dataloader.test.videos={_target_: ultravid.data.select_group, videos: "${data.videos}", name: portable}`.
"""

import copy

from ultravid.config import LazyCall as L
from ultravid.config import Node, ref
from ultravid.data import MixedClipLoader, StaticClips, label_groups, load_hospital_csv, select_group

from .cva_bus import dataloader

data = Node(
    root="${oc.env:ULTRAVID_DATASETS,datasets}/hospital",
    fold=0,
    num_folds=4,
    device_groups=dict(),  # devices by the name of their group, such as dict(portable=["A1", "A2"]); another device is a group by itself
    datasets=["breast_ALL@20230101-120000", "thyroid_ALL@20230101-120000"],
    patients="stem_without_side",  # a rule or a table: docs/patients.md
    classes=None,  # names in the order of their numbers; None: the organ's
    class_agnostic=True,  # one class, "lesion"
    tables=L(load_hospital_csv)(
        root=ref("data.root"),
        datasets=ref("data.datasets"),
        patients=ref("data.patients"),
        classes=ref("data.classes"),
        class_agnostic=ref("data.class_agnostic"),
    ),
    videos=L(label_groups)(videos=ref("data.tables"), key="device", groups=ref("data.device_groups")),
    breast=L(select_group)(videos=ref("data.videos"), label="organ", name="breast"),
    thyroid=L(select_group)(videos=ref("data.videos"), label="organ", name="thyroid"),
)

_train = dataloader.train
_train.fold, _train.num_folds = ref("data.fold"), ref("data.num_folds")
_train.negative_share = 0.2  # share of clips from videos without a lesion
_train.static = L(StaticClips)(rate=0.1)  # share of clips with one repeated frame, from where the probe is held still

dataloader.train = L(MixedClipLoader)(
    loaders=dict(breast=_train, thyroid=copy.deepcopy(_train)), weights=None, seed=ref("train.seed")
)
dataloader.train.loaders.breast.videos = ref("data.breast")
dataloader.train.loaders.thyroid.videos = ref("data.thyroid")
dataloader.test.fold, dataloader.test.num_folds = ref("data.fold"), ref("data.num_folds")
