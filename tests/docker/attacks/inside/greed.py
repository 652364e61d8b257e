"""Runs inside the container: more of everything than there is, while others want to be answered."""

import os
import resource
import signal
import time

from attempts import Attempt, play


def forks() -> str:
    """Until there are no more; all of them end again."""
    children = []
    try:
        while len(children) < 5000:
            if not (pid := os.fork()):
                time.sleep(60)
                os._exit(0)
            children.append(pid)
        return f"done {len(children)}"
    except BlockingIOError:
        return "EAGAIN" if len(children) < 1000 else f"done {len(children)}"
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def threads() -> str:
    import threading

    gate = threading.Event()
    try:
        for _ in range(5000):
            threading.Thread(target=gate.wait, daemon=True).start()
        return "done"
    except RuntimeError:
        return "refused"
    finally:
        gate.set()


def memory() -> None:
    held = []
    while True:
        held.append(bytearray(b"x") * (64 << 20))


def descriptors() -> str:
    held: list[int] = []
    try:
        while len(held) < 100_000:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as e:
        return f"EMFILE at {len(held)}" if e.errno == 24 and len(held) <= 4096 else f"{e} at {len(held)}"
    return "done"


def fill(folder: str, most: int) -> Attempt:
    """A file system in memory; `most` MiB."""

    def attempt() -> str:
        path, size = os.path.join(folder, "fill"), 0
        try:
            with open(path, "wb", buffering=0) as f:
                while size <= most:
                    f.write(bytes(1 << 20))
                    size += 1
            return f"done {size}"
        finally:
            os.unlink(path)

    return attempt


def large() -> None:
    """A file beyond the limit of one."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open("/workspace/group/large", os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(fd, b"x", resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    finally:
        os.unlink("/workspace/group/large")


def storm() -> str:
    """The host watches the outbox: changes without a byte, as many as there can be in a second."""
    fd = os.open("/run/nanoclaw/out.ndjson", os.O_RDWR)
    count, end = 0, time.monotonic() + 1
    while time.monotonic() < end:
        os.ftruncate(fd, os.fstat(fd).st_size)
        count += 1
    return "stormed" if count > 1000 else f"only {count}"


def spin() -> str:
    """All processors, for a second."""
    children = []
    for _ in range(8):
        if not (pid := os.fork()):
            end = time.monotonic() + 1
            while time.monotonic() < end:
                pass
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return "spun"


def watches() -> str:
    """inotify instances are counted by user: the host's own must go on."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    held = 0
    while held < 100_000 and libc.inotify_init1(0) >= 0:
        held += 1
    return "refused" if held < 100_000 else "done"


ATTEMPTS: "dict[str, Attempt]" = {
    "processes": forks,
    "threads": threads,
    "memory": memory,
    "descriptors": descriptors,
    "shared memory": fill("/dev/shm", 100),
    "the folder for scratch": fill("/tmp", 400),
    "the home": fill("/home/agent", 400),
    "a file of more than 2 GiB": large,
    "a storm of changes": storm,
    "all processors": spin,
    "inotify": watches,
}

if __name__ == "__main__":
    play(ATTEMPTS)
