#!/usr/bin/env python
"""The cost of configs: ultravid's nodes compared with OmegaConf (as detectron2 uses it), hydra-zen and Fiddle.

    python benchmarks/config.py [--nodes 50 500 5000] [--repeats 5]

Every system gets the same description: a tree of calls, five children each, with three plain arguments. A row is one thing
that a run does with it, in CPU milliseconds (median over the repeats) for ultravid and as multiples of those for the others.
hydra's own `instantiate` builds the OmegaConf config. Systems that are not installed are skipped (``pip install -e
.[bench]``). Ours records where every value was set, and its check compares names and types; the others do neither.
"""

import argparse
import copy
import gc
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BRANCHES = 5
NUM_OVERRIDES = 20


class Block:
    """What the calls build."""

    def __init__(self, name: str, width: int, rate: float = 0.1, children: Sequence[Any] = ()) -> None:
        self.name, self.width, self.rate, self.children = name, width, rate, children


def tree_text(num_nodes: int, branches: int = BRANCHES) -> str:
    """An expression of nested calls ``L(Block)(...)``, ``num_nodes`` of them."""
    children: dict[int, list[int]] = {}
    for index in range(1, num_nodes):
        children.setdefault((index - 1) // branches, []).append(index)

    def text(index: int) -> str:
        inner = ", ".join(text(c) for c in children.get(index, ()))
        return f"L(Block)(name='b{index}', width={index}, rate=0.5, children=[{inner}])"

    return text(0)


def override_paths(num_nodes: int) -> list[list[int]]:
    """Ways from the root to 20 nodes, as indices of children."""
    paths = []
    for number in range(NUM_OVERRIDES):
        index, path = 1 + number * (num_nodes - 2) // NUM_OVERRIDES, []
        while index > 0:
            path.append((index - 1) % BRANCHES)
            index = (index - 1) // BRANCHES
        paths.append(path[::-1])
    return paths


def keys(num_nodes: int, index: str = "[{}]") -> list[str]:
    """Full keys of a value in each of those nodes."""
    return [
        "model." + "".join(f"children{index.format(i)}." for i in path) + "width" for path in override_paths(num_nodes)
    ]


class Ours:
    name = "ultravid"

    def __init__(self, num_nodes: int, text: str, folder: Path) -> None:
        self.file, self.saved = folder / "ours.py", folder / "ours.yaml"
        head = "from ultravid.config import LazyCall as L\nfrom benchmarks.config import Block\n"
        self.file.write_text(f"{head}model = {text}\n")
        self.overrides = [f"{key}={7 + i}" for i, key in enumerate(keys(num_nodes))]

    def load(self) -> Any:
        from ultravid.config import LazyConfig

        return LazyConfig.load(self.file)

    def override(self, cfg: Any) -> Any:
        from ultravid.config import LazyConfig

        return LazyConfig.apply_overrides(cfg, self.overrides)

    def check(self, cfg: Any) -> Any:
        from ultravid.config import check

        assert check(cfg) == []

    def instantiate(self, cfg: Any) -> Any:
        from ultravid.config import instantiate

        return instantiate(cfg.model)

    def save_and_reload(self, cfg: Any) -> Any:
        from ultravid.config import LazyConfig

        LazyConfig.save(cfg, self.saved)
        return LazyConfig.load(self.saved)

    def deepcopy(self, cfg: Any) -> Any:
        return copy.deepcopy(cfg)


class WithOmegaConf:
    """OmegaConf with nodes made as detectron2's LazyCall makes them."""

    name = "OmegaConf"
    check = None

    def __init__(self, num_nodes: int, text: str, folder: Path) -> None:
        self.text = text
        self.saved = folder / "omegaconf.yaml"
        self.overrides = [f"{key}={7 + i}" for i, key in enumerate(keys(num_nodes, ".{}"))]

    def load(self) -> Any:
        from omegaconf import DictConfig, OmegaConf

        def lazy_call(target: Any) -> Callable[..., Any]:
            def call(**kwargs: Any) -> Any:
                kwargs["_target_"] = target
                return DictConfig(content=kwargs, flags={"allow_objects": True})

            return call

        model = eval(self.text, {"L": lazy_call, "Block": f"{Block.__module__}.Block"})
        return OmegaConf.create({"model": model}, flags={"allow_objects": True})

    def override(self, cfg: Any) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        for override in OverridesParser.create().parse_overrides(self.overrides):
            OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        return cfg

    def instantiate(self, cfg: Any) -> Any:
        from hydra.utils import instantiate

        return instantiate(cfg.model)

    def save_and_reload(self, cfg: Any) -> Any:
        from omegaconf import OmegaConf

        OmegaConf.save(cfg, self.saved)
        return OmegaConf.load(self.saved)

    def deepcopy(self, cfg: Any) -> Any:
        return copy.deepcopy(cfg)


class WithHydraZen(WithOmegaConf):
    name = "hydra-zen"

    def __init__(self, num_nodes: int, text: str, folder: Path) -> None:
        super().__init__(num_nodes, text, folder)
        self.saved = folder / "zen.yaml"

    def load(self) -> Any:
        from hydra_zen import builds as zen_builds
        from hydra_zen import make_config
        from omegaconf import OmegaConf

        model = eval(self.text, {"L": lambda target: lambda **kwargs: zen_builds(target, **kwargs)(), "Block": Block})
        return OmegaConf.structured(make_config(model=model))

    def instantiate(self, cfg: Any) -> Any:
        from hydra_zen import instantiate

        return instantiate(cfg.model)

    def save_and_reload(self, cfg: Any) -> Any:
        from hydra_zen import load_from_yaml, save_as_yaml

        save_as_yaml(cfg, self.saved)
        return load_from_yaml(self.saved)


class WithFiddle:
    name = "Fiddle"
    check = None

    def __init__(self, num_nodes: int, text: str, folder: Path) -> None:
        self.text = text
        self.saved = folder / "fiddle.json"
        self.overrides = [f"{key.removeprefix('model.')}={7 + i}" for i, key in enumerate(keys(num_nodes))]

    def load(self) -> Any:
        import fiddle

        return eval(self.text, {"L": lambda target: lambda **kwargs: fiddle.Config(target, **kwargs), "Block": Block})

    def override(self, cfg: Any) -> Any:
        from fiddle._src.absl_flags.utils import set_value  # what its command line calls

        for override in self.overrides:
            set_value(cfg, override)
        return cfg

    def instantiate(self, cfg: Any) -> Any:
        import fiddle

        return fiddle.build(cfg)

    def save_and_reload(self, cfg: Any) -> Any:
        from fiddle.experimental import serialization

        self.saved.write_text(serialization.dump_json(cfg))
        return serialization.load_json(self.saved.read_text())

    def deepcopy(self, cfg: Any) -> Any:
        return copy.deepcopy(cfg)


def installed() -> list[Any]:
    needs = {Ours: "ultravid", WithOmegaConf: "hydra", WithHydraZen: "hydra_zen", WithFiddle: "etils"}
    return [system for system, module in needs.items() if importlib.util.find_spec(module) is not None]


def cpu_ms(actions: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median CPU milliseconds of each action, after one warm-up call; the actions take turns."""
    for action in actions:
        action()
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, taken in zip(actions, times, strict=True):
            gc.collect()
            start = time.process_time()
            action()
            taken.append(time.process_time() - start)
    return [1000 * statistics.median(taken) for taken in times]


ROWS = ("load", "override", "check", "instantiate", "save_and_reload", "deepcopy")


def measure(systems: Sequence[Any], num_nodes: int, repeats: int, folder: Path) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each row, by system; a system without that operation is missing."""
    made = [system(num_nodes, tree_text(num_nodes), folder) for system in systems]
    configs = {system.name: system.load() for system in made}
    results = {}
    for row in ROWS:
        able = [system for system in made if getattr(system, row) is not None]
        if row == "load":
            actions = [system.load for system in able]
        else:
            actions = [partial(getattr(system, row), configs[system.name]) for system in able]
        results[row] = dict(zip([s.name for s in able], cpu_ms(actions, repeats), strict=True))
    return results


def measure_depth(depth: int, repeats: int, folder: Path) -> dict[str, float]:
    """Our CPU microseconds a node for chains of nested calls, about 400 nodes in all."""
    chain = "L(Block)(name='b', width=1)"
    for _ in range(depth - 1):
        chain = f"L(Block)(name='b', width=1, children=[{chain}])"
    number = max(1, 400 // depth)
    made = Ours(BRANCHES + 2, f"L(Block)(name='all', width=1, children=[{', '.join([chain] * number)}])", folder)
    cfg = made.load()
    rows = [row for row in ROWS if row != "override"]
    actions = [made.load if row == "load" else partial(getattr(made, row), cfg) for row in rows]
    return {row: 1000 * ms / (depth * number) for row, ms in zip(rows, cpu_ms(actions, repeats), strict=True)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 40, 80])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    sys.setrecursionlimit(10_000)  # the others need it for deep trees
    console = Console(width=120)
    systems = installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = Table(title=f"CPU ms of ultravid, and the others as multiples of it (median of {args.repeats})")
        table.add_column("")
        for system in systems:
            table.add_column(system.name, justify="right")
        per_node = {}
        for num_nodes in args.nodes:
            table.add_section()
            results = measure(systems, num_nodes, args.repeats, folder)
            per_node[num_nodes] = {row: 1000 * by_name[Ours.name] / num_nodes for row, by_name in results.items()}
            for row, by_name in results.items():
                ours = by_name[Ours.name]
                cells = [f"{by_name[s.name] / ours:.1f} x" if s.name in by_name else "-" for s in systems[1:]]
                label = row.replace("_", " ").replace("override", f"{NUM_OVERRIDES} overrides")
                table.add_row(f"{num_nodes} nodes: {label}", f"{ours:.2f}", *cells)
        console.print(table)
        console.print("ultravid, microseconds a node:")
        for num_nodes, rows in per_node.items():
            console.print(f"  {num_nodes:5d} nodes  " + "  ".join(f"{row} {us:.1f}" for row, us in rows.items()))
        for depth in args.depths:
            rows = measure_depth(depth, args.repeats, folder)
            console.print(f"  {depth:5d} deep   " + "  ".join(f"{row} {us:.1f}" for row, us in rows.items()))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.config import main as imported_main  # so that Block has one name, here and in the configs

    sys.exit(imported_main())
