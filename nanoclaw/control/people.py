"""People: whom the owner allows and denies, who may call, and what is told of those whom nobody knows."""

import re
from typing import Any

from nanoclaw import notices
from nanoclaw.control import groups, tasks
from nanoclaw.errors import Refused
from nanoclaw.models import By, Chat, Group, OutKind, Person, Role
from nanoclaw.store import Tx, audit, chats, ledger, messages, outgoing, people, turns
from nanoclaw.store import tasks as task_rows
from nanoclaw.store.tasks import TaskState

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MAX_STRANGERS = 10  # of whom main is told in a day
_WHATSAPP = "whatsapp"
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_JID = re.compile(r"[0-9]{1,20}@(lid|s\.whatsapp\.net)")


def listed(tx: Tx) -> list[Person]:
    """Everybody of whom something is known, owners first."""
    return people.listed(tx)


def allow(tx: Tx, ref: str, by: By, now: int) -> Person:
    """They may call me in every group that hears allowed people, and use its commands; with a number of my own also
    in a direct chat, which gets a group. Raises Refused.

    `ref`: a phone number as in +4915112345678, a jid, or the number of a direct chat in /groups: names are chosen.
    """
    groups.typed(by, "allow somebody")
    person = _set(tx, ref, Role.ALLOWED, denied=False)
    audit.note(tx, by, "allow", f"person {person.number} ({' '.join(person.jids)})", now)
    for chat in chats.seen(tx):
        if not chat.is_group and not chat.folder and not set(chat.jids).isdisjoint(person.jids):
            _open(tx, chat.number, chat.channel, by, now)
    return person


def deny(tx: Tx, ref: str, by: By, now: int) -> Person:
    """They are a guest, what they say is context at most, and what they had scheduled rests, until allowed. Raises
    Refused. `ref` as in `allow`."""
    person = _set(tx, ref, Role.GUEST, denied=True)
    turns.unmake(tx, person.number)
    messages.quiet(tx, person.number)
    tasks.pause_all_of(tx, person.number, by, now)
    audit.note(tx, by, "deny", f"person {person.number} ({' '.join(person.jids)})", now)
    return person


def called(person: Person) -> str:
    """Who is meant: people name themselves, so the number stands beside it."""
    name = f"«{notices.unquoted(person.name)}»" if person.name else "somebody without a name"
    return f"{name} ({groups.address(person.jids)})"


def summary(person: Person) -> str:
    """On one line: who, and what they may."""
    return f"{called(person)}: {'denied' if person.denied else person.role}"


def resting(tx: Tx, person: Person) -> str:
    """How many tasks of theirs rest, which nobody but the owner ends; "" for none."""
    number = sum(task.state is TaskState.PAUSED for task in task_rows.of_person(tx, person.number))
    allowed = "they are allowed again and " if person.denied else ""
    how = f"each until {allowed}it is resumed: /tasks, /tasks resume NUMBER, or `nanoclaw tasks`"
    return f" {number} task(s) of theirs rest, {how}." if number else ""


# --- for the router ----------------------------------------------------------------------------


def opens(tx: Tx, chat: Chat, role: Role, now: int) -> Group | None:
    """The new group of a direct chat in which an allowed person writes for the first time."""
    if role is not Role.ALLOWED or chat.is_group:
        return None
    return _open(tx, chat.id, chat.channel, By("an allowed person"), now)


def stranger(tx: Tx, chat: Chat, now: int) -> bool:
    """Tell main, once in a day, that somebody unknown wrote, and how to let them; of their words nothing is kept."""
    main, claim = chats.main_chat(tx), ledger.claim(tx)
    if claim is not None and now < claim.until:  # it may be the owner to be, looking for the code
        return False
    today = outgoing.told_since(tx, "stranger", now - DAY_MS)
    if main is None or today >= MAX_STRANGERS or not outgoing.may_tell(tx, "stranger", chat.id, now, DAY_MS):
        return False
    jids = chats.jids(tx, chat.id)
    who = f"«{notices.unquoted(chat.name)}» ({groups.address(jids)})" if chat.name else groups.address(jids)
    more = " Others may have written too: /groups lists them." if today + 1 == MAX_STRANGERS else ""
    text = (
        f"Somebody I do not know wrote to me on {chat.channel}: {who}. They got no answer, and I kept nothing of it. "
        f"To let them talk to me: /allow {groups.address(jids)}{more}"
    )
    outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
    return True


def over_limit(tx: Tx, group: Group, person_id: int, role: Role, now: int, but: str = "") -> str:
    """A polite word where this person has asked for more than one may; "" while they may. `but`: an id of the
    channel's, of a message that does not count."""
    limits = group.limits
    if role is Role.OWNER or group.is_main:
        return ""
    if limits.open_messages and people.waiting(tx, person_id, but) >= limits.open_messages:
        return "I have not answered your last messages yet: what you write meanwhile I read, and answer those first."
    if limits.turns_per_hour and people.turns_since(tx, person_id, now - HOUR_MS) >= limits.turns_per_hour:
        return "That is as much as one person may ask me in an hour. I read along; please ask again later."
    return ""


def _open(tx: Tx, chat_id: int, channel: str, by: By, now: int) -> Group | None:
    """On a shared number direct chats are the human's own: there the owner adds each by itself."""
    account = ledger.account(tx, channel)
    return None if account is None or account.shared else groups.add(tx, chat_id, None, by, now)


# --- who is meant ------------------------------------------------------------------------------


def _set(tx: Tx, ref: str, role: Role, *, denied: bool) -> Person:
    person_id = _meant(tx, ref.strip())
    person = people.get(tx, person_id)
    if person is None or not person.jids:
        raise Refused("that is nobody in particular")
    if person.role is Role.OWNER:
        raise Refused("owners are made and dismissed at the terminal alone: `nanoclaw pair`, `nanoclaw config`")
    people.set_role(tx, person_id, role, denied=denied)
    return people.get(tx, person_id) or person


def _meant(tx: Tx, ref: str) -> int:
    """The person's id; who is meant by number or jid and not known yet is made. Raises Refused."""
    number = re.sub(r"[\s()./-]", "", ref)
    if _NUMBER.fullmatch(number):
        return _of_jid(tx, f"{number[1:]}@s.whatsapp.net")
    if (known := people.of_jid(tx, ref)) is not None or _JID.fullmatch(ref):
        return known or _of_jid(tx, ref)
    chat = next((c for c in chats.seen(tx) if ref == str(c.number)), None)
    if ref.endswith("@g.us") or (chat is not None and chat.is_group):
        raise Refused("that is a group: /groups add, or `nanoclaw groups add`")
    if chat is not None:
        return _of_jid(tx, chat.jids[0])
    if ref.isdigit():
        raise Refused(f"no chat has the number {ref[:20]}; a phone number is written as in +4915112345678")
    if found := people.named(tx, ref):
        named = " or ".join(groups.address(p.jids) for p in found[:5])
        raise Refused(f"people choose their names: say {named}, if that is who you mean")
    raise Refused(f"nobody is known as {ref[:60]!r}: give the phone number, as in +4915112345678")


def _of_jid(tx: Tx, jid: str) -> int:
    """Whoever has it; with all that a chat of theirs knows, so that a LID is meant wherever there is one."""
    known = people.of_jid(tx, jid)
    chat = next((c for c in chats.seen(tx) if jid in c.jids and not c.is_group and c.channel == _WHATSAPP), None)
    if known is None or chat is not None:
        known, _ = chats.learn_person(tx, _WHATSAPP, chat.jids if chat is not None else (jid,), "")
    return known


# --- what an agent asks for --------------------------------------------------------------------


def allow_sentence(tx: Tx, args: dict[str, Any]) -> str:
    """`args`: person (as `ref` in `allow`, but no name: people choose theirs)."""
    person = _asked(tx, args)
    if person is None:
        return f"allow {args['person']}: they may call me wherever allowed people may, and in a direct chat."
    if person.role is not Role.GUEST:
        raise Refused("they are allowed already")
    return f"allow {called(person)}: they may call me wherever allowed people may, and in a direct chat."


def allow_apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do it."""
    _asked(tx, args)
    person = allow(tx, args["person"], by, now)
    return f"Done: {called(person)} is allowed.{resting(tx, person)}"


def _asked(tx: Tx, args: dict[str, Any]) -> Person | None:
    ref = args.get("person")
    if not isinstance(ref, str) or not (_NUMBER.fullmatch(ref) or _JID.fullmatch(ref)):
        raise Refused("say whom: a phone number as in +4915112345678, or a jid")
    known = people.of_jid(tx, f"{ref[1:]}@s.whatsapp.net" if ref.startswith("+") else ref)
    return None if known is None else people.get(tx, known)
