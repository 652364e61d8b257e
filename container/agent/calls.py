"""What the kernel must not be asked for: system calls and families of sockets, each tried; for the probe.

A call that the filter refuses fails with EPERM (clone3 with ENOSYS) before its arguments are looked at. Their
arguments here are such that the kernel, where it is asked, says something else and does nothing.
"""

import ctypes
import errno
import mmap
import os
import platform
import signal
import socket

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER = 0x10000000
_BAD = -1

# Name: number on amd64, on arm64 (0 = none), arguments.
REFUSED: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "ptrace": (101, 117, (16, _BAD, 0, 0)),
    "process_vm_readv": (310, 270, (_BAD, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (_BAD, 0, 0, 0, 0, 0)),
    "process_madvise": (440, 440, (_BAD, 0, 0, 0, 0)),
    "pidfd_getfd": (438, 438, (_BAD, _BAD, 0)),
    "kcmp": (312, 272, (_BAD, _BAD, 0, 0, 0)),
    "io_uring_setup": (425, 425, (0, 0)),
    "io_uring_enter": (426, 426, (_BAD, 0, 0, 0, 0, 0)),
    "io_uring_register": (427, 427, (_BAD, 0, 0, 0)),
    "userfaultfd": (323, 282, (_BAD,)),
    "bpf": (321, 280, (_BAD, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, _BAD, _BAD, 0)),
    "keyctl": (250, 219, (_BAD, 0, 0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "request_key": (249, 218, (0, 0, 0, 0)),
    "setns": (308, 268, (_BAD, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "umount2": (166, 39, (0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "chroot": (161, 51, (0,)),
    "fsopen": (430, 430, (0, 0)),
    "fspick": (433, 433, (_BAD, 0, 0)),
    "open_tree": (428, 428, (_BAD, 0, 0)),
    "move_mount": (429, 429, (_BAD, 0, _BAD, 0, 0)),
    "mount_setattr": (442, 442, (_BAD, 0, 0, 0, 0)),
    "open_by_handle_at": (304, 265, (_BAD, 0, 0)),
    "name_to_handle_at": (303, 264, (_BAD, 0, 0, 0, 0)),
    "fanotify_init": (300, 262, (_BAD, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "finit_module": (313, 273, (_BAD, 0, 0)),
    "delete_module": (176, 106, (0, 0)),
    "kexec_load": (246, 104, (0, _BAD, 0, _BAD)),
    "reboot": (169, 142, (0, 0, 0, 0)),
    "swapon": (167, 224, (0, 0)),
    "acct": (163, 89, (1,)),
    "quotactl": (179, 60, (_BAD, 0, 0, 0)),
    "syslog": (103, 116, (_BAD, 0, 0)),
    "sethostname": (170, 161, (0, _BAD)),
    "clock_settime": (227, 112, (_BAD, 0)),
    "clock_adjtime": (305, 266, (_BAD, 0)),
    "personality": (135, 92, (0x0040000,)),
    "modify_ldt": (154, 0, (_BAD, 0, 0)),
    "ioperm": (173, 0, (_BAD, 0, 0)),
    "iopl": (172, 0, (_BAD,)),
    "memfd_secret": (447, 447, (_BAD,)),
}
_UNSHARE = (272, 97)
_CLONE = (56, 220)
_CLONE3 = (435, 435)
# Families that no module shall be loaded for, and protocols of those that are allowed.
_FAMILIES = {
    "AX25": 3, "IPX": 4, "APPLETALK": 5, "X25": 9, "KEY": 15, "PACKET": 17, "RDS": 21, "PPPOX": 24, "LLC": 26,
    "CAN": 29, "TIPC": 30, "BLUETOOTH": 31, "ALG": 38, "NFC": 39, "VSOCK": 40, "KCM": 41, "SMC": 43, "XDP": 44,
}  # fmt: skip
_PROTOCOLS = {
    "raw IPv4": (socket.AF_INET, socket.SOCK_RAW, 1),
    "raw IPv6": (socket.AF_INET6, socket.SOCK_RAW, 58),
    "ICMP": (socket.AF_INET, socket.SOCK_DGRAM, 1),
    "SCTP": (socket.AF_INET, socket.SOCK_STREAM, 132),
    "MPTCP": (socket.AF_INET, socket.SOCK_STREAM, 262),
    "netlink XFRM": (socket.AF_NETLINK, socket.SOCK_RAW, 6),
    "netlink netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, 12),
    "netlink generic": (socket.AF_NETLINK, socket.SOCK_RAW, 16),
}


def _call(numbers: tuple[int, int], *args: int) -> int:
    """0 when it was done, else the system's number of the reason."""
    number = numbers[platform.machine() == "aarch64"]
    wide = [ctypes.c_long(a) for a in args]
    return 0 if _LIBC.syscall(ctypes.c_long(number), *wide) >= 0 else ctypes.get_errno()


def through() -> list[str]:
    """The calls that the filter lets through; to be asked in a process of its own."""
    arm = platform.machine() == "aarch64"
    known = {name: call for name, call in REFUSED.items() if call[arm]}
    got = [n for n, (x, a, args) in known.items() if _call((x, a), *args) not in (errno.EPERM, errno.ENOSYS)]
    if _call(_CLONE3, 0, 0) != errno.ENOSYS:
        got.append("clone3")
    if platform.machine() == "x86_64" and _of_32_bits():
        got.append("those of 32 bits")
    return got


def namespaces() -> list[str]:
    """By which call a namespace was made; to be asked in a process of its own, whose it would be."""
    made = []
    asked = (_CLONE[platform.machine() == "aarch64"], _CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    pid = _LIBC.syscall(*map(ctypes.c_long, asked))
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
        made.append("clone")
    if _call(_UNSHARE, _CLONE_NEWUSER) == 0:
        made.append("unshare")
    return made


def families() -> list[str]:
    """The sockets that can be opened and should not."""
    wanted = {name: (number, kind, 0) for name, number in _FAMILIES.items() for kind in (2, 3, 5)}
    return [name for name, asked in {**wanted, **_PROTOCOLS}.items() if _opens(*asked)]


def _opens(family: int, kind: int, protocol: int) -> bool:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return False
    return True


def _of_32_bits() -> bool:
    """Whether a program may use the calls of 32 bits: `getpid` by int 0x80, in a process that is killed else."""
    code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret
    pid = os.fork()
    if pid == 0:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        answer = ctypes.CFUNCTYPE(ctypes.c_long)(address)()
        os._exit(0 if answer > 0 else 1)  # a kernel without them answers ENOSYS
    _, status = os.waitpid(pid, 0)
    return status == 0
