"""``tools/serve.py``: what it refuses, how it begins and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import load_tool
from tests.serving.page.page_server import ended, make_page, send, serving, viewer, wait_for, write_squares
from tests.serving.small_run import write_run
from ultravid.serving import StreamingPredictor
from ultravid.serving.page.model import load_page_detector
from ultravid.serving.page.server import bind
from ultravid.serving.sources import open_stream
from ultravid.utils.errors import UserError
from ultravid.utils.tool import run_tool

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_shows_what_the_predictor_detects(tmp_path):
    run, movie = write_run(tmp_path / "run"), write_squares(tmp_path / "movie.mp4", 4)
    predictor = StreamingPredictor(run, score_threshold=0.05)
    with closing(open_stream(movie)) as stream:
        detections = predictor.stream(shown=stream.shown)
        expected = [detections.frame(frame).as_json(predictor.class_names) for frame in stream]
    assert any(frame["detections"] for frame in expected)
    with serving(make_page(tmp_path, detector=load_page_detector(run))) as address, viewer(address) as client:
        assert client.post("/api/viewer").json()["classes"] == list(predictor.class_names)
        id = send(client, movie.read_bytes()).json()["id"]
        assert ended(client, id)["state"] == "done"
        found = client.get(f"/api/recordings/{id}/detections.json").json()
        assert found["frames"] == expected
        rows = client.get(f"/api/recordings/{id}/detections.csv").text.splitlines()
        assert len(rows) == 1 + sum(len(frame["detections"]) for frame in expected)
        client.post(f"/api/recordings/{id}/movie?min_score=0.05")
        wait_for(lambda: client.get("/api/recordings").json()[0]["movie"]["state"] == "done")
        (tmp_path / "drawn.mp4").write_bytes(client.get(f"/api/recordings/{id}/movie.mp4").content)
    with closing(open_stream(tmp_path / "drawn.mp4")) as drawn, closing(open_stream(movie)) as plain:
        pairs = list(zip(drawn, plain, strict=True))
    assert [a.pts_s for a, _ in pairs] == [b.pts_s for _, b in pairs]
    assert all(np.abs(a.image.astype(int) - b.image).max() > 60 for a, b in pairs)  # boxes


def test_addresses_that_cannot_be_used_are_refused_before_the_model_is_loaded(tmp_path, capsys):
    tool = load_tool("serve")
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert run_tool(tool.main, ["--run", str(tmp_path / "none"), "--port", str(port)]) == 2
        assert f"Port {port} of 127.0.0.1 is in use" in capsys.readouterr().err
    for host, port, what in (
        ("no.such.host.invalid", 0, "--host"),
        ("203.0.113.7", 0, "not an address"),
        ("127.0.0.1", 70_000, "--port"),
    ):
        with pytest.raises(UserError, match=what):
            bind(host, port)
    assert run_tool(tool.main, ["--run", str(tmp_path / "none"), "--port", "0"]) == 2
    assert "none" in capsys.readouterr().err
    assert run_tool(tool.main, ["--run", "x", "--max-frames", "0"]) == 2
    assert "--max-frames" in capsys.readouterr().err


def test_only_this_machine_is_served_without_a_token(monkeypatch, capsys):
    tool = load_tool("serve")

    def token(*argv, is_local):
        return tool.token_of(tool.parse_args(["--run", "x", *argv]), is_local)

    assert token(is_local=True) is None
    made = token(is_local=False)
    assert len(made) >= 32 and made != token(is_local=False) and len(token("--token", is_local=True)) >= 32
    assert token("--token", "given", is_local=True) == "given" and "may be guessed" in capsys.readouterr().err
    monkeypatch.setenv("ULTRAVID_TOKEN", "of-the-environment")
    assert token(is_local=False) == "of-the-environment" and "ULTRAVID_TOKEN" not in os.environ
    with pytest.raises(UserError, match="--token"):
        token("--token", "ä b\n", is_local=False)
    assert tool.address("127.0.0.1", 8000, None) == "http://127.0.0.1:8000/"
    assert tool.address("::1", 8000, "abc") == "http://[::1]:8000/#token=abc"
    assert tool.address("0.0.0.0", 80, "abc") == f"http://{socket.gethostname()}:80/#token=abc"


@pytest.mark.slow_models
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_leaves_nothing(tmp_path, number):
    run, movie = write_run(tmp_path / "run"), write_squares(tmp_path / "movie.mp4", 200).read_bytes()
    command = [sys.executable, "tools/serve.py", "--run", str(run), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as server:
        try:
            address = next(line for line in server.stdout if line.startswith("Open ")).split()[1].rstrip("/")
            with viewer(address) as client:
                id = send(client, movie, "DOE.mp4").json()["id"]
                wait_for(lambda: client.get("/api/recordings").json()[0]["frames"] > 2)
                assert list(tmp_path.rglob("*.pictures"))
                server.send_signal(number)
                assert server.wait(20) == 0
            rest = server.stdout.read()
        finally:
            server.kill()
    assert list(tmp_path.rglob("server-*")) == [] and id not in rest and "DOE" not in rest and "Traceback" not in rest
