"""Looks at the wall from inside: what may a process do here that it should not?

Runs in the agent's place, in a container that was made as an agent's is, when the host laid a file `probe.json` into
the inbox: what this container is meant to have. Says one line of JSON per check into out.ndjson, and the end. Needs
nothing but Python; writes scratch files only, and removes them; asks the model nothing; is over after LIFE seconds.

A verdict is "ok", "fail", or "unknown" where the check cannot hold here (another kernel's word, too little memory).
"""

import errno
import json
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from agent import calls, ways
from agent.tree import Tree, readable, secrets

ORDERS = Path("/run/nanoclaw/inbox/probe.json")
OUTBOX = Path("/run/nanoclaw/out.ndjson")
LIFE = 26  # seconds
_SCRATCH = ".nanoclaw-probe"
_ENGINES = ("/", "/dev", "/dev/console", "/dev/init", "/dev/mqueue", "/dev/pts", "/dev/shm", "/etc/hostname")  # noqa: S108 - looked at, not used
_ENGINES += ("/etc/hosts", "/etc/resolv.conf", "/proc", "/sbin/docker-init", "/sys", "/usr/sbin/docker-init")
_DEVICES = {"console", "full", "null", "ptmx", "random", "tty", "urandom", "zero"}
_TO_HOST = (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/proc/irq",
    "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi", "/sys/kernel/uevent_helper", "/sys/power/state",
    "/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
)  # fmt: skip
_MASKED = ("kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "kmsg", "kpagecount", "mem")

Verdict = tuple[str, str]
OK, FAIL, UNKNOWN = "ok", "fail", "unknown"


class Probe:
    """The checks, in the order in which they are made: `check_x_y` says what of "x y"."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.status = dict(
            line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
        )
        self.binds: dict[str, bool] = dict(orders["binds"])
        self.tmpfs: dict[str, int] = orders["tmpfs"]
        self.foreign = "runsc" in orders["runtime"]  # another kernel stands there: it filters nothing by seccomp
        self.tree = Tree(skip=("/proc", "/sys"))

    # --- who am I ---

    def check_user(self) -> Verdict:
        """Its uid and gid are those asked for, in every set; no other group is there."""
        ids = {*os.getresuid()}, {*os.getresgid()}
        if ids != ({self.orders["uid"]}, {self.orders["gid"]}):
            return FAIL, f"it runs as uid {sorted(ids[0])} and gid {sorted(ids[1])}"
        if more := {*os.getgroups()} - {self.orders["gid"]}:
            return FAIL, f"it is in other groups too: {sorted(more)}"
        return OK, f"uid {self.orders['uid']}, no other group"

    def check_capabilities(self) -> Verdict:
        """None, in any of the five sets."""
        held = [f"{k}={v.strip()}" for k, v in self.status.items() if k.startswith("Cap") and int(v, 16)]
        return (FAIL, f"it holds some: {', '.join(held)}") if held else (OK, "none in any of the five sets")

    def check_no_new_privileges(self) -> Verdict:
        """A program that is somebody else's gains nothing when it is started."""
        if self.status.get("NoNewPrivs", "").strip() == "1":
            return OK, "no program gains any when it is started"
        return FAIL, "a program may gain some when it is started"

    def check_seccomp(self) -> Verdict:
        """A filter is on, whatever it lets through."""
        if self.status.get("Seccomp", "").strip() == "2":
            return OK, "system calls are filtered"
        return (UNKNOWN if self.foreign else FAIL), "system calls are not filtered"

    def check_setuid_programs(self) -> Verdict:
        """Start one that is root's, and look at who it is then."""
        found = [path for path in self.tree.setuid if os.access(path, os.X_OK)]
        su = next((path for path in found if path.endswith("/su")), "")
        if not su:
            return OK, f"{len(found)} there, none that waits to be looked at"
        uid = _uid_of(su)
        if uid is None:
            return UNKNOWN, "the one that was started ended at once"
        if uid != self.orders["uid"]:
            return FAIL, "one was somebody else when it was started"
        return OK, f"{len(found)} there, no use to anybody"

    # --- what may I touch ---

    def check_root(self) -> Verdict:
        """Read-only, and nothing can be put anywhere but in the places that are meant."""
        if "ro" not in self.tree.mounts.get("/", "").split(","):
            return FAIL, "it is mounted writable"
        meant = (*self.binds, *self.tmpfs, *self.orders["more"], "/dev")
        wrong = [
            p for p in self.tree.writable if not any(p == m or p.startswith(m + "/") for m in meant) and _writes(p)
        ]
        return (FAIL, f"it can be written at {wrong[0]}") if wrong else (OK, "read-only")

    def check_mounts(self) -> Verdict:
        """Exactly those of the spec; each writable only where that was asked for, tried by writing."""
        known = {*self.binds, *self.tmpfs, *_ENGINES, *self.orders["more"]}
        more = [t for t in self.tree.mounts if t not in known and not t.startswith(("/proc/", "/sys/"))]
        if more:
            return FAIL, f"{more[0]} is mounted, which nobody asked for"
        if gone := [t for t in (*self.binds, *self.tmpfs) if t not in self.tree.mounts]:
            return FAIL, f"{gone[0]} is not mounted"
        if wrong := [t for t, writes in self.binds.items() if not writes and _writes(t)]:
            return FAIL, f"{wrong[0]} can be written"
        if wrong := [t for t, writes in self.binds.items() if writes and not _writes(t)]:
            return UNKNOWN, f"{wrong[0]} cannot be written, though it was meant to be"
        return OK, f"the {len(self.binds)} of its spec, {sum(self.binds.values())} of them writable"

    def check_devices(self) -> Verdict:
        """Those of every container; none of a disk; none can be made."""
        if strange := [p for p in self.tree.devices if not _is_standard(p)]:
            return FAIL, f"{strange[0]} is there"
        for folder in (*self.tmpfs, "/dev/shm"):  # noqa: S108 - whatever else is there
            path = Path(folder, _SCRATCH)
            if _try(partial(os.mknod, path, stat.S_IFBLK | 0o600, os.makedev(8, 0))) == 0:
                path.unlink()
                return FAIL, f"one can be made in {folder}"
        return OK, "only those of every container"

    def check_sockets(self) -> Verdict:
        """No unix socket but the run's own two; in granted folders none that bears an engine's name."""
        granted = [t for t in self.binds if t.startswith("/workspace/")]
        seen = 0
        for path in self.tree.sockets:
            if path in ways.SOCKETS:
                continue
            mine = any(path.startswith(t + "/") for t in granted)
            if not mine or path.endswith(("docker.sock", "containerd.sock", "podman.sock")):
                return FAIL, f"{path} is there"
            seen += ways.listens(path)
        if seen:
            return UNKNOWN, f"{seen} socket(s) in granted folders are listened at by somebody outside"
        return OK, "its own two"

    def check_proc_and_sys(self) -> Verdict:
        """Nothing there that is the machine's can be written, or read where it is masked."""
        for path in map(Path, _TO_HOST):
            if path.is_dir():
                if _try((path / _SCRATCH).mkdir) == 0:
                    (path / _SCRATCH).rmdir()
                    return FAIL, f"{path} can be written"
            elif _opens(path, os.O_WRONLY):
                return FAIL, f"{path} can be written"
        if bare := [f"/proc/{name}" for name in _MASKED if _says(f"/proc/{name}")]:
            return FAIL, f"{bare[0]} can be read"
        return OK, "what is the machine's cannot be written, and is masked"

    # --- what may I ask the kernel for ---

    def check_system_calls(self) -> Verdict:
        """None of those that the profile leaves out gets through to the kernel."""
        if through := _apart(calls.through):
            words = f"{len(through)} get through that should not: {', '.join(through[:6])}"
            return (UNKNOWN if self.foreign else FAIL), words
        return OK, f"{len(calls.REFUSED)} dangerous ones are refused, programs of 32 bits too"

    def check_namespaces(self) -> Verdict:
        """None can be made or entered: root in one of its own could ask the kernel for much more."""
        made = _apart(calls.namespaces)
        return (FAIL, f"one can be made: {made[0]}") if made else (OK, "none can be made")

    def check_socket_families(self) -> Verdict:
        """Unix, IP and the kernel's word on addresses alone."""
        opened = calls.families()
        words = f"others can be opened: {', '.join(opened[:6])}"
        return ((UNKNOWN if self.foreign else FAIL), words) if opened else (OK, "unix, IP and addresses alone")

    # --- where do I get to ---

    def check_network(self) -> Verdict:
        """Nowhere: no interface but the loopback, no route, no answer, no name."""
        if out := ways.out(self.orders["addresses"]):
            return FAIL, out[0]
        return OK, "only the loopback; no address and no name is reached"

    def check_model_gateway(self) -> Verdict:
        """It forwards nothing but what it knows; the host looks at what comes out behind it."""
        tried = ways.model()
        if tried.took:
            return FAIL, f"it took {tried.took[0]}"
        return (FAIL, tried.fault) if tried.fault else (OK, f"{len(ways.FOREIGN)} foreign requests were refused")

    def check_egress(self) -> Verdict:
        """No address, no port and no name that is the machine's, its network's or the provider's."""
        targets = [*ways.INSIDE, *self.orders["hosts"]]
        tried = ways.egress(targets)
        if tried.took:
            return FAIL, f"it leads to {tried.took[0]}"
        return (FAIL, tried.fault) if tried.fault else (OK, f"{len(targets)} forbidden targets were refused")

    # --- what may I use up ---

    def check_processes(self) -> Verdict:
        """A flood of them ends at the limit."""
        limit = self.orders["pids"]
        count = _apart(lambda: _forks(limit + 20))
        return (OK, f"a flood ends at {limit}") if count <= limit else (FAIL, f"a flood does not end at {limit}")

    def check_memory(self) -> Verdict:
        """Who takes too much is killed alone."""
        if not self.orders["hog"]:
            return UNKNOWN, "not tried: the machine has too little free, or does not limit swap"
        size = self.orders["memory"]
        # Some MiB more than the limit, and never more: an engine that does not enforce it shall not suffer.
        try:
            _apart(lambda: _hog(size + (64 << 20)), first=True)
        except Killed:
            return OK, f"who takes more than {size >> 20} MiB is killed alone"
        return FAIL, f"more than {size >> 20} MiB can be taken"

    def check_files(self) -> Verdict:
        """Their size and number, and no dump of a process."""
        most = self.orders["file_size"]
        with _scratch(min(self.tmpfs)) as f:
            if _try(lambda: f.truncate(most + 1)) != errno.EFBIG:
                return FAIL, f"one may be larger than {most >> 20} MiB"
        if resource.getrlimit(resource.RLIMIT_NOFILE)[1] > self.orders["files"]:
            return FAIL, f"more than {self.orders['files']} may be open"
        if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
            return FAIL, "a process that breaks is dumped"
        return OK, f"up to {most >> 20} MiB, {self.orders['files']} open at once"

    def check_room(self) -> Verdict:
        """Folders in memory end where they were told to."""
        for folder, size in self.tmpfs.items():
            if not 0 < _room(folder) <= size:
                return FAIL, f"{folder} has no limit, or another one"
        folder, size = min(self.tmpfs.items(), key=lambda item: item[1])
        with _scratch(folder) as f:
            if _try(lambda: os.posix_fallocate(f.fileno(), 0, size + 4096)) != errno.ENOSPC:
                return FAIL, f"{folder} takes more than its {size >> 20} MiB"
        return OK, "folders in memory end where they were told to"

    def check_secrets(self) -> Verdict:
        """No key of the host's in any file, environment or command line. Last: it takes the longest."""
        wanted = self.orders["secrets"]
        if not wanted:
            return UNKNOWN, "no key is set on this machine, so none was looked for"
        until = time.monotonic() + self.orders["patience"]
        seen, left = secrets(self.tree, wanted, bytes.fromhex(self.orders["salt"]), until=until)
        if seen:
            return FAIL, f"a key of the host's is readable at {seen[0]}"
        if left:
            return UNKNOWN, f"no key of the host's was seen, but {left} or more files were not looked through in time"
        return OK, "no key of the host's in any file, environment or command line"


# --- by which they do it ------------------------------------------------------------------------


def _try(act: Callable[[], Any]) -> int:
    """0 when it can be done, else the system's number of the reason."""
    try:
        act()
    except OSError as e:
        return e.errno or -1
    return 0


def _opens(path: str | Path, flags: int) -> bool:
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _writes(path: str) -> bool:
    """Whether anything can be written there: a scratch file in a folder, which is removed; a file is only opened."""
    if not Path(path).is_dir():
        return _opens(path, os.O_WRONLY)
    scratch = Path(path, f"{_SCRATCH}-{os.getpid()}")
    if not _opens(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL):
        return False
    scratch.unlink()
    return True


def _says(path: str) -> bool:
    """Whether there is anything to be read."""
    return bool(readable(path, 1))


def _is_standard(path: str) -> bool:
    name = path.removeprefix("/dev/")
    return path.startswith("/dev/") and (name in _DEVICES or name.startswith("pts/"))


def _room(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


@contextmanager
def _scratch(folder: str) -> Iterator[BinaryIO]:
    """A file that is gone afterwards, whatever happens."""
    path = Path(folder, _SCRATCH)
    try:
        with path.open("wb") as f:
            yield f
    finally:
        path.unlink(missing_ok=True)


def _uid_of(program: str) -> int | None:
    """Who a program is effectively, once it is started; None when it did not stay for it."""
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
        try:
            for _ in range(100):
                lines = Path(f"/proc/{p.pid}/status").read_text().splitlines()
                name, uids = lines[0].split()[1], next(x for x in lines if x.startswith("Uid:")).split()
                if name == Path(program).name:
                    return int(uids[2])
                time.sleep(0.01)
        except (OSError, StopIteration, IndexError):
            return None
        finally:
            p.kill()
    return None


class Killed(Exception):
    """The process that tried it was killed."""


def _apart(act: Callable[[], Any], *, first: bool = False) -> Any:
    """What `act` returns in a process of its own, as JSON. Raises Killed, or RuntimeError where it broke.

    `first`: the first one to be killed when the memory is over.
    """
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            if first:
                Path("/proc/self/oom_score_adj").write_text("1000")
            os.write(say, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(say)
    with os.fdopen(hear, "rb") as f:
        said = f.read(1 << 16)
    _try(lambda: os.killpg(pid, signal.SIGKILL))  # what it left behind
    _, status = os.waitpid(pid, 0)
    if not said:
        raise Killed if os.WIFSIGNALED(status) else RuntimeError("a process broke")
    return json.loads(said)


def _forks(most: int) -> int:
    """How many processes can be made, up to `most`; all of them end with it."""
    children: list[int] = []
    try:
        while len(children) < most:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return len(children) + 2  # this process and its parent


def _hog(size: int) -> bool:
    held = []
    for _ in range(size >> 24):
        held.append(mmap.mmap(-1, 1 << 24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
    return bool(held)


# --- the whole ----------------------------------------------------------------------------------


def verdicts(orders: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Check, verdict and one sentence; a check that breaks proves nothing, so it fails."""
    probe = Probe(orders)
    for name in [n for n in vars(Probe) if n.startswith("check_")]:
        check = name.removeprefix("check_").replace("_", " ")
        try:
            verdict, said = getattr(probe, name)()
        except Exception as e:
            verdict, said = FAIL, f"it could not be looked at: {type(e).__name__}: {e}"
        yield check, verdict, said


def main() -> int:
    """Say all verdicts, then that it is the end."""
    signal.alarm(LIFE)
    socket.setdefaulttimeout(2)
    orders = json.loads(ORDERS.read_text())
    with OUTBOX.open("a") as out:
        for check, verdict, said in verdicts(orders):
            print(json.dumps({"check": check, "verdict": verdict, "said": said[:300]}), file=out, flush=True)
        print(json.dumps({"end": True}), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
