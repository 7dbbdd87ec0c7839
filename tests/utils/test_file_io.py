import http.server
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from iopath.common.file_io import PathHandler
from iopath.common.file_io import PathManager as IopathManager

from ultravid.utils import file_io, path_handlers
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import (
    AddressError,
    check_writable,
    is_local,
    join_address,
    local_path,
    replace_file,
    require_local,
)


class FolderHandler(PathHandler):
    """As a user writes one: ``made-up://`` addresses are files of a folder."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self):
        return ["made-up://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return str(self.folder / path.removeprefix("made-up://"))

    def _copy_from_local(self, local_path, dst_path, overwrite=False, **kwargs):
        (self.folder / dst_path.removeprefix("made-up://")).write_bytes(Path(local_path).read_bytes())


class ReadOnlyHandler(PathHandler):
    def _get_supported_prefixes(self):
        return ["read-only:"]

    def _get_local_path(self, path, force=False, **kwargs):
        raise RuntimeError("the archive is closed")


@pytest.fixture
def manager(monkeypatch):
    """A new path manager in place of the module's, for one test."""
    monkeypatch.delitem(vars(file_io), "PathManager", raising=False)
    monkeypatch.setattr(file_io, "PathManager", path_handlers.make_path_manager(), raising=False)
    return file_io.PathManager


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ULTRAVID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server():
    """``(address, requests)``: ``/good/...`` gives 1000 bytes, ``/cut`` ends after half, ``/chunked-cut`` within a chunk."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            requests.append(self.path)
            kind = self.path.split("/")[1]
            if kind not in ("good", "cut", "chunked-cut", "no-length"):
                self.send_error(404)
                return
            self.send_response(200)
            if kind == "chunked-cut":
                self.send_header("Transfer-Encoding", "chunked")
            elif kind != "no-length":
                self.send_header("Content-Length", "1000")
            self.send_header("Connection", "close")
            self.end_headers()
            if kind == "chunked-cut":
                self.wfile.write(b"3e8\r\n" + b"x" * 500)
            else:
                self.wfile.write(self.path[-1].encode() * (500 if kind == "cut" else 1000))
            self.close_connection = True

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()
        thread.join()


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_neither_this_module_nor_the_config_imports_iopath():
    code = (
        "import sys, ultravid.config, ultravid.utils.file_io as f; f.is_local('a'); f.local_path('a');"
        "assert 'iopath' not in sys.modules; f.PathManager; assert 'iopath' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_local_path_is_returned_as_it_is(tmp_path):
    assert local_path("a/b.pth") == Path("a/b.pth") and is_local(tmp_path) and is_local("C:\\x") and is_local("")
    assert local_path(tmp_path / "x") == tmp_path / "x" == require_local(tmp_path / "x", "train.output_dir")
    assert not is_local("http://x/y") and not is_local("s3://x/y") and not is_local("foo://y")


def test_the_path_manager_is_iopaths_and_takes_handlers(manager, tmp_path):
    assert isinstance(manager, IopathManager) and file_io.PathHandler is PathHandler
    assert not manager._enable_logging  # iopath's telemetry
    assert is_local("read-only:a")
    manager.register_handler(ReadOnlyHandler())
    manager.register_handler(FolderHandler(tmp_path))
    assert not is_local("read-only:a")
    (tmp_path / "a.txt").write_text("hello")
    assert local_path("made-up://a.txt").read_text() == "hello"
    with pytest.raises(AddressError, match=r"read-only:a can't be read: the archive is closed\."):
        local_path("read-only:a")


def test_a_download_is_cached_by_its_whole_address(server, cache):
    address, requests = server
    first = local_path(f"{address}/good/model.pth?version=1")
    assert first.name == "model.pth" and first.read_bytes() == b"1" * 1000 and first.is_relative_to(cache / "downloads")
    assert local_path(f"{address}/good/model.pth?version=2").read_bytes() == b"2" * 1000
    assert local_path(f"{address}/good/model.pth?version=1") == first and len(requests) == 2
    assert local_path(f"{address}/good/model.pth?version=1", force=True) == first and len(requests) == 3
    with file_io.PathManager.open(f"{address}/good/x", "rb") as file:
        assert file.read() == b"x" * 1000


@pytest.mark.parametrize("kind", ["cut", "chunked-cut"])
def test_a_download_that_breaks_off_leaves_no_file(server, cache, kind):
    address, _ = server
    with pytest.raises(AddressError, match=rf"{address}/{kind}/a.pth can't be read: .*(500 of 1000|IncompleteRead)"):
        local_path(f"{address}/{kind}/a.pth")
    assert files(cache) == []


def test_a_file_whose_length_the_server_does_not_say_is_taken_with_a_warning(server, cache, caplog):
    address, _ = server
    assert local_path(f"{address}/no-length/a").stat().st_size == 1000
    assert "did not say how long the file is" in caplog.text


def test_what_is_not_there_is_reported_with_its_address(server, cache):
    address, _ = server
    with pytest.raises(UserError, match=rf"{address}/missing.pth can't be read: HTTP Error 404: Not Found\."):
        local_path(f"{address}/missing.pth")
    with pytest.raises(OSError, match="refused"):
        local_path("http://127.0.0.1:9/x")
    assert files(cache) == []


def test_several_that_ask_at_once_download_once(server, cache):
    address, requests = server
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(local_path, [f"{address}/good/a"] * 8))
    assert len(set(found)) == 1 and len(requests) == 1


def test_without_a_cache_a_download_lasts_as_long_as_the_process(server, tmp_path):
    address, _ = server
    code = f"from ultravid.utils.file_io import local_path; p = local_path({address + '/good/a'!r}); print(p, p.stat().st_size)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert answer[1] == "1000" and not Path(answer[0]).exists()


def test_a_cache_that_can_not_be_written_is_replaced_by_a_temporary_one(server, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ULTRAVID_CACHE", str(tmp_path / "file"))
    assert local_path(f"{server[0]}/good/a").stat().st_size == 1000
    assert "can't be written" in caplog.text


def test_an_address_without_handler_names_how_to_register_one(manager):
    for function in (local_path, check_writable):
        with pytest.raises(
            AddressError, match=r"No handler takes foo://x \(.*ftp://, http://.*PathManager.register_handler"
        ):
            function("foo://x")


def test_s3_without_boto3_names_the_extra(manager, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(AddressError, match=r"pip install 'ultravid\[s3\]'"):
        local_path("s3://bucket/key")


def test_a_file_is_replaced_whole_at_any_address_that_can_be_written(manager, tmp_path):
    manager.register_handler(FolderHandler(tmp_path))
    for address in (tmp_path / "a", "made-up://a"):
        with replace_file(address) as file:
            file.write(b"old")
        assert os.listdir(tmp_path) == ["a"]
        with pytest.raises(ZeroDivisionError), replace_file(address) as file:
            file.write(b"ne%d" % (1 // 0))
        assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_what_can_not_be_written_is_refused_before_anything_is(manager, tmp_path):
    manager.register_handler(ReadOnlyHandler())
    for address in ("http://host/a", "read-only:a"):
        with pytest.raises(AddressError, match=f"{address} can't be written: its handler only reads. Local paths can"):
            check_writable(address)
        with pytest.raises(AddressError, match="only reads"), replace_file(address):
            raise AssertionError
    with pytest.raises(AddressError, match=r"train.output_dir can't be at http://host/a: .* local or mounted folder"):
        require_local("http://host/a", "train.output_dir")


def test_an_upload_that_fails_is_an_error(manager, tmp_path):
    class Failing(FolderHandler):
        def _copy_from_local(self, local_path, dst_path, overwrite=False, **kwargs):
            return False

    manager.register_handler(Failing(tmp_path))
    with pytest.raises(AddressError, match="made-up://a can't be written"), replace_file("made-up://a") as file:
        file.write(b"x")


def test_addresses_are_joined_by_slashes():
    assert (
        join_address("a/b/", "c.png") == "a/b/c.png" and join_address("s3://b/d/", "e", "c.png") == "s3://b/d/e/c.png"
    )
