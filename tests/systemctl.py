"""A stand-in for systemctl that runs units as systemd would: `systemctl.py UNITS STATE WORDS...`. No supervision."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def words(line: str) -> list[str]:
    """A line's words, by systemd's rules for quotes, backslashes and percent signs."""
    found, word, quoted, n = list[str](), "", False, 0
    while n < len(line):
        c, after = line[n], line[n + 1 : n + 2]
        if c == "\\":
            assert after in ('"', "\\"), line
            word, n = word + after, n + 1
        elif c == "%":
            assert after == "%", line
            word, n = word + "%", n + 1
        elif c == '"':
            quoted = not quoted
            found, word = (found, "") if quoted else ([*found, word], "")
        elif quoted:
            word += c
        else:
            assert c == " ", line
        n += 1
    assert not quoted, line
    return found


def read(unit: Path) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment."""
    command, environ = list[str](), dict[str, str]()
    for line in unit.read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "ExecStart":
            first, *rest = words(value)
            command = [first, *(word.replace("$$", "$") for word in rest)]
        if key == "Environment":
            name, _, told = words(value)[0].partition("=")
            environ[name] = told
    return command, environ


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_all_of(home: Path) -> None:
    """Every process that has this home in its environment: what a test that failed has left in the background."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"NANOCLAW_HOME=" + os.fsencode(home) in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def main(units: Path, state: Path, *asked: str) -> int:
    with (state / "calls").open("a") as f:
        f.write(" ".join(asked) + "\n")
    pid_file = state / "pid"
    pid = int(pid_file.read_text()) if pid_file.exists() else 0
    match asked:
        case ["start", name]:
            command, environ = read(units / name)
            child = subprocess.Popen(
                command, env={"PATH": os.environ["PATH"], **environ}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
            )  # fmt: skip
            pid_file.write_text(str(child.pid))
        case ["is-active", name]:
            print("active" if pid and alive(pid) else "failed" if pid else "inactive")
        case ["disable", "--now", name] if pid and alive(pid):
            os.kill(pid, signal.SIGTERM)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
