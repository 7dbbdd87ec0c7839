"""What users do wrong, and the one message that each gets, word for word."""

import pytest

from tests.conftest import load_tool
from ultravid.utils.tool import run_tool

CONFIG = """\
from collections import Counter
from ultravid.config import LazyCall as L, ref
from .parts import Model, Trainer

train = dict(max_iter=10, output_dir="out", device="cpu", seed=0, init_checkpoint="", scale=[1.0, 2.0])
model = L(Model)(depth=18, width=ref("train.scale[0]"))
dataloader = dict(test=L(Counter)(), evaluator=L(Counter)())
trainer = L(Trainer)(model=ref("model"), max_iter=ref("train.max_iter"))
"""
PARTS = """\
class Model:
    def __init__(self, depth: int, width: float = 1.0): ...

class Wide:
    def __init__(self, width: float = 1.0): ...

class Trainer:
    def __init__(self, model: Model, max_iter: int): ...
"""

# name: (files beside run.py and parts.py, or in their place; the command line's overrides; the message)
MISTAKES = {
    "a config file that is not there": (
        {},
        ["--config-file", "rnu.py"],
        "error: Config file rnu.py does not exist. Did you mean 'run.py'?\n",
    ),
    "a folder for a config file": (
        {},
        ["--config-file", "."],
        "error: Config file FOLDER is a folder. It has: parts.py, run.py.\n",
    ),
    "a run's folder for its config": (
        {"run/config.yaml": ""},
        ["--config-file", "run"],
        "error: Config file run is a folder. Did you mean 'run/config.yaml'?\n",
    ),
    "a config file of another kind": (
        {
            "run.json": "{}",
        },
        ["--config-file", "run.json"],
        "error: Config file run.json is neither .py nor .yaml.\n",
    ),
    "a syntax error": (
        {
            "run.py": CONFIG.replace("depth=18,", "depth=18", 1),
        },
        [],
        'error: run.py:6: syntax error: invalid syntax. Perhaps you forgot a comma?: model = L(Model)(depth=18 width=ref("train.scale[0]"))\n',
    ),
    "a name that is not defined": (
        {
            "run.py": CONFIG.replace("depth=18", "depth=DEPTH", 1),
        },
        [],
        (
            "error: run.py:6: NameError: name 'DEPTH' is not defined\n"
            '  File "run.py", line 6, in <module>\n'
            '    model = L(Model)(depth=DEPTH, width=ref("train.scale[0]"))\n'
            "                           ^^^^^\n"
        ),
    ),
    "a mistake in an imported file": (
        {
            "parts.py": PARTS + "\nsize = 1 / 0\n",
        },
        [],
        (
            "error: parts.py:10: ZeroDivisionError: division by zero\n"
            '  File "run.py", line 3, in <module>\n'
            "    from .parts import Model, Trainer\n"
            '  File "parts.py", line 10, in <module>\n'
            "    size = 1 / 0\n"
            "           ~~^~~\n"
        ),
    ),
    "a file to import that is not there": (
        {
            "run.py": CONFIG.replace(".parts", ".part", 1),
        },
        [],
        "error: run.py: the relative import from '.part' fails: part.py does not exist. Did you mean 'parts'?\n",
    ),
    "files that import each other": (
        {
            "parts.py": "from .run import model\n",
        },
        [],
        "error: parts.py:1: Config files import each other in a circle: run.py -> parts.py -> run.py (in FOLDER).\n",
    ),
    "a shipped config that is not there": (
        {
            "run.py": CONFIG.replace(
                '\ntrain = dict(max_iter=10, output_dir="out", device="cpu", seed=0, init_checkpoint="", scale=[1.0, 2.0])',
                '\nfrom ultravid.config import get_config\nbase = get_config(\'common/trian.py\')\ntrain = dict(max_iter=10, output_dir="out", device="cpu", seed=0, init_checkpoint="", scale=[1.0, 2.0])',
                1,
            ),
        },
        [],
        "error: run.py:6: No shipped config 'common/trian.py'. Did you mean 'common/train.py'?\n",
    ),
    "a mistyped key": (
        {},
        ["train.max_itr=5"],
        (
            "error: run.py: 1 fault\n"
            "  train.max_itr: Unknown key 'train.max_itr'. Did you mean 'train.max_iter'? To add a key, write '+train.max_itr=5'. (override 1: train.max_itr=5)\n"
        ),
    ),
    "a mistyped parent": (
        {},
        ["trian.max_iter=5"],
        (
            "error: run.py: 1 fault\n"
            "  trian.max_iter: Unknown key 'trian.max_iter': there is no 'trian'. Did you mean 'train.max_iter'? (override 1: trian.max_iter=5)\n"
        ),
    ),
    "a key below a value": (
        {},
        ["train.max_iter.x=5"],
        (
            "error: run.py: 1 fault\n"
            "  train.max_iter.x: Unknown key 'train.max_iter.x': 'train.max_iter' is 10, which has no keys. (override 1: train.max_iter.x=5)\n"
        ),
    ),
    "no value": (
        {},
        ["train.max_iter="],
        (
            "error: run.py: 1 fault\n"
            "  train.max_iter: 'train.max_iter=' has no value: write 'train.max_iter=VALUE'. (override 1: train.max_iter=)\n"
        ),
    ),
    "no equals sign": (
        {},
        ["train.max_iter"],
        (
            "error: run.py: 1 fault\n"
            "  train.max_iter: 'train.max_iter' sets nothing: write 'train.max_iter=VALUE', or '~train.max_iter' to delete the key. (override 1: train.max_iter)\n"
        ),
    ),
    "an override through a reference": (
        {},
        ["trainer.model.depth=50"],
        (
            "error: run.py: 1 fault\n"
            "  trainer.model.depth: 'trainer.model' is a reference to 'model', which owns the value: override 'model.depth'. (override 1: trainer.model.depth=50)\n"
        ),
    ),
    "a sweep": (
        {},
        ["train.max_iter=5,6"],
        (
            "error: run.py: 1 fault\n"
            "  train.max_iter: 'train.max_iter=5,6' is a sweep over several values; an override sets one. (override 1: train.max_iter=5,6)\n"
        ),
    ),
    "a bracket left open": (
        {},
        ["train.scale=[1,2"],
        (
            "error: run.py: 1 fault\n"
            "  train.scale: 'train.scale=[1,2' does not parse: it ends too early; is a bracket left open? (override 1: train.scale=[1,2)\n"
        ),
    ),
    "an index beyond the list": (
        {},
        ["train.scale[7]=1"],
        (
            "error: run.py: 1 fault\n"
            "  train.scale[7]: 'train.scale' has 2 items; there is no index 7. To append an item, write '+train.scale.2=1'. (override 1: train.scale[7]=1)\n"
        ),
    ),
    "a key added that is there": (
        {},
        ["+train.seed=1"],
        (
            "error: run.py: 1 fault\n"
            "  train.seed: 'train.seed' exists already; write 'train.seed=1' to set it or '++train.seed=1' to set or add it. (override 1: +train.seed=1)\n"
        ),
    ),
    "a key deleted that is not there": (
        {},
        ["~train.sed"],
        (
            "error: run.py: 1 fault\n"
            "  train.sed: Can't delete 'train.sed': there is no such key. Did you mean 'train.seed'? (override 1: ~train.sed)\n"
        ),
    ),
    "a key in a dict value": (
        {},
        ["train={max_itr: 5}"],
        (
            "error: run.py: 1 fault\n"
            "  train: Unknown key 'train.max_itr'. Did you mean 'train.max_iter'? (override 1: train={max_itr: 5})\n"
        ),
    ),
    "a word for a number": (
        {},
        ["train.max_iter=many"],
        (
            "error: run.py: 1 fault\n"
            "  train.max_iter: 'train.max_iter' is 10, an int; 'many' is text. parts.py:Trainer takes int for 'max_iter'. (override 1: train.max_iter=many)\n"
        ),
    ),
    "a number that is text in YAML": (
        {
            "run.yaml": "model: {_target_: parts.py:Model, depth: 1, width: 1e-3}\ndataloader: {test: 1, evaluator: 1}\ntrainer: {_target_: 'parts.py:Trainer', model: '${model}', max_iter: 1}\ntrain: {output_dir: x, device: cpu, seed: 0, init_checkpoint: ''}\n",
        },
        ["--config-file", "run.yaml"],
        (
            "error: run.yaml: 1 fault\n"
            "  model.width: is '1e-3', a str, but parts.py:Model takes float for 'width'. Did you mean 0.001, without quotes? (run.yaml:1)\n"
        ),
    ),
    "an object of the wrong class": (
        {
            "run.py": CONFIG.replace('"model"', '"dataloader.test"', 1),
        },
        [],
        (
            "error: run.py: 1 fault\n"
            "  dataloader.test: is a call of collections.Counter, but parts.py:Trainer takes parts.py:Model for 'model' (trainer.model refers to it). (run.py:7)\n"
        ),
    ),
    "an argument that is not taken": (
        {
            "run.py": CONFIG.replace("depth=18", "dept=18", 1),
        },
        [],
        (
            "error: run.py: 2 faults\n"
            "  model.dept: parts.py:Model takes no argument 'dept'. Did you mean 'depth'? (run.py:6)\n"
            "  model: parts.py:Model needs an argument 'depth' (run.py:6)\n"
        ),
    ),
    "a target that can't be imported": (
        {
            "run.py": CONFIG.replace(
                "dataloader = dict(test=L(Counter", "dataloader = dict(test=L('collections.Countr'", 1
            ),
        },
        [],
        (
            "error: run.py: 1 fault\n"
            "  dataloader.test: Target 'collections.Countr' can't be imported: 'collections' has no 'Countr'. Did you mean 'Counter'? (run.py:7)\n"
        ),
    ),
    "a target's module that fails": (
        {
            "broken.py": "import nothing_of_this_name\n",
            "run.py": CONFIG.replace("dataloader = dict(test=L(Counter", "dataloader = dict(test=L('broken.Thing'", 1),
        },
        [],
        (
            "error: run.py: 1 fault\n"
            "  dataloader.test: Target 'broken.Thing' can't be imported: ModuleNotFoundError: No module named 'nothing_of_this_name' (run.py:7)\n"
        ),
    ),
    "a reference that leads nowhere": (
        {
            "run.py": CONFIG.replace('"train.max_iter"', '"train.max_itr"', 1),
        },
        [],
        (
            "error: run.py: 1 fault\n"
            "  trainer.max_iter: Reference '${train.max_itr}' at 'trainer.max_iter' leads nowhere: there is no 'max_itr'. Did you mean 'train.max_iter'? (run.py:8)\n"
        ),
    ),
    "references in a circle": (
        {},
        ["train.max_iter=${train.seed}", "train.seed=${train.max_iter}"],
        (
            "error: run.py: 3 faults\n"
            "  train.max_iter: References lead in a circle: train.max_iter -> train.seed -> train.max_iter. (override 1: train.max_iter=${train.seed})\n"
            "  train.seed: References lead in a circle: train.seed -> train.max_iter -> train.seed. (override 2: train.seed=${train.max_iter})\n"
            "  trainer.max_iter: References lead in a circle: trainer.max_iter -> train.max_iter -> train.seed -> train.max_iter. (run.py:8)\n"
        ),
    ),
    "an object that needs itself": (
        {},
        ["+model.trainer=${trainer}"],
        (
            "error: run.py: 2 faults\n"
            "  model.trainer: parts.py:Model takes no argument 'trainer'. Known here: depth, width. (override 1: +model.trainer=${trainer})\n"
            "  model: needs itself to be built: model -> trainer -> model (run.py:6)\n"
        ),
    ),
    "a value that is still missing": (
        {
            "run.py": CONFIG.replace('output_dir="out"', 'output_dir="???"', 1),
        },
        [],
        ("error: run.py: 1 fault\n  train.output_dir: is still ???: give it a value (run.py:5)\n"),
    ),
    "an environment variable that is not set": (
        {
            "run.py": CONFIG.replace('output_dir="out"', 'output_dir="${oc.env:ULTRAVID_TEST_UNSET}"', 1),
        },
        [],
        (
            "error: run.py: 1 fault\n"
            "  train.output_dir: Environment variable 'ULTRAVID_TEST_UNSET', which 'train.output_dir' refers to, is not set. (run.py:5)\n"
        ),
    ),
    "a key that a run needs": (
        {
            "run.py": CONFIG.replace("trainer", "trainr", 1),
        },
        [],
        ("error: run.py: 1 fault\n  trainer: is missing, and a run needs it. Did you mean 'trainr'?\n"),
    ),
    "another target that takes less": (
        {},
        ["model._target_=parts.py:Wide"],
        (
            "error: run.py: 2 faults\n"
            "  model.depth: parts.py:Wide takes no argument 'depth'. Did you mean 'width'? It was meant for parts.py:Model; '~model.depth' removes it. (run.py:6)\n"
            "  model: is a call of parts.py:Wide, but parts.py:Trainer takes parts.py:Model for 'model' (trainer.model refers to it). (run.py:6)\n"
        ),
    ),
    "an object that a file does not have": (
        {},
        ["model=parts.py:Modle"],
        (
            "error: run.py: 1 fault\n"
            "  model: File parts.py has no 'Modle'. Did you mean 'Model'? (override 1: model=parts.py:Modle)\n"
        ),
    ),
    "a file of objects that is not there": (
        {},
        ["model=part.py:Model"],
        (
            "error: run.py: 1 fault\n"
            "  model: Config file part.py does not exist. Did you mean 'parts.py'? (override 1: model=part.py:Model)\n"
        ),
    ),
    "a key to explain that is not there": (
        {},
        ["--explain", "train.max_itr"],
        "error: Unknown key 'train.max_itr'. Did you mean 'train.max_iter'?\n",
    ),
    "a YAML file that is not YAML": (
        {
            "run.yaml": "a: [1\nb: 2\n",
        },
        ["--config-file", "run.yaml"],
        "error: run.yaml:2: is not YAML: did not find expected ',' or ']'\n",
    ),
    "code in YAML": (
        {
            "run.yaml": "a: !!python/object/apply:os.system [ls]\n",
        },
        ["--config-file", "run.yaml"],
        "error: run.yaml:1: is not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'\n",
    ),
    "two mistakes at once": (
        {},
        ["train.max_itr=5", "train.max_iter=many"],
        (
            "error: run.py: 2 faults\n"
            "  train.max_itr: Unknown key 'train.max_itr'. Did you mean 'train.max_iter'? To add a key, write '+train.max_itr=5'. (override 1: train.max_itr=5)\n"
            "  train.max_iter: 'train.max_iter' is 10, an int; 'many' is text. parts.py:Trainer takes int for 'max_iter'. (override 2: train.max_iter=many)\n"
        ),
    ),
    "a quote left open": (
        {},
        ["train.output_dir='abc"],
        (
            "error: run.py: 1 fault\n"
            '  train.output_dir: "train.output_dir=\'abc" does not parse: stuck at column 18, before "\'abc" (override 1: train.output_dir=\'abc)\n'
        ),
    ),
    "a misspelt argument that a class hands on to its base": (
        {
            "parts.py": PARTS
            + """
from typing import TypedDict, Unpack

class Arguments(TypedDict, total=False):
    organs: list[str]

class Family:
    def __init__(self, depth: int, **kwargs: Unpack[Arguments]): ...
""",
            "run.py": CONFIG.replace("Model, Trainer", "Family as Model, Trainer")
            .replace("width=", "organ=")
            .replace('L(Trainer)(model=ref("model"), ', "L(dict)("),
        },
        [],
        "error: run.py: 1 fault\n  model.organ: parts.py:Family takes no argument 'organ'. Did you mean 'organs'? (run.py:6)\n",
    ),
    "an unknown function": (
        {},
        ["train.seed=flot(3)"],
        (
            "error: run.py: 1 fault\n"
            "  train.seed: 'train.seed=flot(3)' does not parse: stuck at column 12, before 'flot(3)': Unknown function 'flot' (override 1: train.seed=flot(3))\n"
        ),
    ),
    "a comma too many": (
        {},
        ["train.scale=[1,,2]"],
        (
            "error: run.py: 1 fault\n"
            "  train.scale: 'train.scale=[1,,2]' does not parse: stuck at column 16, before ',2]' (override 1: train.scale=[1,,2])\n"
        ),
    ),
    "a text that does not fit a list of numbers": (
        {
            "run.py": CONFIG.replace('"train.scale[0]"', '"train.scale[1]"', 1),
        },
        ["train.scale.1=wide"],
        (
            "error: run.py: 1 fault\n"
            "  train.scale.1: 'train.scale.1' is 2.0, a float; 'wide' is text. parts.py:Model takes float for 'width'. (override 1: train.scale.1=wide)\n"
        ),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_message(name, tmp_path, monkeypatch, capsys):
    files, arguments, message = MISTAKES[name]
    for file, text in {"run.py": CONFIG, "parts.py": PARTS, **files}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ULTRAVID_TEST_UNSET", raising=False)
    config = [] if arguments[:1] == ["--config-file"] else ["--config-file", "run.py"]
    code = run_tool(load_tool("lazyconfig_train").main, [*config, "--check", *arguments])
    told = capsys.readouterr().err.replace(f"{tmp_path}/", "").replace(str(tmp_path), "FOLDER")
    assert (code, told) == (2, message)
