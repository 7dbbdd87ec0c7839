"""Options of the fuzz: how many inputs, from which seed, and which one of them."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--inputs", type=int, default=200, help="inputs for each family of files (default: 200)")
    group.addoption("--fuzz-seed", type=int, default=0, help="another seed gives other inputs (default: 0)")
    group.addoption("--fuzz-input", type=int, help="run this one input of each chosen family, in this process")
