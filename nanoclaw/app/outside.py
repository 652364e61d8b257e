"""What changes outside, and what it releases: settings, the credential, the day, the engine, the image, the disk."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger

from nanoclaw.app.errands import contained
from nanoclaw.app.live import Live
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import Cause, SandboxError
from nanoclaw.meter import Spawn
from nanoclaw.models import Group
from nanoclaw.run.runner import Runner
from nanoclaw.sandbox import Sandbox
from nanoclaw.store import Store, turns

WATCH = 2.0  # seconds between two looks at what can change outside
_REAP_EVERY = 15  # looks between two searches for containers of nobody
# What a parked lane waits for, and which change releases it.
_BY_CREDENTIAL = frozenset({Cause.CREDENTIAL, Cause.BILLING, Cause.QUOTA})


class Outside:
    """Looks every other second; whatever a look fails on, the next one follows."""

    def __init__(
        self,
        *,
        settings: Live,
        store: Store,
        sandbox: Sandbox,
        runner: Runner,
        dispatcher: Dispatcher,
        credential: Callable[[], Any],
        midnight: Callable[[], int],
        meet_engine: Callable[[], Awaitable[None]],
        admits: Callable[[Group], Awaitable[bool]],
        spawn: Spawn,
    ) -> None:
        """`admits`: whether a group's limits let it ask the model now."""
        self._settings = settings
        self._store = store
        self._sandbox = sandbox
        self._runner = runner
        self._dispatcher = dispatcher
        self._credential = credential
        self._midnight = midnight
        self._meet_engine = meet_engine
        self._admits = admits
        self._spawn = spawn
        self._asking = False  # whether somebody is asking the engine

    async def watch(self) -> None:
        """For as long as the host lives."""
        self._seen = (self._credential(), self._midnight())
        looks = 0
        while True:
            await asyncio.sleep(WATCH)
            looks += 1
            await contained(self._look(seldom=looks % _REAP_EVERY == 0), "watch")

    async def _look(self, *, seldom: bool) -> None:
        await self._settings.look()
        credential, midnight = self._seen
        self._seen = (self._credential(), self._midnight())
        if self._seen[0] != credential:
            logger.info("The credential has changed")
            await self._dispatcher.release(_BY_CREDENTIAL)
        if self._seen[1] != midnight:
            await self._dispatcher.retry(frozenset({Cause.BUDGET}), self._admits)
        if seldom:
            await self._dispatcher.retry(frozenset({Cause.DISK}))
        self._dispatcher.sweep(asyncio.get_running_loop().time())
        if not self._asking:
            self._asking = True
            self._spawn(self._ask_engine(seldom=seldom), "engine")  # beside: an image may take minutes

    async def _ask_engine(self, *, seldom: bool) -> None:
        try:
            parked = set((await self._store.read(turns.parked_lanes)).values())
            if seldom or Cause.ENGINE in parked or not self._runner.swept:
                await self._reap()
            if Cause.ENGINE in parked:
                await self._meet_engine()
                await self._dispatcher.release(frozenset({Cause.ENGINE}))
            # Seldom: a build that fails is not begun again every other second.
            if seldom and Cause.IMAGE in parked and await self._sandbox.image() != self._runner.unfit:
                await self._dispatcher.release(frozenset({Cause.IMAGE}))
        except SandboxError as e:
            logger.debug("Still not: {}", e)
        finally:
            self._asking = False

    async def _reap(self) -> None:
        """Remove containers of ours that no living run knows."""
        self._runner.meet(await self._sandbox.found())
        self._runner.swept = True
        await self._runner.sweep()
