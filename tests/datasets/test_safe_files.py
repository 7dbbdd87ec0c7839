"""Files that nobody vouches for: pipes, devices, names that lead elsewhere, JSON beyond its bounds."""

import os
from pathlib import Path

import pytest

from ultravid.datasets.json_files import read_json
from ultravid.datasets.safe_files import NamedFiles, UnusableFileError, read_bytes
from ultravid.datasets.video import DataError


def test_only_regular_files_of_bounded_size_are_read_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"12345")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, reason in (
        ("pipe", "named pipe"),
        ("zero", "device"),
        (".", "folder"),
        ("big", "5 bytes"),
        ("a\0b", "name"),
    ):
        with pytest.raises(UnusableFileError) as caught:
            read_bytes(f"{tmp_path}/{name}", 4)
        assert reason in str(caught.value.strerror)
    assert read_bytes(tmp_path / "big", 5) == b"12345"


def test_a_name_in_data_must_lead_into_their_folder(tmp_path: Path) -> None:
    root, disk = tmp_path / "linked", tmp_path / "disk"
    (disk / "v").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    root.symlink_to(disk)  # a data set on another disk
    (disk / "v/inside.png").symlink_to("../other.png")
    (disk / "v/leak.png").symlink_to("../../secret.png")
    (disk / "out").symlink_to("..")
    files = NamedFiles(root)
    for name in ("v/0.png", "v/../w/0.png", "../disk/v/0.png", "v/inside.png", f"{disk}/v/0.png", "C:odd.png"):
        assert files.path(name) == root / name
    assert files.path("../0.png", root / "v") == root / "v/../0.png"
    for name in (
        "../secret.png",
        "v/../../secret.png",
        "/etc/passwd",
        "v/leak.png",
        "out/secret.png",
        "..",
        "../disk2/x",
    ):
        with pytest.raises(DataError, match="allow_outside_root=true"):
            files.path(name)
        assert NamedFiles(root, allow_outside_root=True).path(name) == root / name
    for name in ("", "a\0b"):
        with pytest.raises(DataError, match="not the name of a file"):
            NamedFiles(root, allow_outside_root=True).path(name)


def test_json_beyond_its_bounds_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    cases: list[tuple[bytes, str]] = [
        (b'{"id": %s}' % (b"9" * 5000), "4,300 digits"),
        (b"[" * 101 + b"]" * 101, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"v": "A", "v": "B"}', "'v' twice"),
        (b'{"name": "\xff"}', "not UTF-8 text .byte 0xff at 10"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"name": "\\ud800"}', "UTF-16"),
        (b"{", "not JSON"),
    ]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"a.json: .*{message}"):
            read_json(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": [-9223372036854775807, "\\udcff", "\\ud83d\\ude00"]}')
    assert read_json(path) == {"a": [1 - 2**63, "\udcff", "\U0001f600"]}
    with pytest.raises(DataError, match="at most 8 are read"):
        read_json(path, most=8)
