"""What a change of rows by somebody else (the command line, a command) asks of the living process."""

from collections.abc import Callable, Mapping

from nanoclaw.channels import Channel
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.meter import Spawn
from nanoclaw.models import GroupState, TurnState
from nanoclaw.ops.memory import Memories
from nanoclaw.outbox import Outbox
from nanoclaw.run import Run
from nanoclaw.run.runner import Runner
from nanoclaw.store import Store, chats, messages, people, turns


class Rows:
    """Looks at them again: what runs, what waits, who is where."""

    def __init__(
        self,
        *,
        store: Store,
        channels: Mapping[str, Channel],
        runner: Runner,
        dispatcher: Dispatcher,
        outbox: Outbox,
        memories: Memories,
        clock: Callable[[], int],
        spawn: Spawn,
    ) -> None:
        self._store = store
        self._channels = channels
        self._runner = runner
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._memories = memories
        self._clock = clock
        self._spawn = spawn

    async def look(self) -> None:
        """Whatever changed counts from here on."""
        await self._memories.settle()
        for run in list(self._runner.runs.values()):
            await self._meet(run)
        self._outbox.wake()
        for lane in await self._store.read(messages.lanes_with_work):
            self._dispatcher.wake(lane)
        self._spawn(self.list_members(), "members")

    async def _meet(self, run: Run) -> None:
        """End it with its group; stop what was stopped; what is made of other settings takes no more turns."""
        lane = run.row.lane
        group = await self._store.read(chats.group, run.row.group_id)
        if group.state is GroupState.REMOVED:
            self._spawn(self._runner.close(lane), f"close {lane}")
            return
        for turn in list(run.turns):
            row = await self._store.read(turns.get, turn.id)
            if row is not None and row.state is TurnState.STOPPED:
                self._spawn(self._runner.stop(lane, turn.id), "stop")
        if group != run.group:
            self._runner.retire(lane)

    async def list_members(self) -> None:
        """Ask who is in the groups that were just added; who cannot be asked now tells it with the next connect."""
        for chat_id in await self._store.read(people.unlisted):
            chat = await self._store.read(chats.chat, chat_id)
            channel = self._channels.get(chat.channel)
            found = await channel.members(chat.jid) if channel is not None else None
            if found is not None and found.everybody is not None:
                await self._store.write(people.learn_members, chat_id, found.everybody, self._clock())
