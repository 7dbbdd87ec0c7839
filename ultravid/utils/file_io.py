"""Files at any address: local paths, ``http(s)://``, ``s3://``, and those of handlers that a user registers with `PathManager`.

Reading: `local_path` gives a local file for an address, downloaded to the cache if need be. Writing: `replace_file` puts a
whole file at an address or leaves the one that was there. What is appended to or renamed must be local: `require_local`.

The cache is the folder ``downloads`` in ``$ULTRAVID_CACHE`` (else ``$FVCORE_CACHE``, else ``~/.cache/ultravid``); with
``ULTRAVID_CACHE=off`` downloads last as long as the process. A cached download is used until it is removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ultravid.utils.errors import UserError
from ultravid.utils.whole_files import archive_file, dump_json, next_free_path, remove_path, write_whole

if TYPE_CHECKING:
    from iopath.common.file_io import PathHandler
    from iopath.common.file_io import PathManager as _PathManager

    PathManager: _PathManager
    """The handlers of addresses, an object of iopath's `PathManager`; `register_handler` adds one. It is made on first use."""

__all__ = [
    "AddressError",
    "PathHandler",
    "PathManager",
    "archive_file",
    "check_writable",
    "dump_json",
    "is_local",
    "join_address",
    "local_path",
    "next_free_path",
    "register_s3_handler",
    "remove_path",
    "replace_file",
    "require_local",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class AddressError(UserError, OSError):
    """An address that can't be read or written: which one, and why."""


def __getattr__(name: str) -> Any:
    if name == "PathManager":  # made when it is first asked for: iopath takes 70 ms to import
        from ultravid.utils.path_handlers import make_path_manager

        globals()[name] = make_path_manager()
        return globals()[name]
    if name == "PathHandler":  # what a handler of the user's own derives from
        from iopath.common.file_io import PathHandler

        return PathHandler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def is_local(address: str | os.PathLike[str], *, path_manager: Any = None) -> bool:
    """Whether an address is a path on this machine: without ``scheme://``, and no registered handler takes it.

    Args:
        address: a path or an address.
        path_manager: where handlers are registered; None is `PathManager`.
    """
    text = os.fspath(address)
    if _SCHEME.match(text):
        return False
    manager = path_manager or globals().get("PathManager")  # not made yet: nobody has registered a handler
    return manager is None or not any(text.startswith(prefix) for prefix in manager._path_handlers)


def local_path(address: str | os.PathLike[str], *, force: bool = False, path_manager: Any = None) -> Path:
    """A local file with the content of an address.

    A download is complete or absent, also when several processes ask for it at once. What is in the cache is not compared
    with the source again.

    Args:
        address: a local path, which is returned as it is, whether or not it exists; or an address with a handler.
        force: download again.
        path_manager: an iopath ``PathManager`` to use in place of `PathManager`.

    Raises:
        AddressError: there is no handler for it, or reading it failed.
    """
    text = os.fspath(address)
    if is_local(text, path_manager=path_manager):
        return Path(text)
    manager = path_manager or _path_manager()
    _handler(manager, text)
    try:
        return Path(manager.get_local_path(text, force=force))
    # A handler may raise anything: boto3 has its own errors, as have users' handlers.
    except Exception as error:
        raise AddressError(f"{text} can't be read: {str(error) or type(error).__name__}.") from error


def join_address(folder: str | os.PathLike[str], *names: str) -> str:
    """A file's address in a folder, which is a path or an address.

    Args:
        folder: a path or an address.
        names: the parts to add.
    """
    text = os.fspath(folder)
    return str(Path(text, *names)) if is_local(text) else "/".join([text.rstrip("/"), *names])


def check_writable(address: str | os.PathLike[str]) -> None:
    """Refuse an address at which `replace_file` can't put a file, before long work is done for it.

    Args:
        address: a path, which is always accepted, or an address.

    Raises:
        AddressError: it can't be written; what can.
    """
    text = os.fspath(address)
    if is_local(text):
        return
    from ultravid.utils.path_handlers import can_write

    if not can_write(_handler(_path_manager(), text)):
        raise AddressError(
            f"{text} can't be written: its handler only reads. Local paths can be written, and addresses whose handler has "
            "_copy_from_local, such as s3://."
        )


def require_local(address: str | os.PathLike[str], what: str) -> Path:
    """The path of an output that is appended to, renamed or resumed from.

    Args:
        address: as the user gave it.
        what: what it is, for the message: a config key, or the name of a file.

    Raises:
        AddressError: it is not local, or begins with a ``~`` that no shell has replaced.
    """
    text = os.fspath(address)
    if not is_local(text):
        raise AddressError(
            f"{what} can't be at {text}: its files are appended to and renamed, which needs a local or mounted folder. "
            "Train to a local one and copy it afterwards."
        )
    if text == "~" or text.startswith("~/"):
        raise AddressError(
            f"{what} is {text!r}, and only a shell reads ~ as a folder: write {os.path.expanduser(text)}."
        )
    return Path(text)


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file that is complete or absent: it gets its name when the block ends without an error.

    A local file is written under a temporary name, flushed to disk and renamed. For an address the file is written locally
    and handed to its handler whole; whether readers can see a part of it then is up to the handler (S3's shows none).

    Args:
        path: a path or an address; a file that is there is replaced.

    Returns:
        Inside the block: the file, open for bytes.

    Raises:
        OSError: the disk is full or the folder can't be written; a file that was at ``path`` before is unchanged.
        AddressError: the address can't be written.
    """
    text = os.fspath(path)
    if is_local(text):
        with write_whole(Path(text)) as file:
            yield file
        return
    check_writable(text)
    import tempfile  # 5 ms that few need

    with tempfile.TemporaryDirectory(prefix="ultravid_upload_") as folder:
        temporary = Path(folder) / "file"
        with temporary.open("wb") as file:
            yield file
        try:
            written = _path_manager().copy_from_local(str(temporary), text, overwrite=True)
        except Exception as error:  # as in `local_path`
            raise AddressError(f"{text} can't be written: {str(error) or type(error).__name__}.") from error
        if written is False:  # iopath's S3 handler logs why
            raise AddressError(f"{text} can't be written: its handler failed.")


def register_s3_handler(**kwargs: Any) -> None:
    """Let `PathManager` take ``s3://`` addresses. The functions of this module do so themselves when they meet one.

    Args:
        kwargs: passed to iopath's ``S3PathHandler``: ``profile``, ``cache_dir``, ``transfer_config_kwargs``.

    Raises:
        AddressError: boto3 is not installed.
    """
    from ultravid.utils.path_handlers import make_s3_handler

    try:
        handler = make_s3_handler(**kwargs)
    except ImportError as error:
        raise AddressError("s3:// addresses need boto3: pip install 'ultravid[s3]'.") from error
    _path_manager().register_handler(handler)


def _path_manager() -> Any:
    return globals().get("PathManager") or __getattr__("PathManager")


def _handler(manager: Any, address: str) -> Any:
    from ultravid.utils.path_handlers import find_handler

    handler = find_handler(manager, address)
    if handler is None and address.startswith("s3://") and manager is _path_manager():
        register_s3_handler()
        handler = find_handler(manager, address)
    if handler is None:
        known = ", ".join(sorted(manager._path_handlers)) or "none"
        raise AddressError(
            f"No handler takes {address} (there are: local paths, {known}). Give a local path, or register a handler of "
            "iopath: ultravid.utils.file_io.PathManager.register_handler(...)."
        )
    return handler
