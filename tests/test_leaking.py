"""A real host whose agent has got hold of the key somehow: nobody is sent it, and nothing keeps it."""

import base64
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from nanoclaw import app, logs
from nanoclaw.app.leaking import WORDS
from nanoclaw.config.leak import REMOVED, removed
from nanoclaw.mailbox import Event, Reply, Request, ToHost, TurnDone, Woken, encode
from nanoclaw.models import Media, Role, Show
from nanoclaw.run import letters
from tests.fakes import Hosted, hosting, said
from tests.story import eventually_rows

KEY = "sk-ant-api03-visibly0Fake-no7key2At4all-Just3Letters-here9So_it8Be-AA"
WAIT = 25.0  # seconds


@pytest.fixture
def log(folder: Path, logging_restored: None) -> None:
    """As `nanoclaw start` logs."""
    logs.configure(folder / "home", "INFO", lambda: [KEY], stderr="CRITICAL")


@pytest.fixture
async def host(folder: Path, log: None) -> AsyncIterator[Hosted]:
    async with hosting(folder, environ={"ANTHROPIC_API_KEY": KEY}) as hosted:
        await hosted.group("family", Ben=Role.OWNER)
        await hosted.channel.say("family", "hello")  # its folder is there
        await hosted.channel.until(1, WAIT)
        hosted.channel.sent.clear()
        yield hosted


def holds(data: bytes) -> bool:
    """In one of the ways that are tried here."""
    text = data.decode("utf-8", "replace")
    written = (KEY, KEY[::-1], KEY.encode().hex(), base64.b64encode(KEY.encode()).decode(), " ".join(KEY))
    return any(one in text for one in written)


async def everything(host: Hosted) -> str:
    """Every text of every table."""
    tables = [r["name"] for r in await host.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return str([await host.rows(f'SELECT * FROM "{table}"') for table in tables if "search" not in table])


async def does(host: Hosted, *lines: str, sends: int = 1) -> None:
    """The agent of the family does what stands in a file: no chat hands it the key."""
    before = len(host.channel.sent)
    host.path("script").write_text("\n".join(lines))
    await host.channel.say("family", f"!from {host.path('script')}")
    await host.channel.until(before + sends, WAIT)


async def test_nothing_that_an_agent_says_holds_the_key(host: Hosted) -> None:
    """Final text, message, question, name, memory, an error: each is looked through, and main is told once."""
    inside = base64.b64encode(f"x{KEY}".encode()).decode()
    noted = json.dumps({"text": KEY})
    await does(
        host, f"!tool back {KEY[::-1]} .", f"!tool in hex {KEY.encode().hex()} .", f"!call remember {noted}",
        f"!call schedule_task {json.dumps({'prompt': KEY, 'schedule': 'every 1d'})}", f"!say so {inside}.",
        sends=3,
    )  # fmt: skip
    assert host.channel.to("family") == [f"back {REMOVED} .", f"in hex {REMOVED} .", f"so eH{REMOVED}Q==."]
    await does(host, f"!status 400 the API said {' '.join(KEY)}")
    await eventually_rows(host, "SELECT 1 FROM outgoing WHERE payload = ?", WORDS)
    assert len(await host.rows("SELECT 1 FROM outgoing WHERE payload = ?", WORDS)) == 1
    kept = await everything(host)
    assert not holds(kept.encode())
    assert REMOVED in kept
    files = [path.read_bytes() for path in host.config.home.rglob("*") if path.is_file() and "runs" not in path.parts]
    assert not any(map(holds, files))


async def test_a_key_that_somebody_types_is_not_even_stored(host: Hosted) -> None:
    """So that no agent reads it; the rest of the message is answered."""
    await host.channel.say("family", f"my key is {KEY}, keep it", "Ben")
    await host.channel.until(1, WAIT)
    assert host.channel.to("family") == [f"echo: my key is {REMOVED}, keep it"]
    assert not holds((await everything(host)).encode())


async def test_a_quote_and_a_files_name_are_no_way_around(host: Hosted) -> None:
    """Neither is stored."""
    assert host.channel.ears is not None
    media = Media("document", "text/plain", f"{KEY}.txt"), Media("document", "text/plain", f"{KEY[::-1]}.txt")
    spoken = said("look", quoted_text=f"as I said: {KEY}", media=media, is_group=True, at=app.now_ms())
    await host.channel.ears.hear(spoken)
    await host.channel.until(1, WAIT)
    kept = await everything(host)
    assert not holds(kept.encode())
    assert kept.count(REMOVED) >= 3


async def test_what_a_stranger_says_raises_no_alarm(host: Hosted) -> None:
    """Nothing of it is kept, so nothing has to be removed, be it the key."""
    await host.channel.say("strangers", f"is it {KEY}?", "Spam")
    await host.channel.say("family", "hello")
    await host.channel.until(1, WAIT)
    assert not holds((await everything(host)).encode())
    assert "stood in a text" not in (host.config.home / "logs/nanoclaw.log").read_text()
    await host.channel.say("family", f"is it {KEY}?")
    await host.channel.until(2, WAIT)
    assert "stood in a text" in (host.config.home / "logs/nanoclaw.log").read_text()


async def test_what_a_working_agent_shows_is_looked_through(host: Hosted) -> None:
    """Its steps, before anything is said."""
    step = encode(Event("TURN", Show.TOOL, f"Bash echo {KEY[::-1]}")).decode()
    await does(host, f"!raw {step.strip()}", "!say done")
    shown = [one.text for one in host.channel.shown if "Bash" in one.text]
    assert shown == [f"Bash echo {REMOVED}"]


async def test_what_a_container_prints_last_is_looked_through(host: Hosted) -> None:
    """It is told when the container ends by itself."""
    host.sandbox.printed = f"fatal: {KEY.encode().hex()}"
    await does(host, "!die 3")
    kept = await everything(host)
    assert not holds(kept.encode())
    assert f"fatal: {REMOVED}" in kept


@pytest.mark.parametrize(
    "letter",
    [
        Reply(("t",), f"it is {KEY}"),
        Woken("t", f"it is {KEY}"),
        TurnDone(("t",), "error", error=f"it is {KEY}"),
        Request(1, "t", KEY, {"list": [{"text": KEY}], KEY: 1}),
    ],
    ids=lambda letter: letter.kind,
)
def test_every_letter_is_looked_through(letter: ToHost) -> None:
    """Whatever text it carries."""
    (ready,) = letters.ready([letter], lambda text: {}, partial(removed, secret=KEY))
    assert KEY not in repr(ready)
    assert REMOVED in repr(ready) or isinstance(letter, Request)


async def test_a_file_that_holds_it_is_not_sent(host: Hosted) -> None:
    """The agent is told; the copy is gone."""
    group = host.config.home / "groups/family"
    (group / "bad.txt").write_text(f"a = {KEY}\n")
    (group / "good.txt").write_text("nothing\n")
    (group / "large.bin").write_bytes(b"\0" * (5 << 20) + KEY.encode())
    await does(
        host,
        '!call send_file {"path": "bad.txt"}',
        '!call send_file {"path": "large.bin"}',
        '!call send_file {"path": "good.txt"}',
        "!report",
        sends=2,
    )
    assert [out.file.name for out in host.channel.sent if out.file is not None] == ["good.txt"]
    assert host.channel.to("family")[-1].count("holds a key of the host") == 2
    assert len(list((host.config.home / "kept/family/outgoing").iterdir())) <= 1


async def test_what_a_command_shows_of_a_file_is_looked_through(host: Hosted) -> None:
    """The last door before people: whoever makes a row for them."""
    group = host.config.home / "groups/family"
    (group / "CLAUDE.md").write_text(f"The key: {KEY}\n")
    await host.channel.say("family", "/memory diff", "Ben")
    await host.channel.until(1, WAIT)
    assert REMOVED in host.channel.to("family")[-1]
    assert not holds("".join(host.channel.to("family")).encode())
