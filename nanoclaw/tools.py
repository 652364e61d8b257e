"""The host half of each agent tool: may it? do it, answer. Authority is the turn's, never the letter's."""

from collections.abc import Callable

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.errors import Refused
from nanoclaw.models import OutKind, OutState, RequestState, Turn, TurnState
from nanoclaw.outbox import Outbox
from nanoclaw.prompts import for_people
from nanoclaw.store import Store, Tx, chats, outgoing, runs, turns
from nanoclaw.store.runs import Call

MAX_SAID = 50  # messages of one turn; what is more is no report but a flood
DELIVERY_WAIT = 30.0  # seconds that a tool waits for the other side's acknowledgement
_SEAM = "\ufdd0"  # a noncharacter, for between two parts

Parts = Callable[[str, str], list[str]]  # a channel's name and an agent's text -> the texts that the channel sends


class Tools:
    """Drives each request to its answer: the effect is one transaction, so it happens once over a restart."""

    def __init__(self, store: Store, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._store = store
        self._outbox = outbox
        self._clock = clock

    async def handle(self, call: Call) -> None:
        """Do what is not done yet, wait for its outcome, store the answer (its letter is the runner's)."""
        try:
            if call.state is RequestState.OPEN:
                out_id = await self._store.insist(act, call, self._outbox.parts, self._clock())
                failpoints.hit("acted")
                self._outbox.wake()
            elif call.outgoing_id is None:
                return  # answered already: nothing is done for it
            else:
                out_id = call.outgoing_id
            ok, text = _delivery(*await self._outbox.settled(out_id, DELIVERY_WAIT))
        except Refused as e:
            ok, text = False, str(e)
        logger.info("Tool {} answered: {}", call.tool, "ok" if ok else "refused")
        await self._store.insist(runs.answer, call.run_id, call.n, ok, text)


def spoken(tx: Tx, chat_id: int, text: str, parts: Parts) -> list[str]:
    """What people get of an agent's text, as the chat's channel sends it; [] for nothing."""
    if not (said := for_people(text)):
        return []
    # Once more on what came of it: marks and entities could hide a tag from the first look.
    whole = for_people(_SEAM.join(parts(chats.chat(tx, chat_id).channel, said)))
    return [part for part in whole.split(_SEAM) if part.strip()]


def act(tx: Tx, call: Call, parts: Parts, now: int) -> int:
    """The effect of one call, in the caller's transaction. Raises Refused with the reason for the agent."""
    turn = turns.get(tx, call.turn_id)
    if turn is None or turn.run_id != call.run_id or turn.state is not TurnState.GIVEN:
        raise Refused("this turn has ended")
    if call.tool != "send_message":
        raise Refused(f"there is no tool named {call.tool[:40]!r}")
    out_id = _send_message(tx, turn, call, parts, now)
    runs.acted(tx, call.run_id, call.n, out_id)
    turns.spoke(tx, turn.id)
    return out_id


def _send_message(tx: Tx, turn: Turn, call: Call, parts: Parts, now: int) -> int:
    text = call.args.get("text")
    if not isinstance(text, str) or not (said := spoken(tx, turn.chat_id, text, parts)):
        raise Refused("send_message needs a text that is not empty")
    if (part := outgoing.spoken(tx, turn.id)) >= MAX_SAID:
        raise Refused(f"this turn has sent {MAX_SAID} messages: put the rest into your final answer")
    return outgoing.queue_parts(tx, turn.chat_id, said, OutKind.REPLY, now, turn_id=turn.id, part=part)


def _delivery(state: OutState, error: str) -> tuple[bool, str]:
    if state is OutState.SENT:
        return True, "Sent."
    if state is OutState.DEAD:
        return False, f"Not sent: {error or 'the other side refused it'}."
    return True, "Queued: the chat cannot be reached just now; it is delivered as soon as it can be."
