# SPDX-License-Identifier: Apache-2.0
"""CNI configurations and plugins of a test's own. `fake` plugins remember their calls and fail as they are told."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from oakum.network.cni.network import CniNetwork
from oakum.network.settings import CniSettings

REAL_PLUGINS = "/usr/lib/cni"

# What a call does is read from "<own path>.behaviour": {"ADD": "hang"}. Ways to fail, one for each that exists.
_FAKE = r"""#!@python@ -SE
import fcntl, json, os, sys, time

told = sys.stdin.read()
command = os.environ["CNI_COMMAND"]
try:
    with open(sys.argv[0] + ".behaviour") as file:
        how = json.load(file).get(command, "")
except FileNotFoundError:
    how = ""
entry = {
    "command": command, "plugin": os.path.basename(sys.argv[0]), "config": json.loads(told), "pid": os.getpid(),
    "environment": {k: v for k, v in os.environ.items() if k.startswith("CNI_")},
    "netns": os.readlink("/proc/self/ns/net"),
}
with open(os.path.dirname(sys.argv[0]) + "/calls.log", "a") as log:
    fcntl.flock(log, fcntl.LOCK_EX)
    log.write(json.dumps(entry) + "\n")
version = entry["config"]["cniVersion"]

def say(code, message, details=""):
    print(json.dumps({"cniVersion": version, "code": code, "msg": message, "details": details}))
    sys.exit(1)

if how.startswith("code "):
    say(int(how[5:]), "the message", "the details")
elif how == "exit":
    sys.stderr.write("it went wrong\n")
    sys.exit(7)
elif how == "signal":
    os.kill(os.getpid(), 9)
elif how == "garbage":
    print("{not json")
    sys.exit(0)
elif how == "bad result":
    print(json.dumps({"cniVersion": version, "ips": [{"address": "nowhere"}]}))
    sys.exit(0)
elif how == "no addresses":
    print(json.dumps({"cniVersion": version, "interfaces": [], "ips": []}))
    sys.exit(0)
elif how == "error with status 0":
    print(json.dumps({"cniVersion": version, "code": 7, "msg": "wrong"}))
    sys.exit(0)
elif how == "hang":
    child = os.fork()
    if child == 0:
        time.sleep(600)
    time.sleep(600)
elif how == "flood":
    while True:
        sys.stdout.write("x" * 65536)
elif how == "leave a daemon":
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
elif how.startswith("meet "):
    # goes on when so many calls are there at once
    place = sys.argv[0] + ".met"
    os.makedirs(place, exist_ok=True)
    open(f"{place}/{os.getpid()}", "w").close()
    while len(os.listdir(place)) < int(how[5:]):
        time.sleep(0.01)
elif how == "kill the host":
    os.kill(os.getppid(), 9)

if command == "VERSION":
    print(json.dumps({"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}))
elif command == "ADD":
    previous = entry["config"].get("prevResult")
    result = previous or {
        "cniVersion": version,
        "interfaces": [{"name": os.environ["CNI_IFNAME"], "sandbox": os.environ["CNI_NETNS"]}],
        "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 0}],
        "dns": {"nameservers": ["10.1.2.1"]},
    }
    result["seen-by-" + entry["plugin"]] = True
    print(json.dumps(result))
"""


class CniBox:
    """A configuration directory, a plugin directory and a place for records, below `top`."""

    def __init__(self, top: Path, *, timeout_s: float = 20.0) -> None:
        self.configs, self.plugins, self.records = top / "net.d", top / "bin", top / "cni"
        for directory in (self.configs, self.plugins):
            directory.mkdir(parents=True)
        self.settings = CniSettings(
            str(self.configs),
            (str(self.plugins), REAL_PLUGINS),
            timeout_s=timeout_s,
            question_timeout_s=timeout_s,
        )
        self._opened: list[CniNetwork] = []

    def network(self) -> CniNetwork:
        made = CniNetwork(str(self.records), self.settings)
        self._opened.append(made)
        return made

    def close(self) -> None:
        for each in self._opened:
            each.close()

    def configure(
        self,
        *plugins: dict[str, Any],
        name: str = "podnet",
        version: str = "1.0.0",
        file: str = "",
        **more: Any,
    ) -> None:
        path = self.configs / (file or f"10-{name}.conflist")
        path.write_text(json.dumps({"cniVersion": version, "name": name, "plugins": plugins, **more}))

    def fake(self, name: str, **behaviour: str) -> dict[str, Any]:
        """A plugin called `name` and the configuration that names it."""
        path = self.plugins / name
        path.write_text(_FAKE.replace("@python@", sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.behave(name, **behaviour)
        return {"type": name}

    def behave(self, name: str, **behaviour: str) -> None:
        temporary = self.plugins / f"{name}.behaviour.new"
        temporary.write_text(json.dumps(behaviour))
        os.rename(temporary, self.plugins / f"{name}.behaviour")

    def meet(self, name: str, who: str) -> None:
        """Be one of those that the plugin `name` waits for, as "meet N" has it."""
        place = self.plugins / f"{name}.met"
        place.mkdir(exist_ok=True)
        (place / who).touch()

    def calls(self, *commands: str) -> list[dict[str, Any]]:
        """The calls of fake plugins in order, those of `commands` only if any are named; questions left out."""
        path = self.plugins / "calls.log"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        wanted = commands or ("ADD", "DEL", "CHECK", "GC")
        return [call for call in found if call["command"] in wanted]

    def told(self, *commands: str) -> list[tuple[str, str]]:
        return [(call["command"], call["plugin"]) for call in self.calls(*commands)]

    def left(self) -> list[str]:
        """Files of records that are still there."""
        directory = self.records / "attachments"
        return sorted(os.listdir(directory)) if directory.exists() else []
