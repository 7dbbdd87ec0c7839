"""The page of all keys of a run's config, from the same source as ``--help-config``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from generators.markdown import plain
from ultravid.config import Node, get_config
from ultravid.config.key_help import KeyHelp, key_helps

__all__ = ["SECTIONS", "Section", "described", "files", "run_config"]


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: heading; keys of the config are in code style.
        prefixes: it has these keys and what is below them.
        about: what stands before its keys.
        config: the keys that the shipped file below does not have under these names, as ``{"optimizer": (file, name)}``.
    """

    title: str
    prefixes: tuple[str, ...]
    about: str
    config: tuple[str, str, str] | None = None


SECTIONS = (
    Section(
        "`train`",
        ("train",),
        "The values that most runs change. Other parts of the config refer to them. File: `configs_py/common/train.py`.",
    ),
    Section(
        "`prepared_model`",
        ("prepared_model",),
        "The model on its device, wrapped for several processes. `common/fsdp.py` has one that shards it.",
    ),
    Section("`checkpointer`", ("checkpointer",), "What saves and loads checkpoints."),
    Section("`trainer`", ("trainer",), "The training loop. Its hooks follow below."),
    Section(
        "`trainer.hooks`",
        ("trainer.hooks",),
        "What happens besides the steps. A hook is removed by `'~trainer.hooks.hang'` and added by `'+trainer.hooks.NAME=file.py:NAME'`.",
    ),
    Section(
        "`optimizer`",
        ("optimizer",),
        "`AdamW` of `configs_py/common/optim.py`; the learning rate and weight decay are the published recipe's.",
    ),
    Section(
        "`optimizer`, SGD",
        ("optimizer",),
        "The other optimizer of that file: `optimizer=common/optim.py:SGD`.",
        ("optimizer", "common/optim.py", "SGD"),
    ),
    Section(
        "`lr_multiplier`",
        ("lr_multiplier",),
        "The schedule, as factors of the optimizer's rate: `steps_60_80` of `configs_py/common/schedules.py`.",
    ),
    Section(
        "`lr_multiplier`, cosine",
        ("lr_multiplier",),
        "The other schedule of that file: `lr_multiplier=common/schedules.py:cosine`.",
        ("lr_multiplier", "common/schedules.py", "cosine"),
    ),
    Section(
        "`data`",
        ("data",),
        "Which videos. The keys are those of `configs_py/common/data/cva_bus.py`; other formats have other ones: [data](../data.md).",
    ),
    Section("`dataloader.train`", ("dataloader.train",), "The clips that the model is trained on."),
    Section(
        "`dataloader.test`, `dataloader.evaluator`",
        ("dataloader.test", "dataloader.evaluator"),
        "The frames that it is evaluated on, and the metrics.",
    ),
)

INTRODUCTION = """\
# Config keys

The keys of a run: those of `configs_py/common/train.py`, of the optimizers and schedules, and of the data of CVA-BUS. A model's keys are
its own; so are those that a config adds. For any config, with its own values and with the line that set each of them:

    python tools/lazyconfig_train.py --config-file FILE --help-config
    python tools/lazyconfig_train.py --config-file FILE --help-config train.amp optimizer

After each key follow the value that the shipped file sets and the type. `→ train.seed` means that the key refers to another one, which is the one to override. *Also takes*
lists the arguments that the file does not write, with their defaults: add them with a plus, `+optimizer.eps=1e-6`.
"""


def run_config() -> Node:
    """The shipped parts of a run put together; the model stands for any other."""
    train, data = get_config("common/train.py"), get_config("common/data/cva_bus.py")
    parts = {name: train[name] for name in train} | {name: data[name] for name in data}
    parts["model"] = get_config("common/models/basicdet.py").model
    parts["optimizer"] = get_config("common/optim.py").AdamW
    parts["lr_multiplier"] = get_config("common/schedules.py").steps_60_80
    return Node(**parts)


def files() -> dict[str, str]:
    """The page, by path from ``docs/``."""
    return {"reference/config_keys.md": "\n".join([INTRODUCTION, *(_list(section) for section in SECTIONS)])}


def helps_of(section: Section) -> list[KeyHelp]:
    """The keys of a section; those that a later section has below one of these are left to it."""
    cfg: Any = run_config()
    if section.config is not None:
        key, file, name = section.config
        cfg[key] = get_config(file)[name]
    later = [
        p for other in SECTIONS[SECTIONS.index(section) + 1 :] for p in other.prefixes if p not in section.prefixes
    ]
    found = [each for prefix in section.prefixes for each in key_helps(cfg, prefix)]
    kept = [each for each in found if not any(_is_below(each.key, prefix) for prefix in later)]
    own = {each.key for each in kept if each.type == "dict" and each.key in section.prefixes}  # the heading says it
    return [_without_shared_comment(each, kept) for each in kept if each.key not in own]


def _without_shared_comment(each: KeyHelp, helps: list[KeyHelp]) -> KeyHelp:
    """A key without the comment of its line if an earlier key of that line has it."""
    first = next(other for other in helps if other.where == each.where)
    return each if first is each or not each.where else replace(each, comment="")


def _is_below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith((f"{prefix}.", f"{prefix}["))


def _list(section: Section) -> str:
    """A section: a list, for in a table the long keys would leave no room for what is said of them."""
    return "\n".join([f"## {section.title}", "", section.about, "", *(_entry(each) for each in helps_of(section)), ""])


def _entry(each: KeyHelp) -> str:
    facts = ", ".join(filter(None, [_value(each), _type(each.type)]))
    return f"- **`{each.key}`**{' ' if facts else ''}{facts}<br>{plain(described(each))}"


def _value(each: KeyHelp) -> str:
    """The value, short and without what differs from machine to machine."""
    text = each.value
    if match := re.match(r'ref\("([^"]+)"\)', text):
        return f"→ `{match[1]}`"
    text = text.partition(", which is ")[0]
    if text.endswith("(...)"):
        text = f"{text.removesuffix('(...)').rpartition('.')[2]}(...)"
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z]\w*\()", "", text)  # calls in a list
    return f"= `{text if len(text) <= 60 else text[:57] + '...'}`" if text else ""


def _type(text: str) -> str:
    """A type: names without their modules. Of a value that several arguments refer to, the type that allows least."""
    plain = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)
    narrowest = min(plain.split(" & "), key=lambda each: each.count(" | "))
    return f"`{narrowest}`" if narrowest else ""


def described(each: KeyHelp) -> str:
    """What a key does, as sentences: the comment in the file, its documentation, and what else a call takes."""
    sentences = [_sentence(text) for text in _told_once(each.comment, each.doc)]
    if each.also_takes:
        sentences.append(f"Also takes {', '.join(map(_argument, each.also_takes))}.")
    return " ".join(sentences)


def _told_once(*texts: str) -> list[str]:
    """The texts that are not empty; the first of two that have most words in common."""
    told = [text for text in texts if text]
    if len(told) < 2:
        return told
    words, others = (set(re.findall(r"\w{3,}", text.lower())) for text in told)
    return told[:1] if len(words & others) * 2 >= min(len(words), len(others)) else told


def _argument(text: str) -> str:
    name, _, rest = text.partition(":")
    default = rest.rpartition(" = ")[2] if " = " in rest else ""
    return f"`{name.partition(' = ')[0]}{f'={default}' if default else ''}`"


def _sentence(text: str) -> str:
    """A text with a capital letter and a full stop, unless it begins with code."""
    plain = text.strip()
    if not plain:
        return ""
    return f"{plain[0].upper()}{plain[1:]}".rstrip(".") + "."


def without_description(sections: Iterable[Section] = SECTIONS) -> list[str]:
    """The keys of which nothing is said."""
    return [each.key for section in sections for each in helps_of(section) if not (each.doc or each.comment)]
