"""Linking WhatsApp from the command line, against a scripted host on a real control socket."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import segno

from nanoclaw.channels.control_sock import ControlServer, Frame, Stream
from nanoclaw.cli.descriptors import MAX_DUMPS
from nanoclaw.cli.pair_screen import half_blocks
from nanoclaw.config import load
from tests.commands import Terminal, nanoclaw, start

pytestmark = pytest.mark.timeout(120)
QR = "https://wa.me/settings/linked_devices#2@" + "visibly-fake" * 15
LINKED: Frame = {"state": "connected", "detail": "+4915112345678"}
OVER: Frame = {"state": "unlinked", "detail": ""}


def shown(qr: str = QR, seconds: int = 50) -> Frame:
    return {
        "state": "linking",
        "detail": "scan this",
        "qr": qr,
        "code": "",
        "expires_at": (int(time.time()) + seconds) * 1000,
    }


class Host:
    """Says each frame when a test puts it in, a round after the other; `None` ends a round."""

    def __init__(self, home: Path, *, whatsapp: bool = True) -> None:
        self.asked: list[Frame] = []
        self.rounds: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.status: Frame = {"state": "running", "owners": {"terminal": 1, "whatsapp": 1}, "claim": 0}
        self.claimed = asyncio.Event()
        self.state = "connected"
        verbs = {"status": self._status}
        if whatsapp:
            verbs |= {"pair": self._pair, "claim": self._claim, "logout": self._logout}
        self._whatsapp = whatsapp
        self._server = ControlServer(home / "control.sock", verbs)

    def says(self, *frames: Frame | None) -> None:
        for frame in frames:
            self.rounds.put_nowait(frame)

    async def _pair(self, args: Frame, stream: Stream) -> Frame | None:
        self.asked.append(args)
        while (frame := await self.rounds.get()) is not None:
            await stream.send({"type": "pairing", **frame})
        return None

    async def _status(self, args: Frame, stream: Stream) -> Frame | None:
        channel = {"name": "whatsapp", "state": self.state, "detail": ""}
        return {**self.status, "channels": [channel] if self._whatsapp else []}

    async def _claim(self, args: Frame, stream: Stream) -> Frame | None:
        until = int(time.time() + 600) * 1000
        self.status["claim"] = until
        self.claimed.set()
        return {"code": "1234-5678", "until": until}

    async def _logout(self, args: Frame, stream: Stream) -> Frame | None:
        self.state = "logged_out"
        return None


@asynccontextmanager
async def living(home: Path, number: str = "shared", *, whatsapp: bool = True) -> AsyncIterator[Host]:
    (home / "nanoclaw.toml").write_text(f'whatsapp = "{number}"\n')
    host = Host(home, whatsapp=whatsapp)
    await host._server.start()
    try:
        yield host
    finally:
        await host._server.close()


# --- the QR ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [QR, "x", QR * 2])
def test_half_blocks_are_the_qr(data: str) -> None:
    """Every module is where it belongs, with a light margin of two around them."""
    look = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows: list[list[int]] = []
    for line in half_blocks(data):
        rows += [[look[c][0] for c in line], [look[c][1] for c in line]]
    wanted = [list(row) for row in segno.make_qr(data, error="L").matrix_iter(border=2)]
    assert rows[: len(wanted)] == [[int(bool(dark)) for dark in row] for row in wanted]
    assert not any(any(row) for row in rows[len(wanted) :])


async def test_the_qr_is_redrawn_until_the_number_is_linked(tmp_path: Path) -> None:
    """Each code takes the place of the one before, with its seconds; none is left when it is over."""
    async with living(tmp_path) as host:
        terminal = await Terminal.open(tmp_path, "pair", lines=45)
        host.says({"state": "connecting"}, shown())
        before = await terminal.shows("With your phone: scan this")
        assert before.index("WhatsApp: connecting") < before.index("\x1b[?1049h")
        for line in half_blocks(QR):
            await terminal.shows(line)
        assert int((await terminal.shows(" s left")).rpartition("m")[2]) in range(1, 51)
        host.says(shown("https://wa.me/another"))
        await terminal.shows(half_blocks("https://wa.me/another")[5])
        host.says(LINKED, None)
        await terminal.shows("\x1b[?1049l")
        await terminal.shows("linked as +4915112345678")
        assert await terminal.ends() == 0
        assert host.asked == [{}]


async def test_a_small_window_is_told_and_may_grow(tmp_path: Path) -> None:
    """No broken code is drawn; it comes as soon as there is room."""
    async with living(tmp_path) as host:
        terminal = await Terminal.open(tmp_path, "pair", lines=24)
        host.says(shown())
        assert "█" not in await terminal.shows("this window has 80 and 24")
        terminal.resize(60, 80)
        await terminal.shows(half_blocks(QR)[0])
        terminal.press_ctrl_c()
        await terminal.shows("\x1b[?1049l")
        assert await terminal.ends() == 1


async def test_enter_asks_for_the_next_codes(tmp_path: Path) -> None:
    """A round that ran out does not loop: it waits for the key. Ctrl-C leaves."""
    async with living(tmp_path) as host:
        terminal = await Terminal.open(tmp_path, "pair", lines=45)
        host.says(OVER, shown(), OVER, None)  # it begins with how things stood
        await terminal.shows("Press Enter")
        assert host.asked == [{}]
        terminal.type("\n")
        host.says(shown("https://wa.me/another"))
        await terminal.shows(half_blocks("https://wa.me/another")[5])
        host.says({"state": "unlinked", "detail": "this account needs a passkey"}, None)
        await terminal.shows("needs a passkey")
        await terminal.shows("Press Enter")
        terminal.press_ctrl_c()
        assert await terminal.ends() == 1
        assert len(host.asked) == 2


async def test_a_code_to_type(tmp_path: Path) -> None:
    """The number goes to the host as digits; the code is shown in two halves, with where it belongs."""
    async with living(tmp_path, "own") as host:
        terminal = await Terminal.open(tmp_path, "pair", "--phone", "+49 (151) 123-456.78")
        host.says(shown() | {"code": "ABCDEFGH", "detail": "type the code"})
        told = await terminal.shows("ABCD-EFGH")
        assert "With the phone of the assistant's own number: type the code" in told
        host.says(LINKED, None)
        await terminal.shows("linked as")
        assert await terminal.ends() == 0
        assert host.asked == [{"phone": "+4915112345678"}]


@pytest.mark.parametrize("number", ["0151 1234567", "+49", "+49151x1234567", "+1234567890123456"])
async def test_what_is_no_phone_number(tmp_path: Path, number: str) -> None:
    """Refused before anything is started."""
    code, out, err = await nanoclaw(tmp_path, "pair", "--phone", number)
    assert (code, out, err.count("\n"), "country" in err) == (1, "", 1, True)
    assert list(tmp_path.iterdir()) == []


# --- where nobody looks ------------------------------------------------------------------------


async def test_without_a_terminal_the_file_is_named(tmp_path: Path) -> None:
    """One line says where the code is, and none holds it; a round that ran out is an error with advice."""
    async with living(tmp_path) as host:
        host.says(shown(), shown("https://wa.me/another"), OVER, None)
        code, out, err = await nanoclaw(tmp_path, "pair")
        assert (code, out, err.count("\n")) == (1, "", 2)
        assert str(tmp_path / "whatsapp" / "pairing.json") in err
        assert "ask for a new one: nanoclaw pair" in err
        assert "wa.me" not in err
        host.says(LINKED, None)
        assert await nanoclaw(tmp_path, "pair") == (0, "already linked as +4915112345678\n", "")


async def test_json_is_for_programs(tmp_path: Path) -> None:
    """Each state is one line, once."""
    async with living(tmp_path) as host:
        frames = [{"state": "connecting"}, shown(), LINKED]
        host.says(*frames, None)
        code, out, err = await nanoclaw(tmp_path, "pair", "--json")
    empty = {"state": "", "detail": "", "qr": "", "code": "", "expires_at": 0}
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [empty | frame for frame in frames]


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ({"state": "outdated"}, "upgrade NanoClaw"),
        ({"state": "replaced"}, "another program"),
        ({"state": "banned_until", "detail": "until \x1b[2Jtomorrow"}, "nanoclaw: until tomorrow\n"),
    ],
)
async def test_what_cannot_be_linked_is_said(tmp_path: Path, frame: Frame, told: str) -> None:
    """One line and code 1, in the host's words where it has some."""
    async with living(tmp_path) as host:
        host.says(frame, None)
        code, _, err = await nanoclaw(tmp_path, "pair")
    assert (code, err.count("\n"), told in err, "\x1b" in err) == (1, 1, True, False)


async def test_without_a_number_nothing_is_linked(tmp_path: Path) -> None:
    """Where none is chosen it says how; and where the host that runs has none."""
    code, _, err = await nanoclaw(tmp_path, "pair")
    assert (code, err.count("\n"), "nanoclaw setup --whatsapp" in err) == (1, 1, True)
    async with living(tmp_path, whatsapp=False):
        code, _, err = await nanoclaw(tmp_path, "pair")
        assert (code, "was started without WhatsApp" in err) == (1, True)
        code, _, err = await nanoclaw(tmp_path, "logout", "--yes")
        assert (code, "no WhatsApp number" in err) == (1, True)


async def test_a_terminal_is_asked_for_the_number(tmp_path: Path) -> None:
    """What each choice means is said; the answer is kept."""
    async with living(tmp_path, "off") as host:
        terminal = await Terminal.open(tmp_path, "pair", lines=45)
        await terminal.shows("reminders are silent")
        terminal.type("shared\n")
        host.says(LINKED, None)
        await terminal.shows("already linked")
        assert await terminal.ends() == 0
    assert load({"NANOCLAW_HOME": str(tmp_path)}).whatsapp == "shared"


# --- the owner of a number of its own ----------------------------------------------------------


async def test_the_owner_claims_an_own_number(tmp_path: Path) -> None:
    """A code to send is shown, and when it was taken; where there is an owner nobody is asked."""
    async with living(tmp_path, "own") as host:
        host.status["owners"] = {"terminal": 1}
        host.says(LINKED, None)
        process = await start(tmp_path, "pair")
        await host.claimed.wait()
        host.status |= {"owners": {"terminal": 1, "whatsapp": 1}, "claim": 0}
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert out.index(b"1234-5678") < out.index(b"You are the owner now")
        host.claimed.clear()
        host.says(LINKED, None)
        assert await nanoclaw(tmp_path, "pair") == (0, "already linked as +4915112345678\n", "")
        assert not host.claimed.is_set()


async def test_a_claim_that_nobody_took(tmp_path: Path) -> None:
    """It ends with advice; so it does for one more owner."""
    async with living(tmp_path, "own") as host:
        host.says(LINKED, None)
        process = await start(tmp_path, "pair", "--new-owner")
        await host.claimed.wait()
        host.status["claim"] = 0
        _, err = await process.communicate()
        assert (process.returncode, b"--new-owner" in err) == (1, True)


# --- logout, status ----------------------------------------------------------------------------


async def test_logout(tmp_path: Path) -> None:
    """It asks first, and without a terminal it wants to be told."""
    async with living(tmp_path) as host:
        code, _, err = await nanoclaw(tmp_path, "logout")
        assert (code, "--yes" in err, host.state) == (1, True, "connected")
        terminal = await Terminal.open(tmp_path, "logout")
        await terminal.shows("[y/N]: ")
        terminal.type("n\n")
        assert (await terminal.ends(), host.state) == (1, "connected")
        code, out, _ = await nanoclaw(tmp_path, "logout", "--yes")
        assert (code, out, host.state) == (0, "logged out; link again with: nanoclaw pair\n", "logged_out")


async def test_status_says_what_to_do(tmp_path: Path) -> None:
    """A channel is one line: its name, its state, and what to do about it."""
    async with living(tmp_path) as host:
        host.state = "unlinked"
        _, out, _ = await nanoclaw(tmp_path, "status")
        assert "  whatsapp: unlinked (not linked: nanoclaw pair)\n" in out


# --- what the library prints -------------------------------------------------------------------

_PRINTS = """
import os, sys
from pathlib import Path
from nanoclaw.cli.descriptors import set_apart
set_apart(Path(sys.argv[1]))
os.write(1, b"theirs out"); os.write(2, b"theirs err")
print("ours out"); print("ours err", file=sys.stderr)
if sys.stdin.isatty():
    import readline
    print("ours", input("? "))
os.system("echo a child")
raise ValueError("ours too")
"""


async def test_what_the_library_prints_is_kept_apart(tmp_path: Path) -> None:
    """Ours goes where it went before, tracebacks too; theirs to descriptor 2 into a file that does not grow."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "go.log").write_bytes(b"x" * (MAX_DUMPS + 1))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PRINTS, str(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, err = await process.communicate()
    assert out == b"ours out\n"
    assert err.startswith(b"ours err\nTraceback")
    assert b"theirs" not in err
    assert (tmp_path / "logs" / "go.log").read_bytes() == b"theirs err"


async def test_streams_that_are_closed(tmp_path: Path) -> None:
    """As in `nanoclaw run >&- 2>&-`: nothing breaks, and no file of ours is printed into."""
    prints = "from nanoclaw.cli.descriptors import fill_in; fill_in()" + _PRINTS
    command = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    process = await asyncio.create_subprocess_exec("sh", "-c", command, sys.executable, prints, str(tmp_path))
    assert await process.wait() == 1  # of its last line
    assert (tmp_path / "logs" / "go.log").read_bytes() == b"theirs err"


async def test_the_line_editor_moves_along(tmp_path: Path) -> None:
    """What is typed can still be edited: the arrow goes left, and what is shown is the edited line."""
    terminal = await Terminal.open(tmp_path, sys.executable, "-c", _PRINTS, str(tmp_path))
    await terminal.shows("? ")
    terminal.type("ac\x1b[Db\n")
    await terminal.shows("ours abc")
    await terminal.shows("ours too")
    assert await terminal.ends() == 1
