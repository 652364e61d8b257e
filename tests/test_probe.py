"""The proof of the wall, as far as it needs no engine: what the probe is told, and what is made of what it says."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from nanoclaw import control
from nanoclaw.channels.terminal import CHAT, OWNER
from nanoclaw.config import Config
from nanoclaw.errors import Refused
from nanoclaw.gateway import Level
from nanoclaw.models import Group
from nanoclaw.ops import probe
from nanoclaw.ops.ear import Ear
from nanoclaw.ops.findings import Finding, Grade
from nanoclaw.ops.probe import CHECKS, Subject, findings, orders, prove_sandbox, subject
from nanoclaw.sandbox import Bind, Death, Exit, Spec
from nanoclaw.sandbox.spec import Engine
from nanoclaw.store import Store

KEY = "NOT-A-KEY-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
SPEC = Spec("r", "l", "sha256:abc", 10001, 10001, (Bind(Path("/h/x"), "/workspace/group", True),), memory_mb=512)


def told(keys: set[str], free: int = 10_000, engine: Engine | None = None) -> str:
    """What the probe reads."""
    return json.dumps(orders(SPEC, engine or Engine(), keys, salt=b"s" * 16, addresses=[], free=free))


def test_no_key_is_told_to_the_probe() -> None:
    """Nothing of it but four bytes at a time, in none of the forms that are looked for."""
    said = told({KEY})
    pieces = {KEY[at : at + 8] for at in range(len(KEY) - 7)}
    assert not [p for p in pieces if p in said or p.encode().hex() in said]
    assert len(json.loads(said)["secrets"]) == 6
    assert json.loads(told(set()))["secrets"] == []


@pytest.mark.parametrize(
    ("free", "engine", "tried"),
    [(10_000, Engine(), True), (900, Engine(), False), (0, Engine(), False), (10_000, Engine(swap=False), False)],
)
def test_the_limit_of_memory_is_tried_where_it_harms_nobody(free: int, engine: Engine, tried: bool) -> None:
    """With little memory free, or an engine that would swap, the machine would suffer for it."""
    assert json.loads(told(set(), free, engine))["hog"] is tried


GOOD = [json.dumps({"check": check, "verdict": "ok", "said": "well"}).encode() for check in CHECKS]

BAD_LINES = [
    b"",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"17",
    b"[" * 100_000,
    b'{"check": "root"',
    b'{"check": ["root"], "verdict": "ok", "said": ""}',
    b'{"check": "another", "verdict": "ok", "said": ""}',
    b'{"check": "root", "verdict": "fine", "said": ""}',
    b'{"check": "root", "verdict": ["ok"], "said": ""}',
    b'{"check": "root", "verdict": "ok"}',
    b'{"verdict": "ok", "said": "x"}',
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_an_answer_in_another_form_is_none(line: bytes) -> None:
    """It breaks nothing, and the check that it may have meant has no answer, so it fails."""
    found = findings([line, *(x for x in GOOD if b'"root"' not in x)])
    assert [f.check for f in found if f.grade is not Grade.OK] == ["root"]
    assert [f.check for f in found] == list(CHECKS)


def test_silence_is_no_proof() -> None:
    """Whatever is not answered fails, and says what to do."""
    assert {f.grade for f in findings([])} == {Grade.FAIL}
    assert all(f.mend for f in findings([]))
    assert {f.grade for f in findings(GOOD)} == {Grade.OK}


def test_the_first_answer_counts_and_its_words_are_made_harmless() -> None:
    """A name that an agent chose is shown without control characters, and no longer than a sentence."""
    first = json.dumps({"check": "root", "verdict": "unknown", "said": "a\x1b[2J\n\u202eb" + "c" * 1000}).encode()
    (root,) = [f for f in findings([first, *GOOD]) if f.check == "root"]
    assert root.grade is Grade.WARN
    assert root.said.startswith("a")
    assert root.said.isprintable()
    assert len(root.said) == 300


HEAD = "{first}\r\nHost: 127.0.0.1\r\nX-Api-Key: {key}\r\nContent-Length: 2\r\n{more}\r\n{body}"


@pytest.mark.parametrize(
    ("first", "key", "more", "body", "grade"),
    [
        ("POST /v1/messages/count_tokens?beta=true HTTP/1.1", "own", "", "{}", Grade.OK),
        ("POST /v1/messages HTTP/1.1", "own", "", "{}", Grade.FAIL),
        ("GET /v1/messages/count_tokens HTTP/1.1", "own", "", "{}", Grade.FAIL),
        ("POST /v1/files HTTP/1.1", "own", "", "{}", Grade.FAIL),
        ("POST /v1/messages/count_tokens HTTP/1.1", "another", "", "{}", Grade.FAIL),
        ("POST /v1/messages/count_tokens HTTP/1.1", "own", "Cookie: a\r\n", "{}", Grade.FAIL),
        ("POST /v1/messages/count_tokens HTTP/1.1", "own", "User-Agent: probe-smuggled\r\n", "{}", Grade.FAIL),
        ("POST /v1/messages/count_tokens HTTP/1.1", "own", "", "no", Grade.FAIL),
    ],
)
async def test_the_ear_knows_what_must_not_come_out(first: str, key: str, more: str, body: str, grade: Grade) -> None:
    """A leaking gateway is played by a connection of the test's own."""
    async with Ear("own") as ear:
        host, port = ear.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HEAD.format(first=first, key=key, more=more, body=body).encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
    assert ear.finding().grade is grade


async def test_an_ear_that_heard_nothing_is_no_proof() -> None:
    """The gateway did not work, then."""
    async with Ear("own") as ear:
        pass
    assert ear.finding().grade is Grade.FAIL


async def test_the_group_is_found_by_its_folder(tmp_path: Path) -> None:
    """Main without a name; a group that nobody added is a clear error."""
    store = Store(tmp_path / "db")
    await store.open()
    try:
        await store.write(control.ensure_main, CHAT, CHAT, OWNER.jids[0], "Andy", 1)
        found = await store.read(subject, "", 1)
        assert (found.group.folder, found.install) == ("main", "")
        with pytest.raises(Refused, match="no group 'kitchen'; known are main"):
            await store.read(subject, "kitchen", 1)
    finally:
        await store.close()


async def _proved(tmp_path: Path, **settings: str) -> list[Finding]:
    config = Config(home=tmp_path / "home", run_dir=tmp_path / "run", **settings)
    return await prove_sandbox(config, os.environ, Subject(Group(1, "main", "Main"), Level.NONE, "i"))


async def test_without_an_engine_there_is_one_finding(tmp_path: Path) -> None:
    """It says so; nothing is raised, and nothing stays behind."""
    (found,) = await _proved(tmp_path, engine=f"unix://{tmp_path}/none.sock")
    assert (found.check, found.grade) == ("container", Grade.FAIL)
    assert "no container engine" in found.said
    assert list((tmp_path / "home/runs").iterdir()) == []


async def test_a_home_that_cannot_be_is_a_finding(tmp_path: Path) -> None:
    """A file stands in its place."""
    (tmp_path / "home").touch()
    (found,) = await _proved(tmp_path)
    assert found.grade is Grade.FAIL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_nothing_is_made_in_the_home_of_another_user(tmp_path: Path) -> None:
    """What root made there its host could neither read nor write."""
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", 12345, 12345)
    (found,) = await _proved(tmp_path)
    assert (found.grade, found.mend) == (Grade.FAIL, "sudo -u '#12345' nanoclaw doctor --sandbox main")
    assert list((tmp_path / "home").iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_a_probe_that_ran_out_of_time_says_so() -> None:
    """Its alarm ends it, and whoever stands above it makes 142 of that."""
    assert "not done in time" in probe._started(Exit(Death.EXITED, 142)).said
    assert "code 1" in probe._started(Exit(Death.EXITED, 1)).said
