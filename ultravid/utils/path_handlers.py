"""iopath's path manager with handlers that cache each address separately.

Imported by `ultravid.utils.file_io` when an address is first used: iopath takes 70 ms.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager, file_lock

from ultravid.utils.whole_files import write_whole

__all__ = ["can_write", "find_handler", "make_path_manager", "make_s3_handler"]

logger = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_LONGEST_NAME = 200


class _HTTPHandler(HTTPURLHandler):
    """Downloads to the cache. iopath's own caches by the path alone, so that two hosts or two queries share one file."""

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        target = _cached_path(path, Path(cache_dir) if cache_dir else _cache_folder())
        if force or not target.is_file():
            with file_lock(str(target)):  # of several processes one downloads
                if force or not target.is_file():
                    _download(path, target)
        return str(target)


def _download(address: str, target: Path) -> None:
    logger.info("Downloading %s to %s", address, target)
    request = urllib.request.Request(address, headers={"User-Agent": "ultravid"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response, write_whole(target) as file:
        shutil.copyfileobj(response, file)
        expected = response.headers.get("Content-Length")
        if expected is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
            logger.warning(
                "The server of %s did not say how long the file is: it can't be checked to be whole.", address
            )
        if expected is not None and file.tell() != int(expected):
            raise OSError(f"the connection ended after {file.tell()} of {expected} bytes")


def _cached_path(address: str, folder: Path) -> Path:
    parts = urlparse(address)
    stem, suffix = os.path.splitext(os.path.basename(parts.path) or "file")
    name = f"{stem[: _LONGEST_NAME - len(suffix)]}{suffix[:_LONGEST_NAME]}"
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    host = (parts.hostname or "unknown").replace(":", "_")
    return folder / host / digest / (name if name.strip(".") else "file")


def _cache_folder() -> Path:
    """Where downloads are kept; a folder of this process, removed at its end, if ULTRAVID_CACHE is off or can't be written."""
    named = os.environ.get("ULTRAVID_CACHE", "") or os.environ.get("FVCORE_CACHE", "")
    if named.lower() == "off":
        return _process_folder()
    folder = (Path(named).expanduser() if named else Path.home() / ".cache" / "ultravid") / "downloads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    logger.warning("The cache %s can't be written: downloads are kept for this process only.", folder)
    return _process_folder()


def _process_folder() -> Path:
    return Path(_temporary_directory().name)


@functools.cache
def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ultravid_downloads_", ignore_cleanup_errors=True)


def make_path_manager() -> PathManager:
    """A path manager for local files and ``http(s)://``, ``ftp://``; it sends no usage statistics."""
    manager = PathManager()
    manager.set_logging(False)
    manager.register_handler(_HTTPHandler())
    return manager


def make_s3_handler(**kwargs: Any) -> PathHandler:
    """A handler of iopath for ``s3://``, with credentials by boto3's usual rules and each bucket cached apart.

    Args:
        kwargs: passed to ``iopath.common.s3.S3PathHandler``.

    Raises:
        ImportError: boto3 is not installed.
    """
    import boto3  # noqa: F401  # iopath's module swallows its absence
    from iopath.common.s3 import S3PathHandler

    class S3Handler(S3PathHandler):
        def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
            if not self._isfile(path):  # iopath asserts it
                raise FileNotFoundError("there is no such object, or no access to it")
            if force:
                Path(self._local_cache_path(path)).unlink(missing_ok=True)
            return str(super()._get_local_path(path, **kwargs))

        def _local_cache_path(self, path: str) -> str:
            return str(_cached_path(path, Path(self.cache_dir) if self.cache_dir else _cache_folder()))

    # iopath's default is a profile named "saml", which few have.
    return S3Handler(**{"profile": os.environ.get("AWS_PROFILE"), **kwargs})


def find_handler(manager: PathManager, address: str) -> PathHandler | None:
    """The handler that is registered for an address, None if there is none and it is taken as a local path.

    Args:
        manager: where handlers are registered.
        address: an address; of several prefixes that fit, the longest counts.
    """
    handlers = manager._path_handlers  # iopath has no public way to ask; longer prefixes come first
    return next((handler for prefix, handler in handlers.items() if address.startswith(prefix)), None)


def can_write(handler: PathHandler) -> bool:
    """Whether a handler can put a whole file at an address.

    Args:
        handler: a handler of iopath.
    """
    return type(handler)._copy_from_local is not PathHandler._copy_from_local
