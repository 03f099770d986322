# SPDX-License-Identifier: Apache-2.0
"""A measured pair, its target, and how both are printed. Owns no measuring."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

T = TypeVar("T")


class Target(NamedTuple):
    """What is wanted of oakum's figure over the peer's, or of oakum's figure alone (`absolute`)."""

    limit: float
    at_least: bool = False
    absolute: bool = False

    def met(self, figure: Figure) -> bool | None:
        value = figure.ours if self.absolute else figure.ratio
        if value is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{'' if self.absolute else ' x'}"


class Figure(NamedTuple):
    """One row: `ours` and `theirs` in `unit`, medians of `samples` runs each; spreads are quartile ranges."""

    what: str
    unit: str
    ours: float
    theirs: float | None = None
    target: Target | None = None
    samples: int = 0
    our_spread: float = 0.0
    their_spread: float = 0.0

    @property
    def ratio(self) -> float | None:
        return self.ours / self.theirs if self.theirs else None

    def to_dict(self) -> dict[str, Any]:
        met = self.target.met(self) if self.target else None
        return {**self._asdict(), "ratio": self.ratio, "target": str(self.target or ""), "met": met}


def of_samples(
    what: str,
    unit: str,
    samples: Mapping[str, Sequence[float]],
    target: Target | None = None,
) -> Figure:
    """The figure of the samples under "oakum" and (where there is one) the only other name."""
    ours = samples["oakum"]
    theirs = next((s for name, s in samples.items() if name != "oakum"), None)
    return Figure(
        what,
        unit,
        statistics.median(ours),
        statistics.median(theirs) if theirs else None,
        target,
        len(ours),
        _spread(ours),
        _spread(theirs) if theirs else 0.0,
    )


def _spread(samples: Sequence[float]) -> float:
    if len(samples) < 4:
        return max(samples) - min(samples)
    quarters = statistics.quantiles(samples, n=4)
    return quarters[2] - quarters[0]


def in_turn(
    rounds: int, sides: Mapping[str, Callable[[], Mapping[str, float]]], *, warm_up: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Run each side `rounds` times, in turn and in alternating order; the samples as step → side → values.

    Each side returns the duration of its steps; the first `warm_up` rounds are thrown away.
    """
    found: dict[str, dict[str, list[float]]] = {}
    names = list(sides)
    for turn in range(warm_up + rounds):
        for name in names if turn % 2 else reversed(names):
            steps = sides[name]()
            if turn >= warm_up:
                for step, value in steps.items():
                    found.setdefault(step, {}).setdefault(name, []).append(value)
    return found


class Stopwatch:
    """Collects how long named steps take, in milliseconds."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._began = time.perf_counter()

    def step(self, name: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = call()
        self.steps[name] = (time.perf_counter() - began) * 1e3
        return result

    def since_start(self, name: str) -> None:
        self.steps[name] = (time.perf_counter() - self._began) * 1e3


def show(title: str, peer: str, figures: Sequence[Figure], console: Console) -> None:
    """Print the figures of one benchmark as a table."""
    table = Table(title=title, title_justify="left")
    for name in ("", "oakum", peer, "ratio", "target", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for f in figures:
        met = f.target.met(f) if f.target else None
        table.add_row(
            f"{f.what}, {f.unit}",
            _value(f.ours, f.our_spread),
            _value(f.theirs, f.their_spread),
            "" if f.ratio is None else f"{f.ratio:.3f}",
            str(f.target or ""),
            {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[met],
        )
    console.print(table)


def _value(value: float | None, spread: float) -> str:
    if value is None:
        return ""
    digits = 1 if value >= 100 else 2
    return f"{value:.{digits}f} [dim]± {spread / 2:.{digits}f}[/]" if spread else f"{value:.{digits}f}"
