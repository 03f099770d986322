# SPDX-License-Identifier: Apache-2.0
"""Configuration: what is read, what wins, what is refused and how that is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from oakum.daemon.config import Config, check_config, load_config, with_options
from oakum.errors import InvalidArgument, NotFound, OakumError
from oakum.streaming.server import StreamingConfig

WHOLE = """
root = "/srv/root"
state = "/srv/state"
drain_s = 2.5
[log]
level = "debug"
format = "json"
[cri]
listen = ["unix:///srv/a.sock", "unix:///srv/b.sock"]
namespace = "kube"
socket_mode = "0600"
socket_user = "1"
socket_group = "2"
[streaming]
address = "::1"
port = 10010
tls_cert = "/etc/c.pem"
tls_key = "/etc/k.pem"
idle_timeout_s = 60
[runtimes]
other = "/opt/other"
crun = ""
"""


def write(directory: Path, text: str) -> str:
    path = directory / "config.toml"
    path.write_text(text)
    return str(path)


def test_a_whole_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert (config.root, config.state, config.drain_s) == ("/srv/root", "/srv/state", 2.5)
    assert (config.log.level, config.log.format) == ("debug", "json")
    assert config.cri_sockets() == ("/srv/a.sock", "/srv/b.sock")
    assert (config.cri.namespace, config.cri.socket_mode) == ("kube", "0600")
    assert config.runtimes == {"other": "/opt/other", "crun": ""}
    assert StreamingConfig(**structs.asdict(config.streaming)) == (
        "::1",
        10010,
        "/etc/c.pem",
        "/etc/k.pem",
        60.0,
    )


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    assert config == Config()
    # the server's own defaults and those of the file are the same
    assert StreamingConfig(**structs.asdict(config.streaming)) == StreamingConfig()
    assert config.cri_sockets() == ("/run/oakum/cri.sock",)


def test_the_command_line_wins(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert with_options(config) == config
    changed = with_options(config, state="/x", cri_listen=["unix:///c.sock"], log_level="error")
    assert (changed.root, changed.state, changed.log.level, changed.log.format) == (
        "/srv/root",
        "/x",
        "error",
        "json",
    )
    assert changed.cri_sockets() == ("/c.sock",)
    assert with_options(Config(), state="/x").cri_sockets() == ("/x/cri.sock",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rooot = '/x'", "rooot"),
        ("[cri]\nlisten_on = []", "listen_on"),
        ("[cri]\nlisten = 'unix:///x'", "cri.listen"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[cri]\nsocket_mode = '9'", "socket_mode"),
        ("[cri]\nsocket_mode = 660", "socket_mode"),
        ("drain_s = -1", "drain_s"),
        ("[streaming]\nport = 65536", "streaming.port"),
        ("[streaming]\nidle_timeout_s = -1", "idle_timeout_s"),
        ("[streaming]\ntls = true", "tls"),
        ("[streaming]\naddress = 'localhost'", "localhost"),
        ("[streaming]\ntls_cert = '/x'", "tls_key"),
        ("root = 'relative'", "root"),
        ("state = ''", "state"),
        ("[cri]\nnamespace = 'K8S'", "K8S"),
        ("[cri]\nlisten = ['tcp://127.0.0.1:1']", "tcp://127.0.0.1:1"),
        ("[cri]\nlisten = ['unix:///x', '/x']", "twice"),
        ("[runtimes]\nother = 'other'", "'other', is not absolute"),
        ("[runtimes]\noakum = '/x'", "built in"),
        ("\n\nroot = x", "line 3"),
        ("\xff = 1", "config.toml"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load_config(write(tmp_path, text))
    assert named in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        load_config(str(tmp_path / "nothing.toml"))
    with pytest.raises(OakumError):
        load_config(str(tmp_path))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        config = load_config(str(path))
    except InvalidArgument:
        return
    assert check_config(config, "again") == config


def test_the_documented_file_is_read_and_says_the_defaults(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/serve.md").read_text()
    documented = text.split("```toml\n")[1].split("```")[0]
    config = load_config(write(tmp_path, documented))
    assert config.cri_sockets() == Config().cri_sockets()
    assert with_options(config, cri_listen=["unix:///x"]) == with_options(Config(), cri_listen=["unix:///x"])
