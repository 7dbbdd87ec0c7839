"""The pages of the API reference: one for each public package, with one directive of mkdocstrings for each name of its ``__all__``.

A directive for each name, as builders leave out names without a word if they are only members of a page's module: a function that
is called like its module, and what another library defines. The names are read from the source and nothing is imported, so that
this runs where torch is not installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["FROM_ELSEWHERE", "PublicName", "files", "public_modules", "public_names"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "reference/api"

FROM_ELSEWHERE = {
    "fvcore.common.checkpoint.Checkpointer": '(model, save_dir="", *, save_to_disk=True, **checkpointables)',
    "fvcore.common.checkpoint.PeriodicCheckpointer": '(checkpointer, period, max_iter=None, max_to_keep=None, file_prefix="model")',
    "fvcore.common.registry.Registry": "(name)",
    "iopath.common.file_io.PathHandler": "(async_executor=None)",
    "torch.nn.BatchNorm2d": "(num_features, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, device=None, dtype=None)",
    "torch.nn.ConvTranspose2d": "(in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True, "
    'dilation=1, padding_mode="zeros", device=None, dtype=None)',
    "torch.nn.Linear": "(in_features, out_features, bias=True, device=None, dtype=None)",
    "torch.nn.functional.interpolate": '(input, size=None, scale_factor=None, mode="nearest", align_corners=None, '
    "recompute_scale_factor=None, antialias=False)",
    "torchvision.ops.nms": "(boxes, scores, iou_threshold)",
    "torchvision.ops.roi_align": "(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False)",
}
"""Signatures of names that other libraries define, whose source is not there when the site is built."""


@dataclass(frozen=True)
class PublicName:
    """A name of a module's ``__all__``.

    Attributes:
        module: the module that lists it; a reader imports the name from there.
        name: the name.
        home: the module that defines it.
    """

    module: str
    name: str
    home: str

    @property
    def path(self) -> str:
        """Where a reader imports it from."""
        return f"{self.module}.{self.name}"

    @property
    def is_from_elsewhere(self) -> bool:
        """Whether another library defines it."""
        return self.home.split(".")[0] != "ultravid"

    @property
    def is_module(self) -> bool:
        """Whether it is a module itself, as `hooks` of `ultravid.engine`."""
        return self.home == self.path and self.name not in listed_names(self.home)


def files() -> dict[str, str]:
    """The pages by path from ``docs/``."""
    pages = {f"{FOLDER}/{module}.md": "\n".join(page(module)) for module in public_modules()}
    return {f"{FOLDER}/index.md": index(), **pages}


def index() -> str:
    """The page that lists the others."""
    lines = [
        "# API",
        "",
        "Each page documents the public names of one package or module, those of its `__all__`: signature, what it does, shapes, units and",
        "errors. Import a name from the module that its page is called after. Whatever is not listed here may change without notice.",
        "",
        "| module | content |",
        "|---|---|",
    ]
    rows = [f"| [`{module}`]({module}.md) | {first_sentence(module)} |" for module in public_modules()]
    return "\n".join([*lines, *rows, ""])


def page(module: str) -> Iterator[str]:
    """The lines of a module's page."""
    yield f"# {module}\n\n::: {module}\n    options:\n      members: false\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    for public in public_names(module):
        yield from entry(public)
        yield ""


def entry(public: PublicName) -> Iterator[str]:
    """The lines of one name."""
    if public.is_module:
        yield from (f"## {public.name}", "", f"A module of its own: [`{public.path}`]({public.path}.md).")
    elif public.is_from_elsewhere:
        origin = f"{public.home}.{public.name}"
        yield f'<a id="{public.path}"></a>\n\n## {public.name}\n\n```python'
        yield from (broken(f"{public.name}{FROM_ELSEWHERE[origin]}"), "```", "")
        yield f"This is `{origin}`, which its own documentation describes."
    elif source_of(public.path).is_file():  # a module has the same name, and hides it
        yield from (f'<a id="{public.path}"></a>', "", f"::: {public.home}.{public.name}", "    options:")
        yield from (f"      heading: {public.name}", f"      toc_label: {public.name}")
    else:
        yield f"::: {public.path}"


def broken(call: str) -> str:
    """A call on several lines if it is longer than one, for the width of a page."""
    if len(call) <= 88:
        return call
    name, _, arguments = call.removesuffix(")").partition("(")
    return "\n    ".join([f"{name}(", *(f"{argument}," for argument in arguments.split(", "))]) + "\n)"


@cache
def public_modules() -> list[str]:
    """The modules that have a page, in alphabetical order: packages that have ``__all__``, and all of ``ultravid.utils``."""
    package = ROOT / "ultravid"
    found = [file.parent for file in package.rglob("__init__.py")] + [
        file.with_suffix("") for file in (package / "utils").glob("*.py") if file.stem != "__init__"
    ]
    names = sorted(".".join(path.relative_to(ROOT).parts) for path in found)
    return [name for name in names if listed_names(name)]


def public_names(module: str) -> list[PublicName]:
    """The names of a module's ``__all__`` in alphabetical order, upper and lower case alike."""
    return [PublicName(module, name, home_of(module, name)) for name in sorted(listed_names(module), key=str.lower)]


def home_of(module: str, name: str) -> str:
    """The module that defines a name, found along the imports; the module of that name itself if that is what is imported."""
    if name not in imports_of(module):
        return module
    origin, original = imports_of(module)[name]
    if origin == module:
        return f"{module}.{original}"
    return home_of(origin, original) if origin.split(".")[0] == "ultravid" else origin


def definition_of(public: PublicName) -> ast.stmt:
    """The statement that defines a name: a function, a class or an assignment; the last one of several overloads."""
    return public_statement(public)[0]


def docstring_of(public: PublicName) -> str:
    """The docstring of a name: of a variable, the string that follows it; "" if it has none."""
    node, following = public_statement(public)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return ast.get_docstring(node) or ""
    is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
    return str(following.value.value) if is_text else ""


def public_statement(public: PublicName) -> tuple[ast.stmt, ast.stmt | None]:
    """The statement that defines a name, and the one after it."""
    tree = parsed(public.home)
    inner = [child for node in tree.body if isinstance(node, ast.If) for child in node.body]
    body = [*tree.body, *inner]
    for node, following in reversed(list(zip(body, [*body[1:], None], strict=True))):
        if public.name in defined_names(node):
            return node, following
    raise LookupError(f"{public.home} lists {public.name} in __all__ and does not define it")


def defined_names(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def source_of(module: str) -> Path:
    """The file of a module; it does not exist if there is no such module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def parsed(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def listed_names(module: str) -> list[str]:
    """What ``__all__`` of a module lists; nothing if it has none."""
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []


def imports_of(module: str) -> dict[str, tuple[str, str]]:
    """For each name that a module imports from another one, also for type checkers alone: the other module, and the name there."""
    body = parsed(module).body
    inner = [child for node in body if isinstance(node, ast.If) for child in node.body]
    found: dict[str, tuple[str, str]] = {}
    for node in [*body, *inner]:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return found


def first_sentence(module: str) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    paragraph = (ast.get_docstring(parsed(module)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).partition(". ")[0].removesuffix(".").replace("|", "\\|")
