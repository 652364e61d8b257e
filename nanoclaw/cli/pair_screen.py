"""How a pairing looks: a QR that is redrawn in place, lines where nobody looks, JSON for programs."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Protocol

import segno
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from nanoclaw.hints import UNDER_COMPOSE
from nanoclaw.prompts import plain

_HALVES = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}  # (upper, lower) is dark
_LOOK = "#ffffff on #000000"  # said in full, so that a terminal's own colours turn nothing round
_BESIDE = 4  # lines above and below the QR


@dataclass(frozen=True)
class Pairing:
    """Where the number stands, as the host says in a `pairing` frame. `expires_at` is in ms."""

    state: str = ""
    detail: str = ""
    qr: str = ""
    code: str = ""
    expires_at: int = 0

    @property
    def offered(self) -> bool:
        """Whether there is something to scan or to type."""
        return bool(self.qr or self.code)


class View(Protocol):
    """Shows how a pairing goes on; it is a context manager of what it shows."""

    def show(self, now: Pairing, at: int) -> None:
        """The newest, at `at` ms. Called again as time goes by."""

    def close(self) -> None:
        """What was shown counts no longer."""


class Screen:
    """Takes the whole terminal while there is a code, and leaves nothing of it behind: it is a secret."""

    def __init__(self, advice: str) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._advice = advice  # whose phone it is
        self._live: Live | None = None
        self._told = ""

    def show(self, now: Pairing, at: int) -> None:
        """Draw the code with its seconds; before the first one, a line for each state."""
        if self._live is None and now.offered:
            self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        if self._live is not None:
            self._live.update(self._drawn(now, at), refresh=True)
        elif (line := told(now)) != self._told:
            self._told = line
            self._console.print(Text(line, style="dim"))

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _drawn(self, now: Pairing, at: int) -> RenderableType:
        if now.code:
            return Group(
                Text(f"{_what_to_do(now, self._advice)}\n\n    {now.code}\n"), Text("Ctrl-C leaves.", style="dim")
            )
        if not now.qr:
            return Text(told(now), style="dim")
        rows = half_blocks(now.qr)
        if self._console.width < len(rows[0]) or self._console.height < len(rows) + _BESIDE:
            return Text(
                f"The code needs {len(rows[0])} columns and {len(rows) + _BESIDE} lines,"
                f" this window has {self._console.width} and {self._console.height}:"
                " make it larger, or its print smaller (Ctrl and minus).\n\n"
                "Or leave with Ctrl-C and link by a code to type: nanoclaw pair --phone +49..."
            )
        picture = [Text(row, style=_LOOK, no_wrap=True) for row in rows]
        end = Text(f"{max(now.expires_at - at, 0) // 1000} s left. Ctrl-C leaves.", style="dim")
        return Group(Text(_what_to_do(now, self._advice)), *picture, end)


class Scroll:
    """Prints each code once, among other lines."""

    def __init__(self, advice: str) -> None:
        # A code is black on white wherever it is read later, too.
        coloured = True if UNDER_COMPOSE in os.environ else None
        self._console = Console(highlight=False, markup=False, emoji=False, stderr=True, force_terminal=coloured)
        self._advice = advice
        self._shown = ""

    def show(self, now: Pairing, at: int) -> None:
        """Print what is new."""
        if not now.offered or (now.code or now.qr) == self._shown:
            return
        self._shown = now.code or now.qr
        self._console.print(Text(_what_to_do(now, self._advice)))
        for row in [f"\n    {now.code}\n"] if now.code else half_blocks(now.qr):
            self._console.print(Text(row, style=_LOOK, no_wrap=True), crop=False, overflow="ignore")

    def close(self) -> None:
        """What was printed stays."""


class Lines:
    """One line when there is a code, for whoever reads them later; the code itself is in a file."""

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._told = False

    def show(self, now: Pairing, at: int) -> None:
        """Say it once."""
        if now.offered and not self._told:
            self._told = True
            typer.echo(self._advice, err=True)

    def close(self) -> None:
        """What was said stays."""


class Json:
    """One object per line, for programs."""

    def __init__(self) -> None:
        self._shown: Pairing | None = None

    def show(self, now: Pairing, at: int) -> None:
        """Print what is new."""
        if now != self._shown:
            self._shown = now
            sys.stdout.write(f"{json.dumps(asdict(now), ensure_ascii=False)}\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Nothing is open."""


def pairing_of(frame: dict[str, Any]) -> Pairing:
    """What a host's frame says."""
    code = "".join(c for c in str(frame.get("code") or "") if c.isalnum())
    code = f"{code[:4]}-{code[4:]}" if len(code) == 8 else code
    expires = frame.get("expires_at")
    return Pairing(
        str(frame.get("state", "")),
        " ".join(plain(str(frame.get("detail") or "")).split()),
        str(frame.get("qr") or ""),
        code,
        expires if isinstance(expires, int) else 0,
    )


def told(now: Pairing) -> str:
    """State and detail in one line."""
    return f"WhatsApp: {now.state.replace('_', ' ')}" + (f", {now.detail}" if now.detail else "")


def _what_to_do(now: Pairing, whose: str) -> str:
    return f"With {whose}: {now.detail}"


def half_blocks(data: str) -> list[str]:
    """The QR of `data`: two rows of it in each line, with a margin of two."""
    rows = [[bool(dark) for dark in row] for row in segno.make_qr(data, error="L").matrix_iter(border=2)]
    light = [False] * len(rows[0])
    return [
        "".join(_HALVES[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=light)
    ]
