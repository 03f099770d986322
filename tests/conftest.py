# SPDX-License-Identifier: Apache-2.0
"""What every test gets: directories of its own, a check that it left nothing, and a guard against quiet skips.

The folders say what a test needs: all but `unit` are marked `root`. Without root those are deselected, and the
summary says how many. A skip is accepted only for a reason listed in `skips.txt`; any other fails the run.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest

from tests.support import leaks
from tests.support.installations import end_installation
from tests.support.reaper import live_under_reaper, run_directory
from tests.support.rootfs import make_rootfs

if TYPE_CHECKING:
    from tests.kernel.oci_cli_box import Runtime
    from tests.kernel.oci_forks import Forks
    from tests.support.engines import Lab

_ASKED_TO_END = (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
)
for _number, _handler in _ASKED_TO_END:
    if signal.getsignal(_number) is signal.SIG_IGN:
        # A shell starts what it does not wait for so, and nohup; tests of signals, and what they start, want to be asked.
        signal.signal(_number, _handler)
live_under_reaper()

# The same examples in every run: what fails here failed for whoever made it. OAKUM_TESTS_RANDOM=1 looks for new ones.
hypothesis.settings.register_profile(
    "same",
    deadline=None,
    derandomize=os.environ.get("OAKUM_TESTS_RANDOM") != "1",
    suppress_health_check=(hypothesis.HealthCheck.too_slow,),
)
hypothesis.settings.load_profile("same")

_TESTS = Path(__file__).parent
_BEFORE_RUN = pytest.StashKey[leaks.Snapshot]()
_LEFT = pytest.StashKey[list[str]]()


class Directories(NamedTuple):
    """One installation of its own: `oakum --root ROOT --state STATE`."""

    root: str
    state: str


# ---- the run


class SkipGuard:
    """Collects every skip (and expected failure) of the run and tells which have no listed reason."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            why = getattr(report, "wasxfail", None) or reason
            self._found.append((report.nodeid, why.removeprefix("Skipped: ")))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._found.append((report.nodeid, reason.removeprefix("Skipped: ")))

    def unlisted(self) -> list[str]:
        lines = (_TESTS / "skips.txt").read_text(encoding="utf-8").splitlines()
        allowed = [re.compile(line) for line in lines if line and not line.startswith("#")]
        return [f"{where}: {why}" for where, why in self._found if not any(a.search(why) for a in allowed)]


_SKIPS = pytest.StashKey[SkipGuard]()


def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        # the reaper's to remove: pytest's own removal would cross into a mount left behind
        config.option.basetemp = f"{run_directory()}/t"
    config.stash[_SKIPS] = SkipGuard()
    config.pluginmanager.register(config.stash[_SKIPS], "oakum-skips")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(_TESTS).parts[0] != "unit":
            item.add_marker(pytest.mark.root)
    if os.geteuid() != 0:
        without = [item for item in items if item.get_closest_marker("root")]
        if without:
            config.hook.pytest_deselected(items=without)
            items[:] = [item for item in items if not item.get_closest_marker("root")]


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_BEFORE_RUN] = leaks.take(run_directory())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    left = leaks.leaked(session.config.stash[_BEFORE_RUN], run_directory(), keep_installations=False)
    session.config.stash[_LEFT] = left
    if (left or session.config.stash[_SKIPS].unlisted()) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[_SKIPS].unlisted():
        terminalreporter.write_line(f"NOT ALLOWED to skip: {line} (tests/skips.txt lists the reasons)")
    for line in config.stash.get(_LEFT, []):
        terminalreporter.write_line(f"LEFT BEHIND by the run: {line}")


# ---- a test


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a mount, a descriptor (and, alone on the machine, more) behind."""
    if request.node.get_closest_marker("root") is None:
        yield
        return
    before = leaks.take(run_directory())
    yield
    # What a failed test still had open is its own, and not to be found by the next one: pytest keeps its frames here.
    for name in ("last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    left = leaks.leaked(before, run_directory())
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def nothing_unclosed_for_others() -> Iterator[None]:
    """What a module forgot to close is warned of in its last test, and not in somebody else's."""
    yield
    gc.collect()


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[Directories]:
    """Directories of one installation; its zygote and its networks end with the test."""
    made = make_directories(tmp_path)
    yield made
    end_installation(*made)


@pytest.fixture(scope="module")
def module_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    """The same for the tests of one module together."""
    made = make_directories(tmp_path_factory.mktemp("m"))
    yield made
    end_installation(*made)


@pytest.fixture(scope="module")
def lab(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """An engine for the tests of one module together, with a registry and images."""
    from tests.support.engines import laboratory  # of the whole engine; most tests want a part

    with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """A process with the runtime loaded, whose forks are what `runtime` runs."""
    from tests.kernel.oci_forks import Forks

    with Forks() as made:
        yield made


@pytest.fixture
def runtime(tmp_path: Path, forks: Forks) -> Iterator[Runtime]:
    """`oakum oci`, but for the start of a sealed interpreter."""
    from tests.kernel.oci_forks import QuickRuntime

    made = QuickRuntime(tmp_path, forks)
    yield made
    made.close()


def make_directories(parent: Path) -> Directories:
    """Fresh ROOT and STATE directories below `parent`."""
    root, state = parent / "root", parent / "state"
    root.mkdir(mode=0o711)
    state.mkdir(mode=0o711)
    return Directories(str(root), str(state))


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    """A busybox root file system of the test's own."""
    return make_rootfs(str(tmp_path / "rootfs"))
