# SPDX-License-Identifier: Apache-2.0
"""Whose network a sandbox gets, and that it stays there. Plugins only remember; nothing built in is attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oakum.errors import FailedPrecondition, InvalidArgument, NotFound
from oakum.network.choice import ChosenNetwork
from oakum.network.protocol import Network
from oakum.network.settings import NetworkSettings, from_environment
from tests.support import network_fixtures
from tests.support.cni import CniBox

ONE = "1" * 64
NETNS = "/proc/self/ns/net"

Open = Callable[[str], ChosenNetwork]


box = network_fixtures.box


@pytest.fixture
def choose(box: CniBox, tmp_path: Path) -> Iterator[Open]:
    opened: list[ChosenNetwork] = []

    def open_as(mode: str) -> ChosenNetwork:
        settings = NetworkSettings(mode, box.settings)  # type: ignore[arg-type]
        opened.append(ChosenNetwork(str(tmp_path / "network.db"), str(box.records), settings=settings))
        return opened[-1]

    yield open_as
    for each in opened:
        each.close()


def test_cni_is_used_when_it_is_configured(box: CniBox, choose: Open) -> None:
    network = choose("auto")
    assert not network.uses_cni()
    assert network.problem() == ""
    box.configure(box.fake("only"))
    assert network.uses_cni()
    attached = network.setup(ONE, NETNS)
    assert attached.network == "podnet"
    assert network.needs_namespace(ONE)
    assert network.attachments() == [network.attachment(ONE)]
    assert [info.name for info in network.list_networks()] == ["podnet", "default"]
    # It stays with the plugins although the node has no CNI any more.
    (box.configs / "10-podnet.conflist").unlink()
    assert not network.uses_cni()
    assert [info.name for info in network.list_networks()] == ["default"]
    network.teardown(ONE)
    assert box.told() == [("ADD", "only"), ("DEL", "only")]
    assert not network.needs_namespace(ONE)


def test_a_wrong_configuration_does_not_turn_a_cni_node_into_another(box: CniBox, choose: Open) -> None:
    (box.configs / "10-a.conf").write_text("{")
    network = choose("auto")
    assert "10-a.conf: no JSON" in network.problem()
    with pytest.raises(InvalidArgument, match=r"10-a\.conf"):
        network.setup(ONE, NETNS)


def test_the_choice_can_be_made_by_hand(box: CniBox, choose: Open) -> None:
    box.configure(box.fake("only"))
    builtin = choose("builtin")
    assert not builtin.uses_cni()
    assert [info.name for info in builtin.list_networks()] == ["default"]
    (box.configs / "10-podnet.conflist").unlink()
    cni = choose("cni")
    assert cni.uses_cni()
    assert "no network configuration is there" in cni.problem()
    with pytest.raises(NotFound, match="no network configuration is there"):
        cni.setup(ONE, NETNS)
    with pytest.raises(FailedPrecondition, match="by CNI plugins only"):
        cni.create_network("own")
    with pytest.raises(NotFound, match="find network 'own'"):
        cni.setup(ONE, NETNS, network="own")


def test_a_cni_network_can_be_named(box: CniBox, choose: Open) -> None:
    box.configure(box.fake("only"))
    box.configure(box.fake("only"), name="second")
    network = choose("auto")
    assert network.setup(ONE, NETNS, network="second").network == "second"
    assert network.gc([]) == [ONE]


def test_what_a_plugin_owes_is_repeated_for_who_gives_up(box: CniBox, choose: Open) -> None:
    box.configure(box.fake("only", DEL="exit"))
    network = choose("auto")
    network.setup(ONE, NETNS)
    network.abandon(ONE)
    network.abandon(ONE)
    assert box.told("DEL") == [("DEL", "only")], (
        "what is owed already is not tried again while somebody waits"
    )
    assert network.attachment(ONE) is not None
    box.behave("only")
    network.teardown(ONE)
    assert network.attachment(ONE) is None


def test_settings_come_from_the_environment() -> None:
    assert from_environment({}) == NetworkSettings()
    told = {"OAKUM_NETWORK": "cni", "OAKUM_CNI_CONFIG": "/c", "OAKUM_CNI_PATH": "/a:/b"}
    settings = from_environment(told)
    assert settings.mode == "cni"
    assert settings.cni.config_directory == "/c"
    assert settings.cni.plugin_directories == ("/a", "/b")
    with pytest.raises(InvalidArgument, match="'docker': not one of auto, builtin, cni"):
        from_environment({"OAKUM_NETWORK": "docker"})


def test_both_kinds_are_what_the_engine_needs(choose: Open) -> None:
    network = choose("auto")
    fulfilled: list[Network] = [network, network.builtin, network.cni]  # the type checker's business
    names = [name for name in vars(Network) if not name.startswith("_")]
    assert len(names) > 10
    assert all(callable(getattr(each, name)) for each in fulfilled for name in names)
