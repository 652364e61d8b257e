"""Groups: add, rename, change, pause, remove; and every chat that was seen."""

import re
import unicodedata
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw import notices
from nanoclaw.control.network import first_hosts
from nanoclaw.control.settings import FRESH, SETTINGS, changes, put, recorded
from nanoclaw.errors import PARKING, Cause, Refused
from nanoclaw.groups import GLOBAL, MAIN, check_new_folder
from nanoclaw.models import By, Group, GroupState, OutKind, Role, SeenChat, TriggerMode, Who
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, audit, chats, ledger, messages, network, outgoing, people, tasks, turns
from nanoclaw.store.tasks import TaskState

SMALL = 16  # people up to whom everybody in a new group may call
_NAME = 60  # characters of a group's name
_FOLDER = 40  # characters of a folder's name that is made of a chat's


# --- what there is -----------------------------------------------------------------------------


def ensure_main(tx: Tx, channel: str, chat: str, owner: str, name: str, now: int) -> Group:
    """The main group with this chat in it, and the owner who sits there. Idempotent."""
    group = chats.group_by_folder(tx, MAIN)
    if group is None:
        group = chats.add_group(tx, Group(0, MAIN, name, is_main=True, who=Who.OWNER), now)
    group = first_hosts(tx, group)
    chats.join_group(tx, chats.know_chat(tx, channel, (chat,), "Terminal", False, now), group.id)
    chats.learn_person(tx, channel, (owner,), "Owner", Role.OWNER)
    turns.ensure_lane(tx, group.lane, group.id)
    return group


def seen(tx: Tx) -> list[SeenChat]:
    """Every chat that was seen, groups and direct ones, newest first.

    Each has a number of its own, which `add` and `find` take: it stays, so that what is said between the list and
    the command cannot make it mean another chat.
    """
    return chats.seen(tx)


def chat_of(tx: Tx, text: str) -> SeenChat:
    """The chat that is meant, by its number in `seen`, a jid, or a name that only one has. Raises Refused."""
    text = text.strip()
    found = [c for c in chats.seen(tx) if text == str(c.number) or text in c.jids]
    found = found or [c for c in chats.seen(tx) if c.name and c.name.casefold() == text.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"{len(found)} chats have this name: say the number, see /groups or `nanoclaw groups chats`")
    raise Refused(f"no chat is known as {text[:60]!r}: see /groups or `nanoclaw groups chats`")


def find(tx: Tx, text: str) -> Group:
    """A group that is served, by its folder, its name, or the number of a chat of it. Raises Refused."""
    text = text.strip()
    living = [g for g in chats.groups(tx) if g.state is not GroupState.REMOVED]
    by_folder = [g for g in living if g.folder.casefold() == text.casefold()]
    by_name = [g for g in living if g.name.casefold() == text.casefold()]
    if text.isdigit():  # a number is a chat's, whatever another chat calls itself
        numbered = {c.folder for c in chats.seen(tx) if text == str(c.number)}
        found = [g for g in living if g.folder in numbered] or by_folder
    else:
        found = by_folder or by_name
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"{len(found)} groups have this name: say the folder ({', '.join(g.folder for g in found)})")
    raise Refused(f"there is no group {text[:60]!r}; there are {', '.join(g.folder for g in living) or 'none'}")


def describe(tx: Tx, group: Group, zone: str) -> list[str]:
    """What there is to know of a group, a line each."""
    lines = [f"{group.folder}: «{notices.unquoted(group.name)}», {group.state}"]
    lines += [f"chat {c.number}: {summary(c, zone)}" for c in chats.seen(tx) if c.folder == group.folder]
    known = (key for key in SETTINGS if SETTINGS[key].main or not group.is_main)
    return lines + [f"{key}: {SETTINGS[key].show(group)}" for key in known]


def summary(chat: SeenChat, zone: str) -> str:
    """A chat on one line: name, kind, size, last activity, who serves it."""
    kind = "group" if chat.is_group else "direct"
    size = f"{chat.members} people" if chat.members else ""
    last = f"{datetime.fromtimestamp(chat.seen / 1000, ZoneInfo(zone)):%Y-%m-%d %H:%M}" if chat.seen else "never"
    served = f"served as {chat.folder}" if chat.folder else "not served"
    told = (called(chat), f"{chat.channel} {kind}", size, f"{chat.messages} message(s), last {last}", served)
    return ", ".join(filter(None, told))


def called(chat: SeenChat) -> str:
    """Its name, quoted; with the number of a direct one, since people name themselves."""
    name = f"«{notices.unquoted(chat.name)}»" if chat.name else "without a name"
    return name if chat.is_group else f"{name} ({address(chat.jids)})"


def address(jids: tuple[str, ...]) -> str:
    """How a person is written to be meant: the phone number, where one is known."""
    number = next((jid.partition("@")[0] for jid in jids if jid.endswith("@s.whatsapp.net")), "")
    return f"+{number}" if number.isdigit() else next(iter(jids), "unknown")


# --- what can be done --------------------------------------------------------------------------


def add(tx: Tx, chat_id: int, folder: str | None, by: By, now: int) -> Group:
    """Serve a chat by an agent of its own, and tell it so there. Raises Refused: nothing that is there is replaced.

    `folder` is made of the chat's name where none is given. That of a removed group is taken up again if it is named.
    """
    typed(by, "add a group")
    chat = _addable(tx, chat_id)
    new = _fresh(tx, chat)
    folder = check_new_folder(folder) if folder is not None else _free_folder(tx, chat)
    before = chats.group_by_folder(tx, folder)
    if before is not None and before.state is not GroupState.REMOVED:
        raise Refused(f"the folder {folder!r} has a group already: choose another name")
    if before is None:
        group = chats.add_group(tx, replace(new, folder=folder), now)
    else:
        group = chats.save_group(tx, replace(new, id=before.id, folder=before.folder))
    chats.join_group(tx, chat_id, group.id)
    turns.ensure_lane(tx, group.lane, group.id)
    outgoing.queue(tx, chat_id, hello(chats.assistant(tx), group), OutKind.NOTICE, now)
    audit.note(tx, by, "add group", f"{group.folder}: chat {chat_id} ({chat.jids[0]})", now)
    return group


def serve(tx: Tx, chat_id: int, new: Group, now: int) -> Group:
    """Serve a chat by this very group, without a word. Raises Refused."""
    if chats.group_by_folder(tx, check_new_folder(new.folder)) is not None:
        raise Refused(f"the folder {new.folder!r} has a group already: choose another name")
    if chats.chat(tx, chat_id).group_id is not None:
        raise Refused("this chat has a group already")
    group = chats.add_group(tx, new, now)
    chats.join_group(tx, chat_id, group.id)
    turns.ensure_lane(tx, group.lane, group.id)
    return group


def rename(tx: Tx, group: Group, name: str, by: By, now: int) -> Group:
    """Another name for people; the folder stays."""
    name = " ".join(plain(name).split())
    if group.is_main:
        raise Refused("main is named as the assistant: `nanoclaw config set name`")
    if not name or len(name) > _NAME:
        raise Refused(f"a name has 1 to {_NAME} characters")
    audit.note(tx, by, "rename group", group.folder, now)
    return chats.save_group(tx, replace(_now(tx, group), name=name))


def change(tx: Tx, group: Group, settings: dict[str, str], by: By, now: int) -> Group:
    """Set these (see SETTINGS), all or none. Raises Refused."""
    before = _now(tx, group)
    after = put(before, settings)
    typed(by, "set up a group")
    if "who" in settings and after.who is Who.EVERYONE:  # whoever is there now is meant
        for chat in chats.seen(tx):
            if chat.folder == after.folder:
                people.from_the_beginning(tx, chat.number)
    if "network" in settings:  # for good: no hour of more is left
        network.set_public_until(tx, after.id, 0)
    if after == before:
        return before
    chats.save_group(tx, after)
    people.quiet(tx, after)
    if (before.limits.tokens_per_day, before.model) != (after.limits.tokens_per_day, after.model):
        _release(tx, after, frozenset({Cause.BUDGET}))
    audit.note(tx, by, "set group", f"{after.folder}: {'; '.join(recorded(before, after))}", now)
    return after


def pause(tx: Tx, group: Group, by: By, now: int) -> Group:
    """From now on its messages are only context; what runs ends as it would."""
    if group.is_main:
        raise Refused("main cannot be paused: it is where you would end that")
    audit.note(tx, by, "pause group", group.folder, now)
    return chats.save_group(tx, replace(_now(tx, group), state=GroupState.PAUSED))


def resume(tx: Tx, group: Group, by: By, now: int) -> Group:
    """It is served again, also after a loop; what had waited is answered."""
    typed(by, "resume a group")
    before = _now(tx, group)
    _release(tx, group, frozenset({Cause.LOOP}))
    audit.note(tx, by, "resume group", group.folder, now)
    return chats.save_group(tx, replace(before, state=GroupState.ACTIVE))


def remove(tx: Tx, group: Group, by: By, now: int) -> Group:
    """Serve its chats no more: what waits there is dropped without a word, its containers go, its folder is kept."""
    typed(by, "remove a group")
    if group.is_main:
        raise Refused("main cannot be removed")
    after = chats.save_group(tx, replace(_now(tx, group), state=GroupState.REMOVED))
    network.set_public_until(tx, group.id, 0)
    for task in tasks.alive(tx, group.id):
        tasks.put(tx, task.id, TaskState.CANCELLED, None, now)
    turns.drop_group(tx, group.id, now)
    turns.set_session(tx, group.lane, "")
    messages.handle_open(tx, group.lane)
    for chat in chats.seen(tx):
        if chat.folder == group.folder:
            messages.drop_open(tx, chat.number)
            people.forget_members(tx, chat.number)
            chats.join_group(tx, chat.number, None)
    audit.note(tx, by, "remove group", group.folder, now)
    return after


def hello(name: str, group: Group) -> str:
    """The first message in a new group: who it is, who may call it and what it keeps."""
    word = group.word or f"@{name}"
    call = "What you write here is for me."
    if group.mode is TriggerMode.WORD:
        call = f"To call me begin with {word}, mention me, or reply to one of my messages; all else I only read."
    elif group.mode is TriggerMode.MENTION:
        call = "To call me mention me, or reply to one of my messages; all else I only read."
    who = {
        Who.OWNER: "My owner may call me.",
        Who.ALLOWED: "My owner, and whom they allowed, may call me.",
        Who.EVERYONE: "Everybody who is here now may call me; who comes later, when my owner has allowed it.",
    }[group.who]
    meant = call if group.mode is TriggerMode.ALWAYS else f"{call} {who}"
    return (
        f"Hello, I am {name}, an assistant: a program (Claude) that my owner runs on a computer of their own. {meant}\n"
        "From now on I keep what is written here, files included, for some months, and notes of what is worth knowing;"
        " when I am called I send what I need of it to the model's provider. My other chats do not see it, and my owner"
        " can make me forget it."
    )


def _addable(tx: Tx, chat_id: int) -> SeenChat:
    chat = next((c for c in chats.seen(tx) if c.number == chat_id), None)
    if chat is None:
        raise Refused(f"there is no chat {chat_id}: see /groups or `nanoclaw groups chats`")
    if chat.folder:
        raise Refused(f"this chat has a group already: {chat.folder}")
    account = ledger.account(tx, chat.channel)
    if account is not None and not set(account.jids).isdisjoint(chat.jids):
        raise Refused("that is the assistant's own number")
    return chat


def _fresh(tx: Tx, chat: SeenChat) -> Group:
    """A new group's settings, as far as the chat decides them."""
    account = ledger.account(tx, chat.channel)
    called_for = chat.is_group or (account is not None and account.shared)  # where people talk to each other
    who = Who.ALLOWED
    if chat.is_group:  # a group of unknown size may be large
        who = Who.EVERYONE if 0 < chat.members <= SMALL else Who.OWNER
    name = " ".join(plain(chat.name).split())[:_NAME].strip() or f"chat {chat.number}"
    return replace(FRESH, name=name, who=who, mode=TriggerMode.WORD if called_for else TriggerMode.ALWAYS)


def _free_folder(tx: Tx, chat: SeenChat) -> str:
    """A name that no group ever had: a folder may hold what its chat wrote."""
    text = unicodedata.normalize("NFKD", chat.name).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", text)[:_FOLDER].strip("-")
    if not base or base.isdigit():
        base = f"chat-{chat.number}"
    taken = {g.folder.lower() for g in chats.groups(tx)} | {GLOBAL, MAIN}
    names = (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3)))
    return check_new_folder(next(name for name in names if name not in taken))


def _now(tx: Tx, group: Group) -> Group:
    """As it is in this transaction. Raises Refused for one that is gone."""
    found = chats.group(tx, group.id)
    if found.state is GroupState.REMOVED:
        raise Refused(f"the group {group.folder} was removed; `nanoclaw groups add` serves a chat again")
    return found


def _release(tx: Tx, group: Group, causes: frozenset[Cause]) -> None:
    for lane in turns.lanes_of(tx, group.id):
        if turns.parked(tx, lane)[0] in causes:
            turns.release(tx, lane, by_person=True)
            for cause in PARKING & causes:
                outgoing.forget_notices(tx, f"parked:{cause}:{lane}")


def typed(by: By, what: str) -> None:
    """A widening was typed by the owner, or it does not happen. Raises Refused."""
    if not by.typed:
        raise Refused(f"only the owner may {what}: ask for it")


# --- what an agent asks for: in our words, and done when the owner says so ----------------------


def add_sentence(tx: Tx, args: dict[str, Any]) -> str:
    """`args`: chat (its number), folder (optional)."""
    chat = _addable(tx, _chat_id(args))
    folder = args.get("folder")
    if folder is not None:
        group = chats.group_by_folder(tx, check_new_folder(str(folder)))
        if group is not None and group.state is not GroupState.REMOVED:
            raise Refused(f"the folder {folder!r} has a group already: choose another name")
        kept = " (it holds the files of a group that was removed)" if group is not None else ""
    new = _fresh(tx, chat)
    where = f"in the folder {folder}{kept}" if folder is not None else "in a folder of its own"
    people_in = f"{chat.members} people" if chat.members else "nobody knows how many people"
    size = f", {people_in}" if chat.is_group else ""
    return f"serve the chat {called(chat)} ({chat.channel}{size}) with an agent {where}; who may call it: {new.who}."


def add_apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do it."""
    folder = args.get("folder")
    group = add(tx, _chat_id(args), None if folder is None else str(folder), by, now)
    return f"Done: the group {group.folder} is served."


def update_sentence(tx: Tx, args: dict[str, Any]) -> str:
    """`args`: group (its folder), settings (by name)."""
    group, after = _update(tx, args)
    told = changes(group, after)
    if not told:
        raise Refused("that changes nothing")
    return f"change the group {group.folder}: {'; '.join(told)}."


def update_apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do it."""
    group, after = _update(tx, args)
    shown = {key for key, setting in SETTINGS.items() if setting.show(group) != setting.show(after)}
    told = {key: text for key, text in args["settings"].items() if key in shown}
    change(tx, group, told, by, now)  # the others may do something as well: the owner was told nothing of them
    return f"Done: the group {group.folder} is changed."


def remove_sentence(tx: Tx, args: dict[str, Any]) -> str:
    """`args`: group (its folder)."""
    group = _named(tx, args)
    if group.is_main:
        raise Refused("main cannot be removed")
    return f"remove the group {group.folder}: its chats are not served any more, its folder is kept."


def remove_apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do it."""
    group = remove(tx, _named(tx, args), by, now)
    return f"Done: the group {group.folder} is removed."


def _update(tx: Tx, args: dict[str, Any]) -> tuple[Group, Group]:
    group, settings = _named(tx, args), args.get("settings")
    if not isinstance(settings, dict) or not settings:
        raise Refused(f"settings are given by name; known are {', '.join(SETTINGS)}")
    return group, put(group, settings)


def _named(tx: Tx, args: dict[str, Any]) -> Group:
    if not isinstance(args.get("group"), str):
        raise Refused("say which group, by its folder")
    return find(tx, args["group"])


def _chat_id(args: dict[str, Any]) -> int:
    number = args.get("chat")
    if not isinstance(number, int) or isinstance(number, bool):
        raise Refused("say which chat, by its number")
    return number
