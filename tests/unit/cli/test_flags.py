# SPDX-License-Identifier: Apache-2.0
"""What users type after an option: the forms docker's users know, and clear refusals of everything else."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.backend.config import Device, Mount, PortMapping, Rlimit
from oakum.cli.flags import hosts, mounts, names, values, words
from oakum.errors import InvalidArgument, NotFound, OakumError
from oakum.model.ids import check_name

NOW_NS = 1_800_000_000_000_000_000


# sizes and numbers


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512m", 512 << 20),
        ("1g", 1 << 30),
        ("1.5g", 3 << 29),
        ("64MiB", 64 << 20),
        ("10kb", 10240),
        (" 2 T ", 2 << 40),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert values.parse_size("--memory", text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1m", "1x", "1.m", "0x10", "1e3", "\uff19", "99999999999p", "1 000"]
)
def test_what_is_no_size_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        values.parse_size("--memory", text)
    assert "--memory" in caught.value.operation
    assert caught.value.subject == repr(text)


@given(st.integers(0, 2**63 - 1))
def test_a_number_of_bytes_is_itself(size: int) -> None:
    assert values.parse_size("--memory", str(size)) == size


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size = values.parse_size("--memory", text)
    except InvalidArgument:
        return
    assert 0 <= size < 2**63


def test_swap_counts_with_memory() -> None:
    assert values.parse_swap(1 << 30, "2g") == 2 << 30
    assert values.parse_swap(1 << 30, "-1") == -1
    with pytest.raises(InvalidArgument, match="below the memory limit"):
        values.parse_swap(1 << 30, "512m")
    with pytest.raises(InvalidArgument, match="needs a memory limit"):
        values.parse_swap(0, "512m")


@pytest.mark.parametrize(
    ("text", "quota"), [("1", 100_000), ("0.5", 50_000), (".25", 25_000), ("2.75", 275_000), ("0", 0)]
)
def test_cpus_become_a_quota_of_100_ms(text: str, quota: int) -> None:
    assert values.parse_cpus(text) == quota


@pytest.mark.parametrize("text", ["", "one", "-1", "0.001", "1,5", "1.2.3", "inf", "nan"])
def test_what_is_no_number_of_processors_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        values.parse_cpus(text)


def test_cpu_sets() -> None:
    assert values.parse_cpu_set("--cpuset-cpus", " 0-3,6 ") == "0-3,6"
    assert values.parse_cpu_set("--cpuset-cpus", "") == ""
    for text in ("3-1", "a", "0,", "-1", "0--2", "1;rm"):
        with pytest.raises(InvalidArgument):
            values.parse_cpu_set("--cpuset-cpus", text)


def test_ulimits() -> None:
    assert values.parse_ulimit("nofile=1024:4096") == Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=4096)
    assert values.parse_ulimit("core=0") == Rlimit(type="RLIMIT_CORE", soft=0, hard=0)
    assert values.parse_ulimit("memlock=-1") == Rlimit(type="RLIMIT_MEMLOCK", soft=2**64 - 1, hard=2**64 - 1)
    assert values.parse_ulimit("as=64000000:640000000").hard == 640000000
    with pytest.raises(InvalidArgument, match="no process starts with less") as caught:
        values.parse_ulimit("as=100000")  # what shells count in KiB
    assert "bytes" in caught.value.hint
    for text in ("nofile", "nofile=", "bogus=1", "nofile=2:1", "nofile=1:2:3", "nofile=x"):
        with pytest.raises(InvalidArgument):
            values.parse_ulimit(text)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_soft_limit_is_never_above_the_hard_one(soft: int, hard: int) -> None:
    text = f"nproc={soft}:{hard}"
    if soft > hard:
        with pytest.raises(InvalidArgument):
            values.parse_ulimit(text)
    else:
        limit = values.parse_ulimit(text)
        assert (limit.soft, limit.hard) == (soft, hard)


@pytest.mark.parametrize(
    ("text", "moment_ns"),
    [
        ("10m", NOW_NS - 600 * 10**9),
        ("1h30m", NOW_NS - 5400 * 10**9),
        ("2d", NOW_NS - 172800 * 10**9),
        ("1700000000", 1700000000 * 10**9),
        ("1700000000.5", 1700000000_500000000),
        ("2026-01-02T03:04:05Z", 1767323045 * 10**9),
        ("2026-01-02T03:04:05.000000001Z", 1767323045 * 10**9 + 1),
        ("2026-01-02T05:04:05+02:00", 1767323045 * 10**9),
    ],
)
def test_since_takes_ages_and_moments(text: str, moment_ns: int) -> None:
    assert values.parse_since(text, now_ns=NOW_NS) == moment_ns


@given(st.text(max_size=40))
def test_any_since_is_a_number_or_refused(text: str) -> None:
    try:
        moment_ns = values.parse_since(text, now_ns=NOW_NS)
    except InvalidArgument:
        return
    assert isinstance(moment_ns, int)


def test_a_month_of_13_is_no_time() -> None:
    with pytest.raises(InvalidArgument):
        values.parse_since("2026-13-01T00:00:00Z", now_ns=NOW_NS)


# ports and hosts


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("8080:80", PortMapping(container_port=80, host_port=8080)),
        ("80", PortMapping(container_port=80)),
        ("127.0.0.1:8080:80", PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1")),
        ("127.0.0.1::80", PortMapping(container_port=80, host_ip="127.0.0.1")),
        ("[::1]:53:53/udp", PortMapping(container_port=53, host_port=53, host_ip="::1", protocol="udp")),
        ("9:9/SCTP", PortMapping(container_port=9, host_port=9, protocol="sctp")),
    ],
)
def test_published_ports(text: str, mapping: PortMapping) -> None:
    assert hosts.parse_publish(text) == (mapping,)


def test_port_ranges_go_pair_by_pair() -> None:
    found = hosts.parse_publish("8000-8002:80-82/udp")
    assert [(p.host_port, p.container_port) for p in found] == [(8000, 80), (8001, 81), (8002, 82)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "0:80",
        "80:0",
        "65536:1",
        "1:65536",
        "a:80",
        "80/icmp",
        "80:80/",
        "::1:80:80",
        "[::1:80:80",
        "[::1]",
        "[::1]80:80",
        "300.1.1.1:80:80",
        "host:80:80",
        "8000-8002:80-81",
        "82-80:82-80",
        "1:2:3:4",
        "\u0663:\u0663",
    ],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        hosts.parse_publish(text)
    assert "8080:80" in caught.value.hint


@given(
    st.sampled_from(["", "127.0.0.1", "10.0.0.7", "[::1]", "[fe80::1]"]),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.sampled_from(["tcp", "udp", "sctp"]),
)
def test_a_written_port_reads_back(address: str, host: int, container: int, protocol: str) -> None:
    text = f"{address + ':' if address else ''}{host}:{container}/{protocol}"
    (found,) = hosts.parse_publish(text)
    assert (found.host_ip, found.host_port, found.container_port, found.protocol) == (
        address.strip("[]"),
        host,
        container,
        protocol,
    )


@given(st.text(alphabet="0123456789:-/[].abtcpud ", max_size=25))
def test_any_text_is_ports_or_refused(text: str) -> None:
    try:
        found = hosts.parse_publish(text)
    except InvalidArgument:
        return
    assert found
    assert all(1 <= p.container_port <= 65535 and 0 <= p.host_port <= 65535 for p in found)


def test_a_port_left_open_gets_one_that_is_free() -> None:
    (found,) = hosts.assign_free_ports(hosts.parse_publish("127.0.0.1::80"))
    assert found.container_port == 80
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", found.host_port))  # nobody else has it


def test_extra_hosts() -> None:
    assert hosts.parse_add_host("db:10.0.0.5") == ("db", "10.0.0.5")
    assert hosts.parse_add_host("db=::1") == ("db", "::1")
    assert hosts.parse_add_host("db:[::1]") == ("db", "::1")
    for text in ("db", "db:", ":1.2.3.4", "a b:1.2.3.4", "db:host", "a\nb:1.2.3.4", "#x:1.2.3.4"):
        with pytest.raises(InvalidArgument):
            hosts.parse_add_host(text)


@given(st.text(max_size=80))
def test_a_host_name_never_carries_more_than_a_name(text: str) -> None:
    try:
        assert hosts.check_host_name(text) == text
    except InvalidArgument:
        return
    assert text.isascii()
    assert not set(text) & set(" \n\t#/:")


# mounts and devices


def test_volumes() -> None:
    assert mounts.parse_volume("/a:/b", cwd="/w") == Mount(host_path="/a", container_path="/b")
    assert mounts.parse_volume("./site:/www/:ro", cwd="/w") == Mount(
        host_path="/w/site", container_path="/www", readonly=True
    )
    assert mounts.parse_volume("/a:/b:rslave,noexec", cwd="/w") == Mount(
        host_path="/a", container_path="/b", propagation="host_to_container", options=("noexec",)
    )
    assert mounts.parse_volume("/a:/b:rshared,z", cwd="/w") == Mount(
        host_path="/a", container_path="/b", propagation="bidirectional", selinux_relabel=True
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("data", "not an absolute path"),
        ("da/ta:/data", "neither a path nor the name"),
        ("/a:b", "not an absolute path"),
        ("/a:/", "root cannot be mounted over"),
        ("/a:/..", "root cannot be mounted over"),
        ("/a:/b:bogus", "unknown option"),
        ("/a:/b:nocopy", "of a path nothing is copied"),
        ("/a:/b:ro:x", "too many colons"),
        (":/b", "source is empty"),
    ],
)
def test_volumes_that_cannot_be(text: str, cause: str) -> None:
    with pytest.raises(InvalidArgument, match=cause):
        mounts.parse_volume(text, cwd="/w")


def test_volumes_of_ours() -> None:
    assert mounts.parse_volume("db:/data:ro", cwd="/w") == Mount(
        volume="db", container_path="/data", readonly=True
    )
    assert mounts.parse_volume("/data", cwd="/w") == Mount(volume="", container_path="/data")
    assert mounts.parse_mount("type=volume,src=db,dst=/data", cwd="/w").volume == "db"
    assert mounts.parse_mount("type=volume,dst=/data", cwd="/w").volume == ""
    assert mounts.parse_volume("db:/data:ro,nocopy", cwd="/w").no_copy
    assert mounts.parse_mount("type=volume,dst=/data,volume-nocopy", cwd="/w").no_copy
    assert not mounts.parse_mount("type=volume,dst=/data,volume-nocopy=false", cwd="/w").no_copy


def test_a_path_that_looks_like_a_name_has_a_way_out() -> None:
    with pytest.raises(InvalidArgument) as caught:
        mounts.parse_volume("da/ta:/data", cwd="/w")
    assert "./da/ta" in caught.value.hint


@given(st.text(max_size=60))
def test_a_mount_stays_below_the_containers_root(text: str) -> None:
    try:
        found = mounts.parse_volume(text, cwd="/w")
    except InvalidArgument:
        return
    assert found.container_path.startswith("/")
    assert found.host_path.startswith("/") != (found.volume is not None)
    assert ".." not in found.container_path.split("/")
    assert found.container_path != "/"


def test_tmpfs_is_not_executable_unless_asked_for() -> None:
    usual = mounts.parse_tmpfs("/scratch")
    assert usual.tmpfs
    assert set(usual.options) == {"nosuid", "nodev", "noexec", "mode=1777"}
    made = mounts.parse_tmpfs("/scratch:size=64m,mode=700,exec,ro")
    assert set(made.options) == {"nosuid", "nodev", "size=64m", "mode=700"}
    assert made.readonly
    for text in ("scratch", "/s:size=", "/s:size=1;x", "/s:bogus", "/"):
        with pytest.raises(InvalidArgument):
            mounts.parse_tmpfs(text)


def test_long_form_mounts() -> None:
    assert mounts.parse_mount("type=bind,src=/a,dst=/b,readonly", cwd="/w") == Mount(
        host_path="/a", container_path="/b", readonly=True
    )
    assert mounts.parse_mount("source=/a,target=/b,bind-propagation=rslave", cwd="/w") == Mount(
        host_path="/a", container_path="/b", propagation="host_to_container"
    )
    # as docker has it, a mount is a volume; a path is no volume's name
    assert mounts.parse_mount("src=db,dst=/data", cwd="/w").volume == "db"
    assert mounts.parse_mount("dst=/data", cwd="/w").volume == ""
    image = mounts.parse_mount("type=image,src=busybox,dst=/tools,image-subpath=bin", cwd="/w")
    assert (image.image, image.image_sub_path, image.readonly) == ("busybox", "bin", True)
    assert "size=1m" in mounts.parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m", cwd="/w").options
    for text in ("type=volume,src=x/y,dst=/b", "src=/a", "type=image,dst=/b", "src=/a,dst=/b,foo=1"):
        with pytest.raises(InvalidArgument):
            mounts.parse_mount(text, cwd="/w")


def test_devices() -> None:
    assert mounts.parse_device("/dev/fuse") == Device(host_path="/dev/fuse", container_path="/dev/fuse")
    assert mounts.parse_device("/dev/sda:/dev/xvda:r") == Device(
        host_path="/dev/sda", container_path="/dev/xvda", permissions="r"
    )
    assert mounts.parse_device("/dev/sda:mr").permissions == "rm"
    for text in ("", "sda", "/dev/a:/dev/b:rwx", "/dev/a:/dev/b:/dev/c", "/dev/a::r"):
        with pytest.raises(InvalidArgument):
            mounts.parse_device(text)


# words


def test_environment_takes_the_callers_value() -> None:
    here = {"HOME": "/root", "EMPTY": ""}
    assert words.merge_env(["A=1", "HOME", "ABSENT", "B=x=y", "EMPTY"], [], here) == (
        ("A", "1"),
        ("HOME", "/root"),
        ("B", "x=y"),
        ("EMPTY", ""),
    )
    with pytest.raises(InvalidArgument):
        words.merge_env(["=x"], [], here)


def test_env_files_give_way_to_options(tmp_path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b'\xef\xbb\xbf# comment\r\n\r\nA=from file\r\nB="quoted"  \n  C=1\nHOME\n')
    found = dict(words.merge_env(["A=given"], [str(path)], {"HOME": "/root"}))
    assert found == {"A": "given", "B": '"quoted"  ', "C": "1", "HOME": "/root"}


def test_a_bad_line_of_an_env_file_is_named(tmp_path) -> None:
    path = tmp_path / "env"
    path.write_text("A=1\nnot a name=2\n")
    with pytest.raises(InvalidArgument) as caught:
        words.read_env_file(str(path), {})
    assert caught.value.subject == f"{path}:2"
    with pytest.raises(NotFound, match="no such file"):
        words.read_env_file(str(tmp_path / "absent"), {})
    path.write_bytes(b"A=\xff")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        words.read_env_file(str(path), {})


@given(st.text(max_size=200))
def test_any_env_file_gives_names_without_blanks_or_is_refused(text: str) -> None:
    try:
        found = words.parse_env_lines("f", text, {})
    except InvalidArgument:
        return
    assert all(name and "=" not in name and not any(c.isspace() for c in name) for name, _ in found)


@pytest.mark.parametrize(
    "text", ["0", "1000:1000", "nobody", "www-data:www-data", "app:0", "4294967294", ":33", ":mail"]
)
def test_users(text: str) -> None:
    assert words.check_user(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", "::", ":-1", ":4294967295", "a:b:c", "a b", "-1", "4294967295", "a\n", "../x", "a:b\0"],
)
def test_what_is_no_user_is_refused(text: str) -> None:
    # a newline in a user once became a second line of /etc/passwd in another runtime
    with pytest.raises(InvalidArgument):
        words.check_user(text)


def test_groups_and_capabilities() -> None:
    assert words.parse_group("27") == 27
    assert words.parse_capability("--cap-add", "net_admin") == "CAP_NET_ADMIN"
    assert words.parse_capability("--cap-add", "CAP_SYS_TIME") == "CAP_SYS_TIME"
    assert words.parse_capability("--cap-drop", "all") == "ALL"
    for text in ("-1", "x", "4294967295", ""):
        with pytest.raises(InvalidArgument):
            words.parse_group(text)
    for text in ("", "CAP_", "net admin", "net;admin", "1"):
        with pytest.raises(InvalidArgument):
            words.parse_capability("--cap-add", text)


def test_security_options() -> None:
    found = words.parse_security_options(
        ["no-new-privileges", "seccomp=unconfined", "apparmor=mine", "label=type:container_t"]
    )
    assert found.no_new_privs
    assert found.seccomp is not None
    assert found.seccomp.kind == "unconfined"
    assert found.apparmor is not None
    assert (found.apparmor.kind, found.apparmor.localhost_ref) == ("localhost", "mine")
    assert found.selinux is not None
    assert found.selinux.type == "container_t"
    assert not words.parse_security_options(["no-new-privileges:false"]).no_new_privs
    assert words.parse_security_options(["seccomp=/p.json"]).seccomp == words.SecurityProfile(
        kind="localhost", localhost_ref="/p.json"
    )
    for text in ("seccomp=", "seccomp", "bogus=1", "no-new-privileges=maybe", "label=x:y"):
        with pytest.raises(InvalidArgument):
            words.parse_security_options([text])


def test_labels() -> None:
    assert words.parse_pairs("--label", ["a=1", "b", "c=x=y"]) == {"a": "1", "b": "", "c": "x=y"}
    with pytest.raises(InvalidArgument):
        words.parse_pairs("--label", ["=1"])
    with pytest.raises(InvalidArgument):
        words.parse_pairs("--sysctl", ["net.ipv4.ip_forward"], value_needed=True)


def test_names_that_are_drawn_may_be_used() -> None:
    drawn = {check_name("container", names.random_name()) for _ in range(300)}
    assert len(drawn) > 200


@given(
    st.text(max_size=40),
    st.sampled_from(["add_host", "device", "ulimit", "capability", "group", "mount", "tmpfs"]),
)
def test_no_parser_fails_otherwise_than_by_saying_so(text: str, which: str) -> None:
    parsers = {
        "add_host": hosts.parse_add_host,
        "device": mounts.parse_device,
        "ulimit": values.parse_ulimit,
        "capability": lambda t: words.parse_capability("--cap-add", t),
        "group": words.parse_group,
        "mount": lambda t: mounts.parse_mount(t, cwd="/w"),
        "tmpfs": mounts.parse_tmpfs,
    }
    with contextlib.suppress(OakumError):  # anything else is a bug
        assert parsers[which](text) is not None
