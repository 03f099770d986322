# SPDX-License-Identifier: Apache-2.0
"""Runtime handlers: which there are, how they are named, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from oakum.engine import handlers
from oakum.engine.handlers import Handlers, abilities_of, check, from_environment
from oakum.errors import FailedPrecondition, InvalidArgument


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(handlers, "_DIRECTORIES", "")
    return tmp_path


def program(path: Path, text: str = "exit 0") -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_known_runtimes_are_found_by_themselves(programs: Path) -> None:
    assert (Handlers({}).usable(), Handlers({}).need(""), Handlers({}).need("oakum")) == ({}, "", "")
    runc, crun = program(programs / "runc"), program(programs / "crun")
    program(programs / "youki")
    assert set(Handlers({}).usable()) == {"runc", "crun"}
    assert Handlers({}).need("runc") == runc
    with pytest.raises(InvalidArgument, match=r"none of this name.*oakum, runc, crun"):
        Handlers({}).need("youki")
    assert set(Handlers({"crun": "", "mine": crun}).usable()) == {"runc", "mine"}
    with pytest.raises(InvalidArgument, match=f"no crun in {programs}"):
        Handlers({"crun": ""}).need("crun")


def test_what_is_configured_is_not_looked_for(programs: Path) -> None:
    program(programs / "runc")
    other = program(programs / "other", "exit 3")
    configured = Handlers({"runc": other, "gone": f"{programs}/gone"})
    assert configured.usable() == {}
    assert configured.need("runc") == other
    assert configured.problems() == [
        f"runtime handler runc: {other}: it does not run: --version exits with 3",
        f"runtime handler gone: {programs}/gone: no such file",
    ]
    with pytest.raises(FailedPrecondition, match="no such file"):
        configured.need("gone")
    (programs / "gone").write_text("")
    with pytest.raises(FailedPrecondition, match="not executable"):
        configured.need("gone")


def test_abilities_are_what_the_program_says(programs: Path) -> None:
    able = program(programs / "able", """echo '{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"]}'""")
    assert abilities_of(able).recursive_read_only
    for number, said in enumerate(("{}", '{"mountOptions": null}', "[1]", "nonsense", '{"mountOptions": 3}')):
        path = program(programs / f"says-{number}", f"echo '{said}'")
        assert (abilities_of(path).problem, abilities_of(path).recursive_read_only) == ("", False)
    # one that is replaced is asked again
    assert abilities_of(program(programs / "able", "exit 1; # now broken")).problem


def test_what_failed_is_asked_again_after_a_while(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(programs / "late", f"echo >> {programs}/asked; [ -e {programs}/ready ]")
    assert abilities_of(path).problem
    (programs / "ready").touch()
    assert abilities_of(path).problem
    monkeypatch.setattr(handlers, "_ASK_AGAIN_S", 0.0)
    assert not abilities_of(path).problem
    assert not abilities_of(path).problem
    # features and --version while it failed, features once when it did not
    assert (programs / "asked").read_text() == "\n" * 3


def test_one_that_says_nothing_is_not_waited_for(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_QUESTION_TIMEOUT_S", 0.2)
    hangs = program(programs / "hangs", "exec /bin/sleep 60")
    asked = abilities_of(hangs)
    assert "no answer" in asked.problem
    assert abilities_of(hangs) is asked  # not asked again


def test_names_and_paths_are_checked() -> None:
    assert from_environment({}) == {}
    assert from_environment({"OAKUM_RUNTIMES": "other=/opt/other,crun="}) == {
        "other": "/opt/other",
        "crun": "",
    }
    for name, path in (
        ("", "/x"),
        ("UP", "/x"),
        ("a/b", "/x"),
        ("ä", "/x"),
        ("n" * 64, "/x"),
        ("oakum", "/x"),
        ("runc", "runc"),
    ):
        with pytest.raises(InvalidArgument, match="read runtimes"):
            check({name: path}, "here")
    with pytest.raises(InvalidArgument, match="OAKUM_RUNTIMES"):
        from_environment({"OAKUM_RUNTIMES": "runc=sbin/runc"})
