"""Runs inside the container: what an agent's shell can ask of the kernel that could lead out of it."""

import ctypes
import os
import platform
import resource
import signal
import socket
import stat
import subprocess
from pathlib import Path

from attempts import Attempt, play

LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
# name: number on x86-64, on arm64
NUMBERS = {
    "clone": (56, 220),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "create_module": (174, -1),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "lookup_dcookie": (212, 18),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
}
NEWUSER, NEWNET, NEWNS, NEWPID = 0x10000000, 0x40000000, 0x20000, 0x20000000


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def call(name: str, *args: object) -> Attempt:
    """A system call by its number; what a kernel does not have it refuses too."""

    def attempt() -> None:
        number = NUMBERS[name][ARM]
        if number < 0:
            raise OSError(38, "not on this machine")
        given = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
        checked(LIBC.syscall(ctypes.c_long(number), *given))

    return attempt


def libc(name: str, *args: object) -> Attempt:
    def attempt() -> None:
        checked(getattr(LIBC, name)(*args))

    return attempt


def command(*words: str) -> Attempt:
    """A program; whether it succeeded."""

    def attempt() -> str:
        done = subprocess.run(words, capture_output=True, timeout=8)
        return "refused" if done.returncode else f"done {done.stdout[:80]!r}"

    return attempt


def write(path: str, text: str = "1") -> Attempt:
    def attempt() -> None:
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, text.encode())

    return attempt


def read(path: str, count: int = 16) -> Attempt:
    """What stands there: an empty file of the kernel's is none."""

    def attempt() -> str:
        with open(path, "rb") as f:
            return "done" if f.read(count).strip(b"\0 \n") else "empty"

    return attempt


def sock(family: int, kind: int, protocol: int = 0) -> Attempt:
    return lambda: socket.socket(family, kind, protocol).close()


def runner() -> int:
    """The process that writes the letters, above us."""
    pid = os.getppid()
    while pid > 1:
        if b"-m\0agent" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    raise RuntimeError("no runner is above us")


RUNNER = runner()


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def heap() -> int:
    """An address of the runner's memory, as far as it tells."""
    try:
        lines = Path(f"/proc/{RUNNER}/maps").read_text().splitlines()
        return int(next(line for line in lines if "[heap]" in line).partition("-")[0], 16)
    except OSError:
        return 0x400000


def vm(name: str) -> Attempt:
    def attempt() -> None:
        mine = ctypes.create_string_buffer(64)
        own, other = Piece(ctypes.addressof(mine), 64), Piece(heap(), 64)
        checked(getattr(LIBC, name)(RUNNER, ctypes.byref(own), 1, ctypes.byref(other), 1, 0))

    return attempt


def clone_newuser() -> None:
    """A child in a user namespace of its own would be root there."""
    number = ctypes.c_long(NUMBERS["clone"][ARM])
    pid = LIBC.syscall(number, ctypes.c_long(NEWUSER | signal.SIGCHLD), *[ctypes.c_long(0)] * 4)
    if pid == 0:
        os._exit(0)
    checked(pid)


def clone3_newuser() -> None:
    args = (ctypes.c_uint64 * 11)(NEWUSER, 0, 0, 0, signal.SIGCHLD)
    pid = LIBC.syscall(ctypes.c_long(435), args, ctypes.c_long(ctypes.sizeof(args)))
    if pid == 0:
        os._exit(0)
    checked(pid)


def setns(name: str) -> Attempt:
    def attempt() -> None:
        checked(LIBC.setns(os.open(f"/proc/1/ns/{name}", os.O_RDONLY), 0))
        if name == "net":  # joining where one is already says nothing; nothing but the own is there to be joined
            raise RuntimeError("joined")

    return attempt


def setuid_files() -> str:
    """Programs that would run as somebody else: what comes of each."""
    gained = []
    for folder in ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec"):
        for path, _, names in os.walk(folder):
            for name in names:
                file = os.path.join(path, name)
                if os.lstat(file).st_mode & (stat.S_ISUID | stat.S_ISGID) and not os.path.islink(file):
                    gained.append(file)
    for file in gained:
        child = subprocess.Popen([file], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            uids = Path(f"/proc/{child.pid}/status").read_text().split("Uid:")[1].splitlines()[0].split()
            if "0" in uids:
                return f"done: {file}"
        except (OSError, IndexError):
            pass
        finally:
            child.kill()
            child.communicate()
    return "nothing gained"


def own_setuid() -> str:
    """A program of one's own with the bit set, as whoever one likes."""
    file = "/tmp/mine"
    Path(file).write_bytes(Path("/usr/bin/id").read_bytes())
    os.chown(file, 0, 0)
    os.chmod(file, 0o6755)
    return f"done {subprocess.run([file, '-u'], capture_output=True).stdout!r}"


def chroot() -> None:
    os.mkdir("/tmp/root")
    os.chroot("/tmp/root")


def raise_limit(which: int) -> Attempt:
    def attempt() -> None:
        hard = resource.getrlimit(which)[1]
        try:
            resource.setrlimit(which, (hard + 1, hard + 1))
        except ValueError:
            raise OSError(1, "refused") from None

    return attempt


def own_control_group() -> str:
    """Any that could be made, below any that there is."""
    seen = "ENOENT"
    for path, folders, _ in os.walk("/sys/fs/cgroup"):
        del folders[20:]
        try:
            os.mkdir(os.path.join(path, "mine"))
            return f"done {path}"
        except OSError as e:
            seen = str(e.errno)
    return f"refused {seen}"


def writable_control() -> str:
    """The files by which other systems were left, or a limit could be raised."""
    names = {"release_agent", "cgroup.procs", "memory.limit_in_bytes", "memory.max", "pids.max", "devices.allow"}
    for path, folders, found in os.walk("/sys/fs/cgroup"):
        del folders[20:]
        for name in names & set(found):
            if os.access(os.path.join(path, name), os.W_OK):
                return f"done {path}/{name}"
    return "refused"


def devices() -> str:
    """Every device that can be opened and is none of the harmless ones."""
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "stdin", "stdout", "stderr", "fd"}
    found = []
    for path, _, names in os.walk("/dev"):
        for name in names:
            file = os.path.join(path, name)
            kind = os.lstat(file).st_mode
            if (stat.S_ISBLK(kind) or stat.S_ISCHR(kind)) and name not in harmless and "/pts" not in path:
                try:
                    os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
                    found.append(file)
                except OSError:
                    pass
    return f"done {found}" if found else "none"


def by_handle() -> None:
    """The escape of 2014: a file by its number, past every mount."""
    handle = (ctypes.c_ubyte * 24)(8, 0, 0, 0, 1, 0, 0, 0, 2)
    folder = os.open("/workspace/group", os.O_RDONLY)
    fd = LIBC.syscall(ctypes.c_long(NUMBERS["open_by_handle_at"][ARM]), ctypes.c_long(folder), handle, ctypes.c_long(0))
    checked(fd)


def inject() -> None:
    """Words into a terminal that somebody else reads."""
    import fcntl

    for pid in filter(str.isdigit, os.listdir("/proc")):
        for fd in ("0", "1", "2"):
            try:
                with open(f"/proc/{pid}/fd/{fd}", "rb") as tty:
                    fcntl.ioctl(tty, 0x5412, b"x")
                    raise RuntimeError(f"pid {pid}")
            except OSError:
                continue
    raise OSError(25, "no terminal")


def realtime() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


def look_in(pid: int, name: str, mode: int = os.O_RDONLY) -> Attempt:
    """Another process by its files in /proc."""

    def attempt() -> None:
        fd = os.open(f"/proc/{pid}/{name}", mode)
        if name == "mem":
            os.pread(fd, 16, heap())

    return attempt


ATTEMPTS: "dict[str, Attempt]" = {
    "read the runner's memory": look_in(RUNNER, "mem"),
    "write the runner's memory": look_in(RUNNER, "mem", os.O_RDWR),
    "where the runner's memory is": look_in(RUNNER, "maps"),
    "the runner's environment": look_in(RUNNER, "environ"),
    "the runner's outbox by its descriptor": lambda: os.listdir(f"/proc/{RUNNER}/fd"),
    "ptrace the runner": libc("ptrace", 0x4206, RUNNER, 0, 0),
    "ptrace init": libc("ptrace", 0x4206, 1, 0, 0),
    "read the runner by process_vm_readv": vm("process_vm_readv"),
    "write the runner by process_vm_writev": vm("process_vm_writev"),
    "take a descriptor of the runner": lambda: checked(
        LIBC.syscall(ctypes.c_long(438), ctypes.c_long(os.pidfd_open(RUNNER)), ctypes.c_long(0), ctypes.c_long(0))
    ),
    "kcmp": call("kcmp", RUNNER, 1, 0, 0, 0),
    "io_uring": call("io_uring_setup", 8, ctypes.create_string_buffer(256)),
    "io_uring_register": call("io_uring_register", 0, 0, 0, 0),
    "bpf map": call("bpf", 0, ctypes.create_string_buffer(128), 128),
    "perf": call("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "userfaultfd": call("userfaultfd", 0),
    "userfaultfd of user memory alone": call("userfaultfd", 1),
    "keyring of the session": call("keyctl", 0, -3, 1),
    "key is added": call("add_key", b"user", b"mine", b"x", 1, -3),
    "key is asked for": call("request_key", b"user", b"mine", 0, -3),
    "unshare user": libc("unshare", NEWUSER),
    "unshare user and net": libc("unshare", NEWUSER | NEWNET),
    "unshare mounts": libc("unshare", NEWNS),
    "unshare pids": libc("unshare", NEWPID),
    "clone into a user namespace": clone_newuser,
    "clone3 into a user namespace": clone3_newuser,
    "setns net": setns("net"),
    "setns mnt": setns("mnt"),
    "setns user": setns("user"),
    "mount a tmpfs": libc("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "mount proc": libc("mount", b"none", b"/tmp", b"proc", 0, None),
    "bind the root over": libc("mount", b"/", b"/tmp", None, 4096, None),
    "make the root writable": libc("mount", None, b"/", None, 32 | 4096, None),
    "make the inbox writable": libc("mount", None, b"/run/nanoclaw/inbox", None, 32 | 4096, None),
    "unmount the outbox": libc("umount2", b"/run/nanoclaw/out.ndjson", 2),
    "unmount what hides proc": libc("umount2", b"/proc/kcore", 2),
    "fsopen": call("fsopen", b"tmpfs", 0),
    "open_tree": call("open_tree", -100, b"/", 1),
    "move_mount": call("move_mount", -100, b"/tmp", -100, b"/run", 0),
    "mount_setattr": call("mount_setattr", -100, b"/", 0, ctypes.create_string_buffer(32), 32),
    "pivot_root": libc("pivot_root", b"/tmp", b"/tmp")
    if hasattr(LIBC, "pivot_root")
    else command("pivot_root", "/tmp"),
    "chroot": chroot,
    "device of a disk": lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
    "device of the memory": lambda: os.mknod("/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1)),
    "other devices": devices,
    "become root": lambda: os.setuid(0),
    "become root's group": lambda: os.setgroups([0]),
    "setuid programs": setuid_files,
    "a setuid program of one's own": own_setuid,
    "su": command("su", "-c", "id -u"),
    "sudo": command("sh", "-c", "sudo -n id"),
    "raw socket": sock(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "raw socket of IPv6": sock(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    "packet socket": sock(17, socket.SOCK_RAW, 0x300),
    "vsock": sock(40, socket.SOCK_STREAM),
    "AF_ALG": sock(38, socket.SOCK_SEQPACKET),
    "AF_XDP": sock(44, socket.SOCK_RAW),
    "AF_KEY": sock(15, socket.SOCK_RAW, 2),
    "AF_CAN": sock(29, socket.SOCK_RAW, 1),
    "AF_BLUETOOTH": sock(31, socket.SOCK_STREAM, 3),
    "AF_TIPC": sock(30, socket.SOCK_SEQPACKET),
    "AF_RDS": sock(21, socket.SOCK_SEQPACKET),
    "audit by netlink": sock(16, socket.SOCK_RAW, 9),
    "netfilter by netlink": lambda: nft(),
    "core_pattern": write("/proc/sys/kernel/core_pattern", "|/tmp/x"),
    "modprobe's path": write("/proc/sys/kernel/modprobe", "/tmp/x"),
    "uevent_helper": write("/sys/kernel/uevent_helper", "/tmp/x"),
    "binfmt_misc": write("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/tmp/x:"),
    "overcommit": write("/proc/sys/vm/overcommit_memory"),
    "ip_forward": write("/proc/sys/net/ipv4/ip_forward"),
    "sysrq": write("/proc/sysrq-trigger", "h"),
    "the kernel's memory": read("/proc/kcore"),
    "the kernel's keys": read("/proc/keys"),
    "the kernel's timers": read("/proc/timer_list"),
    "the kernel's log": libc("klogctl", 3, ctypes.create_string_buffer(64), 64),
    "firmware": lambda: "done" if os.listdir("/sys/firmware") else "empty",
    "release_agent and limits": writable_control,
    "control group of one's own": own_control_group,
    "file by its number": by_handle,
    "load a module": call("init_module", b"x", 1, b""),
    "load a module by file": call("finit_module", 0, b"", 0),
    "unload a module": call("delete_module", b"x", 0),
    "kexec": call("kexec_load", 0, 0, 0, 0),
    "reboot": libc("reboot", 0x01234567),
    "swapon": libc("swapon", b"/tmp/x", 0),
    "swapoff": libc("swapoff", b"/dev/sda1"),
    "acct": libc("acct", b"/tmp/x"),
    "sethostname": libc("sethostname", b"x", 1),
    "settimeofday": libc("settimeofday", (ctypes.c_long * 2)(1, 1), None),
    "quotactl": call("quotactl", 0x80000700, b"/dev/sda", 0, 0),
    "ports of the machine": call("iopl", 3),
    "a port of the machine": call("ioperm", 0x80, 1, 1),
    "fanotify": call("fanotify_init", 0, 0),
    "personality without randomness": libc("personality", 0x0040000),
    "realtime": realtime,
    "more processor time": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    "more files": raise_limit(resource.RLIMIT_NOFILE),
    "core dumps": raise_limit(resource.RLIMIT_CORE),
    "larger files": raise_limit(resource.RLIMIT_FSIZE),
    "words into a terminal": inject,
    "overwrite the first process": write("/proc/1/exe", "x"),
    "overwrite the agent": write("/opt/agent/app/agent/__main__.py", "x"),
    "overwrite the CLI": write("/opt/agent/bin/claude", "x"),
    "add to the skills": lambda: os.mkdir("/opt/agent/plugins/nanoclaw/skills/mine"),
    "add to the inbox": lambda: Path("/run/nanoclaw/inbox/99999999.json").write_text("{}"),
    "touch the host's sign of life": lambda: os.utime("/run/nanoclaw/inbox/host"),
    "a socket of one's own beside the gateway's": lambda: socket.socket(socket.AF_UNIX).bind(
        "/run/nanoclaw/sockets/x.sock"
    ),
    "remove the gateway's socket": lambda: os.unlink("/run/nanoclaw/sockets/model.sock"),
}


def nft() -> None:
    """A table of rules, in the own network at least."""
    with socket.socket(16, socket.SOCK_RAW, 12) as s:
        s.bind((0, 0))
        message = bytes([20, 0, 0, 0, 0x10, 0, 5, 0]) + bytes(8) + bytes([0, 0, 0, 10])
        s.send(message)
        s.settimeout(2)
        code = int.from_bytes(s.recv(4096)[16:20], "little", signed=True)
        if code:
            raise OSError(-code, "refused")


if __name__ == "__main__":
    play(ATTEMPTS)
