"""Each tutorial runs from its own text, and prints what it shows."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.shortened import SHORTENED
from tests.docs.tutorials import (
    Block,
    Checkout,
    TutorialError,
    align,
    check_output,
    numbers_vary,
    read_blocks,
    run_tutorial,
    updated_output,
)

PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_its_own_text_with_short_trainings(page: Path, tmp_path: Path) -> None:
    run_tutorial(page, tmp_path / "run", short=True)


@pytest.mark.slow_models
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    run_tutorial(page, tmp_path / "run", short=False)


def test_only_pages_that_exist_are_shortened() -> None:
    assert set(SHORTENED) <= {page.stem for page in PAGES}


SMALL = """# A page
<!-- tutorial: skip the environment is there -->
```sh
pip install ultravid
```

```python title="mine/greeting.py"
print("hello")
```

```sh
export WHO=you
cd mine
python greeting.py
```
```text
hello
```
<!-- tutorial: exit 3 -->
```sh
echo "$WHO in $PWD took 1.25 s" >&2
sh -c 'exit 3'
echo never
```
<!-- tutorial: numbers vary -->
```text
you in /home/you/ultravid/mine took 0.9 s
```

```python
x = 2
```
```python
print(x + 1, "and more")
```
```text
3 ...
```

<!-- tutorial: interrupt after ready; exit 75 -->
```sh
trap 'echo saved; exit 75' INT
echo ready
while true; do sleep 0.01; done
```
```text
ready
saved
```
"""


def test_a_page_keeps_its_folder_its_variables_and_its_python_session(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(SMALL)
    run_tutorial(page, tmp_path / "run", short=True)
    assert not (ROOT / "mine").exists() and (tmp_path / "run/ultravid/mine/greeting.py").is_file()
    assert [block.kind for block in read_blocks(page)] == [
        *["sh", "file", "sh", "text", "sh", "text", "python", "python", "text", "sh", "text"]
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "```text\nhello",
            "```text\nhullo",
            "page.md, line 17: the page shows\n    hullo\nwhich was not printed there.",
        ),
        ("exit 3 -->", "exit 2 -->", "page.md:21: this exits with 3, not 2."),
        ("x + 1", "y + 1", 'page.md", line 34'),
        ("interrupt after ready", "interrupt after never", "never prints 'never'"),
        ("numbers vary", "number vary", "has no meaning"),
        ("took 0.9 s", "takes 0.9 s", "which was not printed there"),
    ],
)
def test_what_is_not_so_is_reported_with_its_line(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(SMALL.replace(old, new).replace("while true; do sleep 0.01; done", "sleep 0.05"))
    with pytest.raises(TutorialError) as raised:
        run_tutorial(page, tmp_path / "run", short=True)
    assert message in str(raised.value)


def test_lines_that_are_left_out_match_any_number_of_lines() -> None:
    printed = ["a", "b", "c 1", "d"]
    assert align(["a", "...", "d"], printed, numbers_vary) == [0, None, 3]
    assert align(["...", "c 22", "..."], printed, numbers_vary) == [None, 2, None]
    assert align(["a", "d"], printed, numbers_vary) is None


def test_metrics_are_compared_with_a_tolerance() -> None:
    block = Block("text", 5, "|   AP50 |\n|-------:|\n|  84.35 |\n", says={"within": "10%"})
    check_output(block, "|  AP50 |\n|------:|\n|  80.0 |\n", "page.md")
    with pytest.raises(TutorialError, match=r"line 7: the page shows"):
        check_output(block, "|  AP50 |\n|------:|\n|  70.0 |\n", "page.md")


def test_an_update_keeps_what_is_left_out_and_replaces_numbers() -> None:
    block = Block("text", 1, "[12:00] loss: 1.5\n...\nWrote ... in 3 s\n")
    assert (
        updated_output(block, "[13:07] loss: 1.25\nx\ny\nWrote it in 4 s\n")
        == "[13:07] loss: 1.25\n...\nWrote ... in 3 s\n"
    )
    assert updated_output(block, "another\n") == "another\n"


def test_a_checkout_leaves_the_projects_alone(tmp_path: Path) -> None:
    with Checkout(tmp_path / "run", quick=True) as checkout:
        assert checkout.start("touch projects/basicdet/made").end(30) == 0
    assert not (ROOT / "projects/basicdet/made").exists()
