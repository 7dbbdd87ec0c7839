"""What the examples in docstrings of the package run on."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from _pytest.doctest import DoctestItem


@pytest.fixture(autouse=True)
def _files_of_examples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For an example of `ultravid.serving`: a folder with the run ``outputs/run`` and the movie ``clip.mp4``."""
    if not (isinstance(request.node, DoctestItem) and request.node.name.startswith("ultravid.serving")):
        yield
        return
    from tests.serving.movies import constant_rate  # here: they import torch, which most examples do without
    from tests.serving.small_run import write_run

    folder, before = tmp_path_factory.mktemp("example"), Path.cwd()
    write_run(folder / "outputs/run")
    constant_rate(folder / "clip.mp4", Fraction(25), 12)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
