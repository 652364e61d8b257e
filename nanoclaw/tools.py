"""The host half of each agent tool: may it? do it, answer. Authority is the turn's, never the letter's."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loguru import logger

from nanoclaw import failpoints, prompts
from nanoclaw.errors import Refused
from nanoclaw.models import OutKind, OutState, RequestState, Turn, TurnState
from nanoclaw.outbox import Outbox
from nanoclaw.prompts import for_people
from nanoclaw.store import Store, Tx, chats, messages, outgoing, runs, turns
from nanoclaw.store.runs import Call

MAX_SAID = 50  # messages of one turn; what is more is no report but a flood
MAX_READ = 50  # messages that one call of read_chat shows
_READ_BUDGET = 30_000  # characters of its answer
_NO_ID = 2**62  # higher than every id
_READ = {"before_id": _NO_ID, "limit": MAX_READ, "text": ""}  # what it may be asked for
_LONGEST_TEXT = 200
DELIVERY_WAIT = 30.0  # seconds that a tool waits for the other side's acknowledgement
_SEAM = "\ufdd0"  # a noncharacter, for between two parts
_LONGEST = 200_000  # characters that people get of one text
_CUT = "\n\n[Here {} characters are left out: that is too long for a chat.]"
SHORT = 1000  # characters that take no time

Parts = Callable[[str], Mapping[str, list[str]]]  # an agent's text -> by channel, the texts that it sends for it


@dataclass(frozen=True)
class Spoken:
    """What people get of an agent's text. It may take a second to make, so no transaction does."""

    whole: str
    parts: Mapping[str, list[str]]

    def on(self, channel: str) -> list[str]:
        """As the channel sends it; [] for nothing."""
        return self.parts.get(channel, [self.whole] if self.whole else [])


class Tools:
    """Drives each request to its answer: the effect is one transaction, so it happens once over a restart."""

    def __init__(
        self, store: Store, outbox: Outbox, clock: Callable[[], int], zone: str, new_nonce: Callable[[], str]
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._zone = zone  # of groups that name none
        self._new_nonce = new_nonce

    async def handle(self, call: Call) -> None:
        """Do what is not done yet, wait for its outcome, store the answer (its letter is the runner's)."""
        try:
            if call.state is RequestState.OPEN and call.tool == "read_chat":
                ok, text = True, await self._store.read(read_chat, call, self._zone, self._new_nonce())
            elif call.state is RequestState.OPEN:
                said = await self._spoken(call.args.get("text"))
                out_id = await self._store.insist(act, call, said, self._clock())
                failpoints.hit("acted")
                self._outbox.wake()
                ok, text = await self._delivered(out_id)
            elif call.outgoing_id is None:
                return  # answered already: nothing is done for it
            else:
                ok, text = await self._delivered(call.outgoing_id)
        except Refused as e:
            ok, text = False, str(e)
        logger.info("Tool {} answered: {}", call.tool, "ok" if ok else "refused")
        await self._store.insist(runs.answer, call.run_id, call.n, ok, text)

    async def _spoken(self, text: object) -> Spoken:
        text = text if isinstance(text, str) else ""
        if len(text) <= SHORT:
            return spoken(text, self._outbox.parts)
        return await asyncio.to_thread(spoken, text, self._outbox.parts)

    async def _delivered(self, out_id: int) -> tuple[bool, str]:
        return _delivery(*await self._outbox.settled(out_id, DELIVERY_WAIT))


def spoken(text: str, parts: Parts) -> Spoken:
    """What people get of an agent's text."""
    said = for_people(text)
    if len(said) > _LONGEST:
        said = said[:_LONGEST] + _CUT.format(len(said) - _LONGEST)
    return Spoken(said, {channel: _seen(texts) for channel, texts in parts(said).items()} if said else {})


def _seen(texts: list[str]) -> list[str]:
    """Looked through once more: marks and entities could hide a tag from the first look."""
    return [part for part in for_people(_SEAM.join(texts)).split(_SEAM) if part.strip()]


def act(tx: Tx, call: Call, said: Spoken, now: int) -> int:
    """The effect of one call, in the caller's transaction. Raises Refused with the reason for the agent."""
    turn = _running(tx, call)
    if call.tool != "send_message":
        raise Refused(f"there is no tool named {call.tool[:40]!r}")
    out_id = _send_message(tx, turn, said.on(chats.chat(tx, turn.chat_id).channel), now)
    runs.acted(tx, call.run_id, call.n, out_id)
    turns.spoke(tx, turn.id)
    return out_id


def _running(tx: Tx, call: Call) -> Turn:
    turn = turns.get(tx, call.turn_id)
    if turn is None or turn.run_id != call.run_id or turn.state is not TurnState.GIVEN:
        raise Refused("this turn has ended")
    return turn


def read_chat(tx: Tx, call: Call, zone: str, nonce: str) -> str:
    """What was said in the turn's own chat, and in no other. Raises Refused."""
    turn, args = _running(tx, call), call.args
    before, limit, text = (args.get(key, default) for key, default in _READ.items())
    if not isinstance(limit, int) or not 1 <= limit <= MAX_READ:
        raise Refused(f"limit must be a number from 1 to {MAX_READ}")
    if not isinstance(before, int) or not 0 <= before <= _NO_ID:
        raise Refused("before_id must be the id of a message")
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise Refused(f"text must be a piece of what was said, of at most {_LONGEST_TEXT} characters")
    heard = messages.page(tx, turn.chat_id, before, text, limit)
    ours = outgoing.said_before(tx, turn.chat_id, before, text, limit)
    zone = chats.group(tx, turn.group_id).zone or zone
    return prompts.history(heard, ours, zone=zone, nonce=nonce, limit=limit, budget=_READ_BUDGET)


def _send_message(tx: Tx, turn: Turn, texts: list[str], now: int) -> int:
    if not texts:
        raise Refused("send_message needs a text that is not empty")
    if (part := outgoing.spoken(tx, turn.id)) >= MAX_SAID:
        raise Refused(f"this turn has sent {MAX_SAID} messages: put the rest into your final answer")
    return outgoing.queue_parts(tx, turn.chat_id, texts, OutKind.REPLY, now, turn_id=turn.id, part=part)


def _delivery(state: OutState, error: str) -> tuple[bool, str]:
    if state is OutState.SENT:
        return True, "Sent."
    if state is OutState.DEAD:
        return False, f"Not sent: {error or 'the other side refused it'}."
    return True, "Queued: the chat cannot be reached just now; it is delivered as soon as it can be."
