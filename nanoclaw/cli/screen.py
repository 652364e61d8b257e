"""The interactive chat's terminal: a line editor, provisional text, and the messages that replace it."""

import asyncio
import contextlib
import sys
import termios
import threading
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from nanoclaw.models import Show
from nanoclaw.prompts import plain

PROMPT = "> "
HISTORY_LINES = 500


class Screen:
    """Owns standard input and output while the chat is open. All foreign text goes through `plain`."""

    def __init__(self, history: Path) -> None:
        import readline  # its import makes input() a line editor, so only here

        self._readline = readline
        self._history = history
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._keys = termios.tcgetattr(sys.stdin)
        self.asking = False
        self._live: Live | None = None
        self._text = ""
        self._activity = ""

    def close(self) -> None:
        """Leave the terminal as it was: the line editor may still be waiting in its thread."""
        self._clear()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._keys)
        self._readline.set_history_length(HISTORY_LINES)
        with contextlib.suppress(OSError):
            self._readline.write_history_file(self._history)

    async def ask(self) -> str | None:
        """The next line; None at the end of input."""
        self._clear()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._keys)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def read() -> None:
            try:
                line: str | None = input(PROMPT)
            except EOFError:
                line = None
            except UnicodeDecodeError:
                line = ""
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, answer, line)

        # A thread of its own, because nothing can wake one that waits for a key: it must not hold up the exit.
        threading.Thread(target=read, name="keys", daemon=True).start()
        self.asking = True
        try:
            return await answer
        finally:
            self.asking = False
            self._hide_keys()

    def _hide_keys(self) -> None:
        """What is typed during a turn is the next message; its echo would break the provisional text."""
        hidden = termios.tcgetattr(sys.stdin)
        hidden[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)

    def message(self, text: str) -> None:
        """Print what counts; it replaces what was provisional."""
        self._clear()
        body = plain(text)
        self._print(Markdown(body, hyperlinks=False) if self._console.is_terminal else Text(body))

    def hint(self, text: str) -> None:
        """Print a dim line of our own."""
        self._print(Text(text, style="dim"))

    def _print(self, what: Markdown | Text) -> None:
        if self.asking and self._console.is_terminal:
            sys.stdout.write("\r\x1b[K")
        self._console.print(what)
        if self.asking:
            sys.stdout.write(PROMPT + self._readline.get_line_buffer())
            sys.stdout.flush()

    def progress(self, show: Show, text: str) -> None:
        """Draw provisional output below what was printed, while a turn runs."""
        if self.asking or not self._console.is_terminal:
            return
        match show:
            case Show.TEXT:
                self._text += text
                self._activity = ""
            case Show.RESET:
                self._text = ""
            case Show.ENDED:
                self._clear()
                return
            case Show.TOOL_DONE | Show.TAKEN:
                self._activity = ""
            case _:
                self._activity = " ".join(f"{show}: {plain(text)}".split()) if text else f"{show} …"
        self._draw()

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        width, height = self._console.size
        # Only what fits is drawn: Live cannot take back what has scrolled away.
        end = plain(self._text[-width * height :])
        lines = Text(end).wrap(self._console, width)[-max(height - 3, 1) :]
        activity = Text(self._activity, style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(*lines, activity), refresh=True)

    def _clear(self) -> None:
        self._text = self._activity = ""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _settle(answer: asyncio.Future[str | None], line: str | None) -> None:
    if not answer.done():
        answer.set_result(line)
