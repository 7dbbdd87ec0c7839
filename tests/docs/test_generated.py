"""What docs/generate.py writes is what is committed, and it is complete."""

import pytest


def test_every_generated_file_is_up_to_date(generate):
    skipped = {name for name, part in generate.PARTS.items() if part.why_not()}
    stale = {name: list(changes) for name in generate.PARTS.keys() - skipped if (changes := generate.outdated(name))}
    assert stale == {}, f"run: python docs/generate.py {' '.join(stale)}"


def test_a_changed_and_a_superfluous_file_are_named_with_the_command_that_renews_them(
    generate, tmp_path, capsys, monkeypatch
):
    part = generate.Part("a page", lambda: {"a/page.md": "new\n"}, ("a/*.md",))
    monkeypatch.setitem(generate.PARTS, "page", part)
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/old.md").write_text("old")
    assert generate.main(["--check", "page"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "docs/a/old.md is no longer written: run `python docs/generate.py page`",
        "docs/a/page.md is out of date: run `python docs/generate.py page`",
    ]
    assert generate.main(["page"]) == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["page.md"]
    assert generate.main(["--check", "page"]) == 0
    with pytest.raises(SystemExit) as wrong:
        generate.main(["pages"])
    assert wrong.value.code == 2 and "there is no part 'pages'" in capsys.readouterr().err
