"""Two bots that talk to each other: the lane is parked, and only a person of authority lets it go on."""

from pathlib import Path

import pytest

from nanoclaw import dispatcher
from nanoclaw.models import Role
from tests.fakes import Hosted, ProcessSandbox, living
from tests.story import until_parked


async def parked(host: Hosted) -> list[str]:
    return [r["lane"] for r in await host.rows("SELECT lane FROM lanes WHERE parked = 'loop'")]


async def test_a_loop_waits_for_a_person(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither time, nor another lane's success, nor a restart ends it; the owner's word does, and all is answered."""
    monkeypatch.setattr("nanoclaw.app.outside.WATCH", 0.05)
    monkeypatch.setattr("nanoclaw.app.outside._REAP_EVERY", 1)
    monkeypatch.setattr(dispatcher, "PROBE_MS", 0)
    sandbox = ProcessSandbox(folder / "registry")
    try:
        async with living(folder, sandbox) as host:
            await host.group("family", Olga=Role.OWNER)
            await host.group("other")
            for n in range(25):
                await host.channel.say("family", f"beep {n}", "Bot")
            await until_parked(host)
            await host.channel.until(lambda: any("in charge" in t for t in host.channel.to("family")))
            await host.channel.say("other", "hello")
            await host.channel.until(lambda: host.channel.to("other"))
            await host.channel.say("family", "more", "Bot")
            assert await parked(host) == ["family"]
            await host.settled()  # else what was said before is sent after the restart
        async with living(folder, sandbox) as host:
            await host.channel.say("other", "hello again")
            await host.channel.until(lambda: host.channel.to("other"))
            assert await parked(host) == ["family"]
            assert host.channel.to("family") == []
            await host.channel.say("family", "go on", "Olga")
            await host.channel.until(lambda: any("more | go on" in t for t in host.channel.to("family")))
            assert await parked(host) == []
    finally:
        sandbox.kill_all()
