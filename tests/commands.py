"""The command as its users have it: in a pipe, and on a terminal."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from asyncio.subprocess import PIPE, Process
from pathlib import Path


def _without_settings() -> dict[str, str]:
    ours = ("COLUMNS", "LINES")  # set for a whole test run, they would win over the terminal's own size
    return {key: value for key, value in os.environ.items() if not key.startswith("NANOCLAW_") and key not in ours}


async def start(home: Path, *args: str | bytes, **env: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nanoclaw", *args,
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env=_without_settings() | {"NANOCLAW_HOME": str(home), **env},
    )  # fmt: skip


async def nanoclaw(home: Path, *args: str | bytes, data: bytes = b"", **env: str) -> tuple[int | None, str, str]:
    process = await start(home, *args, **env)
    out, err = await process.communicate(data)
    return process.returncode, out.decode(), err.decode()


def _resize(fd: int, lines: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))


class Terminal:
    """A command on a pty."""

    def __init__(self, process: Process, fd: int) -> None:
        self.process = process
        self._fd = fd
        self._data = asyncio.Event()
        self.screen = ""
        asyncio.get_running_loop().add_reader(fd, self._read)

    @classmethod
    async def open(cls, home: Path, *command: str, lines: int = 24, columns: int = 80, **env: str) -> "Terminal":
        """`nanoclaw COMMAND`, or another program where `command` begins with a path."""
        outer, inner = pty.openpty()
        _resize(outer, lines, columns)
        terminal_env = {"NANOCLAW_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor", **env}
        nanoclaw = () if command[0].startswith("/") else (sys.executable, "-m", "nanoclaw")
        process = await asyncio.create_subprocess_exec(
            *nanoclaw, *command, stdin=inner, stdout=inner, stderr=inner,
            env=_without_settings() | terminal_env, start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        return cls(process, outer)

    def resize(self, lines: int, columns: int) -> None:
        _resize(self._fd, lines, columns)

    def _read(self) -> None:
        try:
            self.screen += os.read(self._fd, 1 << 16).decode("utf-8", "replace")
        except OSError:
            asyncio.get_running_loop().remove_reader(self._fd)
        self._data.set()

    async def shows(self, text: str) -> str:
        """Wait until it does; forgets what came up to then, and returns it."""
        while text not in self.screen:
            self._data.clear()
            await self._data.wait()
        before, _, self.screen = self.screen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def press_ctrl_c(self) -> None:
        """As a terminal does for its foreground process (the pty here controls no session)."""
        self.process.send_signal(signal.SIGINT)

    @property
    def echoes(self) -> bool:
        """Whether what is typed is seen, and comes by the line."""
        mode = termios.tcgetattr(self._fd)[3]
        return bool(mode & termios.ECHO) and bool(mode & termios.ICANON)

    async def ends(self) -> int:
        code = await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        return code
