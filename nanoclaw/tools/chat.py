"""The tools of the turn's own chat: say something there now, and read what was said."""

import asyncio

from nanoclaw import failpoints, prompts
from nanoclaw.control import pending, posts
from nanoclaw.errors import Refused
from nanoclaw.models import OutKind, OutState, Turn
from nanoclaw.store import Tx, chats, messages, outgoing, runs, turns
from nanoclaw.store.runs import Call
from nanoclaw.tools.desk import Asked, Kit, asked, running
from nanoclaw.tools.words import SHORT, Spoken, spoken

MAX_SAID = 50  # messages of one turn; what is more is no report but a flood
MAX_READ = 50  # messages that one call of read_chat shows
DELIVERY_WAIT = 30.0  # seconds that a tool waits for the other side's acknowledgement
_READ_BUDGET = 30_000  # characters of its answer
_NO_ID = 2**62  # higher than every id
_READ = {"before_id": _NO_ID, "limit": MAX_READ, "text": ""}  # what it may be asked for
_LONGEST_TEXT = 200


async def send_message(kit: Kit, call: Call) -> tuple[bool, str]:
    """The effect is a row, and the answer what becomes of it."""
    said = await told_of(kit, call.args.get("text"))
    if call.args.get("chat"):
        told = await kit.store.insist(ask_elsewhere, call, said, kit.zone(), kit.new_nonce(), kit.clock())
        kit.outbox.wake()
        return True, told
    out_id = await kit.store.insist(say, call, said, kit.clock())
    failpoints.hit("acted")
    kit.outbox.wake()
    return await delivered(kit, out_id)


async def told_of(kit: Kit, text: object) -> Spoken:
    """What people get of it."""
    text = text if isinstance(text, str) else ""
    if len(text) <= SHORT:
        return spoken(text, kit.outbox.parts)
    return await asyncio.to_thread(spoken, text, kit.outbox.parts)


async def delivered(kit: Kit, out_id: int, limit: float = DELIVERY_WAIT) -> tuple[bool, str]:
    """What became of a row that was queued for people, as soon as it is known."""
    return _delivery(*await kit.outbox.settled(out_id, limit))


def say(tx: Tx, call: Call, said: Spoken, now: int) -> int:
    """The effect of send_message, in the caller's transaction. Raises Refused with the reason for the agent."""
    turn = running(tx, call)
    out_id = _queue(tx, turn, said.on(chats.chat(tx, turn.chat_id).channel), now)
    runs.acted(tx, call.run_id, call.n, out_id)
    turns.spoke(tx, turn.id)
    return out_id


def _queue(tx: Tx, turn: Turn, texts: list[str], now: int) -> int:
    if not texts:
        raise Refused("send_message needs a text that is not empty")
    part = next_part(tx, turn)
    return outgoing.queue_parts(tx, turn.chat_id, texts, OutKind.REPLY, now, turn_id=turn.id, part=part)


def next_part(tx: Tx, turn: Turn) -> int:
    """The place of what the turn says next. Raises Refused when it has said too much."""
    if (part := outgoing.spoken(tx, turn.id)) >= MAX_SAID:
        raise Refused(f"this turn has sent {MAX_SAID} messages: put the rest into your final answer")
    return part


def ask_elsewhere(tx: Tx, call: Call, said: Spoken, zone: str, nonce: str, now: int) -> str:
    """A message to another chat is the owner's to allow. Raises Refused."""
    who = asked(tx, call, zone, nonce, now)
    if not who.commands_all:
        raise Refused("only the owner, in the main chat, can have something sent to another chat; leave out chat")
    args = posts.proposal(tx, call.args["chat"], said.on)
    told = pending.propose(tx, "send_message", args, who.by, pending.code_of(nonce), now)
    turns.spoke(tx, who.turn.id)
    return told


def _delivery(state: OutState, error: str) -> tuple[bool, str]:
    if state is OutState.SENT:
        return True, "Sent."
    if state is OutState.DEAD:
        return False, f"Not sent: {error or 'the other side refused it'}."
    return True, "Queued: it is not delivered yet (the chat cannot be reached, or a file is on its way); it will be."


def read_chat(tx: Tx, asked: Asked) -> str:
    """What was said in the turn's own chat, and in no other. Raises Refused."""
    turn, args = asked.turn, asked.call.args
    before, limit, text = (args.get(key, default) for key, default in _READ.items())
    if not isinstance(limit, int) or not 1 <= limit <= MAX_READ:
        raise Refused(f"limit must be a number from 1 to {MAX_READ}")
    if not isinstance(before, int) or not 0 <= before <= _NO_ID:
        raise Refused("before_id must be the id of a message")
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise Refused(f"text must be a piece of what was said, of at most {_LONGEST_TEXT} characters")
    heard = messages.page(tx, turn.chat_id, before, text, limit)
    ours = outgoing.said_before(tx, turn.chat_id, before, text, limit)
    return prompts.history(heard, ours, zone=asked.zone, nonce=asked.nonce, limit=limit, budget=_READ_BUDGET)
