"""A crash loop slows down by itself, and an end in order or a long life forgets it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import app
from nanoclaw.channels.control_sock import connect
from nanoclaw.config import Config
from nanoclaw.groups import open_home
from nanoclaw.ops import crashes
from nanoclaw.ops.crashes import FILE, SETTLED, WAITS, Life
from tests.fakes import KEY, Clock, MemoryChannel, ProcessSandbox, eventually


class Sleeper:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._woken = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        if seconds < SETTLED:
            await self._woken.wait()
        else:
            await asyncio.Event().wait()

    def wake(self) -> None:
        self._woken.set()


async def at_once(seconds: float) -> None:
    """A sleep that is over."""


def life(home: Path, *, patient: bool = True, clock: Clock | None = None) -> Life:
    return Life(home, clock or Clock(), at_once, patient=patient)


def crash(home: Path) -> int:
    """A life that ends hard, as by kill -9: nobody writes anything; what it had to wait."""
    return life(home).__enter__().wait


def test_each_crash_waits_longer(tmp_path: Path) -> None:
    """0, 0, 10, 30, 120, 300 seconds, and no more than that."""
    assert [crash(tmp_path) for _ in range(8)] == [*WAITS, 300, 300] == [0, 0, 10, 30, 120, 300, 300, 300]


def test_an_end_in_order_forgets_the_crashes(tmp_path: Path) -> None:
    """Also when it comes as a cancellation, which is how a host is stopped."""
    for error in (None, asyncio.CancelledError, KeyboardInterrupt):
        for _ in range(4):
            crash(tmp_path)
        with suppress(asyncio.CancelledError, KeyboardInterrupt):
            live(tmp_path, error)
        assert crash(tmp_path) == crash(tmp_path) == 0


def live(home: Path, error: type[BaseException] | None) -> None:
    with life(home):
        if error:
            raise error


def test_an_error_is_a_crash(tmp_path: Path) -> None:
    """Whether the process dies of a signal or of an exception, the next start is the next of the loop."""
    for _ in range(2):
        with pytest.raises(RuntimeError):
            live(tmp_path, RuntimeError)
    assert crash(tmp_path) == 10


async def test_a_long_life_forgets_the_crashes(tmp_path: Path) -> None:
    """What dies hard after ten minutes is no crash at the start."""
    for _ in range(4):
        crash(tmp_path)
    await life(tmp_path).__enter__().settle()
    assert (crash(tmp_path), crash(tmp_path), crash(tmp_path)) == (0, 0, 10)


async def test_ten_minutes_are_counted_behind_the_wait(tmp_path: Path) -> None:
    """Waiting is no life."""
    sleeper = Sleeper()
    for _ in range(3):
        crash(tmp_path)
    with Life(tmp_path, Clock(), sleeper, patient=True) as this:
        settling = asyncio.ensure_future(this.settle())
        await eventually(lambda: sleeper.asked)
        settling.cancel()
        await asyncio.wait({settling})
    assert sleeper.asked == [30 + SETTLED]


def test_a_person_does_not_wait(tmp_path: Path) -> None:
    """Their starts count all the same."""
    for _ in range(4):
        crash(tmp_path)
    assert life(tmp_path, patient=False).__enter__().wait == 0
    assert crash(tmp_path) == 300


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 1}', '{"at": "x", "crashes": 9, "open": true}', "[" * 5000])
def test_what_cannot_be_read_is_no_crash(tmp_path: Path, text: str) -> None:
    """A broken file delays nobody, and is written anew."""
    (tmp_path / FILE).write_text(text)
    assert crash(tmp_path) == 0
    assert crashes.read(tmp_path).open


def test_a_home_that_takes_no_file_is_no_obstacle(tmp_path: Path) -> None:
    """A full disk must not keep the host from starting."""
    (tmp_path / FILE).mkdir()
    assert crash(tmp_path) == 0


def test_a_clock_that_is_set_back_lengthens_nothing(tmp_path: Path) -> None:
    """What is left is never more than the wait."""
    clock = Clock()
    for _ in range(3):
        crash(tmp_path)
    with life(tmp_path, clock=clock) as this:
        assert this.left == 30
        clock.advance(10)
        assert 19 <= this.left <= 20
        clock.advance(-3600)
        assert this.left == 30
        clock.advance(7200)
        assert this.left == 0


# --- the host ----------------------------------------------------------------------------------


@asynccontextmanager
async def hosted(folder: Path, channel: MemoryChannel, sleep: Any) -> AsyncIterator[None]:
    """A host as a supervisor starts it."""
    ready = asyncio.Event()
    sandbox = ProcessSandbox(folder / "registry")
    serving = app.serve(
        Config(home=folder / "home"), KEY, ready=ready, sandbox=lambda install: sandbox, channels=(channel,),
        patient=True, sleep=sleep,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tg:
        host = tg.create_task(serving)
        await ready.wait()
        try:
            yield
        finally:
            host.cancel()


async def test_channels_wait_and_status_says_so(folder: Path) -> None:
    """After a crash loop control.sock answers at once, and nobody is connected to before the time is over."""
    home = open_home(folder / "home")
    for _ in range(3):
        crash(home.root)
    channel, sleeper = MemoryChannel(), Sleeper()
    async with hosted(folder, channel, sleeper):
        async with await connect(home.control_sock) as client:
            told = (await client.call("status"))["channels"]
        details = {c["name"]: c["detail"] for c in told}
        assert details["terminal"] == ""
        assert details["test"] in ("waiting 30 s after repeated crashes", "waiting 29 s after repeated crashes")
        assert sorted(sleeper.asked) == [30, 30 + SETTLED]
        assert channel.ears is None
        sleeper.wake()
        await channel.until(lambda: channel.ears is not None)
        async with await connect(home.control_sock) as client:
            assert {c["detail"] for c in (await client.call("status"))["channels"]} == {""}
    assert crashes.read(home.root).open is False


@pytest.mark.parametrize("at", ["Infinity", "1e400", "NaN", '"x"', "null"])
def test_a_file_that_says_nothing_is_a_first_start(tmp_path: Path, at: str) -> None:
    """Whoever wrote it: the host starts."""
    (tmp_path / FILE).write_text(f'{{"at": {at}, "crashes": 1, "open": true}}')
    assert crashes.read(tmp_path) == crashes.Start()
