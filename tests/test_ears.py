"""Several messages at once: one commit, their order, and a bad one that takes no other along."""

from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw import router
from nanoclaw.errors import StoreError
from nanoclaw.models import UNREADABLE, Role
from nanoclaw.store import Tx
from tests.fakes import eventually, family, hosting, said

TOO_LATE = 2**70  # no time that a database could hold


def texts(tx: Tx) -> list[tuple[str, str]]:
    return [(r["kind"], r["text"]) for r in tx.execute("SELECT kind, text FROM messages ORDER BY id")]


async def test_together_and_in_order(tmp_path: Path) -> None:
    """What came at once is stored with one commit; what came twice is stored once."""
    burst = [said(f"m{n}") for n in range(50)]
    async with family(tmp_path) as (store, _, _):
        commits = await store.read(lambda tx: tx.execute("PRAGMA data_version").fetchone()[0])
        heard = await store.write(router.hear_all, [*burst, burst[7]], 1000)
        assert await store.read(lambda tx: tx.execute("PRAGMA data_version").fetchone()[0]) == commits + 1
        assert await store.read(texts) == [("text", f"m{n}") for n in range(50)]
        assert len(heard) == 50


async def test_a_bad_one_takes_no_other_along(tmp_path: Path) -> None:
    """In its place stands that there was one; of what has not even an id that can be stored nothing is kept."""
    burst = [said("one"), said("bad", at=TOO_LATE), said("worse", wa_id="\ud800"), said("two")]
    async with family(tmp_path) as (store, _, _):
        heard = await store.write(router.hear_all, burst, 1000)
        assert await store.read(texts) == [("text", "one"), ("unsupported", UNREADABLE), ("text", "two")]
        assert len(heard) == 3


async def test_all_or_none(tmp_path: Path) -> None:
    """A disk that is full in the middle keeps none of them: the channel holds all, and none overtakes another."""
    burst = [said(f"{n} " + "x" * 10_000) for n in range(50)]
    async with family(tmp_path) as (store, _, _):
        pages = await store.write(lambda tx: tx.execute("PRAGMA page_count").fetchone()[0])
        await store.write(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages + 20}").fetchall())
        with pytest.raises(StoreError):
            await store.write(router.hear_all, burst, 1000)
        assert await store.read(texts) == []
        await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 1000000").fetchall())
        await store.write(router.hear_all, burst, 1000)
        assert len(await store.read(texts)) == 50


async def test_each_has_its_effect(folder: Path) -> None:
    """A command is answered, a bad message is passed over, and what follows it is worked at."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.ALLOWED)
        await eventually(lambda: host.channel.ears)
        assert host.channel.ears
        burst = said("/help"), said("worse", wa_id="\ud800"), said("hello")
        await host.channel.ears.hear(*(replace(msg, at=host.clock()) for msg in burst))
        await host.channel.until(2)
        assert "echo: hello" in host.channel.texts
        assert any("/stop" in text for text in host.channel.texts)
