# SPDX-License-Identifier: Apache-2.0
"""`oakum serve` as people type it: what wins, and what is said before anything is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from oakum.cli import app
from oakum.daemon import server
from oakum.daemon.config import Config


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, bool]]:
    """The configurations that the daemon is given instead of serving, and whether it can reload them."""
    calls: list[tuple[Config, bool]] = []
    monkeypatch.setattr(server, "serve", lambda config, reload: calls.append((config, reload is not None)))
    return calls


def test_options_win_over_the_file_and_the_file_over_defaults(
    told: list[tuple[Config, bool]], tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("root = '/file/root'\nstate = '/file/state'\n[log]\nformat = 'json'\n")
    runner = CliRunner()
    serve = ["serve", "--config", str(file), "--log-level", "debug"]
    for options in ([], ["--state", "/given/state"]):
        assert runner.invoke(app.cli, [*options, *serve]).exit_code == 0
    (first, again), (second, _) = told
    assert again
    assert (first.root, first.state) == ("/file/root", "/file/state")
    assert (second.root, second.state) == ("/file/root", "/given/state")
    assert (second.log.level, second.log.format) == ("debug", "json")
    assert second.cri_sockets() == ("/given/state/cri.sock",)


def test_several_sockets_without_a_file(told: list[tuple[Config, bool]]) -> None:
    argv = ["--root", "/r", "--state", "/s", "serve"]
    argv += ["--cri-listen", "unix:///a/cri.sock", "--cri-listen", "unix:///b/cri.sock"]
    assert CliRunner().invoke(app.cli, argv).exit_code == 0
    ((config, again),) = told
    assert not again
    assert (config.root, config.state) == ("/r", "/s")
    assert config.cri_sockets() == ("/a/cri.sock", "/b/cri.sock")


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("[cri]\nlisten_on = []", [], "listen_on"),
        ("", ["--cri-listen", "tcp://0.0.0.0:99"], "unix sockets only"),
        ("[cri]\nsocket_user = 'nobody-has-this-name'", [], "no such user"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, options: list[str], said: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    oakum = Path(sys.executable).with_name("oakum")
    state = tmp_path / "state"
    run = subprocess.run(
        [oakum, "--root", tmp_path / "root", "--state", state, "serve", "--config", file, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode not in (0, 130)
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert not state.exists()
