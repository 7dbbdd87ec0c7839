"""The script that writes the generated pages."""

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def generate() -> Iterator[ModuleType]:
    """docs/generate.py; while it lives, its package `generators` can be imported."""
    docs = ROOT / "docs"
    sys.path.insert(0, str(docs))
    try:
        spec = importlib.util.spec_from_file_location("docs_generate", docs / "generate.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(docs))
