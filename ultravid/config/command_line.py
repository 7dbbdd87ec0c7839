"""The command line of the launcher, and the options that inspect a config without running it. Imports nothing of torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ultravid.config.check import load_checked
from ultravid.config.errors import ConfigError
from ultravid.config.everywhere import everywhere, is_everywhere
from ultravid.config.explain import explain_text
from ultravid.config.key_help import help_text
from ultravid.config.kinds import load_config
from ultravid.config.lazy import LazyConfig
from ultravid.config.loader import config_errors, importable_project
from ultravid.config.nodes import Node
from ultravid.config.overrides import apply_overrides
from ultravid.config.serialize import dump_yaml, resolved
from ultravid.config.synonyms import same_meaning
from ultravid.config.upgrade import upgrade
from ultravid.utils.text import quoted_for_shell, shell_argument
from ultravid.utils.tool import ToolParser

__all__ = [
    "default_argument_parser",
    "load_with_overrides",
    "print_code",
    "show_config",
    "split_keys",
    "yaml_argument_parser",
]


# Keys of the shipped configs, for options that other launchers have.
_KEYS_OF_OPTIONS = {
    **{name: f"train.{name}" for name in ("max_iter", "output_dir", "init_checkpoint", "eval_period", "log_period")},
    **{name: f"train.{name}" for name in ("seed", "device", "amp.enabled", "checkpointer.period", "deterministic")},
    **{name: f"optimizer.{name}" for name in ("lr", "weight_decay", "momentum")},
    **{name: f"dataloader.train.{name}" for name in ("total_batch_size", "num_workers")},
}


class _IntermixedParser(ToolParser):
    """A parser that accepts options after overrides too: ``train.max_iter=5 --resume``."""

    def hints(self, unknown: Sequence[str], known: Sequence[str]) -> list[str]:
        """See `ToolParser`; an option may also be a key with dashes before it."""
        found = []
        for text in unknown:
            name, equals, value = text.lstrip("-").partition("=")
            names = [name.replace("-", "_"), *same_meaning(name)]
            key = next((_KEYS_OF_OPTIONS[each] for each in names if each in _KEYS_OF_OPTIONS), "")
            if text.startswith("-") and ("." in name or key):
                right = f"{key or name}={value if equals and 'epoch' not in name else 'VALUE'}"
                unit = ", in iterations" if "epoch" in name else ""
                found.append(f"An override has no dashes: write {quoted_for_shell(right)}{unit}.")
            elif hints := super().hints([text], known):
                found += hints
            elif text.startswith("-") and equals:
                found.append("An override is KEY=VALUE, without dashes.")
        return list(dict.fromkeys(found))

    def error(self, message: str) -> NoReturn:
        """See `ToolParser`."""
        if message.endswith("are required: --config-file"):
            files = [text for text in sys.argv[1:] if text.endswith((".py", ".yaml", ".yml"))]
            message += f". Write --config-file {shell_argument(files[0])}." if files else ""
        super().error(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed = self.parse_intermixed_args(args, namespace)
        if getattr(parsed, "explain", None) is not None:  # what follows the keys may be overrides
            keys = [k for k in parsed.explain if k and "=" not in k and k[0] not in "+~"]
            parsed.opts = [*(o for o in parsed.explain if o not in keys), *parsed.opts]
            parsed.explain = keys
            if not keys:
                self.error("argument --explain: expected at least one key")
        if isinstance(getattr(parsed, "help_config", None), list):
            prefixes = [k for k in parsed.help_config if k and "=" not in k and k[0] not in "+~"]
            parsed.opts = [*(o for o in parsed.help_config if o not in prefixes), *parsed.opts]
            parsed.help_config = prefixes
        if getattr(parsed, "quick", False) and (parsed.resume or parsed.eval_only):
            self.error("argument --quick: not allowed with --resume or --eval-only, it does both")
        if getattr(parsed, "resolve", False) or getattr(parsed, "format", None):
            parsed.print = True
        return parsed


def default_argument_parser(
    epilog: str | None = None, *, quick: bool = False, identity: bool = False
) -> argparse.ArgumentParser:
    """The arguments of a training launcher.

    Args:
        epilog: what follows in the help; None: examples.
        quick: whether the launcher offers ``--quick``, as `ultravid.engine.quick` does it.
        identity: whether the launcher offers ``--identity``, which `ultravid.config.identity.check_identity` checks.
    """
    parser = _IntermixedParser(
        allow_abbrev=False,
        epilog=epilog
        or f"""
Examples:
  train:           {sys.argv[0]} --config-file projects/basicdet/configs/phantom.py
  change values:   {sys.argv[0]} --config-file ... optimizer.lr=1e-4 train.max_iter=2000
  inspect:         {sys.argv[0]} --config-file ... --print; ... --explain train.max_iter; ... --check
  what keys mean:  {sys.argv[0]} --config-file ... --help-config dataloader.train
  resume:          {sys.argv[0]} --config-file ... --resume
  evaluate:        {sys.argv[0]} --config-file ... --eval-only train.init_checkpoint=outputs/x/model_final.pth
  two processes:   {sys.argv[0]} --config-file ... --num-gpus 2
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_run_arguments(parser, "a config, .py or .yaml", weights="train.init_checkpoint", output_dir="train.output_dir")
    if identity:
        parser.add_argument(
            "--identity",
            metavar="HASH",
            help="refuse to run unless the config has this identity (used by tools/experiment.py)",
        )
    if quick:
        parser.add_argument(
            "--quick",
            action="store_true",
            help="try the config instead of running it: a few iterations, a few test videos and every hook, in train.output_dir/quick; "
            "reports whether the run works, and how much time, memory and disk it needs",
        )
    inspect = parser.add_argument_group("inspect the config instead of running it")
    inspect.add_argument(
        "--check", action="store_true", help="check the config and the overrides, and report all errors"
    )
    inspect.add_argument("--print", action="store_true", help="print the config with the overrides applied")
    inspect.add_argument(
        "--format", choices=("py", "yaml"), help="format of --print: Python-like code (default) or YAML"
    )
    inspect.add_argument("--resolve", action="store_true", help="with --print: replace references by their values")
    inspect.add_argument("--explain", nargs="+", metavar="KEY", help="print every place that set these keys, in order")
    inspect.add_argument(
        "--help-config",
        nargs="*",
        metavar="KEY",
        help="print each key with its type, value, default, documentation and origin; with KEY, only the keys below it",
    )
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="key=value",
        help="overrides: key=value, +key=value, ++key=value, ~key, '**.key=value' (every key of this name), key=file.py:NAME",
    )
    return parser


def split_keys(text: str) -> list[str]:
    """The keys of an option such as ``--allow-change a,b``."""
    return [key.strip() for key in text.split(",") if key.strip()]


def yaml_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The arguments of a launcher that reads a `CfgNode`."""
    parser = _IntermixedParser(
        allow_abbrev=False,
        epilog=epilog
        or f"""
Examples:
  train:           {sys.argv[0]} --config-file projects/basicdet/configs/phantom.yaml
  change values:   {sys.argv[0]} --config-file ... SOLVER.BASE_LR 1e-4 SOLVER.MAX_ITER 2000
  resume:          {sys.argv[0]} --config-file ... --resume
  evaluate:        {sys.argv[0]} --config-file ... --eval-only MODEL.WEIGHTS outputs/x/model_final.pth
  two processes:   {sys.argv[0]} --config-file ... --num-gpus 2
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_run_arguments(parser, "a config, .yaml", weights="MODEL.WEIGHTS", output_dir="OUTPUT_DIR")
    parser.add_argument(
        "--help-config",
        nargs="?",
        const="",
        metavar="KEY",
        help="print each key with its type, value, default and comment, instead of running; with KEY, only those that begin with it",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="pairs that change values of the config")
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser, config: str, *, weights: str, output_dir: str) -> None:
    """The arguments of every launcher; ``weights`` and ``output_dir`` are the keys of its configs for these."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help=config)
    parser.add_argument(
        "--eval-only", action="store_true", help=f"evaluate {weights}; with --resume, the last checkpoint"
    )
    parser.add_argument("--resume", action="store_true", help=f"resume from the last checkpoint in {output_dir}")
    parser.add_argument(
        "--allow-change",
        type=split_keys,
        action="extend",
        default=[],
        metavar="KEY,...",
        help="with --resume: keys whose values may differ from those that the run started with",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="processes on this machine, one per GPU (without CUDA they share the CPU)",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="address at which the processes meet, tcp://host:port; auto: a free local port",
    )


def load_with_overrides(config_file: str, overrides: Sequence[str] = ()) -> Node:
    """Read a config and apply overrides, without a check.

    Raises:
        ConfigError: the file, its code, or an override is wrong.
    """
    with config_errors():
        cfg = load_config(config_file)
        upgrade(cfg)
        return apply_overrides(cfg, overrides)


def show_config(args: argparse.Namespace, required: Sequence[str] = (), objects: Sequence[str] = ()) -> bool:
    """Answer ``--print``, ``--explain``, ``--help-config`` and ``--check``; False if none of them is given.

    Args:
        args: the arguments of `default_argument_parser`.
        required: keys that a run needs, for ``--check``.
        objects: those of them that must describe an object.

    Raises:
        ConfigError: there is no such key, the config can't be printed, or the check finds a fault.
    """
    help_config = getattr(args, "help_config", None)
    if not (args.print or args.explain or args.check or help_config is not None):
        return False
    with importable_project(args.config_file):
        if args.print or args.explain or help_config is not None:
            cfg = load_with_overrides(args.config_file, args.opts)
            _explain(cfg, args.explain or ())
            for prefix in [""] if help_config == [] else help_config or ():
                print_code(help_text(cfg, prefix), "text")
            if args.print:
                cfg = resolved(cfg) if args.resolve else cfg
                language = args.format or "py"
                print_code(dump_yaml(cfg) if language == "yaml" else LazyConfig.to_py(cfg), language)
        if args.check:
            load_checked(args.config_file, args.opts, required=required, objects=objects)
            print(f"{args.config_file}: no faults found.")  # noqa: T201
    return True


def _explain(cfg: Node, keys: Sequence[str]) -> None:
    """Explain every key that exists, then report those that don't; ``**.key`` means the key wherever it stands."""
    unknown = []
    for key in keys:
        try:
            found = everywhere(cfg, key) if is_everywhere(key) else None
            for place in [key] if found is None else [*found.values, *found.references]:
                print_code(explain_text(cfg, place), "text")
        except ConfigError as error:
            unknown.append(str(error))
    if unknown:
        raise ConfigError("\n".join(unknown))


def print_code(text: str, language: str) -> None:
    """Print text, with colours on a terminal."""
    if not sys.stdout.isatty() or language == "text":
        print(text.rstrip("\n"))  # noqa: T201
        return
    from rich.console import Console
    from rich.syntax import Syntax

    lexer = {"py": "python"}.get(language, language)
    Console().print(Syntax(text.rstrip("\n"), lexer, background_color="default", word_wrap=True))
