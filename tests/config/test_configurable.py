"""Classes and functions that are called with a config or with explicit arguments."""

import inspect
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from ultravid.config import CfgNode, LazyCall, Node, check, configurable, instantiate


class Detector:
    @configurable
    def __init__(self, depth: int, width: int = 64, name: str = "") -> None:
        """The detector's own docstring."""
        self.depth, self.width, self.name = depth, width, name

    @classmethod
    def from_config(cls, cfg, name="default"):
        return {"depth": cfg.MODEL.DEPTH, "name": f"{cls.__name__} {name}"}


class Subclass(Detector):
    def __init__(self, cfg, *, extra):
        super().__init__(cfg, name="sub")
        self.extra = extra


class TakesEverything(Detector):
    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {"depth": cfg.MODEL.DEPTH, "width": kwargs["width"] + 1}


@configurable(from_config=lambda cfg, factor: {"lr": cfg.LR * factor})
def make_schedule(lr, steps=3):
    return lr, steps


def configs():
    content = {"MODEL": {"DEPTH": 18}, "LR": 0.5}
    return [CfgNode(content), Node(content), OmegaConf.create(content)]


@pytest.mark.parametrize("cfg", configs(), ids=lambda cfg: type(cfg).__name__)
def test_a_config_gives_the_arguments(cfg):
    made = Detector(cfg)
    assert (made.depth, made.width, made.name) == (18, 64, "Detector default")
    assert Detector(cfg=cfg).depth == 18
    made = Detector(cfg, width=32, name="own")  # one that from_config does not take, and one that it does
    assert (made.width, made.name) == (32, "Detector own")
    assert Detector(cfg, depth=50).depth == 50
    made = Subclass(cfg, extra=7)
    assert (made.name, made.extra) == ("Subclass sub", 7)
    assert TakesEverything(cfg, width=1).width == 2
    assert make_schedule(cfg, factor=2) == (1.0, 3)
    assert make_schedule(cfg, factor=2, steps=5) == (1.0, 5)


def test_explicit_arguments_are_passed_on():
    assert Detector(34).depth == Detector(depth=34).depth == 34
    assert Detector({"MODEL": 1}).depth == {"MODEL": 1}  # a plain dict is an argument like any other
    assert make_schedule(0.1) == (0.1, 3)


def test_signature_and_docstring_are_those_of_the_function():
    assert list(inspect.signature(Detector).parameters) == ["depth", "width", "name"]
    assert Detector.__init__.__doc__ == "The detector's own docstring."
    assert Detector.__init__.__annotations__["depth"] in (int, "int")
    assert callable(make_schedule.from_config)
    node = LazyCall(Detector)(depth=34, widht=3)
    assert [f.message for f in check(Node(model=node))] == [
        f"{Detector.__module__}.Detector takes no argument 'widht'. Did you mean 'width'?"
    ]
    assert instantiate(LazyCall(Detector)(depth=34)).depth == 34


def test_wrong_arguments_are_refused():
    cfg = configs()[0]
    with pytest.raises(TypeError, match="factor"):
        make_schedule(cfg)
    with pytest.raises(TypeError, match="positional"):
        Detector(cfg, "own", "too many")
    with pytest.raises(TypeError, match="not_there"):
        Detector(cfg, not_there=1)


def test_a_class_needs_a_classmethod_with_the_right_argument():
    class Without:
        @configurable
        def __init__(self, a=1): ...

    class Plain(Without):
        def from_config(self, cfg): ...

    class OtherName(Without):
        @classmethod
        def from_config(cls, config): ...

    with pytest.raises(AttributeError, match="Without has a @configurable __init__, so it needs a classmethod"):
        Without(a=1)
    with pytest.raises(TypeError, match=r"Plain\.from_config must be a classmethod"):
        Plain(a=1)
    with pytest.raises(TypeError, match=r"OtherName\.from_config must take 'cfg' as its first argument"):
        OtherName(configs()[0])
    assert OtherName(a=1) is not None


def test_the_decorator_says_how_it_is_used():
    with pytest.raises(TypeError, match="decorates an __init__"):
        configurable(make_schedule)
    with pytest.raises(TypeError, match="from_config is a function"):
        configurable(from_config=3)

    class Called:
        @configurable()
        def __init__(self, a=1):
            self.a = a

        @classmethod
        def from_config(cls, cfg):
            return {"a": cfg.LR}

    assert Called(configs()[0]).a == 0.5


def test_it_imports_no_other_config_library():
    code = (
        "import sys; from ultravid.config import configurable, Node\n"
        "f = configurable(from_config=lambda cfg: dict(a=cfg.b))(lambda a: a)\n"
        "assert f(Node(b=3)) == 3\n"
        "print(*(m for m in ('yacs', 'fvcore', 'omegaconf', 'iopath') if m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
