# SPDX-License-Identifier: Apache-2.0
"""What the host makes of every way in which a plugin can fail: a hand-written plugin for each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oakum.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OakumError,
    SystemFailure,
    Unavailable,
)
from oakum.network import retry
from tests.support import network_fixtures
from tests.support.cni import CniBox
from tests.support.patience import eventually, patient

ONE, TWO = "1" * 64, "2" * 64
NETNS = "/proc/self/ns/net"


box = network_fixtures.box


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[CniBox]:
    made = CniBox(tmp_path / "hasty", timeout_s=2.5)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, FailedPrecondition),
        (2, FailedPrecondition),
        (3, NotFound),
        (4, InvalidArgument),
        (5, SystemFailure),
        (6, FailedPrecondition),
        (7, FailedPrecondition),
        (11, Unavailable),
        (100, OakumError),
        (999, OakumError),
    ],
)
def test_an_error_object_is_passed_on_with_plugin_code_message_and_details(
    box: CniBox, code: int, kind: type[OakumError]
) -> None:
    box.configure(box.fake("first"), box.fake("second", ADD=f"code {code}"), box.fake("third"))
    with pytest.raises(kind) as caught:
        box.network().setup(ONE, NETNS)
    assert type(caught.value) is kind
    assert caught.value.operation == "CNI ADD"
    assert caught.value.subject == "plugin second of network podnet"
    assert caught.value.cause == f"code {code}: the message: the details"
    assert box.told() == [
        ("ADD", "first"), ("ADD", "second"), ("DEL", "third"), ("DEL", "second"), ("DEL", "first"),
    ]  # fmt: skip
    assert box.left() == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "exit code 7 without an error in JSON: it went wrong"),
        ("signal", "killed by signal 9 without an error in JSON"),
        ("garbage", "its result is no JSON object: {not json"),
        ("bad result", "an address of its result is none"),
        ("error with status 0", "code 7: wrong"),
        ("flood", "it wrote more than 4194304 bytes"),
        ("no addresses", "succeeded without an address for eth0"),
    ],
)
def test_a_plugin_that_breaks_the_rules_fails_the_pod_and_is_undone(box: CniBox, how: str, said: str) -> None:
    box.configure(box.fake("only", ADD=how))
    with pytest.raises(OakumError) as caught:
        box.network().setup(ONE, NETNS)
    assert said in str(caught.value)
    assert box.told() == [("ADD", "only"), ("DEL", "only")]
    assert box.left() == []


def test_a_plugin_that_hangs_is_killed_with_what_it_started(hasty: CniBox) -> None:
    hasty.configure(hasty.fake("only", ADD="hang"))
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not end within 2\.5 s and was killed"):
        hasty.network().setup(ONE, NETNS)
    assert time.monotonic() - began < patient(5)
    (call,) = hasty.calls("ADD")
    with pytest.raises(ProcessLookupError):
        os.killpg(call["pid"], 0)
    assert hasty.told() == [("ADD", "only"), ("DEL", "only")]


def test_a_plugin_may_leave_a_daemon_that_holds_its_pipes(box: CniBox) -> None:
    box.configure(box.fake("only", ADD="leave a daemon"))
    began = time.monotonic()
    network = box.network()
    network.setup(ONE, NETNS)
    network.teardown(ONE)
    assert time.monotonic() - began < patient(2.5)
    os.killpg(box.calls("ADD")[0]["pid"], 9)


def test_a_plugin_that_is_not_there(box: CniBox) -> None:
    box.configure({"type": "missing"})
    network = box.network()
    assert "no such program in" in network.problem()
    with pytest.raises(NotFound, match="find CNI plugin 'missing'") as caught:
        network.setup(ONE, NETNS)
    assert "undoing it failed, too, and is repeated" in str(caught.value)
    assert network.owed().keys() == {ONE}
    box.fake("missing")
    network.teardown(ONE)
    assert box.left() == []


def test_a_plugin_that_cannot_be_started(box: CniBox) -> None:
    box.configure({"type": "broken"})
    (box.plugins / "broken").write_text("#!/does/not/exist\n")
    (box.plugins / "broken").chmod(0o755)
    with pytest.raises(SystemFailure, match="start CNI plugin"):
        box.network().setup(ONE, NETNS)


def test_del_is_repeated_in_the_background_until_it_succeeds(
    box: CniBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST_PAUSE_S", 0.05)
    box.configure(box.fake("only", DEL="code 11"))
    network = box.network()
    network._retrier._first_pause_s = 0.05
    network.setup(ONE, NETNS)
    with pytest.raises(Unavailable, match="CNI DEL plugin only of network podnet: code 11"):
        network.teardown(ONE)
    assert network.needs_namespace(ONE)
    assert "try again" not in network.owed()[ONE]
    assert "is not detached yet" in network.warnings()[0]
    eventually(lambda: len(box.calls("DEL")) > 3)
    # A record is replaced by a file of another name, which may be seen.
    eventually(lambda: box.left() == [f"{ONE}.json"])
    box.behave("only")
    eventually(lambda: not box.left())
    assert network.attachments() == []


def test_what_del_owes_is_paid_by_the_next_process(box: CniBox) -> None:
    box.configure(box.fake("only", DEL="exit"))
    first = box.network()
    first.setup(ONE, NETNS)
    with pytest.raises(OakumError):
        first.teardown(ONE)
    first.close()
    box.behave("only")
    # Its configuration is gone meanwhile: the record has the one that it was made with.
    (box.configs / "10-podnet.conflist").unlink()
    assert box.network().gc([ONE]) == [ONE]
    assert box.left() == []
    assert box.calls("DEL")[-1]["config"]["prevResult"]["ips"]


def test_a_failing_del_stops_the_chain_and_is_repeated_from_the_end(box: CniBox) -> None:
    box.configure(box.fake("first"), box.fake("second", DEL="exit"), box.fake("third"))
    network = box.network()
    network.setup(ONE, NETNS)
    with pytest.raises(OakumError):
        network.teardown(ONE)
    assert box.told("DEL") == [("DEL", "third"), ("DEL", "second")]
    box.behave("second")
    network.teardown(ONE)
    assert box.told("DEL")[2:] == [("DEL", "third"), ("DEL", "second"), ("DEL", "first")]


def test_a_container_that_a_plugin_does_not_know_needs_no_del(box: CniBox) -> None:
    box.configure(box.fake("only", DEL="code 3"))
    network = box.network()
    network.setup(ONE, NETNS)
    network.teardown(ONE)
    assert box.left() == []


def test_a_pod_is_not_added_twice(box: CniBox) -> None:
    box.configure(box.fake("only"), version="1.1.0")
    network = box.network()
    first = network.setup(ONE, NETNS)
    assert network.setup(ONE, NETNS) == first
    assert box.told() == [("ADD", "only"), ("CHECK", "only")]
    box.behave("only", CHECK="code 100")
    network.setup(ONE, NETNS)
    assert box.told("ADD", "DEL") == [("ADD", "only"), ("DEL", "only"), ("ADD", "only")]


def test_check_is_left_out_where_the_list_forbids_it_or_is_too_old(box: CniBox) -> None:
    box.configure(box.fake("only", CHECK="exit"), disableCheck=True)
    box.configure(box.fake("only", CHECK="exit"), version="0.3.1", name="old")
    network = box.network()
    for number, name in ((ONE, "podnet"), (TWO, "old")):
        network.setup(number, NETNS, network=name)
        network.check(number)
    assert box.calls("CHECK") == []
    with pytest.raises(NotFound, match="not attached"):
        network.check("3" * 64)


def test_status_makes_the_network_not_ready(box: CniBox) -> None:
    box.configure(box.fake("first"), box.fake("second", STATUS="code 50"), version="1.1.0")
    assert box.network().problem() == (
        "CNI STATUS plugin second of network podnet: code 50: the message: the details"
    )
    box.behave("second")
    network = box.network()
    assert network.problem() == ""
    asked = len(box.calls("STATUS"))
    assert network.problem() == ""
    assert len(box.calls("STATUS")) == asked, "the answer is believed for a while"
    assert "CNI_CONTAINERID" not in box.calls("STATUS")[0]["environment"]


def test_status_is_not_asked_of_older_lists(box: CniBox) -> None:
    box.configure(box.fake("only", STATUS="code 50"), version="1.0.0")
    assert box.network().problem() == ""
    assert box.calls("STATUS") == []


def test_a_plugin_that_knows_no_version_is_not_held_to_be_broken(box: CniBox) -> None:
    box.configure(box.fake("only", VERSION="exit"))
    network = box.network()
    assert network.problem() == ""
    network.setup(ONE, NETNS)


def test_gc_names_what_lives_and_goes_on_after_a_failure(box: CniBox) -> None:
    box.configure(box.fake("first", GC="code 100"), box.fake("second"), version="1.1.0")
    box.configure(box.fake("other", GC="exit"), version="1.1.0", name="off", disableGC=True)
    box.configure(box.fake("old", GC="exit"), version="1.0.0", name="older")
    network = box.network()
    network.setup(ONE, NETNS, network="podnet")
    network.setup(TWO, NETNS, network="podnet")
    with pytest.raises(OakumError, match="CNI GC plugin first of network podnet: code 100"):
        network.gc([ONE])
    assert box.told("DEL", "GC") == [
        ("DEL", "second"), ("DEL", "first"), ("GC", "first"), ("GC", "second"),
    ]  # fmt: skip
    alive = [{"containerID": ONE, "ifname": "eth0"}]
    told = box.calls("GC")[1]["config"]
    assert told["cni.dev/valid-attachments"] == told["cni.dev/attachments"] == alive
    assert "CNI_NETNS" not in box.calls("GC")[1]["environment"]


def test_gc_does_not_begin_while_a_pod_is_attached(box: CniBox) -> None:
    """It would take what ADD has just made for garbage."""
    box.configure(box.fake("first", ADD="meet 2"), box.fake("second"), version="1.1.0")
    network = box.network()
    with ThreadPoolExecutor(2) as threads:
        adding = threads.submit(network.setup, ONE, NETNS)
        eventually(lambda: box.told("ADD") == [("ADD", "first")], "the first plugin has begun")
        collecting = threads.submit(network.gc, [ONE])
        time.sleep(0.2)  # for one that does not wait
        box.meet("first", "us")
        adding.result()
        assert collecting.result() == []
    assert box.told("ADD", "GC") == [
        ("ADD", "first"), ("ADD", "second"), ("GC", "first"), ("GC", "second"),
    ]  # fmt: skip


def test_a_hanging_del_does_not_hold_up_other_pods(hasty: CniBox) -> None:
    hasty.configure(hasty.fake("only"))
    network = hasty.network()
    network.setup(ONE, NETNS)
    hasty.behave("only", DEL="hang")
    with pytest.raises(Unavailable, match=r"CNI DEL .* did not end within 2\.5 s"):
        network.teardown(ONE)
    hasty.behave("only")
    network.setup(TWO, NETNS)
    network.teardown(TWO)
    eventually(lambda: not hasty.left())
