"""What tests of loaders share."""

from collections.abc import Callable

import pytest

from ultravid.utils import comm


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Lets this process be one of several: called with (rank, world size)."""

    def pretend(rank: int, world_size: int) -> None:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return pretend
