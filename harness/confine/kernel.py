"""What the kernel lets a process give up for good: Landlock, a filter of system calls, and limits.

Landlock and seccomp need no privileges. Landlock denies files by place; the filter denies what Landlock does not look
at: sockets, new processes, signals and the memory of others, the metadata of files, and the rarer doors of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MEMORY = 6 << 30
"""Bytes that a child may map beyond what it began with."""

FILE_SIZE = 64 << 20
"""Bytes in the largest file that a child may write."""

OPEN_FILES = 256


LEVELS = ("full", "process", "none")
"""How far a child may be confined, the most first."""


@dataclass(frozen=True)
class Isolation:
    """How far this system confines a child.

    Attributes:
        level: `full`: files, network and other processes are out of its reach; `process`: it is a process of its own
            with limits on memory and time; `none`: not even these.
        missing: what is not enforced, in words.
    """

    level: Literal["full", "process", "none"]
    missing: tuple[str, ...] = ()


@cache
def isolation() -> Isolation:
    """Return how far this system confines a child; a child that cannot be confined so far does not run."""
    missing = []
    if _landlock_version() < 1:
        missing.append("which files it reads and writes (Landlock: Linux 5.13 or later)")
    if not _has_filter():
        missing.append("network, new processes and signals to others (seccomp: Linux on x86_64 or aarch64)")
    if sys.platform != "linux":
        missing.append("how much memory it takes (Linux)")
    if resource is None:
        return Isolation("none", tuple(missing))
    return Isolation("process" if missing else "full", tuple(missing))


def limit(seconds: float) -> None:
    """Limit memory, processor time, files and their size, for good; without effect on Windows."""
    if resource is None:
        return
    mapped = Path("/proc/self/statm")  # where there is none, the limit is on what the process allocates
    begun = int(mapped.read_text().split()[0]) * resource.getpagesize() if mapped.exists() else 0
    _limit("RLIMIT_AS" if begun else "RLIMIT_DATA", begun + MEMORY)
    _limit("RLIMIT_CPU", int(seconds) + 1, 1)  # the caller's clock ends it before, unless it runs threads
    _limit("RLIMIT_FSIZE", FILE_SIZE)
    _limit("RLIMIT_NOFILE", OPEN_FILES)
    _limit("RLIMIT_CORE", 0)


def _limit(name: str, most: int, then: int = 0) -> None:
    """Set a limit, at which the kernel warns; it kills or refuses `then` later."""
    number = getattr(resource, name)
    hard = resource.getrlimit(number)[1]
    last = most + then if hard == resource.RLIM_INFINITY else min(most + then, hard)
    resource.setrlimit(number, (min(most, last), last))


def confine(rules: Iterable[int]) -> None:
    """Give up, for this process and for good, all that `isolation` says is enforced.

    Args:
        rules: descriptors from `file_rules`, which it closes. What one of them does not grant is out of reach.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform != "linux":
        return
    _prctl(_SET_DUMPABLE, 0)
    _drop_capabilities()
    _prctl(_SET_NO_NEW_PRIVS, 1)
    for descriptor in rules:
        _checked(_syscall(_RESTRICT_SELF, descriptor, 0), "landlock_restrict_self")
        os.close(descriptor)
    if _has_filter():
        _enter_filter()


def end_with_the_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends; on Linux only."""
    if sys.platform == "linux":
        _prctl(_SET_PDEATHSIG, 9)


_libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SET_PTRACER = 0x59616D61


def _prctl(option: int, value: int, pointer: object = None) -> None:
    assert _libc is not None
    if _libc.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def _syscall(number: int, *arguments: object) -> int:
    """Make a system call, and return its result; minus one is left to the caller."""
    assert _libc is not None
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *whole))


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _drop_capabilities() -> None:
    number = {"x86_64": 126, "aarch64": 91}.get(platform.machine())
    if number is None:
        return
    version_3, this_process, no_sets = 0x20080522, 0, bytes(24)
    _checked(_syscall(number, struct.pack("Ii", version_3, this_process), no_sets), "capset")


# --- Landlock ---------------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every machine
_ONLY_ITS_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _REFER = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 13
_READ = _READ_FILE | _READ_DIR
_OWN = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE

_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""All rights of files that a version knows; from version 5 on also ioctl on devices."""


@cache
def _landlock_version() -> int:
    """Return the version of Landlock that the kernel offers, or 0."""
    return max(0, _syscall(_CREATE_RULESET, None, 0, _ONLY_ITS_VERSION)) if sys.platform == "linux" else 0


def file_rules(readable: Iterable[tuple[Path, bool]], folder: Path) -> list[int]:
    """Return the descriptor of a set of rules that `confine` enters; none where there is no Landlock.

    Args:
        readable: files and folders, each with whether it and all below it may be read, or only listed.
        folder: where may be written.
    """
    version = _landlock_version()
    if not version:
        return []
    files = _FILE_RIGHTS.get(version, (1 << 16) - 1)
    binding_and_connecting = 3 if version >= 4 else 0
    abstract_sockets_and_signals = 3 if version >= 6 else 0
    known = struct.pack("QQQ", files, binding_and_connecting, abstract_sockets_and_signals)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _checked(_syscall(_CREATE_RULESET, known, size, 0), "landlock_create_ruleset")
    for path, whole in readable:
        _allow(rules, path, _READ if whole else _READ_DIR)
    _allow(rules, folder, _OWN & files)
    _allow(rules, Path("/dev/null"), _OWN & files)
    return [rules]


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it went since it was listed
        return
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISLNK(mode):  # what it leads to is granted where it lies, or not at all
            return
        of_it = rights if stat.S_ISDIR(mode) else rights & _OF_FILES
        if not of_it:
            return
        rule = struct.pack("=Qi", of_it, descriptor)
        _checked(_syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0), f"landlock_add_rule({path})")
    finally:
        os.close(descriptor)


# --- the filter of system calls ---------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_DENIED = """
    socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
    fork 57 -, vfork 58 -, execve 59 221, execveat 322 281,
    ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, kill 62 129, tkill 200 130,
    rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, setpriority 141 140, ioprio_set 251 30,
    sched_setaffinity 203 122, sched_setscheduler 144 119, sched_setparam 142 118, sched_setattr 314 274,
    migrate_pages 256 238, move_pages 279 239,
    shmget 29 194, shmat 30 196, shmctl 31 195, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187,
    semget 64 190, semop 65 193, semtimedop 220 192, semctl 66 191, mq_open 240 180, mq_unlink 241 181,
    memfd_create 319 279, flock 73 32,
    chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54,
    utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7,
    removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, truncate 76 45,
    inotify_init 253 -, inotify_init1 294 26, fanotify_init 300 262, open_by_handle_at 304 265,
    name_to_handle_at 303 264,
    mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, swapon 167 224,
    swapoff 168 225, quotactl 179 60,
    bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, keyctl 250 219, add_key 248 217, request_key 249 218,
    personality 135 92, acct 163 89, reboot 169 142, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105,
    finit_module 313 273, delete_module 176 106, syslog 103 116, settimeofday 164 170, clock_settime 227 112,
    adjtimex 159 171, clock_adjtime 305 266, sethostname 170 161, setdomainname 171 162, iopl 172 -, ioperm 173 -,
    vhangup 153 58, setrlimit 160 164
"""
"""System calls that are denied, each with its number on x86_64 and on aarch64."""

_FIRST_LATE, _X32 = 424, 0x40000000
_LATE = {436: "close_range", 439: "faccessat2", 441: "epoll_pwait2", 449: "futex_waitv"}
"""System calls from 424 on (2019) have one number on all machines. All but these are denied as if they did not exist
(io_uring, pidfd, clone3, openat2, new ways to mount): callers fall back on older ones."""

_ARGUMENT = """
    clone 56 220, tgkill 234 131, prctl 157 167, prlimit64 302 261, fcntl 72 25, ioctl 16 29, open 2 -, openat 257 56
"""

_CLONE_THREAD = 0x10000
_SETOWN, _SETSIG, _SETOWN_EX = 8, 10, 15
_LOCKS = (6, 7, 37, 38, 1024, 1026, 1036)
"""Locks, leases, notes on a folder's changes, and lifetimes of what is written: on a file that two children may read,
each of them is a message."""

_FIOSETOWN, _SIOCSPGRP, _TIOCSTI = 0x8901, 0x8902, 0x5412

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_PERMISSION, _UNKNOWN = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS


@cache
def _has_filter() -> bool:
    """Whether the kernel filters system calls, and this machine's numbers of them are known."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES or sys.maxsize < 1 << 32:
        return False
    number, is_available = {"x86_64": 317, "aarch64": 277}[platform.machine()], 2
    return _syscall(number, is_available, 0, ctypes.byref(ctypes.c_uint32(_ERROR))) == 0


def _enter_filter() -> None:
    program = b"".join(struct.pack("HBBI", *step) for step in _program(platform.machine(), os.getpid()))
    code = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _prctl(_SET_SECCOMP, 2, head)


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = 1 if machine == "x86_64" else 2
    rows = [entry.split() for entry in table.split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


Step = tuple[int, int, int, int]
"""Operation, how far to jump if true, how far if not, operand."""


def _program(machine: str, pid: int) -> Iterator[Step]:
    """Yield the filter: a program for the kernel that looks at the number of a call, then at one argument."""
    yield _LOAD, 0, 0, 4  # the architecture
    yield _EQUAL, 1, 0, _ARCHITECTURES[machine]
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, 0  # the number
    for number in _numbers(_DENIED, machine).values():
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _PERMISSION
    for number in _LATE:
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _ALLOW
    yield _AT_LEAST, 0, 1, _FIRST_LATE  # with the calls of x32, which begin at 0x40000000
    yield _RETURN, 0, 0, _UNKNOWN
    no_truncation = (os.O_TRUNC | os.O_ACCMODE, (os.O_TRUNC | os.O_RDONLY,), True)  # Landlock before version 3
    whole = 0xFFFFFFFF
    rules = {
        "clone": (0, _CLONE_THREAD, (0,), True),
        "tgkill": (0, whole, (pid,), False),  # abort() calls it
        "prctl": (0, whole, (_SET_PDEATHSIG, _SET_DUMPABLE, _SET_PTRACER), True),
        "prlimit64": (0, whole, (0,), False),
        "fcntl": (1, whole, (_SETOWN, _SETSIG, _SETOWN_EX, *_LOCKS), True),
        "ioctl": (1, whole, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI), True),
        "open": (1, *no_truncation),
        "openat": (2, *no_truncation),
    }
    for name, number in _numbers(_ARGUMENT, machine).items():
        argument, mask, values, denied = rules[name]
        tests: list[Step] = []
        for value in values:
            tests += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _PERMISSION if denied else _ALLOW)]
        tests.append((_RETURN, 0, 0, _ALLOW if denied else _PERMISSION))
        yield _EQUAL, 0, len(tests) + 2, number
        yield _LOAD, 0, 0, 16 + 8 * argument  # its lower half, on machines of this byte order
        yield _AND, 0, 0, mask
        yield from tests
    yield _RETURN, 0, 0, _ALLOW
