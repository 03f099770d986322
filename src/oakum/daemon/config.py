# SPDX-License-Identifier: Apache-2.0
"""What `oakum serve` is told: a TOML file, typed; a key that nobody knows is an error that names it.

    root = "/var/lib/oakum"        # durable: images, containers, the database
    state = "/run/oakum"           # gone after a reboot: sockets, pinned namespaces
    drain_s = 10                   # seconds that calls in flight get when the server ends
    cgroup_driver = "auto"         # systemd, cgroupfs; auto: systemd where it is init. A kubelet asks for it
    backend = "native"             # native, docker: who runs a pod that names no runtime handler

    [log]
    level = "info"                 # debug, info, warning, error; read again on SIGHUP
    format = "text"                # text, json

    [network]
    mode = "auto"                  # builtin, cni; auto: cni when its directory holds a configuration
    cni_config_directory = "/etc/cni/net.d"
    cni_plugin_directories = ["/opt/cni/bin", "/usr/lib/cni"]

    [cri]
    listen = ["unix:///run/oakum/cri.sock"]   # without it: cri.sock in the state directory
    namespace = "k8s.io"
    socket_mode = "0660"
    socket_user = "root"           # a name or a number
    socket_group = "root"

    [streaming]                    # exec, attach and port-forward of CRI clients
    address = "127.0.0.1"
    port = 0                       # 0: any that is free
    tls_cert = ""                  # PEM files; both or none
    tls_key = ""
    idle_timeout_s = 14400         # a stream on which nothing moves for so long is ended; 0: never

    [runtimes]                     # runtime handlers: NAME = path of a program with runc's command line
    runc-next = "/opt/runc/bin/runc"
    crun = ""                      # runc and crun are found by themselves; "" turns one off

    [docker]                       # with a host, pods may ask for the handlers docker, runc ...
    host = ""                      # unix:///var/run/docker.sock; backend = "docker" needs none said
    pause_image = ""               # what sandboxes in Docker run; "": one that is built here

Options of the command line win over the file. Nothing is opened here but the file itself.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from oakum.engine import handlers
from oakum.errors import InvalidArgument, NotFound, SystemFailure
from oakum.model.ids import check_namespace
from oakum.network.settings import (
    CONFIG_DIRECTORY,
    PLUGIN_DIRECTORIES,
    CniSettings,
    Mode,
    NetworkSettings,
)

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
BackendName = Literal["native", "docker"]
CgroupDriver = Literal["auto", "cgroupfs", "systemd"]

_UNIX = "unix://"


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: LogLevel = "info"
    format: LogFormat = "text"


class CriConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The CRI front door."""

    listen: tuple[str, ...] = ()
    namespace: str = "k8s.io"
    socket_mode: Annotated[str, msgspec.Meta(pattern=r"^0?[0-7]{3}$")] = "0660"
    socket_user: str = "root"
    socket_group: str = "root"


class StreamsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where exec, attach and port-forward are answered."""

    address: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    tls_cert: str = ""
    tls_key: str = ""
    idle_timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 14400.0


class DockerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Docker Engine beside, or in the place of, the native one."""

    host: str = ""
    pause_image: str = ""


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who makes the networks of pods."""

    mode: Mode = "auto"
    cni_config_directory: str = CONFIG_DIRECTORY
    cni_plugin_directories: tuple[str, ...] = PLUGIN_DIRECTORIES

    def settings(self) -> NetworkSettings:
        """The same as the engine takes it."""
        return NetworkSettings(self.mode, CniSettings(self.cni_config_directory, self.cni_plugin_directories))


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it."""

    root: str = "/var/lib/oakum"
    state: str = "/run/oakum"
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    log: LogConfig = LogConfig()
    network: NetworkConfig | None = None
    """None: as the environment says (OAKUM_NETWORK), like every command."""
    cri: CriConfig = CriConfig()
    streaming: StreamsConfig = StreamsConfig()
    backend: BackendName = "native"
    cgroup_driver: CgroupDriver = "auto"
    docker: DockerConfig = DockerConfig()
    runtimes: dict[str, str] | None = None
    """None: as the environment says (OAKUM_RUNTIMES), like every command."""

    def uses_docker(self) -> bool:
        """Whether there is a Docker Engine to talk to."""
        return self.backend == "docker" or bool(self.docker.host)

    def cri_sockets(self) -> tuple[str, ...]:
        """The paths of the CRI sockets."""
        if not self.cri.listen:
            return (os.path.join(self.state, "cri.sock"),)
        return tuple(address.removeprefix(_UNIX) for address in self.cri.listen)


def load_config(path: str) -> Config:
    """The configuration in the TOML file `path`.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: it is not TOML, or holds an unknown key or a wrong value.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise NotFound("read configuration", path, "no such file") from None
    except OSError as error:
        raise SystemFailure.from_os_error(error, "read configuration", path) from error
    try:
        config = msgspec.toml.decode(data, type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument("read configuration", path, str(error)) from error
    return check_config(config, path)


def with_options(
    config: Config,
    *,
    root: str | None = None,
    state: str | None = None,
    cri_listen: Sequence[str] = (),
    log_level: LogLevel | None = None,
    log_format: LogFormat | None = None,
    backend: BackendName | None = None,
    docker_host: str | None = None,
    pause_image: str | None = None,
) -> Config:
    """`config` with what the command line says in its place. Raises InvalidArgument."""
    replace = msgspec.structs.replace
    log = replace(config.log, level=log_level or config.log.level, format=log_format or config.log.format)
    cri = replace(config.cri, listen=tuple(cri_listen) or config.cri.listen)
    docker = replace(
        config.docker,
        host=docker_host or config.docker.host,
        pause_image=pause_image or config.docker.pause_image,
    )
    changed = replace(
        config,
        root=root or config.root,
        state=state or config.state,
        log=log,
        cri=cri,
        backend=backend or config.backend,
        docker=docker,
    )
    return check_config(changed, "command line")


def check_config(config: Config, source: str) -> Config:
    """`config` if its values can be meant together.

    Raises:
        InvalidArgument: a relative directory, an address that is no unix socket, the same one twice.
    """
    for name, path in (("root", config.root), ("state", config.state)):
        if not os.path.isabs(path):
            raise InvalidArgument("check configuration", source, f"{name} {path!r} is not an absolute path")
    for address in config.cri.listen:
        if not address.removeprefix(_UNIX).startswith("/"):
            raise InvalidArgument(
                "check configuration",
                source,
                f"cannot listen on {address!r}",
                hint="CRI is served on unix sockets only: unix:///run/oakum/cri.sock",
            )
    _check_streaming(config.streaming, source)
    host = config.docker.host
    if host and not (host.startswith(_UNIX) and os.path.isabs(host.removeprefix(_UNIX))):
        raise InvalidArgument(
            "check configuration",
            source,
            f"docker.host {host!r} is no unix socket",
            hint="unix:///var/run/docker.sock: the pods of another machine cannot be reached from here",
        )
    sockets = config.cri_sockets()
    if len(set(sockets)) != len(sockets):
        raise InvalidArgument("check configuration", source, "the same socket is given twice")
    check_namespace(config.cri.namespace)
    if config.runtimes is not None:
        handlers.check(config.runtimes, source)
    return config


def _check_streaming(config: StreamsConfig, source: str) -> None:
    try:
        ipaddress.ip_address(config.address)
    except ValueError:
        cause = f"streaming.address {config.address!r} is not an IP address"
        raise InvalidArgument("check configuration", source, cause) from None
    if bool(config.tls_cert) != bool(config.tls_key):
        raise InvalidArgument(
            "check configuration", source, "streaming.tls_cert and tls_key: one without the other"
        )
