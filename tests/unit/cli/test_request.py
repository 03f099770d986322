# SPDX-License-Identifier: Apache-2.0
"""From a whole command line to what the engine is asked for."""

from __future__ import annotations

from typing import Any

import click
import pytest

from oakum.backend.config import Mount, NetworkRequest, PortMapping, SecurityProfile
from oakum.cli.flags.request import ANNOTATION_REMOVE, ANNOTATION_STOP_TIMEOUT, RunRequest, build
from oakum.cli.run import run
from oakum.errors import InvalidArgument


def request(*arguments: str) -> RunRequest:
    """What `oakum run ARGUMENTS` asks for."""
    ctx: click.Context = run.make_context("run", list(arguments))
    options: dict[str, Any] = dict(ctx.params)
    image, command = options.pop("image"), options.pop("command")
    return build(image, command, options, name=options["name"] or "drawn", cwd="/here")


def test_the_shortest_command_line_asks_for_the_images_own_command() -> None:
    asked = request("busybox")
    assert asked.container.image == "busybox"
    assert (asked.container.command, asked.container.args) == ((), ())
    assert asked.sandbox.owner == "container"
    assert asked.sandbox.metadata.name == asked.container.metadata.name == "drawn"
    assert asked.container.seccomp == SecurityProfile(kind="runtime_default")
    assert asked.container.resources.cpu_period_us == 0
    assert ANNOTATION_REMOVE not in asked.container.annotations


def test_options_behind_the_image_belong_to_the_command() -> None:
    asked = request("--rm", "-it", "busybox", "ls", "-l", "--rm", "--", "-t")
    assert asked.container.args == ("ls", "-l", "--rm", "--", "-t")
    assert asked.container.tty
    assert asked.container.stdin
    assert asked.container.stdin_once
    assert asked.container.annotations[ANNOTATION_REMOVE] == "true"


def test_entrypoints() -> None:
    assert request("--entrypoint", "/bin/sh", "i", "-c", "true").container.command == ("/bin/sh",)
    assert request("--entrypoint", "/bin/sh", "i", "-c", "true").container.args == ("-c", "true")
    cleared = request("--entrypoint", "", "i", "env", "-0").container
    assert (cleared.command, cleared.args) == (("env", "-0"), ())
    with pytest.raises(InvalidArgument, match="no command"):
        request("--entrypoint", "", "i")


def test_limits() -> None:
    limits = request(
        "--memory=512m",
        "--memory-swap=1g",
        "--cpus=1.5",
        "--cpu-shares=512",
        "--cpuset-cpus=0-1",
        "--pids-limit=64",
        "i",
    ).container.resources
    assert limits.memory_limit_bytes == 512 << 20
    assert limits.memory_swap_limit_bytes == 1 << 30
    assert (limits.cpu_quota_us, limits.cpu_period_us) == (150_000, 100_000)
    assert (limits.cpu_shares, limits.cpuset_cpus, limits.pids_limit) == (512, "0-1", 64)


def test_cpus_scale_with_a_period_of_ones_own() -> None:
    limits = request("--cpus", "0.5", "--cpu-period", "50000", "i").container.resources
    assert (limits.cpu_quota_us, limits.cpu_period_us) == (25_000, 50_000)
    with pytest.raises(InvalidArgument, match="contradicts --cpu-quota"):
        request("--cpus", "0.5", "--cpu-quota", "1000", "i")


def test_networks() -> None:
    asked = request("-p", "8080:80", "--dns", "9.9.9.9", "--add-host", "db:10.0.0.5", "i").sandbox
    assert asked.port_mappings == (PortMapping(container_port=80, host_port=8080),)
    assert asked.dns.servers == ("9.9.9.9",)
    assert asked.extra_hosts == (("db", "10.0.0.5"),)
    assert asked.network == "default"
    host = request("--network", "host", "i").sandbox
    assert host.namespaces.network == "node"
    assert request("--network", "none", "i").sandbox.network == "none"
    for network in ("host", "none"):
        with pytest.raises(InvalidArgument, match="contradicts --network"):
            request("--network", network, "-p", "1:1", "i")


def test_the_network_of_another_container() -> None:
    asked = request("--network", "container:web", "i").sandbox
    assert (asked.network_of, asked.network, asked.networks) == ("web", "none", ())
    assert request("i").sandbox.network_of == ""
    for more in ("--publish=1:1", "--hostname=x", "--dns=1.1.1.1", "--add-host=a:1.1.1.1", "--ip=10.0.0.5"):
        with pytest.raises(InvalidArgument, match="contradicts --network container:web"):
            request("--network", "container:web", more, "i")
    with pytest.raises(InvalidArgument, match="contradicts a further --network"):
        request("--network", "back", "--network", "container:web", "i")
    with pytest.raises(InvalidArgument, match="no container"):
        request("--network", "container:", "i")


def test_several_networks_and_names_in_them() -> None:
    asked = request(
        "--network", "a", "--network", "b", "--network", "a", "--network-alias", "db", "--ip6", "fd00::5", "i"
    ).sandbox
    assert (asked.network, asked.network_aliases) == ("a", ("db",))
    assert asked.networks == (NetworkRequest(network="b", aliases=("db",)),)
    assert asked.annotations["dev.oakum.ip"] == "fd00::5"
    both = request("--network", "a", "--ip", "10.0.0.5", "--ip6", "fd00::5", "i").sandbox
    assert both.annotations["dev.oakum.ip"] == "10.0.0.5,fd00::5"
    for alone in ("host", "none"):
        with pytest.raises(InvalidArgument, match="contradicts a further --network"):
            request("--network", "a", "--network", alone, "i")
    for network in ("default", "none"):
        with pytest.raises(InvalidArgument, match="do not find each other by name"):
            request("--network", network, "--network-alias", "db", "i")
    with pytest.raises(InvalidArgument, match="parse --network-alias"):
        request("--network", "a", "--network-alias", "a b", "i")


def test_an_open_host_port_is_chosen_at_once() -> None:
    (mapping,) = request("-p", "80", "i").sandbox.port_mappings
    assert mapping.host_port > 0


def test_namespaces_of_the_host() -> None:
    asked = request("--pid", "host", "--ipc", "host", "--uts", "host", "i").sandbox.namespaces
    assert (asked.pid, asked.ipc, asked.uts) == ("node", "node", "node")
    with pytest.raises(InvalidArgument, match="unknown mode"):
        request("--pid", "container:x", "i")
    with pytest.raises(InvalidArgument, match="contradicts --uts host"):
        request("--uts", "host", "--hostname", "me", "i")


def test_files() -> None:
    asked = request(
        "-v", "./a:/a:ro", "--tmpfs", "/t", "--mount", "src=/m,dst=/m", "--shm-size", "1m", "--read-only", "i"
    ).container
    assert asked.mounts[0] == Mount(host_path="/here/a", container_path="/a", readonly=True)
    assert {m.container_path for m in asked.mounts} == {"/a", "/t", "/m", "/dev/shm"}
    assert "size=1048576" in next(m for m in asked.mounts if m.container_path == "/dev/shm").options
    assert asked.readonly_rootfs
    with pytest.raises(InvalidArgument, match="two mounts"):
        request("-v", "/a:/x", "--tmpfs", "/x", "i")


def test_security() -> None:
    asked = request(
        "--cap-drop",
        "ALL",
        "--cap-add",
        "net_bind_service",
        "--security-opt",
        "no-new-privileges",
        "-u",
        "65534",
        "i",
    ).container
    assert asked.drop_capabilities == ("ALL",)
    assert asked.add_capabilities == ("CAP_NET_BIND_SERVICE",)
    assert asked.no_new_privs
    assert asked.user == "65534"
    privileged = request("--privileged", "i")
    assert privileged.sandbox.privileged
    assert privileged.container.privileged
    assert privileged.container.seccomp == SecurityProfile(kind="unconfined")


def test_stopping() -> None:
    asked = request("--stop-signal", "SIGRTMIN+3", "--stop-timeout", "30", "i").container
    assert asked.stop_signal == "SIGRTMIN+3"
    assert asked.annotations[ANNOTATION_STOP_TIMEOUT] == "30"
    with pytest.raises(InvalidArgument, match="no such signal"):
        request("--stop-signal", "SIGBOGUS", "i")


def test_restart_policies() -> None:
    assert request("i").container.restart == request("--restart", "no", "--rm", "i").container.restart == ""
    assert request("--restart", "on-failure:03", "i").container.restart == "on-failure:3"
    with pytest.raises(InvalidArgument, match="contradicts --rm"):
        request("--restart", "always", "--rm", "i")
    with pytest.raises(InvalidArgument, match="only on-failure"):
        request("--restart", "always:3", "i")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--memory", "lots", "i"),
        ("--user", "a b", "i"),
        ("--workdir", "relative", "i"),
        ("--hostname", "a_/b", "i"),
        ("--name", "-x", "i"),
        ("--ulimit", "nofile", "i"),
        ("--env-file", "/nonexistent/env", "i"),
        ("--sysctl", "net.core.somaxconn", "i"),
    ],
)
def test_every_wrong_option_is_named(arguments: tuple[str, ...]) -> None:
    from oakum.errors import OakumError

    with pytest.raises(OakumError) as caught:
        request(*arguments)
    words = caught.value.operation + caught.value.subject
    assert arguments[1] in words or arguments[0].strip("-") in words


def test_background_containers_keep_their_input_for_later() -> None:
    assert not request("-d", "-i", "i").container.stdin_once


def test_an_init_is_the_pods_own() -> None:
    assert request("--init", "i").sandbox.namespaces.pid == "pod"
    assert request("i").sandbox.namespaces.pid == "container"
    assert request("--init", "--pid", "host", "i").sandbox.namespaces.pid == "node"
