"""Datasets by name."""

import subprocess
import sys

import pytest

from ultravid.datasets import DataError, DatasetCatalog, MetadataCatalog, Video, get_videos, load_cva_bus
from ultravid.datasets.video import Frame

FRAMES = (Frame("a.png", 0, 8, 8),)


@pytest.fixture
def my_videos():
    """A registered dataset of one video; gone afterwards."""
    videos = [Video("a", FRAMES, "a")]
    DatasetCatalog.register("mine", lambda: videos)
    yield videos
    DatasetCatalog.remove("mine")


def test_a_registered_function_is_called_when_its_name_is_asked_for(my_videos):
    assert DatasetCatalog.get("mine") is my_videos
    assert "mine" in DatasetCatalog.list() and "mine" in DatasetCatalog
    with pytest.raises(DataError, match="already registered"):
        DatasetCatalog.register("mine", list)
    with pytest.raises(DataError, match="register a function"):
        DatasetCatalog.register("other", my_videos)
    assert "other" not in DatasetCatalog


def test_a_name_that_was_removed_or_mistyped_gets_the_nearest(my_videos):
    with pytest.raises(DataError, match=r"No dataset 'fantom_train' is registered\. Did you mean 'phantom_train'\?"):
        DatasetCatalog.get("fantom_train")
    with pytest.raises(KeyError):  # as in detectron2
        DatasetCatalog.get("fantom_train")
    DatasetCatalog.remove("mine")
    with pytest.raises(DataError, match="No dataset 'mine'"):
        DatasetCatalog.remove("mine")
    DatasetCatalog.register("mine", lambda: my_videos)


def test_built_in_names_read_the_folder_that_the_environment_names_now(phantom, monkeypatch, tmp_path):
    monkeypatch.setenv("ULTRAVID_DATASETS", str(phantom.parent))
    expected = load_cva_bus(root=phantom, splits=["trainval"])
    found = DatasetCatalog.get("phantom_train")
    assert [v.video_id for v in found] == [v.video_id for v in expected]
    assert len(get_videos(["phantom_train", "phantom_test"])) == 8
    monkeypatch.setenv("ULTRAVID_DATASETS", str(tmp_path))
    with pytest.raises(DataError, match=r"phantom.* does not exist\. Set the environment variable ULTRAVID_DATASETS"):
        DatasetCatalog.get("phantom_train")


def test_importing_the_catalog_touches_no_data_and_no_torch(tmp_path):
    code = """import sys
import ultravid.datasets.audit, ultravid.datasets.convert, ultravid.datasets.formats.by_name, ultravid.datasets.phantom
from ultravid.datasets import DatasetCatalog
print(*DatasetCatalog.list(), *{"torch", "av", "pydicom"} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["phantom_train", "phantom_test", "cva_bus_trainval", "cva_bus_test", "cva_bus_all"]


def test_datasets_that_share_a_video_are_not_joined(my_videos):
    DatasetCatalog.register("yours", lambda: [Video("a", FRAMES, "b")])
    try:
        with pytest.raises(DataError, match="'mine' and 'yours' both hold a video 'a'"):
            get_videos(["mine", "yours"])
    finally:
        DatasetCatalog.remove("yours")
    with pytest.raises(DataError, match="Name at least one dataset"):
        get_videos([])


def test_metadata_is_one_object_per_name_whose_values_do_not_change():
    metadata = MetadataCatalog.get("some_set")
    try:
        assert metadata.set(thing_classes=["lesion"], fps=30) is metadata
        assert MetadataCatalog.get("some_set") is metadata and "some_set" in MetadataCatalog.list()
        assert metadata.as_dict() == {"name": "some_set", "thing_classes": ["lesion"], "fps": 30}
        assert metadata.get("organ", "breast") == "breast" and metadata.get("fps") == 30
        metadata.thing_classes = ["lesion"]  # the same value is no change
        with pytest.raises(AttributeError, match=r"'fps' of dataset 'some_set' is already 30"):
            metadata.fps = 25
        with pytest.raises(
            AttributeError, match=r"Dataset 'some_set' has no metadata 'thing_clases'\. Did you mean 'thing_classes'"
        ):
            metadata.thing_clases  # noqa: B018
    finally:
        MetadataCatalog.remove("some_set")
    assert MetadataCatalog.get("some_set") is not metadata
    MetadataCatalog.remove("some_set")


def test_the_built_in_sets_say_their_classes():
    assert MetadataCatalog.get("phantom_test").thing_classes == ["lesion"]
