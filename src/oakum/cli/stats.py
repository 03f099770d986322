# SPDX-License-Identifier: Apache-2.0
"""`oakum stats`: what containers use, once or as it changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import text
from oakum.cli.complete import complete_container
from oakum.cli.lazy import TeachingCommand
from oakum.cli.output import (
    Column,
    aligned,
    format_option,
    no_trunc_option,
    rich_table,
    write_json,
    write_table,
)
from oakum.cli.session import Session, pass_session
from oakum.cli.signals import SignalQueue

if TYPE_CHECKING:
    from oakum.backend.status import ContainerStats, InterfaceUsage
    from oakum.engine.namespace import Namespace

_COLUMNS: Final = (
    Column("ID", keep=True),
    Column("NAME"),
    Column("CPU %", right=True, keep=True),
    Column("MEMORY", right=True),
    Column("LIMIT", right=True),
    Column("NET RX/TX", right=True),
    Column("IO R/W", right=True),
    Column("PIDS", right=True),
)
_FIRST_INTERVAL_S: Final = 0.5
_INTERVAL_S: Final = 1.0


def cpu_percent(before: ContainerStats | None, after: ContainerStats) -> float | None:
    """Processor use between two samples, 100 for one processor; None without two."""
    if before is None or before.cpu is None or after.cpu is None:
        return None
    span = after.cpu.timestamp_ns - before.cpu.timestamp_ns
    used = after.cpu.usage_core_ns - before.cpu.usage_core_ns
    return 100.0 * used / span if span > 0 and used >= 0 else None


def stats_row(
    stats: ContainerStats, cpu: float | None, interfaces: Sequence[InterfaceUsage]
) -> dict[str, Any]:
    """The statistics as `stats --format json` writes them."""
    memory, io = stats.memory, stats.io
    return {
        "id": stats.id,
        "name": stats.config.metadata.name,
        "cpu_percent": None if cpu is None else round(cpu, 2),
        "cpu_ns": stats.cpu.usage_core_ns if stats.cpu else None,
        "memory_bytes": memory.working_set_bytes if memory else None,
        "memory_rss_bytes": memory.rss_bytes if memory else None,
        "memory_limit_bytes": memory.limit_bytes if memory else None,
        "swap_bytes": stats.swap.usage_bytes if stats.swap else None,
        "network_rx_bytes": sum(i.rx_bytes for i in interfaces),
        "network_tx_bytes": sum(i.tx_bytes for i in interfaces),
        "io_read_bytes": io.read_bytes if io else None,
        "io_write_bytes": io.write_bytes if io else None,
        "pids": stats.pids,
    }


def _cells(row: dict[str, Any], *, full: bool) -> tuple[str, ...]:
    def memory(value: int | None) -> str:
        return "-" if value is None else text.human_memory(value)

    def traffic(inward: int | None, outward: int | None) -> str:
        if inward is None or outward is None:
            return "-"
        return f"{text.human_size(inward)}/{text.human_size(outward)}"

    return (
        row["id"] if full else text.short_id(row["id"]),
        row["name"],
        "-" if row["cpu_percent"] is None else f"{row['cpu_percent']:.2f}",
        memory(row["memory_bytes"]),
        memory(row["memory_limit_bytes"]),
        traffic(row["network_rx_bytes"], row["network_tx_bytes"]),
        traffic(row["io_read_bytes"], row["io_write_bytes"]),
        str(row["pids"]),
    )


class _Sampler:
    """Takes samples of the wanted containers and remembers the one before."""

    def __init__(self, namespace: Namespace, names: tuple[str, ...]) -> None:
        self._namespace = namespace
        self._ids = [namespace.find_container(name).id for name in names]
        self._before: dict[str, ContainerStats] = {}

    def rows(self) -> list[dict[str, Any]]:
        """A row for every container, with the processor use since the sample before."""
        sandboxes = {sandbox.id: sandbox for sandbox in self._namespace.list_sandbox_stats()}
        owners = {c.id: sandbox for sandbox in sandboxes.values() for c in sandbox.containers}
        if self._ids:
            found = [self._namespace.container_stats(identifier) for identifier in self._ids]
        else:
            found = list(self._namespace.list_container_stats())
        rows = [
            stats_row(
                stats,
                cpu_percent(self._before.get(stats.id), stats),
                owners[stats.id].interfaces if stats.id in owners else (),
            )
            for stats in found
        ]
        self._before = {stats.id: stats for stats in found}
        return rows


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum stats", "all that run, until Ctrl-C"),
        ("oakum stats --no-stream web db", "two of them, once"),
        ("oakum stats --no-stream --format json", "for scripts"),
    ),
)
@click.option("--no-stream", is_flag=True, help="Once only; so it is when output is no terminal.")
@no_trunc_option
@format_option
@click.argument("containers", nargs=-1, shell_complete=complete_container)
@pass_session
def stats(session: Session, *, containers: tuple[str, ...], no_stream: bool, no_trunc: bool) -> int:
    """Show what containers use: processor, memory, network, disk, processes."""
    sampler = _Sampler(session.namespace, containers)
    sampler.rows()
    time.sleep(_FIRST_INTERVAL_S)
    if session.as_json:
        write_json(sampler.rows())
    elif no_stream or not sys.stdout.isatty():
        write_table(_COLUMNS, [_cells(row, full=no_trunc) for row in sampler.rows()], full=no_trunc)
    else:
        _watch(sampler, full=no_trunc)
    return 0


def _watch(sampler: _Sampler, *, full: bool) -> None:
    from rich.console import Console  # a terminal only
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with SignalQueue() as signals, Live(console=console, auto_refresh=False, screen=False) as live:
        while not signals.cancelled():
            cells = [_cells(row, full=full) for row in sampler.rows()]
            live.update(
                Text(aligned(_COLUMNS, cells))
                if full
                else rich_table(_COLUMNS, cells, Text, width=console.width),
                refresh=True,
            )
            deadline = time.monotonic() + _INTERVAL_S
            while not signals.cancelled() and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
