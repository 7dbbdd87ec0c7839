"""The tools that answer about a config: --print, --explain, --check, config_diff."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool
from ultravid.config import LazyConfig
from ultravid.utils.tool import run_tool


@pytest.fixture
def saved(tmp_path):
    LazyConfig.save(LazyConfig.load(PHANTOM_CONFIG), tmp_path / "saved.yaml")
    return tmp_path / "saved.yaml"


def ask(tool, *arguments, capsys):
    code = run_tool(load_tool(tool).main, [str(a) for a in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("language", ["py", "yaml"])
@pytest.mark.parametrize("resolve", [[], ["--resolve"]])
def test_print_shows_the_config_with_overrides_as_code_or_yaml(language, resolve, saved, tmp_path, capsys):
    arguments = ["--config-file", saved, "--print", "--format", language, *resolve, "train.max_iter=7"]
    code, out, _ = ask("lazyconfig_train", *arguments, capsys=capsys)
    assert code == 0
    if language == "yaml":
        (tmp_path / "printed.yaml").write_text(out)
        printed = LazyConfig.load(tmp_path / "printed.yaml")
        assert printed.train.max_iter == 7
        expected = 7 if resolve else "${train.max_iter}"
        assert printed.trainer.raw.max_iter == expected
        assert printed.trainer.raw.model == "${prepared_model}"  # a shared object stays a reference
    else:
        assert "cfg.train.max_iter = 7" in out
        assert ('max_iter=ref("train.max_iter")' in out) != bool(resolve)


def test_what_answers_about_a_saved_config_never_imports_torch(saved):
    tools, file = ROOT / "tools", str(saved)
    commands = [
        [tools / "lazyconfig_train.py", "--config-file", file, "--print", "train.max_iter=3"],
        [tools / "lazyconfig_train.py", "--config-file", file, "--explain", "train.max_iter", "optimizer"],
        [tools / "config_diff.py", file, file, "train.max_iter=3"],
    ]
    code = (
        "import runpy, sys\n"
        "for command in COMMANDS:\n"
        "    sys.argv = command\n"
        "    try: runpy.run_path(command[0], run_name='__main__')\n"
        "    except SystemExit as end: assert end.code in (0, 1), end.code\n"
        "sys.exit('torch' in sys.modules)\n"
    ).replace("COMMANDS", repr([[str(word) for word in command] for command in commands]))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "~ train.max_iter: 900 -> 3" in ended.stdout


def test_explain_and_overrides_stand_side_by_side(saved, capsys):
    arguments = [
        "--config-file",
        saved,
        "--explain",
        "train.max_iter",
        "optimizer.lr",
        "train.max_iter=5",
        "~train.amp",
    ]
    code, out, _ = ask("lazyconfig_train", *arguments, capsys=capsys)
    assert code == 0
    assert "train.max_iter = 5" in out and "override 1: train.max_iter=5" in out and "optimizer.lr = 0.001" in out


def test_diff_tells_by_its_exit_code_whether_configs_differ(saved, capsys):
    assert ask("config_diff", PHANTOM_CONFIG, saved, capsys=capsys)[:2] == (0, "no difference\n")
    code, out, _ = ask("config_diff", PHANTOM_CONFIG, saved, "train.seed=1", "~train.amp", capsys=capsys)
    assert code == 1
    assert "~ train.seed: 0 -> 1" in out and '- train.amp = {"enabled": False' in out
    code, _, err = ask("config_diff", PHANTOM_CONFIG, "nowhere.yaml", capsys=capsys)
    assert code == 2 and "nowhere.yaml does not exist" in err


def test_the_graph_shows_every_object_and_each_reference_to_one(saved, tmp_path, capsys):
    code, _, _ = ask("config_graph", "--config-file", saved, "--output", tmp_path / "g.svg", capsys=capsys)
    assert code == 0
    drawn = ElementTree.parse(tmp_path / "g.svg").getroot()
    texts = ["".join(t.itertext()) for t in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "model  TwoStage (shared by 3)" in texts
    assert "checkpointer  DetectionCheckpointer (shared by 4)" in texts
    titles = [t.text for t in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert "trainer.hooks.stop.checkpointer is checkpointer" in titles
    assert sum(" is optimizer" in t for t in titles) == 3


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.max", ["train.max_iter="]),
        ("train.a", ["train.amp."]),
        ("~train.see", ["~train.seed"]),
        ("++trainer.hooks.ev", ["++trainer.hooks.eval."]),
        ("dataloader.train.transforms[", ["dataloader.train.transforms[0].", "dataloader.train.transforms[1]."]),
        ("dataloader.train.transforms.0.p", ["dataloader.train.transforms.0.prob="]),
        ("nothing.of.this", []),
        ("dataloader.train.transforms[9].p", []),
    ],
)
def test_keys_are_completed_one_step_at_a_time(word, expected, saved, capsys):
    code, out, _ = ask("completion", "keys", saved, word, capsys=capsys)
    assert (code, out.split()) == (0, expected)


COMPLETED = {
    "ultravid conf": ["config", "config-diff", "config-graph", "config-schema"],
    "ultravid config exp": ["explain"],
    "ultravid config print FOLDER/sav": ["FOLDER/saved.yaml"],
    "ultravid config explain SAVED train.max": ["train.max_iter"],
    "ultravid config diff SAVED SAVED optimizer.l": ["optimizer.lr="],
    "ultravid train --qui": ["--quick"],
    f"python {ROOT}/tools/evaluate.py --pred": ["--predictions"],
    "ultravid train --config-file SAVED train.max": ["train.max_iter="],
    "ultravid train --config-file FOLDER/sav": ["FOLDER/saved.yaml"],
    "ultravid config-diff SAVED SAVED optimizer.l": ["optimizer.lr="],
    "ultravid train --config-file SAVED --explain train.max": ["train.max_iter"],
    f"python {ROOT}/tools/train_net.py --config-file SAVED SOLVER.BASE_LR_": ["SOLVER.BASE_LR_END"],
    "ultravid serve --max-r": ["--max-recordings", "--max-running"],
    "ultravid predict --save-": ["--save-conf", "--save-frames", "--save-txt"],
    "ultravid predict --no-s": ["--no-save"],
    "ultravid predict --tracker ": ["auto", "none"],
    "ultravid export --format on": ["onnx"],
    "ls conf": [],
}


@pytest.mark.parametrize("line", COMPLETED)
def test_a_word_of_any_tool_is_completed(line, saved, capsys):
    def filled(text):
        return text.replace("SAVED", str(saved)).replace("FOLDER", str(Path(saved).parent))

    words = filled(line).split(" ")
    code, out, _ = ask("completion", "words", len(words) - 1, *words, capsys=capsys)
    assert (code, out.split()) == (0, [filled(each) for each in COMPLETED[line]])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_completes_what_is_typed(shell, saved):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    typed = (
        ("ultravid train --qui", "--quick"),
        (f"ultravid train --config-file {saved} train.max", "train.max_iter="),
    )
    options = ["--norc", "--noprofile"] if shell == "bash" else ["-f"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell, [shell, *options, "-i"], {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"})
    try:
        ready = f'eval "$({sys.executable} {ROOT}/tools/completion.py {shell})"; echo rea""dy\n'
        for keys, expected in ((ready, "ready"), *((f"{text}\t", end) for text, end in typed)):
            os.write(terminal, keys.encode())
            shown, until = "", time.monotonic() + 30
            while expected not in shown and time.monotonic() < until:
                if select.select([terminal], [], [], 1)[0]:
                    shown += os.read(terminal, 4096).decode(errors="replace")
            assert expected in shown
            os.write(terminal, b"\x15")  # Ctrl-U clears the line
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
