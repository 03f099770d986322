# SPDX-License-Identifier: Apache-2.0
"""The entry point: help that teaches, start-up that imports little, failures that are said well."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import click
import pytest

from oakum.cli.app import COMMANDS, cli, invoke
from oakum.cli.lazy import LazyGroup, TeachingCommand
from oakum.cli.report import EXIT_BUG, render, report, report_bug, run_exit_code
from oakum.errors import (
    AlreadyExists,
    Cancelled,
    CommandNotRunnable,
    Internal,
    NotFound,
    OakumError,
    PermissionDenied,
)


def oakum(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "oakum.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def every_command(group: click.Group = cli, path: str = "oakum") -> list[tuple[str, click.Command]]:
    ctx = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None, f"{path} {name}"
        found.append((f"{path} {name}", command))
        if isinstance(command, click.Group):
            found += every_command(command, f"{path} {name}")
    return found


INTERRUPTED_IN_A_CALLBACK = """
import os, signal, sys, types, weakref

def invoke():
    thing = type("Thing", (), {})()
    kept = weakref.ref(thing, lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    del thing
    print("went on")

sys.modules["oakum.cli.app"] = types.SimpleNamespace(invoke=invoke, finish=lambda _: 0)
from oakum.cli.main import main
main()
"""


def test_a_ctrl_c_that_python_would_drop_ends_the_command_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN_A_CALLBACK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


INTERRUPTED_AT_THE_END = """
import os, signal, sys, types

def invoke():
    try:
        return 0
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("went on")

sys.modules["oakum.cli.app"] = types.SimpleNamespace(invoke=invoke, finish=lambda code: code)
from oakum.cli.main import main
main()
"""


def test_a_ctrl_c_while_the_last_things_are_closed_is_no_bug() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_THE_END],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_every_command_of_the_table_is_there_and_explains_itself() -> None:
    commands = every_command()
    assert len(commands) > len(COMMANDS) + 15
    for path, command in commands:
        assert command.name == path.split()[-1]
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts}"
        text = command.get_help(click.Context(command, info_name=path))
        assert "Traceback" not in text
        if isinstance(command, TeachingCommand):
            assert command.examples, path
            assert "Examples:" in text
            assert all("oakum " in line for line, _ in command.examples)
        elif not isinstance(command, LazyGroup):
            assert path == "oakum serve"


def test_help_lists_every_command_without_importing_one() -> None:
    script = (
        "import sys; from oakum.cli.app import invoke; invoke(['--help']); "
        "print([m for m in sys.modules if m.startswith('oakum.') and m.count('.') > 1], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    loaded = set(json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"')))
    assert loaded == {
        "oakum.cli.app",
        "oakum.cli.lazy",
        "oakum.cli.report",
        "oakum.cli.session",
        "oakum.cli.text",
    }


def test_the_fast_path_imports_nothing_heavy() -> None:
    script = "import sys, oakum.cli.main, oakum.cli.app, oakum.cli.run, oakum.engine.engine; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    for heavy in (
        "rich",
        "aiohttp",
        "asyncio",
        "grpc",
        "google",
        "yaml",
        "importlib.metadata",
        "dataclasses",
        "ssl",
    ):
        assert heavy not in loaded, heavy


def test_misspelt_commands_get_a_suggestion() -> None:
    done = oakum("lgos")
    assert done.returncode == 125
    assert done.stderr.splitlines()[0] == "oakum: There is no command 'lgos'. Did you mean 'logs'?"
    assert "oakum --help" in done.stderr


def test_wrong_options_end_with_125_as_docker_does() -> None:
    done = oakum("run", "--bogus", "image")
    assert (done.returncode, done.stdout) == (125, "")
    assert "--bogus" in done.stderr
    assert "oakum run --help" in done.stderr


def test_an_option_with_a_wrong_value_says_what_to_try(tmp_path) -> None:
    done = oakum(
        "--root", str(tmp_path / "r"), "--state", str(tmp_path / "s"), "run", "-p", "99999:80", "image"
    )
    assert done.returncode == 125
    first, second = done.stderr.splitlines()
    assert first == "oakum: parse --publish '99999:80': '99999' is no port"
    assert second.strip().startswith("try 8080:80")


def test_errors_are_json_when_results_are(tmp_path) -> None:
    done = oakum("--format", "json", "--root", str(tmp_path / "r"), "run", "--memory", "x", "image")
    assert done.returncode == 125
    assert json.loads(done.stderr)["error"]["code"] == "INVALID_ARGUMENT"


def test_the_environment_gives_the_directories(tmp_path) -> None:
    env = {**os.environ, "OAKUM_ROOT": str(tmp_path / "r"), "OAKUM_STATE": str(tmp_path / "s")}
    done = oakum("doctor", "--format", "json", env=env)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert str(tmp_path) in found["space"]["found"]


def test_version_as_text_and_json() -> None:
    assert oakum("version").stdout.startswith("oakum 0.")
    facts = json.loads(oakum("version", "--format", "json").stdout)
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = oakum("completion", shell)
    assert done.returncode == 0
    assert "_OAKUM_COMPLETE" in done.stdout


def test_the_shell_completes_commands_and_options() -> None:
    env = {
        **os.environ,
        "_OAKUM_COMPLETE": "bash_complete",
        "COMP_WORDS": "oakum run --memory-",
        "COMP_CWORD": "2",
    }
    done = oakum(env=env)
    assert "--memory-swap" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m oakum.cli.main run --help | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("Usage: oakum run")
    assert "Traceback" not in done.stderr


# rendering


def test_an_error_is_cause_then_advice() -> None:
    error = NotFound("stop container", "web", "no such container", hint="see `oakum ps -a`")
    assert render(error) == "oakum: stop container web: no such container\n       see `oakum ps -a`"


def test_an_error_cannot_ring_the_bell() -> None:
    assert "\x1b" not in render(PermissionDenied("pull image", "x", "registry said \x1b]0;owned\x07"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandNotRunnable("execve", "/x", "no such file", errno=2), 127),
        (CommandNotRunnable("execve", "/x", "permission denied", errno=13), 126),
        (NotFound("find image", "x"), 125),
        (AlreadyExists("name container", "x"), 125),
        (Cancelled("run", "x"), 130),
        (OakumError("run"), 125),
    ],
)
def test_exit_codes_of_run(error: OakumError, code: int) -> None:
    assert run_exit_code(error) == code


def test_bugs_ask_to_be_reported(capsys) -> None:
    assert report(Internal("count", "x", "negative")) == 1
    assert "report it" in capsys.readouterr().err
    assert report_bug(ValueError("\x1b[2J")) == EXIT_BUG
    said = capsys.readouterr().err
    assert "unexpected ValueError" in said
    assert "report it" in said


def test_an_exception_of_no_ours_is_a_bug(monkeypatch, capsys) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(cli, "main", broken)
    assert invoke([]) == EXIT_BUG
    assert "planted" in capsys.readouterr().err


def test_a_full_disk_is_no_bug_of_ours(monkeypatch, capsys) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/oakum/meta.db")

    monkeypatch.setattr(cli, "main", full)
    assert invoke([]) == 1
    said = capsys.readouterr().err
    assert "/var/lib/oakum/meta.db: No space left on device (ENOSPC)" in said
    assert "Traceback" not in said
    monkeypatch.setenv("OAKUM_DEBUG", "1")
    assert invoke([]) == EXIT_BUG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run", "busybox", "echo", "\udcff"], ["logs", "caf\udce9"]])
def test_bytes_that_are_no_text_are_refused_and_no_bug(arguments: list[str], capsys) -> None:
    assert invoke(arguments) == 125
    said = capsys.readouterr().err
    assert "not UTF-8" in said
    assert "\\xff" in said or "caf\\xe9" in said
    assert "bug" not in said


@pytest.mark.parametrize("option", ["--root", "--state"])
def test_no_directory_is_not_this_one(option: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke([option, "", "ps"]) == 125
    assert "no directory" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_terminal_without_a_letter_gets_its_number() -> None:
    program = "import sys; sys.argv = ['oakum', 'no\u2026such']; import oakum.cli.main as m; m.main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, env=environment, timeout=60
    )
    assert b"no\\u2026such" in done.stderr
    assert b"Traceback" not in done.stderr


def test_who_is_not_root_is_told_so(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert invoke(["--root", str(tmp_path / "r"), "--state", str(tmp_path / "s"), "ps"]) == 1
    assert "is not root" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_are_no_trouble(closed: tuple[int, ...]) -> None:
    redirections = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    script = f"{sys.executable} -m oakum.cli.main version {redirections}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("oakum ") == (1 not in closed)
