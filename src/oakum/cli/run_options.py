# SPDX-License-Identifier: Apache-2.0
"""The options that `oakum run` and `oakum create` share, by section. Declares; `flags` parses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from oakum.cli.lazy import SectionOption
from oakum.cli.terminal import DEFAULT_DETACH_KEYS

Function = Callable[..., Any]


def _many(*names: str, metavar: str, text: str, section: str) -> Function:
    return click.option(*names, cls=SectionOption, section=section, multiple=True, metavar=metavar, help=text)


def _text(*names: str, metavar: str, text: str, section: str, default: str | None = None) -> Function:
    return click.option(
        *names,
        cls=SectionOption,
        section=section,
        metavar=metavar,
        help=text,
        default=default,
        show_default=default is not None,
    )


def _flag(*names: str, text: str, section: str) -> Function:
    return click.option(*names, cls=SectionOption, section=section, is_flag=True, help=text)


def _number(
    *names: str, metavar: str, text: str, section: str, least: int | None = 0, default: int | None = 0
) -> Function:
    return click.option(
        *names,
        cls=SectionOption,
        section=section,
        type=click.IntRange(min=least),
        default=default,
        metavar=metavar,
        help=text,
    )


_LIMITS: Final = "Limits"

LIMIT_OPTIONS: Final[tuple[Function, ...]] = (
    _text("-m", "--memory", metavar="SIZE", text="Memory, e.g. 512m or 2g.", section=_LIMITS),
    _text("--memory-swap", metavar="SIZE", text="Memory and swap together; -1: no limit.", section=_LIMITS),
    _text(
        "--memory-reservation", metavar="SIZE", text="Memory kept when the host is short.", section=_LIMITS
    ),
    _text("--cpus", metavar="NUMBER", text="Processors, e.g. 0.5.", section=_LIMITS),
    _number("-c", "--cpu-shares", metavar="N", text="Weight against others; 1024 is usual.", section=_LIMITS),
    _number("--cpu-period", metavar="US", text="Period of --cpu-quota, microseconds.", section=_LIMITS),
    _number("--cpu-quota", metavar="US", text="Processor time per period.", section=_LIMITS, least=-1),
    _text("--cpuset-cpus", metavar="LIST", text="Processors it may use, e.g. 0-1,4.", section=_LIMITS),
    _text("--cpuset-mems", metavar="LIST", text="Memory nodes it may use.", section=_LIMITS),
    _number(
        "--pids-limit", metavar="N", text="Processes and threads; -1: no limit.", section=_LIMITS, least=-1
    ),
)

restart_option = _text(
    "--restart",
    metavar="POLICY",
    text="After its end: no, on-failure[:N], always, unless-stopped.",
    section="Basics",
)

_BASIC: Final[tuple[Function, ...]] = (
    _flag("-d", "--detach", text="Run in the background and write the id.", section="Basics"),
    _flag("-i", "--interactive", text="Keep standard input open.", section="Basics"),
    _flag("-t", "--tty", text="Give it a terminal.", section="Basics"),
    _flag("--rm", text="Remove it when it has ended.", section="Basics"),
    _text("--name", metavar="NAME", text="Its name; else two words are drawn.", section="Basics"),
    restart_option,
    click.option(
        "--pull",
        cls=SectionOption,
        section="Basics",
        type=click.Choice(["always", "missing", "never"]),
        default="missing",
        show_default=True,
        help="When to ask the registry for the image.",
    ),
    click.option(
        "-q", "--quiet", cls=SectionOption, section="Basics", is_flag=True, help="No progress while pulling."
    ),
    _text("--cidfile", metavar="FILE", text="Write the id to FILE, which must not exist.", section="Basics"),
    click.option(
        "-a",
        "--attach",
        cls=SectionOption,
        section="Basics",
        multiple=True,
        type=click.Choice(["stdin", "stdout", "stderr"], case_sensitive=False),
        help="Attach only this stream (repeat for more).",
    ),
    _text(
        "--detach-keys",
        metavar="KEYS",
        text="Keys that leave it running in the background.",
        section="Basics",
        default=DEFAULT_DETACH_KEYS,
    ),
    _text(
        "--runtime",
        metavar="NAME",
        text="Runtime that runs it: oakum (built in), runc, crun, or one of OAKUM_RUNTIMES.",
        section="Basics",
    ),
    click.option(
        "--sig-proxy/--no-sig-proxy",
        cls=SectionOption,
        section="Basics",
        default=True,
        help="Pass signals on to it (default).",
    ),
)

_PROCESS: Final[tuple[Function, ...]] = (
    _many("-e", "--env", metavar="NAME[=VALUE]", text="Set a variable, or pass yours on.", section="Process"),
    _many("--env-file", metavar="FILE", text="Read variables from FILE.", section="Process"),
    _text("-w", "--workdir", metavar="DIR", text="Working directory.", section="Process"),
    _text("-u", "--user", metavar="USER[:GROUP]", text="User by name or number.", section="Process"),
    _many("--group-add", metavar="GID", text="Add a supplementary group.", section="Process"),
    _text("--entrypoint", metavar="COMMAND", text="Replace the image's entrypoint.", section="Process"),
    _flag("--init", text="Put an init in front that reaps zombies.", section="Process"),
    _text("--stop-signal", metavar="SIGNAL", text="Signal that `oakum stop` begins with.", section="Process"),
    _number(
        "--stop-timeout", metavar="SECONDS", text="Then kill after so long.", section="Process", default=None
    ),
    _text("-h", "--hostname", metavar="NAME", text="Host name seen inside.", section="Process"),
    _text("--pid", metavar="host", text="See the host's processes.", section="Process"),
    _text("--ipc", metavar="host|private", text="Share the host's IPC.", section="Process"),
    _text("--uts", metavar="host", text="Share the host's name.", section="Process"),
)

_FILES: Final[tuple[Function, ...]] = (
    _many(
        "-v",
        "--volume",
        metavar="[SRC:]DST[:OPTS]",
        text="Mount a host path or a volume (ro, rshared, ...).",
        section="Files",
    ),
    _many(
        "--mount",
        metavar="KEY=VALUE,...",
        text="type=bind|volume|tmpfs|image,src=...,dst=...",
        section="Files",
    ),
    _many("--tmpfs", metavar="DST[:OPTS]", text="Mount a tmpfs (size=64m, ...).", section="Files"),
    _many("--device", metavar="HOST[:DST[:rwm]]", text="Add a host device.", section="Files"),
    _flag("--read-only", text="Make the root file system read-only.", section="Files"),
    _text("--shm-size", metavar="SIZE", text="Size of /dev/shm (64m).", section="Files"),
)

_NETWORK: Final[tuple[Function, ...]] = (
    _many("-p", "--publish", metavar="[IP:]HOST:CTR[/PROTO]", text="Publish a port.", section="Network"),
    _many(
        "--network",
        "--net",
        metavar="NETWORK",
        text="default, host, none, container:NAME, or of oakum network ls (repeat for more).",
        section="Network",
    ),
    _many("--network-alias", metavar="NAME", text="Name for others of its networks.", section="Network"),
    _text("--ip", metavar="ADDRESS", text="This address of the first network.", section="Network"),
    _text("--ip6", metavar="ADDRESS", text="This IPv6 address of it.", section="Network"),
    _text("--mac-address", metavar="MAC", text="MAC of the first interface.", section="Network"),
    _many("--dns", metavar="ADDRESS", text="Name server.", section="Network"),
    _many("--dns-search", metavar="DOMAIN", text="Search domain.", section="Network"),
    _many("--dns-option", "--dns-opt", metavar="OPTION", text="Resolver option.", section="Network"),
    _many("--add-host", metavar="NAME:ADDRESS", text="Add a line to /etc/hosts.", section="Network"),
)

_LIMITS_MORE: Final[tuple[Function, ...]] = (
    _many("--ulimit", metavar="NAME=SOFT[:HARD]", text="Resource limit of each process.", section=_LIMITS),
    click.option(
        "--oom-score-adj",
        cls=SectionOption,
        section=_LIMITS,
        type=click.IntRange(-1000, 1000),
        default=None,
        help="Who is killed first when memory is short.",
    ),
    _text("--cgroup-parent", metavar="PATH", text="Cgroup to make its cgroup in.", section=_LIMITS),
)

_SECURITY: Final[tuple[Function, ...]] = (
    _many("--cap-add", metavar="CAP", text="Add a capability, or ALL.", section="Security"),
    _many("--cap-drop", metavar="CAP", text="Drop a capability, or ALL.", section="Security"),
    _flag("--privileged", text="All capabilities, devices and no profile.", section="Security"),
    _many(
        "--security-opt",
        metavar="OPTION",
        text="seccomp=FILE|unconfined, no-new-privileges, apparmor=NAME.",
        section="Security",
    ),
    _many("--sysctl", metavar="NAME=VALUE", text="Kernel parameter of its namespaces.", section="Security"),
)

_META: Final[tuple[Function, ...]] = (
    _many("-l", "--label", metavar="NAME[=VALUE]", text="Label to find it by.", section="Metadata"),
    _many("--annotation", metavar="NAME=VALUE", text="Annotation kept with it.", section="Metadata"),
)

RUN_OPTIONS: Final = (
    *_BASIC,
    *_PROCESS,
    *_FILES,
    *_NETWORK,
    *LIMIT_OPTIONS,
    *_LIMITS_MORE,
    *_SECURITY,
    *_META,
)


def with_options(options: tuple[Function, ...]) -> Callable[[Function], Function]:
    """Add `options` to a command, in their order."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
