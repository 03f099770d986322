# SPDX-License-Identifier: Apache-2.0
"""The profile of a container that names none of its own: an allow-list that ordinary programs never notice.

What is left out can reach the host's kernel in ways that no namespace covers: loading modules, keyrings,
kexec, clocks, swap, quotas, raw ports, io_uring, userfaultfd, new namespaces without the right to. With a
capability comes the group of calls that need it. Calls that a kernel or machine does not have are skipped.

Source: syscalls(2), capabilities(7); the same calls are let through as by the defaults of Docker 27 and containerd 2.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Final

from oakum.engine.seccomp.profile import Compare, Profile, Rule

_FILES: Final = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch fanotify_mark ioctl lchown lchown32 lgetxattr link linkat listmount listxattr
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile
    sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
    sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
    vmsplice write writev
"""
_MEMORY: Final = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    process_mrelease remap_file_pages
"""
_PROCESSES: Final = """
    alarm capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
    getresuid getresuid32 getrlimit get_robust_list getrusage getsid get_thread_area gettid getuid getuid32
    ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv
    process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity
    sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit set_robust_list setsid set_thread_area set_tid_address setuid setuid32 sigaltstack
    signalfd signalfd4 sigprocmask sigreturn sysinfo tgkill times tkill ugetrlimit uname uretprobe vfork wait4
    waitid waitpid
"""
_SANDBOXING: Final = "landlock_add_rule landlock_create_ruleset landlock_restrict_self"
_TIME: Final = """
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_WAITING: Final = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6
    pselect6_time64 select
"""
_TALKING: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
    recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg
    sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair
"""

# Only where the machine's table has them; the names exist nowhere else.
_MACHINE: Final[dict[str, str]] = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    "armv7l": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    "ppc64le": "sync_file_range2 swapcontext",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    "riscv64": "riscv_flush_icache riscv_hwprobe",
}
_SUB_ARCHES: Final[dict[str, tuple[str, ...]]] = {
    "x86_64": ("SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_ARM",),
    "s390x": ("SCMP_ARCH_S390",),
}

# Whoever has the capability may make these calls.
_BY_CAPABILITY: Final[dict[str, str]] = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr
        move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount
        umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2)).
_NEW_NAMESPACES: Final = 0x7E020000
# What uname26 and 32-bit compatibility use, and the query (personality(2)).
_PERSONALITIES: Final = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
# Sockets to the hypervisor are not covered by network namespaces (vsock(7)).
_AF_VSOCK: Final = 40


def default_profile(*, machine: str, capabilities: Collection[str]) -> Profile:
    """The profile for a container with these capabilities on this kind of machine."""
    always = " ".join(
        (_FILES, _MEMORY, _PROCESSES, _SANDBOXING, _TIME, _WAITING, _TALKING, _MACHINE.get(machine, ""))
    )
    rules = [
        Rule(_names(always)),
        Rule(("socket",), args=(Compare(0, "SCMP_CMP_NE", _AF_VSOCK),)),
        *(Rule(("personality",), args=(Compare(0, "SCMP_CMP_EQ", value),)) for value in _PERSONALITIES),
    ]
    rules.extend(
        Rule(_names(_BY_CAPABILITY[name])) for name in sorted(_BY_CAPABILITY) if name in capabilities
    )
    if "CAP_SYS_ADMIN" not in capabilities:
        # s390 has the flags of clone in its second argument (clone(2), "C library/kernel differences").
        flags = 1 if machine == "s390x" else 0
        rules.append(Rule(("clone",), args=(Compare(flags, "SCMP_CMP_MASKED_EQ", _NEW_NAMESPACES, 0),)))
        # Its flags are behind a pointer where no filter can look: "not there" makes libraries fall back to clone.
        rules.append(Rule(("clone3",), "SCMP_ACT_ERRNO", errno.ENOSYS))
    return Profile("SCMP_ACT_ERRNO", errno.EPERM, _SUB_ARCHES.get(machine, ()), tuple(rules))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())
