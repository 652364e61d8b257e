"""The tools that change what stands in the chat already: a sign on a message, another text for one of ours."""

import re
import unicodedata

from nanoclaw import failpoints
from nanoclaw.errors import Refused
from nanoclaw.models import OutKind, Turn
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, chats, messages, outgoing, runs, turns
from nanoclaw.store.runs import Call
from nanoclaw.tools.chat import delivered, next_part, told_of
from nanoclaw.tools.desk import Kit, running
from nanoclaw.tools.words import Spoken

EDIT_MS = 15 * 60_000  # in which WhatsApp takes a new text
_MARGIN_MS = 30_000  # of it that it may take until the new text is there
_LONGEST_SIGN = 12  # code points: flags and families are many
_LONGEST_PIECE = 1000  # characters
_WORDS = re.compile(r"[\W_]+")


async def react(kit: Kit, call: Call) -> tuple[bool, str]:
    """The effect is a row, and the answer what becomes of it."""
    return await _put(kit, await kit.store.insist(sign, call, kit.clock()))


async def edit_message(kit: Kit, call: Call) -> tuple[bool, str]:
    """The same."""
    said = await told_of(kit, call.args.get("text"))
    return await _put(kit, await kit.store.insist(reword, call, said, kit.clock()))


async def _put(kit: Kit, out_id: int) -> tuple[bool, str]:
    failpoints.hit("acted")
    kit.outbox.wake()
    return await delivered(kit, out_id)


def sign(tx: Tx, call: Call, now: int) -> int:
    """The effect of react, in the caller's transaction. Raises Refused."""
    turn = running(tx, call)
    emoji = call.args.get("emoji")
    if not isinstance(emoji, str) or (emoji and not _is_sign(emoji)):
        raise Refused('emoji must be one emoji; "" takes yours back')
    return _queue(tx, call, turn, OutKind.REACTION, emoji, _message(tx, turn, call.args.get("id")), now)


def _message(tx: Tx, turn: Turn, number: object) -> str:
    """The channel's id of a message of this chat."""
    if number is None:
        wa_id = messages.newest_of_turn(tx, turn.id)
    elif isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**62:
        wa_id = messages.wa_id(tx, turn.chat_id, number)
    else:
        raise Refused("id must be the id of a message, as your prompt or read_chat shows it")
    if not wa_id:
        raise Refused("there is no such message in this chat: say its id, as your prompt or read_chat shows it")
    return wa_id


def _is_sign(text: str) -> bool:
    """No word, no number: at least one symbol, and nothing that could be read."""
    if len(text) > _LONGEST_SIGN:
        return False
    kinds = [unicodedata.category(c) for c in text]
    symbol = any(kind in ("So", "Sk") or c in "\u203c\u2049\u20e3" for c, kind in zip(text, kinds, strict=True))
    readable = any(kind[0] in "LZ" or kind == "Cc" for kind in kinds)
    return symbol and not readable and plain(text) == text


def reword(tx: Tx, call: Call, said: Spoken, now: int) -> int:
    """The effect of edit_message, in the caller's transaction. Raises Refused."""
    turn = running(tx, call)
    texts = said.on(chats.chat(tx, turn.chat_id).channel)
    if len(texts) != 1:
        raise Refused("text must be the whole new text, not empty, and short enough for one message")
    old = call.args.get("old", "")
    if not isinstance(old, str) or len(old) > _LONGEST_PIECE:
        raise Refused(f"old must be a piece of the message's text, of at most {_LONGEST_PIECE} characters")
    next_part(tx, turn)  # who has said too much has nothing searched
    piece, since = _folded(old), now - EDIT_MS + _MARGIN_MS
    about = next((wa_id for wa_id, text in outgoing.recent(tx, turn.chat_id, since) if piece in _folded(text)), "")
    if not about:
        raise Refused("you sent no such message here in the last 15 minutes, and older ones cannot be edited")
    return _queue(tx, call, turn, OutKind.EDIT, texts[0], about, now)


def _folded(text: str) -> str:
    """Without whatever marks stand between the words: a channel writes them in its own way."""
    return _WORDS.sub("", text).casefold()


def _queue(tx: Tx, call: Call, turn: Turn, kind: OutKind, text: str, about: str, now: int) -> int:
    part = next_part(tx, turn)
    out_id = outgoing.queue(tx, turn.chat_id, text, kind, now, turn_id=turn.id, part=part, quote=about)
    runs.acted(tx, call.run_id, call.n, out_id)
    turns.spoke(tx, turn.id)
    return out_id
