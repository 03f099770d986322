# SPDX-License-Identifier: Apache-2.0
"""Carrying out the plan's steps on a root file system, by file descriptor only.

Everything below the root may have been prepared by an attacker: targets are resolved by the kernel within the root,
mounts are made detached and attached to what was resolved, sources are checked after they were opened.
"""

from __future__ import annotations

import errno
import os
import stat

from oakum.errors import PermissionDenied, SystemFailure
from oakum.linux import mount as m
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.linux.paths import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    make_dirs_in_root,
    make_file_in_root,
    open_beneath,
    open_in_root,
    openat2,
    parts,
)
from oakum.model.light import TYPE_CHECKING
from oakum.model.rootfs import RootfsSource
from oakum.oci.plan import (
    PROC_FILES_ALLOWED,
    BindMount,
    CgroupBind,
    FilesystemMount,
    Link,
    MakeDevice,
    Mask,
    Plan,
    ReadOnly,
    Remount,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

_NULL: Final = (1, 3)


def open_root(source: RootfsSource | None, root_path: str, *, user_fd: int | None = None) -> Fd:
    """The container's root as a detached, private mount.

    A `source` belongs to the root of the user namespace `user_fd`, if one is given. Raises SystemFailure.
    """
    subject = root_path if source is None else source.upper or (source.lower[0] if source.lower else "")
    try:
        if source is not None and source.lower:
            if not source.upper and len(source.lower) == 1:
                tree = m.open_tree_at(source.lower[0])
                m.set_attributes(tree.fileno(), set_flags=m.ATTR_RDONLY, propagation=m.MS_PRIVATE)
                return tree
            if user_fd is not None:
                from oakum.oci.idmapped_root import open_mapped_overlay  # few pods have their own users

                return open_mapped_overlay(source, user_fd)
            return m.overlay(source.lower, source.upper, source.work)
        tree = m.open_tree_at(subject, recursive=True)
        if not stat.S_ISDIR(os.fstat(tree.fileno()).st_mode):
            tree.close()
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), subject)
        m.set_attributes(tree.fileno(), propagation=m.MS_PRIVATE, recursive=True)
        if source is not None and user_fd is not None:
            m.set_attributes(tree.fileno(), userns_fd=user_fd, target=subject)
        return tree
    except OSError as failure:
        raise step_failure(failure, f"root file system {subject}") from failure


def open_sources(plan: Plan) -> dict[int, Fd]:
    """Detached copies of all bind sources, by index of their step.

    Taken before propagation is cut, so that shared and slave mounts stay connected with the host. Raises SystemFailure.
    """
    trees: dict[int, Fd] = {}
    for index, step in enumerate(plan.steps):
        if isinstance(step, BindMount):
            try:
                trees[index] = _open_source(step)
            except OSError as failure:
                for tree in trees.values():
                    tree.close()
                hint = "the source of a bind mount has to exist" if failure.errno == errno.ENOENT else ""
                raise step_failure(failure, step.describe(), hint) from failure
    return trees


def _open_source(step: BindMount) -> Fd:
    tree = m.open_tree_at(step.source, recursive=step.options.recursive)
    try:
        o = step.options
        if o.propagation:
            m.set_attributes(tree.fileno(), propagation=o.propagation, recursive=o.recursive_propagation)
        else:
            m.set_attributes(tree.fileno(), propagation=m.MS_PRIVATE, recursive=True)
        if step.uid_mappings:
            # A user namespace to carry the mapping costs a process; few mounts need one.
            from oakum.oci.idmap import mapping_namespace

            with mapping_namespace(step.uid_mappings, step.gid_mappings) as namespace:
                m.set_attributes(
                    tree.fileno(),
                    userns_fd=namespace.fileno(),
                    recursive=o.idmap_recursive,
                    target=step.source,
                )
        if o.recursive_set or o.recursive_clear:
            m.set_attributes(
                tree.fileno(), set_flags=o.recursive_set, clear_flags=o.recursive_clear, recursive=True
            )
        if o.set_flags or o.clear_flags:
            m.set_attributes(tree.fileno(), set_flags=o.set_flags, clear_flags=o.clear_flags)
    except BaseException:
        tree.close()
        raise
    return tree


def step_failure(failure: OSError, subject: str, hint: str = "") -> SystemFailure:
    """The structured error for a failed step: names the call, the step and what the kernel said."""
    said = m.kernel_message(failure)
    target = str(failure.filename or "")
    if target and target not in subject:
        subject = f"{subject} at {target}"
    return SystemFailure.from_os_error(failure, call_name(failure) or "prepare", subject, hint=hint or said)


class Builder:
    """Applies steps to an attached root; keeps the descriptors that several steps need."""

    def __init__(
        self,
        root_fd: int,
        sources: dict[int, Fd],
        *,
        user_namespace: bool,
        wait_for_cgroup: Callable[[], None],
    ) -> None:
        self.root_fd = root_fd
        self._sources = sources
        self._user_namespace = user_namespace
        self._wait_for_cgroup = wait_for_cgroup
        self._proc_device: int | None = None
        self._proc_target = ""
        self._covering: Fd | None = None
        self._parent_of: tuple[str, Fd] | None = None
        # Taken while "/" is still the host's, which the container cannot have touched.
        self._null = Fd(os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        self._actions: dict[type, Callable[[Any, int], None]] = {
            BindMount: self._bind,
            FilesystemMount: self._filesystem,
            CgroupBind: self._cgroup,
            Link: self._link,
            MakeDevice: self._device,
            Remount: self._remount,
            Mask: self._mask,
            ReadOnly: self._read_only,
        }

    def run(self, steps: tuple[Step, ...]) -> None:
        """Carry out `steps`. Raises SystemFailure naming the call and the step."""
        for index, step in enumerate(steps):
            kind = type(step)
            if kind is not Link and kind is not MakeDevice and kind is not CgroupBind:
                self._leave_parent()
            try:
                self._actions[kind](step, index)
            except OSError as failure:
                raise step_failure(failure, step.describe()) from failure

    def close(self) -> None:
        """Give back what is left open."""
        self._leave_parent()
        if self._covering is not None:
            self._covering.close()
        self._null.close()
        for tree in self._sources.values():
            tree.close()

    def _bind(self, step: BindMount, index: int) -> None:
        with self._sources.pop(index) as tree:
            directory = stat.S_ISDIR(os.fstat(tree.fileno()).st_mode)
            with self._mountpoint(step.target, directory=directory) as target:
                self._refuse_in_proc(target, step.target)
                m.move_mount(tree.fileno(), target.fileno(), target=step.target)

    def _filesystem(self, step: FilesystemMount, _index: int) -> None:
        o = step.options
        with self._mountpoint(step.target, directory=True, plain=step.fstype in ("proc", "sysfs")) as target:
            self._refuse_in_proc(target, step.target)
            try:
                tree = m.new_filesystem(
                    step.fstype,
                    self._data(step, target),
                    flags=o.set_flags & ~m.ATTR_NOSYMFOLLOW,
                    source=step.source,
                )
            except PermissionError:
                # A user namespace that does not own the network namespace may not mount sysfs, only bind it.
                if step.fstype != "sysfs" or not self._user_namespace:
                    raise
                tree = m.open_tree_at("/sys", recursive=True)
                # The host's control groups and more are mounted below: never writable (CVE-2023-25809).
                m.set_attributes(tree.fileno(), set_flags=o.set_flags | m.ATTR_RDONLY, recursive=True)
            with tree:
                if o.copy_up:
                    from oakum.oci.copyup import copy_tree  # loaded with the plan: few containers pay for it

                    copy_tree(target.fileno(), tree.fileno())
                if o.propagation:
                    m.set_attributes(tree.fileno(), propagation=o.propagation)
                m.move_mount(tree.fileno(), target.fileno(), target=step.target)
                if step.fstype == "proc" and self._proc_device is None:
                    self._proc_device = os.fstat(tree.fileno()).st_dev
                    self._proc_target = step.target.rstrip("/")

    def _data(self, step: FilesystemMount, target: Fd) -> list[tuple[str, str | int | None]]:
        data: list[tuple[str, str | int | None]] = []
        for key, value in step.options.data:
            # An unmapped group would make the whole mount fail in a user namespace; the terminals then stay root's.
            if step.fstype == "devpts" and key == "gid" and self._user_namespace:
                continue
            data.append((key, value))
        if step.fstype == "tmpfs" and not any(key == "mode" for key, _ in data) and step.options.copy_up:
            data.append(("mode", f"{stat.S_IMODE(os.fstat(target.fileno()).st_mode):o}"))
        return data

    def _cgroup(self, step: CgroupBind, _index: int) -> None:
        self._wait_for_cgroup()
        o = step.options
        with m.open_tree_at(step.source) as tree:
            m.set_attributes(tree.fileno(), set_flags=o.set_flags, propagation=m.MS_PRIVATE)
            with self._cgroup_mountpoint(step) as target:
                m.move_mount(tree.fileno(), target.fileno(), target=step.target)

    def _cgroup_mountpoint(self, step: CgroupBind) -> Fd:
        if not step.beside_others:
            return self._mountpoint(step.target, directory=True)
        parent_fd, name = self._parent(step.target)
        try:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except FileExistsError:
            pass
        return open_beneath(parent_fd, name, os.O_PATH | os.O_DIRECTORY)

    def _parent(self, path: str) -> tuple[int, str]:
        """The directory of `path` and the name in it: for links, devices and groups, of which many in a row are in one."""
        directory, name = os.path.split(path)
        if self._parent_of is None or self._parent_of[0] != directory:
            self._leave_parent()
            self._parent_of = directory, self._mountpoint(directory, directory=True)
        return self._parent_of[1].fileno(), name

    def _leave_parent(self) -> None:
        """Before something else is done, by which the directory might be another one."""
        if self._parent_of is not None:
            self._parent_of[1].close()
            self._parent_of = None

    def _link(self, step: Link, _index: int) -> None:
        parent_fd, name = self._parent(step.path)
        try:
            os.symlink(step.text, name, dir_fd=parent_fd)
        except FileExistsError:
            if step.path != "/dev/ptmx":
                return  # the image's own, or a mount of the user's, wins
            os.unlink(name, dir_fd=parent_fd)
            os.symlink(step.text, name, dir_fd=parent_fd)

    def _device(self, step: MakeDevice, _index: int) -> None:
        parent_fd, name = self._parent(step.path)
        if self._user_namespace and step.kind != "p":
            self._bind_device(step, parent_fd, name)
            return
        number = os.makedev(step.major, step.minor)
        kind = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[step.kind]
        try:
            os.mknod(name, kind | step.mode, number, dir_fd=parent_fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if stat.S_IFMT(status.st_mode) != kind or (step.kind != "p" and status.st_rdev != number):
                raise
            return
        if step.uid or step.gid:
            os.chown(name, step.uid, step.gid, dir_fd=parent_fd, follow_symlinks=False)

    def _bind_device(self, step: MakeDevice, parent_fd: int, name: str) -> None:
        with m.open_tree_at(step.path) as tree:
            status = os.fstat(tree.fileno())
            if status.st_rdev != os.makedev(step.major, step.minor):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), step.path)
            with make_file_in_root(parent_fd, name) as target:
                m.move_mount(tree.fileno(), target.fileno(), target=step.path)

    def _remount(self, step: Remount, _index: int) -> None:
        with open_in_root(self.root_fd, step.target, os.O_PATH) as target:
            m.set_attributes(target.fileno(), set_flags=step.set_flags, target=step.target)

    def _mask(self, step: Mask, _index: int) -> None:
        target = self._existing(step.path)
        if target is None:
            return
        with target:
            if stat.S_ISDIR(os.fstat(target.fileno()).st_mode):
                cover = self._cover()
            else:
                status = os.fstat(self._null.fileno())
                device = (os.major(status.st_rdev), os.minor(status.st_rdev))
                if not stat.S_ISCHR(status.st_mode) or device != _NULL:
                    raise PermissionDenied("mask", step.path, "/dev/null of the host is not the null device")
                cover = m.open_tree(self._null.fileno(), "", clone=True)
            with cover:
                m.move_mount(cover.fileno(), target.fileno(), target=step.path)

    def _cover(self) -> Fd:
        """A detached empty directory: another view of the one that covers something already, if there is one."""
        if self._covering is not None:
            return m.open_tree(self._covering.fileno(), "", clone=True)
        options = (("size", "0"), ("nr_inodes", "2"))
        cover = m.new_filesystem("tmpfs", options, flags=m.ATTR_RDONLY, source="tmpfs")
        self._covering = cover.duplicate()
        return cover

    def _read_only(self, step: ReadOnly, _index: int) -> None:
        target = self._existing(step.path)
        if target is None:
            return
        with target, m.open_tree(target.fileno(), "", clone=True, recursive=True) as tree:
            m.set_attributes(tree.fileno(), set_flags=m.ATTR_RDONLY, recursive=True, target=step.path)
            m.move_mount(tree.fileno(), target.fileno(), target=step.path)

    def _existing(self, path: str) -> Fd | None:
        try:
            return open_in_root(self.root_fd, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _mountpoint(self, path: str, *, directory: bool, plain: bool = False) -> Fd:
        """Where a mount goes, made when missing. `plain`: no symbolic link may be on the way."""
        if plain or parts(path)[:1] in (["proc"], ["sys"]):
            resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
            try:
                return openat2(
                    self.root_fd, path, os.O_PATH | (os.O_DIRECTORY if directory else 0), resolve=resolve
                )
            except FileNotFoundError:
                pass  # nothing is there, so no link either
            except OSError as failure:
                if failure.errno == errno.ELOOP:
                    raise PermissionDenied(
                        "mount",
                        path,
                        "the image has a symbolic link there",
                        hint="such an image tries to escape",
                    ) from failure
                raise
        if directory:
            return make_dirs_in_root(self.root_fd, path)
        return make_file_in_root(self.root_fd, path)

    def _refuse_in_proc(self, target: Fd, path: str) -> None:
        """No mount inside the container's /proc, but for single files that tools are known to cover."""
        if self._proc_device is None or os.fstat(target.fileno()).st_dev != self._proc_device:
            return
        within = path.removeprefix(self._proc_target).strip("/")
        if path.startswith(self._proc_target + "/") and within in PROC_FILES_ALLOWED:
            return
        raise PermissionDenied("mount", path, "it is inside the container's /proc")


def attach_root(root: Fd, path: str = "") -> None:
    """Put the detached root over the directory `path`, or on top of "/" of this mount namespace.

    `enter_root` pivots from there. Raises OSError.
    """
    with Fd(os.open(path or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as below:
        m.move_mount(root.fileno(), below.fileno(), target=path or "/")
