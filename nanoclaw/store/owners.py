"""Who is an owner: by the number that we share, by nanoclaw.toml, or by the one-time code."""

import hashlib
import hmac
from dataclasses import replace

from nanoclaw.models import Account, Group, Role
from nanoclaw.store import Tx, chats, ledger, messages, people, turns

CLAIM_MS = 600_000  # ten minutes
CLAIM_TRIES = 5  # of one person
CLAIM_TRIES_IN_ALL = 30


def meet_account(tx: Tx, account: Account, now: int) -> None:
    """Remember who we are on a channel. On a shared number we are the owner, whose own chat is main's."""
    me, role = chats.learn_person(tx, account.channel, account.jids, "")
    _leave_account(tx, account.channel)
    if account.shared:
        chats.learn_person(tx, account.channel, account.jids, "", Role.OWNER)
        join_main(tx, chats.know_chat(tx, account.channel, account.jids, "", False, now))
    elif role is Role.OWNER:  # it was the owner's number, and is the assistant's now
        _dismiss(tx, account.channel, me)
    ledger.set_account(tx, account)


def _leave_account(tx: Tx, channel: str) -> None:
    """Who was the owner by the number that we shared is it no more, unless listed (or made it anew)."""
    before = ledger.account(tx, channel)
    old = chats.person(tx, channel, before.jids) if before is not None and before.shared else None
    if old is not None and not _is_listed(tx, old[0]):
        _dismiss(tx, channel, old[0])


def settle(tx: Tx, channel: str, numbers: tuple[str, ...], *, shared: bool) -> None:
    """At a start: owners are who nanoclaw.toml names now, and a number that is not shared makes none."""
    for person_id in _unlisted(tx, numbers):
        _dismiss(tx, channel, person_id)
    for number in numbers:
        _list(tx, channel, f"{number.removeprefix('+')}@s.whatsapp.net", number)
    known = ledger.account(tx, channel)
    if known is not None and known.shared and not shared:
        _leave_account(tx, channel)
        ledger.forget_account(tx, channel)


def new_claim(tx: Tx, code: str, now: int) -> int:
    """A one-time code for who is to be the owner, in place of an earlier one; until when it counts."""
    ledger.set_claim(tx, ledger.Claim(_digest(code), now + CLAIM_MS))
    return now + CLAIM_MS


def claims(tx: Tx, code: str, sender: str, wa_id: str, now: int) -> bool:
    """Whether this is the code; then it is used up, and so it is after too many wrong ones.

    Who has sent too many is not heard any more; a message that comes again counts once.
    """
    claim = ledger.claim(tx)
    if claim is None or (sender, wa_id) in claim.tried:
        return False
    if sum(who == sender for who, _ in claim.tried) >= CLAIM_TRIES:
        return False
    right = now < claim.until and hmac.compare_digest(claim.digest, _digest(code))
    tried = (*claim.tried, (sender, wa_id))
    over = right or now >= claim.until or len(tried) >= CLAIM_TRIES_IN_ALL
    ledger.set_claim(tx, None if over else replace(claim, tried=tried))
    return right


def join_main(tx: Tx, chat_id: int) -> Group:
    """This chat is one of the owner's own."""
    main = chats.main_group(tx)
    chats.join_group(tx, chat_id, main.id)
    return main


def leave_main(tx: Tx, chat_id: int) -> None:
    """This chat is none of the owner's any more: nobody gets an answer to what waits there."""
    chats.join_group(tx, chat_id, None)
    turns.drop_waiting(tx, chat_id)
    messages.drop_open(tx, chat_id)


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _list(tx: Tx, channel: str, jid: str, number: str) -> None:
    """nanoclaw.toml names an owner by number; only once, so that who gets that number later does not inherit it."""
    if tx.execute("SELECT 1 FROM people WHERE listed = ?", (number,)).fetchone() is None:
        person_id, _ = chats.learn_person(tx, channel, (jid,), "", Role.OWNER)
        tx.execute("UPDATE people SET listed = ? WHERE id = ?", (number, person_id))


def _unlisted(tx: Tx, numbers: tuple[str, ...]) -> list[int]:
    """Who is an owner by a number that nanoclaw.toml names no more."""
    rows = tx.execute("SELECT id, listed FROM people WHERE listed <> ''").fetchall()
    return [row["id"] for row in rows if row["listed"] not in numbers]


def _is_listed(tx: Tx, person_id: int) -> bool:
    """Whether nanoclaw.toml names this owner."""
    return bool(tx.execute("SELECT listed FROM people WHERE id = ?", (person_id,)).fetchone()["listed"])


def _dismiss(tx: Tx, channel: str, person_id: int) -> None:
    """An owner no more: a guest, whose own chat is none of main's, and what waits has a guest's right."""
    tx.execute("UPDATE people SET role = ?, listed = '' WHERE id = ?", (Role.GUEST, person_id))
    turns.unmake(tx, person_id)
    for group in chats.groups(tx):
        people.quiet(tx, group)
    own = tx.execute(
        "SELECT id FROM chats WHERE NOT is_group AND group_id IN (SELECT id FROM groups WHERE is_main)"
        " AND id IN (SELECT c.chat_id FROM chat_jids c JOIN person_jids p ON p.channel = c.channel AND p.jid = c.jid"
        " WHERE p.person_id = ? AND p.channel = ?)",
        (person_id, channel),
    )
    for row in own.fetchall():
        leave_main(tx, row["id"])
