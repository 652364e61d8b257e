"""The host half of each agent tool: may it? do it, answer. Authority is the turn's, never the letter's."""

from collections.abc import Awaitable, Callable

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.errors import NanoClawError, Refused
from nanoclaw.models import RequestState
from nanoclaw.store import Tx, runs, turns
from nanoclaw.store.runs import Call
from nanoclaw.tools import asking, chat, files, memory, owners, signs, tasks
from nanoclaw.tools.desk import Answers, Asked, Kit, asked

# What a tool is made of; each raises Refused with the reason for the agent.
Look = Callable[[Tx, Asked], str]  # reads rows; its answer
Act = Callable[[Tx, Asked], str]  # changes rows, in one transaction with its answer: it happens once over a restart
Errand = Callable[[Kit, Call], Awaitable[tuple[bool, str]]]  # what needs more than rows, and is safe to begin again

LOOKS: dict[str, Look] = {
    "read_chat": chat.read_chat,
    **tasks.LOOKS,
    **owners.LOOKS,
}
ACTS: dict[str, Act] = {**tasks.ACTS, **owners.ACTS}
ERRANDS: dict[str, Errand] = {
    "send_message": chat.send_message,
    "send_file": files.send_file,
    "react": signs.react,
    "edit_message": signs.edit_message,
    "ask_user": asking.ask_user,
    "remember": memory.remember,
    "memory_search": memory.memory_search,
    "memory_get": memory.memory_get,
}


class Tools:
    """Drives each request to its answer."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def handle(self, call: Call) -> None:
        """Do what is not done yet, wait for its outcome, store the answer (its letter is the runner's)."""
        if call.state is not RequestState.OPEN and call.outgoing_id is None:
            return  # answered already: nothing is done for it
        try:
            outcome = await self._outcome(call)
        except Refused as e:
            outcome = False, str(e)
        except Exception as e:  # unanswered, the agent would wait for ever
            logger.opt(exception=not isinstance(e, NanoClawError)).error("Tool {} failed: {}", call.tool, e)
            outcome = False, "that failed here, and nothing more is known: do not try it again at once"
        logger.info("Tool {} answered: {}", call.tool, "ok" if outcome is None or outcome[0] else "refused")
        if outcome is not None:
            await self._kit.store.insist(runs.answer, call.run_id, call.n, *outcome)

    async def _outcome(self, call: Call) -> tuple[bool, str] | None:
        """None when it is stored with the effect already."""
        kit = self._kit
        if call.outgoing_id is not None:  # it had acted when the host ended
            return await (asking.again(kit, call) if call.tool == "ask_user" else chat.delivered(kit, call.outgoing_id))
        if call.tool in ERRANDS:
            return await ERRANDS[call.tool](kit, call)
        if call.tool in LOOKS:
            return True, await kit.store.read(look, call, kit.zone(), kit.new_nonce(), kit.clock())
        if call.tool not in ACTS:
            raise Refused(f"there is no tool named {call.tool[:40]!r}")
        await kit.store.insist(act, call, kit.zone(), kit.new_nonce(), kit.clock())
        failpoints.hit("acted")
        kit.outbox.wake()
        if call.tool in tasks.ACTS:
            kit.reschedule()
        return None


def look(tx: Tx, call: Call, zone: str, nonce: str, now: int) -> str:
    """What a tool reads."""
    return LOOKS[call.tool](tx, asked(tx, call, zone, nonce, now))


def act(tx: Tx, call: Call, zone: str, nonce: str, now: int) -> None:
    """The effect of an acting tool together with its answer, in the caller's transaction."""
    who = asked(tx, call, zone, nonce, now)
    text = ACTS[call.tool](tx, who)
    turns.spoke(tx, who.turn.id)
    runs.answer(tx, call.run_id, call.n, True, text)


__all__ = ["ACTS", "ERRANDS", "LOOKS", "Answers", "Asked", "Kit", "Tools", "act", "look"]
