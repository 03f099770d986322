# SPDX-License-Identifier: Apache-2.0
"""`oakum oci features`: everything that it names is accepted, and what it does not name is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oakum.oci.refusals import REFUSED
from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime
from tests.support.runtime_spec import document, fields


@pytest.fixture
def features(runtime: Runtime) -> dict[str, Any]:
    return json.loads(runtime("features").stdout)


def refused(runtime: Runtime, named: str, **changes: Any) -> None:
    runtime.write("true", **changes)
    done = runtime("create", "-b", runtime.bundle, "refused", check=False)
    assert (done.returncode, named in done.stderr) == (1, True), done.stderr
    assert runtime("list", "-q").stdout == ""


def runs(runtime: Runtime, *args: str, **changes: Any) -> str:
    runtime.write(*(args or ("true",)), **changes)
    return runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout


def test_versions(runtime: Runtime, features: dict[str, Any]) -> None:
    assert features["ociVersionMin"] == "1.0.0"
    for version in (
        features["ociVersionMin"],
        "1.1.0",
        "1.2.0-rc.1+dev",
        features["ociVersionMax"],
        "1.99.0",
    ):
        runs(runtime, ociVersion=version)
    for version in ("0.9.0", "2.0.0", "1"):
        refused(runtime, "$.ociVersion", ociVersion=version)


def test_hooks(runtime: Runtime, features: dict[str, Any], tmp_path: Path) -> None:
    said = tmp_path / "said"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo ran >> {said} || echo ran >> /tmp/said"]}
    for kind in features["hooks"]:
        inside = Path(runtime.bundle, "rootfs/tmp/said")
        runs(runtime, hooks={kind: [hook]})
        assert said.exists() or inside.exists(), kind
        said.unlink(missing_ok=True)
        inside.unlink(missing_ok=True)


def test_mount_options(runtime: Runtime, features: dict[str, Any], tmp_path: Path) -> None:
    binds = {"bind", "rbind"}
    # these need a user namespace to map to
    options = set(features["mountOptions"]) - {"idmap", "ridmap"} - binds
    mounts = runtime.write("true")["mounts"]
    bound = {"type": "bind", "source": str(tmp_path)}
    tests = [{"type": "tmpfs", "source": "t", "options": [option]} for option in sorted(options)]
    tests += [{**bound, "options": [option]} for option in sorted(binds)]
    tests += [{**bound, "options": ["rbind", option]} for option in sorted(options) if option.startswith("r")]
    for mount in tests:
        mount["destination"] = f"/tmp/m{len(mounts)}"
        mounts.append(mount)
    runs(runtime, mounts=mounts)
    bad = {"destination": "/tmp/m", "type": "tmpfs", "source": "t", "options": ["nosuchoption"]}
    refused(runtime, "nosuchoption", mounts=[*mounts[:6], bad])
    # what the specification wants understood at least
    wanted = """async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime noexec
        noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate rshared rslave
        runbindable rw shared silent slave strictatime suid sync unbindable"""
    assert set(wanted.split()) - set(features["mountOptions"]) == set()


def test_namespaces(runtime: Runtime, features: dict[str, Any]) -> None:
    named = features["linux"]["namespaces"]
    assert set(NAMESPACES) | {"user"} <= set(named)
    others = [{"type": kind} for kind in named if kind != "user"]
    runs(runtime, linux={"namespaces": others})
    ids = [{"containerID": 0, "hostID": 0, "size": 65536}]
    runs(runtime, linux={"namespaces": [*others, {"type": "user"}], "uidMappings": ids, "gidMappings": ids})
    for kind in {"mount", "pid", "ipc", "uts", "network", "cgroup", "user", "time"} - set(named):
        refused(runtime, kind, linux={"namespaces": [{"type": "mount"}, {"type": kind}]})
    refused(runtime, "$.linux.namespaces[0].type", linux={"namespaces": [{"type": "nosuch"}]})


def test_capabilities(runtime: Runtime, features: dict[str, Any]) -> None:
    names = features["linux"]["capabilities"]
    runtime.write("true", process={"capabilities": {"bounding": [*names, "CAP_NOSUCH"]}})
    done = runtime("run", "-b", runtime.bundle, runtime.new_id())
    # the specification wants a warning for what no kernel knows, not an error
    assert "CAP_NOSUCH" in done.stderr
    assert len(names) == len(set(names)) == 41


def test_seccomp(runtime: Runtime, features: dict[str, Any]) -> None:
    seccomp = features["linux"]["seccomp"]

    def profile(**changes: Any) -> dict[str, Any]:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", **changes.pop("rule", {})}
        return {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], **changes}}}

    calls = ["mkdir", "rmdir", "link", "symlink", "rename", "chown", "chmod", "mknod"]
    rules = [
        {"names": [call], "action": action}
        for call, action in zip(calls, sorted(set(seccomp["actions"]) - {"SCMP_ACT_NOTIFY"}), strict=False)
    ]
    rules += [
        {"names": [call], "action": "SCMP_ACT_LOG", "args": [{"index": 1, "value": 1, "valueTwo": 1, "op": operator}]}
        for call, operator in zip(["linkat", "symlinkat", "renameat", "fchownat", "fchmodat", "mknodat", "mkdirat"],
                                  seccomp["operators"], strict=True)
    ]  # fmt: skip
    assert len(seccomp["actions"]) >= len(calls)
    # one of the flags is for who listens to a filter: it goes with a listener only
    flags = [flag for flag in seccomp["supportedFlags"] if not flag.endswith("_RECV")]
    runs(runtime, **profile(syscalls=rules, flags=flags, architectures=seccomp["archs"]))
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])
    for arch in seccomp["archs"]:
        runs(runtime, **profile(architectures=[arch]))
    for changes, named in (
        ({"rule": {"action": "SCMP_ACT_NOSUCH"}}, "$.linux.seccomp.syscalls[0].action"),
        ({"flags": ["SECCOMP_FILTER_FLAG_NOSUCH"]}, "$.linux.seccomp.flags"),
        ({"architectures": ["SCMP_ARCH_NOSUCH"]}, "SCMP_ARCH_NOSUCH"),
        ({"defaultAction": "SCMP_ACT_NOSUCH"}, "$.linux.seccomp.defaultAction"),
    ):
        refused(runtime, named, **profile(**changes))


def test_memory_policies(runtime: Runtime, features: dict[str, Any]) -> None:
    policies = features["linux"]["memoryPolicy"]
    for mode in policies["modes"]:
        nodes = {} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"nodes": "0"}
        runtime.write("true", linux={"memoryPolicy": {"mode": mode, **nodes}})
        done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
        # the newest are not every kernel's, whose word that is then
        assert done.returncode == 0 or "set_mempolicy" in done.stderr, (mode, done.stderr)
    for flag in policies["flags"]:
        runtime.write("true", linux={"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]}})
        done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert done.returncode == 0 or "set_mempolicy" in done.stderr, (flag, done.stderr)
    refused(runtime, "$.linux.memoryPolicy.mode", linux={"memoryPolicy": {"mode": "MPOL_NOSUCH"}})


def test_what_is_not_done_is_refused_and_never_passed_over(
    runtime: Runtime, features: dict[str, Any]
) -> None:
    whole = document()
    assert features["linux"]["intelRdt"]["enabled"] is ("linux.intelRdt" not in REFUSED)
    assert features["linux"]["netDevices"]["enabled"] is ("linux.netDevices" not in REFUSED)
    assert features["linux"]["cgroup"]["rdma"] is ("linux.resources.rdma" not in REFUSED)
    for path in REFUSED:
        (field,) = [field for field in fields() if field.table_path == path]
        value: Any = whole
        for step in field.steps:
            value = value[step]
        for step in field.steps[:0:-1]:
            value = {step: value}
        refused(runtime, f" $.{path}: ", **{str(field.steps[0]): value})
