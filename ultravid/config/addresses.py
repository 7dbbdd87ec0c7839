"""Config files at addresses: ``http(s)://``, ``s3://``, and those of handlers that a user registers with `ultravid.utils.file_io.PathManager`.

A config file at an address is downloaded to the cache and read there. It is downloaded alone: it can't import its neighbours by
relative path, because only the file that is named is downloaded.
"""

from __future__ import annotations

import os
from pathlib import Path

from ultravid.config.errors import ConfigError, ConfigImportError

__all__ = ["address_of", "config_path", "refuse_neighbours"]

_downloaded: dict[Path, str] = {}


def config_path(address: str | os.PathLike[str]) -> Path:
    """The local path of a config file, which need not exist; a file at an address is downloaded.

    Raises:
        ConfigError: the address can't be read, and why.
    """
    text = os.fspath(address)
    if ":" not in text:  # most are: file_io is not imported for them
        return Path(text)
    from ultravid.utils.file_io import AddressError, is_local, local_path

    if is_local(text):
        return Path(text)
    try:
        path = local_path(text).absolute()
    except AddressError as error:
        raise ConfigError(str(error)) from error
    _downloaded[path] = text
    return path


def address_of(path: Path) -> str | None:
    """The address from which a file was downloaded; None for a local file."""
    return _downloaded.get(path)


def refuse_neighbours(path: Path, neighbour: str) -> None:
    """Refuse that a downloaded config refers to a file beside it.

    Raises:
        ConfigImportError: the config at this path was downloaded.
    """
    if (address := address_of(path)) is not None:
        raise ConfigImportError(
            f"{address}: {neighbour!r} is a file beside this config, and only the config itself was downloaded. Download the "
            "whole folder and use it from there, or save the config as one file (LazyConfig.save) and use that."
        )
