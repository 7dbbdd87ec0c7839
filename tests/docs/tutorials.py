"""Run a tutorial of docs/tutorials/ from its own text, in a folder that looks like a checkout, and compare what is printed with what the page shows.

    python -m tests.docs.tutorials docs/tutorials/1_first_detector.md            # run at full length, compare
    python -m tests.docs.tutorials docs/tutorials/1_first_detector.md --update   # and write outputs and pictures into the page
    python -m tests.docs.tutorials docs/tutorials/*.md --short                   # as the default test suite does

What a block of the page is, its first line says:

- ```` ```sh ````: commands, run by bash. Folder, exported variables and activated environment last until the end of the page.
- ```` ```python title="path" ```` (or any other language): a file, which is saved there.
- ```` ```python ````: code for a Python session, one for the whole page.
- ```` ```text ````: what the block before printed, all of it, standard output and error. A line ``...`` stands for any number of lines, ``...``
  within a line for any text.

A comment, which no reader sees, on the line before a block says more. Several parts are separated by ``;``:

- ``<!-- tutorial: skip REASON -->``: not run, as the installation.
- ``<!-- tutorial: exit 2 -->``: the exit code (0 if nothing is said).
- ``<!-- tutorial: interrupt after TEXT -->``: Ctrl-C when TEXT was printed.
- ``<!-- tutorial: background until TEXT -->``: goes on when TEXT was printed; a line ``<!-- tutorial: stop -->`` is Ctrl-C, and a ``text`` block after it
  holds what was printed since. ``stop; fetch`` opens the address before that the command printed.
- for a ``text`` block: ``full length`` (a shortened run does not print this), ``numbers vary`` (times and speeds, say: numbers are not compared), ``within 20%``
  (each number may differ by so much).
- for a picture (``<img ...>`` or ``![...](...)`` on the next line): ``picture FILE``, ``picture FILE 800`` (px of its width at most), or
  ``picture PAGE.html#place 1000x700`` and ``picture http://... 1000x700`` for a window of a browser, there also ``drop FILE`` onto the page and
  ``key n``. FILE is checked to be there; ``--update`` copies it to docs/images/.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from PIL import Image

from tests.docs.shortened import SHORTENED
from tests.quick_python import quick_python

__all__ = ["Block", "Checkout", "TutorialError", "read_blocks", "run_tutorial"]

ROOT = Path(__file__).resolve().parents[2]
HOME = "/home/you/ultravid"  # what a page shows for the folder in which it runs
COPIED = (
    "projects",
    "pyproject.toml",
)  # a tutorial writes into projects, and pytest looks for its root beside pyproject.toml
LINKED = (
    "ultravid",
    "tools",
    "configs_py",
    "examples",
    "benchmarks",
    "docs",
    "README.md",
    "Makefile",
    "setup.py",
    "requirements.lock",
)
MAX_PICTURE_BYTES = 150_000
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NUMBER = re.compile(r"(?<![A-Za-z])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
IMAGE = re.compile(r"""<img[^>]*\bsrc="([^"]+)"|!\[[^\]]*\]\(([^)\s]+)\)""")
DIRECTIVE = re.compile(r"<!-- tutorial: (.+?) -->")
KINDS = {
    "sh": {"skip", "exit", "interrupt", "background"},
    "file": {"skip"},
    "python": {"skip"},
    "text": {"full", "numbers", "within"},
    "picture": {"picture"},
    "stop": {"stop", "fetch"},
}

PYTHON_SESSION = """
import base64, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    name, code = (base64.b64decode(part).decode() for part in line.split())
    failed = 0
    try:
        exec(compile(code, name, "exec"), names)
    except BaseException:
        failed = 1
        traceback.print_exc()
    sys.stderr.flush()
    print(f"\\0{failed}", flush=True)
"""


class TutorialError(AssertionError):
    """A page says something that is not so."""


@dataclass
class Block:
    """One part of a page that is run, saved or compared.

    Attributes:
        kind: sh, python, file, text, picture or stop.
        line: of the page, counted from 1, on which its content begins.
        content: its text without the fences; of a picture, its path from the page.
        title: of a file, its path.
        says: what the comment before it says, by first word.
    """

    kind: str
    line: int
    content: str
    title: str = ""
    says: dict[str, str] = field(default_factory=dict)


def _directives(text: str, where: str) -> dict[str, str]:
    said = {}
    for part in text.split(";"):
        word, _, rest = part.strip().partition(" ")
        if word not in set().union(*KINDS.values()):
            raise TutorialError(f"{where}: a comment says {part.strip()!r}, which has no meaning.")
        said[word] = rest.strip()
    return said


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    blocks: list[Block] = []
    says: dict[str, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line, found = lines[number], None
        where = f"{page}:{number + 1}"
        number += 1
        if comment := DIRECTIVE.fullmatch(line.strip()):
            says = _directives(comment[1], where)
            if "stop" in says:
                found = Block("stop", number, "")
        elif fence := re.fullmatch(r"```(\w*) *(.*)", line):
            first = number
            while lines[number] != "```":
                number += 1
            content = "".join(f"{text}\n" for text in lines[first:number])
            number += 1
            title = re.search(r'title="([^"]+)"', fence[2])
            kind = "file" if title else fence[1]
            if kind in KINDS:
                found = Block(kind, first + 1, content, title[1] if title else "")
        elif image := IMAGE.search(line):
            found = Block("picture", number, image[1] or image[2])
        if found is not None:
            found.says, says = says, {}
            if wrong := found.says.keys() - KINDS[found.kind]:
                raise TutorialError(f"{where}: {', '.join(wrong)} has no meaning for {found.kind}.")
            blocks.append(found)
        elif line.strip() and says and not comment:
            raise TutorialError(f"{where}: the comment before this line belongs to no block.")
    return blocks


def _copy_checkout(root: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "outputs", "datasets")
            )
        else:
            shutil.copy(ROOT / name, root / name)
    for name in LINKED:
        if (ROOT / name).exists():
            (root / name).symlink_to(ROOT / name)


class _Process:
    """A running command whose output is collected."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=cwd, env=env, start_new_session=True, **pipes)  # type: ignore[call-overload]
        self._printed = b""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            with self._changed:
                self._printed += chunk
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _close(self) -> None:
        self._reader.join(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # it has gone, and did not take what was written
                    pipe.close()

    @property
    def printed(self) -> str:
        return self._printed.decode(errors="replace")

    def take(self) -> str:
        """What was printed since this was asked last."""
        with self._changed:
            text, self._printed = self.printed, b""
        return text

    def wait_for(self, text: str, timeout_s: float) -> bool:
        """Whether ``text`` is printed, in time and before the process ends."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while text not in self.printed:
                if not self._reader.is_alive() or time.monotonic() > end:
                    return False
                self._changed.wait(0.5)
        return True

    def end(self, timeout_s: float) -> int | None:
        """The exit code; None if the process had to be killed."""
        code: int | None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        if code is None:
            self.kill()
        self._close()
        return code

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()


class Checkout:
    """A folder in which a tutorial runs: the reader's checkout.

    Args:
        folder: an empty one, or that of an earlier run, which goes on.
        quick: ``python`` is a process that has imported torch already (`tests.quick_python`).
    """

    def __init__(self, folder: Path, quick: bool) -> None:
        folder = folder.resolve()
        self.root = folder / "ultravid"
        self._python = quick_python() if quick else sys.executable
        self._state = folder / "state.sh"
        if not self._state.exists():
            self.root.mkdir(parents=True)
            _copy_checkout(self.root)
            self._state.write_text(f"cd {shlex.quote(str(self.root))}\n")
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, arguments in {"python": "", "pytest": "-m pytest", "ultravid": "-m ultravid"}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(self._python)} {arguments} "$@"\n')
            program.chmod(0o755)
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(("ULTRAVID_", "PYTEST_"))}
        self._env |= {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",  # standard output and error in their order
            "PYTHONDONTWRITEBYTECODE": "1",
            "ULTRAVID_CACHE": str(folder / "cache"),
            "COLUMNS": "110",
        }
        self._session: _Process | None = None
        self.background: _Process | None = None

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in (self._session, self.background):
            if process is not None:
                process.kill()

    def as_on_the_page(self, text: str) -> str:
        """A text that was printed, with the reader's paths and without colours."""
        for path in (self._python, sys.executable):
            text = text.replace(path, f"{HOME}/.venv/bin/python")
        for path in (str(self.root), str(ROOT)):  # shipped configs are those of the checkout under test
            text = text.replace(path, HOME)
        return ANSI.sub("", text).replace("\r", "\n")

    def start(self, commands: str) -> _Process:
        keep = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {shlex.quote(str(self._state))}'
        script = f". {shlex.quote(str(self._state))}\ntrap 'code=$?; {keep}; exit $code' EXIT\nset -e -o pipefail\n"
        return _Process(["bash", "-c", script + commands], self.root, self._env)

    def execute(self, code: str, name: str, timeout_s: float) -> tuple[int, str]:
        """(0 or 1 for an error, what was printed) of code in the page's Python session."""
        if self._session is None:
            self._session = _Process([self._python, "-c", PYTHON_SESSION], self.root, self._env)
        asked = b" ".join(base64.b64encode(text.encode()) for text in (name, code))
        assert self._session.process.stdin is not None
        self._session.process.stdin.write(asked + b"\n")
        self._session.process.stdin.flush()
        if not self._session.wait_for("\0", timeout_s):
            return (
                1,
                f"{self._session.take()}\nThe Python session has ended, or was longer at this than {timeout_s:.0f} s.",
            )
        printed, _, failed = self._session.take().rpartition("\0")
        return int(failed), printed


# Comparison. A line is compared as the comment before its block says; a line "..." is any number of lines.

Same = Callable[[str, str], bool]


def _plain(line: str) -> str:
    """A line without its numbers, and without the widths that they give a table."""
    line = re.sub(r"(?<= )-(?= )", "#", re.sub(r"[─━]+", "-", line))  # a metric that is undefined is "-"
    return re.sub(r" +", " ", re.sub(r"-{2,}", "-", NUMBER.sub("#", line))).strip()


def _as_pattern(shown: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, shown.split("..."))), re.DOTALL)


def _within(share: float) -> Same:
    def same(shown: str, printed: str) -> bool:
        if not numbers_vary(shown, printed):
            return False
        if "..." in shown:  # which numbers correspond is not known
            return True
        left, right = NUMBER.findall(shown), NUMBER.findall(printed)
        values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in zip(left, right, strict=False)]
        return len(left) == len(right) and all(abs(a - b) <= share * max(abs(a), abs(b)) for a, b in values)

    return same


def exactly(shown: str, printed: str) -> bool:
    return _as_pattern(shown).fullmatch(printed) is not None


def numbers_vary(shown: str, printed: str) -> bool:
    return _as_pattern(_plain(shown)).fullmatch(_plain(printed)) is not None


def how_to_compare(block: Block) -> Same:
    if "numbers" in block.says:
        return numbers_vary
    if "within" in block.says:
        return _within(float(block.says["within"].rstrip("%")) / 100)
    return exactly


def align(shown: Sequence[str], printed: Sequence[str], same: Same) -> list[int | None] | None:
    """For each shown line the printed one, None for a line ``...``; None in place of the list if they do not fit."""
    fits = [[False] * (len(printed) + 1) for _ in range(len(shown) + 1)]  # of shown[i:] and printed[j:]
    fits[-1][-1] = True
    for i in range(len(shown) - 1, -1, -1):
        for j in range(len(printed), -1, -1):
            if shown[i].strip() == "...":
                fits[i][j] = fits[i + 1][j] or (j < len(printed) and fits[i][j + 1])
            else:
                fits[i][j] = j < len(printed) and fits[i + 1][j + 1] and same(shown[i], printed[j])
    if not fits[0][0]:
        return None
    places: list[int | None] = []
    j = 0
    for i, line in enumerate(shown):
        if line.strip() == "...":
            while not fits[i + 1][j]:
                j += 1
            places.append(None)
        else:
            places.append(j)
            j += 1
    return places


def _first_difference(shown: Sequence[str], printed: Sequence[str], same: Same) -> int:
    """The number of shown lines up to which there is something printed that fits."""
    for count in range(len(shown), 0, -1):
        if align([*shown[:count], "..."], printed, same) is not None:
            return count
    return 0


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def check_output(block: Block, printed: str, where: str) -> None:
    """Raise if a block does not show what was printed."""
    shown, lines, same = _lines(block.content), _lines(printed), how_to_compare(block)
    if align(shown, lines, same) is not None:
        return
    count = _first_difference(shown, lines, same)
    if count < len(shown):
        what = f"the page shows\n    {shown[count]}\nwhich was not printed there."
    else:
        what = "more was printed than the page shows."
    text = "\n".join(f"    {line}" for line in lines)
    raise TutorialError(
        f"{where}, line {block.line + min(count, len(shown) - 1)}: {what}\nAll that was printed:\n{text}"
    )


def updated_output(block: Block, printed: str) -> str:
    """The block's text with what was printed: line by line if only numbers differ, else as a whole."""
    shown, lines = _lines(block.content), _lines(printed)
    places = align(shown, lines, numbers_vary)
    if places is None:
        return "".join(f"{line}\n" for line in lines)
    new = [line if place is None or "..." in line else lines[place] for line, place in zip(shown, places, strict=True)]
    return "".join(f"{line}\n" for line in new)


# Pictures


def _picture_source(block: Block) -> tuple[str, str, list[str]]:
    """(file or address, size, what to do on the page) of ``picture FILE 800``."""
    name, size, *actions = (*block.says["picture"].split(), "")
    return name, size, actions


def take_picture(checkout: Checkout, block: Block, target: Path) -> None:
    """Write a picture of the run to the page's file."""
    name, size, actions = _picture_source(block)
    if "x" in size:
        file, _, place = name.partition("#")
        address = name if name.startswith("http") else f"{(checkout.root / file).as_uri()}#{place}"
        picture = Image.open(io.BytesIO(_screenshot(address, size, actions, checkout.root)))
    else:
        picture = Image.open(checkout.root / name)
        if size and picture.width > int(size):
            picture = picture.resize(
                (int(size), round(picture.height * int(size) / picture.width)), Image.Resampling.LANCZOS
            )
    target.write_bytes(_small(picture.convert("RGB"), jpeg=target.suffix == ".jpg"))


def _small(picture: Image.Image, jpeg: bool) -> bytes:
    """The picture as a file that is small enough: with fewer colours or a lower quality, then with fewer pixels."""
    while True:
        for quality in (90, 75) if jpeg else (256, 64):
            data = io.BytesIO()
            if jpeg:
                picture.save(data, "JPEG", quality=quality, optimize=True)
            else:
                picture.quantize(quality).save(data, "PNG", optimize=True)
            if data.tell() < MAX_PICTURE_BYTES:
                return data.getvalue()
        picture = picture.resize((picture.width * 5 // 6, picture.height * 5 // 6), Image.Resampling.LANCZOS)


def _screenshot(address: str, size: str, actions: Sequence[str], folder: Path) -> bytes:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        width, height = map(int, size.split("x"))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(address)
        for what, value in zip(actions[::2], actions[1::2], strict=False):
            if what == "drop":
                page.set_input_files("input[type=file]", str(folder / value))
                page.wait_for_selector("#progress-line:has-text('Analysed')", timeout=600_000)  # of the live page
            else:
                page.keyboard.press(value)
        page.wait_for_timeout(1500)
        content = page.screenshot()
        browser.close()
    return content


# A page


class _Run:
    """One run of a page."""

    def __init__(
        self, page: Path, checkout: Checkout, replaced: Mapping[str, str], update: bool, timeout_s: float
    ) -> None:
        self.page = page
        self.checkout = checkout
        self.replaced = dict(replaced)
        self.used: set[str] = set()
        self.update = update
        self.timeout_s = timeout_s
        self.printed = ""
        self.address = ""  # what a command in the background printed, with its address
        self.changes: list[tuple[Block, str]] = []
        self.skipped = False

    def where(self, block: Block) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{block.line}"

    def shortened(self, text: str) -> str:
        for old, new in self.replaced.items():
            if old in text:
                self.used.add(old)
                text = text.replace(old, new)
        return text

    def step(self, block: Block) -> None:
        if block.kind != "text" and block.kind != "picture":
            self.skipped = "skip" in block.says
        if self.skipped and block.kind != "picture":
            return
        getattr(self, f"_{block.kind}")(block)

    def _file(self, block: Block) -> None:
        path = self.checkout.root / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.shortened(block.content), encoding="utf-8")

    def _python(self, block: Block) -> None:
        code = self.shortened("\n" * (block.line - 1) + block.content)  # a traceback names the page's lines
        failed, printed = self.checkout.execute(code, self.where(block).partition(":")[0], self.timeout_s)
        self.printed = self.checkout.as_on_the_page(printed)
        if failed:
            raise TutorialError(f"{self.where(block)}: this code fails.\n{self.printed}")

    def _sh(self, block: Block) -> None:
        commands = self.shortened(block.content)
        process = self.checkout.start(commands)
        until = block.says.get("background", "").removeprefix("until ")
        text = self.shortened(until or block.says.get("interrupt", "").removeprefix("after "))
        until = until and text
        came = process.wait_for(text, self.timeout_s) if text else True
        if until and came:
            self.checkout.background = process
            self.address = process.printed
            self.printed = self.checkout.as_on_the_page(process.take())
            return
        if text and came:
            process.interrupt()
        code = process.end(self.timeout_s)
        self.printed = self.checkout.as_on_the_page(process.take())
        wanted = int(block.says.get("exit", "0"))
        if not came or code != wanted:
            what = f"never prints {text!r}" if not came else f"took longer than {self.timeout_s:.0f} s"
            if came and code is not None:
                what = f"exits with {code}, not {wanted}"
            raise TutorialError(f"{self.where(block)}: this {what}.\n{_indented(commands)}It printed:\n{self.printed}")

    def _stop(self, block: Block) -> None:
        process = self.checkout.background
        if process is None:
            raise TutorialError(f"{self.where(block)}: nothing runs in the background.")
        self.checkout.background = None
        if "fetch" in block.says:
            address = re.search(r"http://[\w.:]+/", self.address)
            assert address is not None
            with urllib.request.urlopen(address[0], timeout=60) as answer:
                assert answer.status == 200 and b"<html" in answer.read()
        process.interrupt()
        process.end(60)
        self.printed = self.checkout.as_on_the_page(process.take())

    def _text(self, block: Block) -> None:
        if "full" in block.says and self.replaced:
            return
        if self.update:
            if (new := updated_output(block, self.printed)) != block.content:
                self.changes.append((block, new))
            return
        check_output(block, self.printed, self.where(block).partition(":")[0])

    def _picture(self, block: Block) -> None:
        target = self.page.parent / block.content
        if "picture" in block.says:
            name = self.shortened(_picture_source(block)[0])
            if not name.startswith("http") and not (self.checkout.root / name.partition("#")[0]).is_file():
                raise TutorialError(f"{self.where(block)}: the run made no {name}.")
            if self.update and not self.replaced:
                target.parent.mkdir(exist_ok=True)
                take_picture(self.checkout, block, target)
        if not target.is_file() and not self.update:
            raise TutorialError(f"{self.where(block)}: there is no picture {target}; --update makes it.")
        if target.is_file() and target.stat().st_size > MAX_PICTURE_BYTES:
            raise TutorialError(f"{self.where(block)}: {target} is larger than {MAX_PICTURE_BYTES // 1000} KB.")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _write_changes(page: Path, changes: Sequence[tuple[Block, str]]) -> None:
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    for block, new in reversed(changes):
        first = block.line - 1
        lines[first : first + block.content.count("\n")] = [new]
    page.write_text("".join(lines), encoding="utf-8")


def run_tutorial(page: Path, folder: Path, short: bool, update: bool = False, first_line: int = 1) -> None:
    """Run a page from top to bottom.

    Args:
        page: of docs/tutorials/.
        folder: an empty one, in which it runs.
        short: with the replacements of `tests.docs.shortened`, and quick processes.
        update: write what was printed, and the pictures, into the page in place of comparing; with ``short`` only what is printed in both cases.
        first_line: of the page; blocks before it are left out, as an earlier run in the folder has done them.

    Raises:
        TutorialError: with page, line, command and output.
    """
    page = page.resolve()
    replaced = SHORTENED.get(page.stem, {}) if short else {}
    with Checkout(folder, quick=short) as checkout:
        run = _Run(page, checkout, replaced, update, 120 if short else 7200)
        try:
            for block in read_blocks(page):
                if block.line >= first_line:
                    run.step(block)
        finally:
            if update:
                _write_changes(page, run.changes)
                print(f"{page.name}: {len(run.changes)} outputs updated")  # noqa: T201
        if first_line == 1 and (unused := replaced.keys() - run.used):
            raise TutorialError(f"{page}: tests/docs/shortened.py replaces what no block has: {sorted(unused)}")


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="tutorial") as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in DIR/PAGE and leave it")
    parser.add_argument(
        "--from-line", type=int, default=1, metavar="N", help="go on in DIR/PAGE at this line of the page"
    )
    args = parser.parse_args()
    failed = 0
    for page in args.pages:
        try:
            with _folder(args.keep and args.keep / page.stem) as folder:
                run_tutorial(page, folder, args.short, args.update, args.from_line)
        except TutorialError as error:
            print(error, file=sys.stderr)  # noqa: T201
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
