"""The configs that come with the package, by short name: ``common/optim.py``."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_config", "shipped_names", "shipped_root"]


def shipped_config(name: str) -> Path | None:
    """The file of a shipped config, ``common/optim.py``; None if there is none of that name."""
    root = shipped_root()
    path = root / name
    return path if path.is_file() and root in path.resolve().parents else None


def shipped_names() -> list[str]:
    """Short names of all shipped configs."""
    root = shipped_root()
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py"))


def shipped_root() -> Path:
    """``configs_py`` of the checkout, or of the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "configs_py"
    return checkout if checkout.is_dir() else package / "configs_py"
