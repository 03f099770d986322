# SPDX-License-Identifier: Apache-2.0
"""Containers and images under docker's names, with what the templates people paste ask of them."""

from __future__ import annotations

import msgspec

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    Mount,
    PortMapping,
    Resources,
    SandboxConfig,
    SandboxMetadata,
)
from oakum.backend.status import ContainerStatus, SandboxStatus
from oakum.cli import views
from oakum.cli.template import Template

CONFIG = ContainerConfig(
    metadata=ContainerMetadata(name="web"),
    image="busybox:1",
    args=("sleep", "9"),
    labels={"tier": "front"},
    mounts=(Mount(container_path="/d", volume="db", readonly=True), Mount(container_path="/t", tmpfs=True)),
)
STATUS = ContainerStatus(
    id="c" * 64,
    sandbox_id="5" * 64,
    config=CONFIG,
    state="exited",
    created_at_ns=1_000_000_000,
    finished_at_ns=2_000_000_000,
    exit_code=3,
    image_id="sha256:" + "1" * 64,
    resources=Resources(memory_limit_bytes=64 << 20),
    argv=("sleep", "9"),
)
SANDBOX = SandboxStatus(
    id="5" * 64,
    config=SandboxConfig(
        metadata=SandboxMetadata(name="web"),
        network="blue",
        port_mappings=(PortMapping(protocol="tcp", container_port=80, host_port=8080),),
        owner="container",
    ),
    state="not_ready",
    created_at_ns=1,
)
FOUND = {
    "spec": {"process": {"env": ["A=1"], "cwd": "/"}},
    "networks": [
        {"network": "blue", "addresses": ["10.1.0.2/24", "fd00::2/64"], "gateways": ["10.1.0.1"], "mac": "m"}
    ],
}


def test_all_about_a_container_is_where_docker_has_it() -> None:
    view = views.container(FOUND, STATUS, SANDBOX)
    for text, written in (
        ("{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.State.Running}}", "/web exited 3 false"),
        ("{{.State.FinishedAt}}", "1970-01-01T00:00:02.000000000Z"),
        ("{{.State.StartedAt}}", "0001-01-01T00:00:00Z"),
        ("{{.Path}} {{.Args}} {{.Config.Cmd}} {{.Config.Env}}", "sleep [9] [sleep 9] [A=1]"),
        ("{{.HostConfig.Memory}} {{.HostConfig.NetworkMode}}", "67108864 blue"),
        ("{{.NetworkSettings.IPAddress}} {{.NetworkSettings.GlobalIPv6Address}}", "10.1.0.2 fd00::2"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{.Gateway}}{{end}}", "10.1.0.210.1.0.1"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}", "volume db /d false"),
        ("{{.spec.process.cwd}}", "/"),
    ):
        assert Template(text).render(view) == written


def test_what_restarts_is_said_as_docker_says_it() -> None:
    config = msgspec.structs.replace(CONFIG, restart="on-failure:5")
    status = msgspec.structs.replace(STATUS, config=config, restarting=True, restart_count=2)
    template = "{{.State.Status}} {{.State.Running}} {{.State.Restarting}} {{.RestartCount}} {{.HostConfig.RestartPolicy.Name}}"
    said = Template(template + " {{.HostConfig.RestartPolicy.MaximumRetryCount}}").render(
        views.container(FOUND, status, SANDBOX)
    )
    assert said == "restarting true true 2 on-failure 5"
    plain = Template("{{.RestartCount}} {{.HostConfig.RestartPolicy.Name}}").render(
        views.container(FOUND, STATUS, SANDBOX)
    )
    assert plain == "0 no"


def test_every_field_of_a_list_has_a_title() -> None:
    line = views.container_line(STATUS, SANDBOX, words="Exited", ports="", now_ns=3_000_000_000, full=False)
    assert line.keys() == views.CONTAINER_TITLES.keys()
    assert Template('{{.ID}} {{.Command}} {{.Label "tier"}} {{.Mounts}} {{.Networks}}').render(line) == (
        f'{"c" * 12} "sleep 9" front db blue'
    )
    assert views.CONTAINER_TITLES["Label"]("com.example.tier") == "TIER"


def test_an_image_has_empty_parts_where_its_author_said_nothing() -> None:
    found = {"id": "sha256:1", "repo_tags": ["a:1"], "repo_digests": [], "size_bytes": 5}
    view = views.image(found, {"os": "linux", "config": {"Cmd": ["sh"], "Env": None}})
    assert Template("{{.Id}} {{.Os}} {{.Config.Cmd}} {{.Config.Env}} {{.Size}}").render(view) == (
        "sha256:1 linux [sh] [] 5"
    )
