"""Config files at addresses are downloaded and read."""

import functools
import http.server
import threading

import pytest

from ultravid.config import ConfigError, LazyConfig, Node, OverrideError, get_config, load_checked
from ultravid.config.command_line import load_with_overrides
from ultravid.config.loader import importable_project, project_folders


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args): ...


@pytest.fixture
def site(tmp_path, monkeypatch):
    """(folder, its address); downloads go to a folder of the test's own."""
    monkeypatch.setenv("ULTRAVID_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_configs_are_read_from_an_address(site):
    folder, address = site
    (folder / "run.py").write_text("train = dict(max_iter=5)\n")
    LazyConfig.save(Node(train=Node(max_iter=6), project_folders=["projects/x"]), folder / "saved.yaml")
    assert LazyConfig.load(f"{address}/run.py") == {"train": {"max_iter": 5}}
    assert LazyConfig.load(f"{address}/run.py", "train").max_iter == 5
    assert get_config(f"{address}/run.py").train.max_iter == 5
    assert load_checked(f"{address}/run.py", ["train.max_iter=7"]).train.max_iter == 7
    assert load_with_overrides(f"{address}/saved.yaml").train.max_iter == 6
    assert project_folders(f"{address}/run.py") == [] and project_folders(f"{address}/saved.yaml") == ["projects/x"]
    with importable_project(f"{address}/run.py"):
        pass


def test_an_override_names_an_object_at_an_address(site):
    folder, address = site
    (folder / "optim.py").write_text("SGD = dict(lr=0.1)\n")
    cfg = LazyConfig.apply_overrides(Node(optimizer=None), [f"optimizer={address}/optim.py:SGD"])
    assert cfg.optimizer == {"lr": 0.1}
    with pytest.raises(OverrideError, match=r"has no 'SDG'.*Did you mean 'SGD'"):
        LazyConfig.apply_overrides(Node(optimizer=None), [f"optimizer={address}/optim.py:SDG"])


def test_a_file_that_can_not_be_had_is_reported(site):
    _, address = site
    for load in (LazyConfig.load, get_config, load_checked):
        with pytest.raises(ConfigError, match=rf"{address}/gone\.py can't be read: .*404"):
            load(f"{address}/gone.py")
    with pytest.raises(ConfigError, match=r"No handler takes nowhere://x/run\.py"):
        LazyConfig.load("nowhere://x/run.py")


@pytest.mark.parametrize(
    "code",
    [
        "from .other import train\n",
        "from ultravid.config import LazyConfig\ntrain = LazyConfig.load_rel('other.py', 'train')\n",
    ],
)
def test_a_downloaded_config_has_no_neighbours(site, code):
    folder, address = site
    (folder / "run.py").write_text(code)
    (folder / "other.py").write_text("train = dict(max_iter=5)\n")
    with pytest.raises(
        ConfigError, match=rf"{address}/run\.py: '.*other.*' is a file beside this config.*Download the whole folder"
    ):
        LazyConfig.load(f"{address}/run.py")


def test_a_config_that_can_not_be_saved_at_an_address_says_why(site):
    _, address = site
    with pytest.raises(ConfigError, match=r"new\.yaml can't be written: its handler only reads"):
        LazyConfig.save(Node(a=1), f"{address}/new.yaml")
