# SPDX-License-Identifier: Apache-2.0
"""Images of an engine: names over shared content, what is removed when, and what must not be."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from oakum.backend.config import AuthConfig, Mount
from oakum.daemon.handover import to_docker
from oakum.engine.engine import Engine
from oakum.errors import AlreadyExists, FailedPrecondition, ImageNotFound, InvalidArgument, OakumError
from tests.support.engines import Lab, clear, together
from tests.support.registry import Registry, busybox_layer, make_layer, tar_entry


def push(lab: Lab, name: str, text: str, tag: str = "latest") -> str:
    """An image whose second layer says `text`; its full name."""
    layer = make_layer([tar_entry("text", payload=text.encode(), mode=0o644)])
    lab.registry.push_image(f"library/{name}", tag, [busybox_layer(), layer], {"Cmd": ["sh"]})
    return f"{lab.registry.address}/library/{name}:{tag}"


def blobs(lab: Lab) -> set[str]:
    return {blob.digest for blob in lab.engine._context.content.list()}


def layers(lab: Lab) -> set[str]:
    return set(lab.engine._context.snapshotter.layers())


def test_an_image_by_all_its_names(lab: Lab) -> None:
    name = push(lab, "named", "x")
    image_id = lab.cri.pull_image(name)
    image = lab.cri.image_status(name)
    assert image is not None
    assert image.id == image_id
    assert image.repo_tags == (name,)
    assert image.repo_digests[0].startswith(name.removesuffix(":latest") + "@sha256:")
    assert image.architecture == "amd64"
    for text in (
        image_id,
        image_id.removeprefix("sha256:")[:12],
        image.repo_digests[0],
        name.removesuffix(":latest"),
    ):
        found = lab.cri.image_status(text)
        assert found is not None, text
        assert found.id == image_id
    assert [i.id for i in lab.cri.list_images(name)] == [image_id]
    assert lab.cri.image_status("not/there") is None
    assert lab.cri.image_status("NOT A NAME") is None
    assert lab.cri.image_config(name).cmd == ("sh",)
    assert lab.cri.inspect_image(name)["config"]["cmd"] == ["sh"]
    lab.cri.remove_image(image_id)
    lab.cri.remove_image(image_id)
    assert lab.cri.image_status(name) is None


def test_users_of_images(lab: Lab) -> None:
    image = lab.cri.image_status(lab.image("user"))
    assert image is not None
    assert (image.uid, image.username) == (None, "app")


def test_removing_the_last_name_frees_what_nothing_else_uses(lab: Lab) -> None:
    blobs_before, layers_before = blobs(lab), layers(lab)
    name = push(lab, "freed", "only here")
    image_id = lab.cri.pull_image(name)
    assert len(blobs(lab) - blobs_before) == 3  # manifest, configuration and the second layer
    assert len(layers(lab) - layers_before) == 1
    lab.cri.tag_image(name, "other:1")
    gone = lab.cri.untag_image(name)
    assert gone[0] == name
    assert [n.partition("@")[0] for n in gone[1:]] == [name.removesuffix(":latest")]
    assert lab.cri.image_status("other:1") is not None
    assert len(layers(lab) - layers_before) == 1
    assert lab.cri.untag_image("other:1")[-1] == image_id
    assert blobs(lab) == blobs_before
    assert layers(lab) == layers_before


def test_a_container_keeps_its_image_until_it_is_removed(lab: Lab) -> None:
    before = layers(lab)
    name = push(lab, "kept", "kept by a container")
    lab.cri.pull_image(name)
    with lab.pod("keeper") as pod:
        container = lab.started(pod, image=name)
        lab.cri.remove_image(name)
        assert lab.cri.image_status(name) is None
        assert layers(lab) - before
        assert lab.run(container, "cat", "/text") == "kept by a container"
        with pytest.raises(ImageNotFound, match="oakum image pull"):
            lab.cri.create_container(pod, lab.container("late", image=name))
    lab.engine.gc()
    assert layers(lab) == before


def test_an_image_as_a_volume_is_kept_too(lab: Lab) -> None:
    before = layers(lab)
    name = push(lab, "volume", "seen through a mount")
    lab.cri.pull_image(name)
    with lab.pod("mounter") as pod:
        container = lab.started(pod, mounts=(Mount(container_path="/image", image=name),))
        lab.cri.remove_image(name)
        assert lab.run(container, "cat", "/image/text") == "seen through a mount"
        assert lab.cri.exec_sync(container, ["touch", "/image/x"], timeout_s=60).exit_code != 0
    lab.engine.gc()
    assert layers(lab) == before


def test_namespaces_share_content_and_not_names(lab: Lab) -> None:
    name = push(lab, "shared", "in two namespaces")
    other = lab.engine.namespace("team-a")
    lab.cri.pull_image(name)
    assert other.image_status(name) is None
    count = len(blobs(lab))
    other.pull_image(name)
    assert len(blobs(lab)) == count
    assert "team-a" in lab.engine.namespaces()
    with pytest.raises(FailedPrecondition, match="image names"):
        lab.engine.remove_namespace("team-a")
    lab.cri.remove_image(name)
    assert other.image_status(name) is not None
    assert len(blobs(lab)) == count
    other.remove_image(name)
    assert len(blobs(lab)) == count - 3
    lab.engine.remove_namespace("team-a")
    assert "team-a" not in lab.engine.namespaces()
    lab.engine.create_namespace("team-b")
    with pytest.raises(AlreadyExists):
        lab.engine.create_namespace("team-b")
    lab.engine.remove_namespace("team-b")


def test_a_moved_tag_leaves_the_old_image_by_its_digest(lab: Lab) -> None:
    name = push(lab, "moving", "one")
    first = lab.cri.pull_image(name)
    push(lab, "moving", "two")
    second = lab.cri.pull_image(name)
    assert first != second
    old = lab.cri.image_status(first)
    assert old is not None
    assert old.repo_tags == ()
    assert len(old.repo_digests) == 1
    new = lab.cri.image_status(name)
    assert new is not None
    assert new.id == second
    lab.cri.remove_image(first)
    lab.cri.remove_image(second)


def test_an_id_with_several_tags_is_not_removed_by_halves(lab: Lab) -> None:
    name = push(lab, "several", "x")
    image_id = lab.cri.pull_image(name)
    lab.cri.tag_image(image_id, "several:2")
    with pytest.raises(FailedPrecondition, match="2 names"):
        lab.cri.untag_image(image_id)
    assert lab.cri.untag_image("several:2") == ["docker.io/library/several:2"]
    lab.cri.untag_image(image_id[7:19])
    assert lab.cri.image_status(image_id) is None


def test_the_same_pull_asked_for_many_times_is_done_once(lab: Lab) -> None:
    name = push(lab, "once", "pulled once")
    seen: list[int] = []

    def pull(number: int) -> str:
        def progress(digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
            seen.append(number)

        return lab.cri.pull_image(name, progress=progress)

    outcomes = together(4, pull)
    assert len(set(map(str, outcomes))) == 1
    assert str(outcomes[0]).startswith("sha256:")
    assert seen
    lab.cri.remove_image(name)


def test_a_collection_waits_for_what_is_coming_in(lab: Lab) -> None:
    first, second = push(lab, "gone", "to be removed"), push(lab, "coming", "coming in")
    lab.cri.pull_image(first)
    before = layers(lab)
    reached, go_on = threading.Event(), threading.Event()

    def hold(digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        reached.set()
        go_on.wait(60)

    pulling = threading.Thread(target=lambda: lab.cri.pull_image(second, progress=hold))
    pulling.start()
    assert reached.wait(60)
    lab.cri.remove_image(first)
    assert lab.cri.image_status(first) is None
    assert before <= layers(lab)  # nothing was removed under the pull
    go_on.set()
    pulling.join()
    assert len(before - layers(lab)) == 1  # and the pull's end did what had been put off
    assert lab.output("cat /text", image=second) == "coming in\n"
    lab.cri.remove_image(second)


def test_archives_there_and_back(lab: Lab, tmp_path: Path) -> None:
    name = push(lab, "packed", "in an archive")
    image_id = lab.cri.pull_image(name)
    for form in ("oci", "docker"):
        path = str(tmp_path / f"{form}.tar")
        lab.cri.export_images([name], path, archive_format=form)
        other = lab.engine.namespace("imported")
        (image,) = other.import_images(path)
        assert image.id == image_id
        assert image.repo_tags == (name,)
        other.remove_image(image_id)
    with pytest.raises(ImageNotFound):
        lab.cri.export_images(["not/there"], str(tmp_path / "x"))
    with pytest.raises(InvalidArgument):
        lab.cri.export_images([name], str(tmp_path / "x"), archive_format="zip")
    assert sorted(os.listdir(tmp_path)) == ["docker.tar", "oci.tar"]
    lab.engine.remove_namespace("imported")
    lab.cri.remove_image(name)


def test_an_archive_brings_an_image_to_an_empty_engine(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "busybox.tar")
    lab.cri.export_images([lab.image("busybox")], path)
    with Engine(str(tmp_path / "root"), str(tmp_path / "state")) as fresh:
        (image,) = fresh.namespace().import_images(path)
        assert image.repo_tags == (lab.image("busybox"),)
        assert len(fresh._context.snapshotter.layers()) == 1
        clear(fresh)


def test_pushing_to_another_name(lab: Lab) -> None:
    name = push(lab, "pushed", "there and back")
    image_id = lab.cri.pull_image(name)
    target = f"{lab.registry.address}/elsewhere/pushed:2"
    lab.cri.tag_image(name, target)
    lab.cri.push_image(target)
    lab.cri.remove_image(image_id)
    assert lab.cri.pull_image(target) == image_id
    lab.cri.remove_image(image_id)


def test_somebody_elses_rights_are_not_borrowed(lab: Lab, tmp_path: Path) -> None:
    with Registry(tmp_path, username="me", password="secret") as private:
        private.push_image("library/private", "latest", [busybox_layer()])
        name = f"{private.address}/library/private:latest"
        right, wrong = (
            AuthConfig(username="me", password="secret"),
            AuthConfig(username="me", password="guess"),
        )
        outcomes = together(4, lambda n: lab.cri.pull_image(name, auth=right if n % 2 else wrong))
        assert [isinstance(o, OakumError) for o in outcomes] == [True, False, True, False]
        lab.cri.remove_image(name)


def test_space(lab: Lab) -> None:
    (usage,) = lab.cri.image_filesystems()
    assert usage.used_bytes > 1_000_000
    assert usage.inodes_used > 20


def test_an_image_that_docker_lacks_is_handed_over_to_it(lab: Lab, tmp_path: Path) -> None:
    name = push(lab, "handed", "over")
    image_id = lab.cri.pull_image(name)
    loaded, tags = io.BytesIO(), list[tuple[str, str]]()

    class Docker:
        def load(self, archive: Iterator[bytes]) -> None:
            loaded.writelines(archive)

        def tag(self, image: str, name: str) -> None:
            tags.append((image, name))

    to_docker(lab.cri, cast("Any", Docker()), name, directory=str(tmp_path / "spool"))
    assert tags == [(image_id, name)]
    loaded.seek(0)
    with tarfile.open(fileobj=loaded) as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        (image,) = json.load(listed)
        assert image["Config"] == f"{image_id.removeprefix('sha256:')}.json"
        assert {image["Config"], *image["Layers"]} < set(archive.getnames())
    assert os.listdir(tmp_path / "spool") == []
