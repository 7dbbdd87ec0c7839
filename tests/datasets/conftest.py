import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Indices of datasets are kept in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ULTRAVID_CACHE", str(folder))
    return folder


@pytest.fixture
def shared_data():
    """Folder of real recordings (``busbra``, ``clips``, ``dicom``) that ULTRAVID_SHARED_DATA names."""
    folder = os.environ.get("ULTRAVID_SHARED_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ULTRAVID_SHARED_DATA names no folder of recordings")
    return Path(folder)
