"""What is taken back: a message that its sender deleted, and what a person wants forgotten. Shells of rows stay.

The shell keeps the channel's id, so that a message which comes a second time is not answered a second time.
"""

from dataclasses import dataclass

from nanoclaw.models import MessageState, OutState, TurnState, Verdict
from nanoclaw.store import Tx
from nanoclaw.store.pending import State
from nanoclaw.store.tasks import TaskState

_BARE = "text = '', quoted_text = '', media = ''"
_ENDED = f"('{TurnState.DONE}', '{TurnState.FAILED}', '{TurnState.STOPPED}')"
# Of an error the cause alone: behind it stands what a model, a script or an agent said of it.
_CAUSE = "iif(instr(error, ':'), substr(error, 1, instr(error, ':') - 1), error)"
_OVER_TASKS = f"('{TaskState.DONE}', '{TaskState.CANCELLED}')"
# Work that waits or runs is still answered.
_OVER = (
    f"(state IN ('{MessageState.HANDLED}', '{MessageState.WITHDRAWN}')"
    f" OR (state = '{MessageState.OPEN}' AND verdict = '{Verdict.CONTEXT}'))"
)


def message(tx: Tx, chat_id: int, message_id: int, wa_id: str, person_id: int) -> None:
    """Its sender deleted it after a turn took it: nothing of it is kept, nor what repeats it."""
    tx.execute(f"UPDATE messages SET {_BARE} WHERE id = ?", (message_id,))  # noqa: S608
    tx.execute(
        f"UPDATE messages SET {_BARE} WHERE chat_id = ? AND id > ? AND quoted = ?"  # noqa: S608
        " AND (kind = 'reaction' OR (kind = 'edit' AND person_id = ?))",
        (chat_id, message_id, wa_id, person_id),
    )
    tx.execute(
        "UPDATE messages SET quoted_text = '' WHERE chat_id = ? AND id > ? AND quoted = ?", (chat_id, message_id, wa_id)
    )
    tx.execute(
        f"UPDATE turns SET prompt = '' WHERE state IN {_ENDED}"  # noqa: S608
        " AND id = (SELECT turn_id FROM messages WHERE id = ?)",
        (message_id,),
    )


@dataclass(frozen=True)
class Kept:
    """How much of a chat is there to be forgotten."""

    messages: int
    files: int
    texts: int  # of ours


def kept(tx: Tx, chat_id: int) -> Kept:
    """What `chat` with no limit would remove."""
    heard = tx.execute(
        "SELECT count(*) AS n, coalesce(sum(media <> ''), 0) AS files FROM messages"  # noqa: S608
        f" WHERE chat_id = ? AND (text <> '' OR media <> '') AND {_OVER}",
        (chat_id,),
    ).fetchone()
    said = tx.execute(
        "SELECT count(*) FROM outgoing WHERE chat_id = ? AND state = ? AND payload <> ''", (chat_id, OutState.SENT)
    ).fetchone()
    return Kept(heard["n"], heard["files"], said[0])


def chat(tx: Tx, chat_id: int, since: int, now: int) -> None:
    """Nothing of what was said there from `since` to just before `now` is kept; its turns' prompts go whole.

    A task that is to come is no talk but an order, and stays; of what is over its words go.
    """
    span = (chat_id, since, now)
    tx.execute(
        f"UPDATE messages SET {_BARE}, state = CASE state WHEN 'open' THEN 'withdrawn' ELSE state END"  # noqa: S608
        f" WHERE chat_id = ? AND saved_at >= ? AND saved_at < ? AND {_OVER}",
        span,
    )
    tx.execute(
        "UPDATE outgoing SET payload = '', file = ''"
        " WHERE chat_id = ? AND created_at >= ? AND created_at < ? AND state IN (?, ?, ?)",
        (*span, OutState.SENT, OutState.DEAD, OutState.DUPLICATE),
    )
    # What is still answered goes when it is (the triggers of these columns).
    tx.execute(
        f"UPDATE messages SET forget = 1 WHERE chat_id = ? AND saved_at >= ? AND saved_at < ? AND NOT {_OVER}",  # noqa: S608
        span,
    )
    tx.execute(
        f"UPDATE turns SET forget = 1 WHERE chat_id = ? AND created_at < ? AND state NOT IN {_ENDED}",  # noqa: S608
        (chat_id, now),
    )
    ended = f"SELECT id FROM turns WHERE chat_id = ? AND created_at >= ? AND created_at < ? AND state IN {_ENDED}"  # noqa: S608
    tx.execute(f"UPDATE requests SET args = '{{}}', answer = '' WHERE turn_id IN ({ended})", span)  # noqa: S608
    tx.execute(f"UPDATE firings SET error = {_CAUSE} WHERE turn_id IN ({ended})", span)  # noqa: S608
    bare = f"prompt = '', images = '[]', script = '', error = {_CAUSE}"
    tx.execute(f"UPDATE turns SET {bare} WHERE id IN ({ended})", span)  # noqa: S608
    tx.execute(
        "UPDATE tasks SET prompt = '', options = iif(json_valid(options), json_set(options, '$.script', ''), '{}')"  # noqa: S608
        f" WHERE chat_id = ? AND created_at >= ? AND created_at < ? AND state IN {_OVER_TASKS}",
        span,
    )
    # A task about which the owner is asked, or was and did not answer, is no order yet: it was never asked for.
    tx.execute(
        "UPDATE pending SET change = '[\"\", {}]', until = min(until, ?) WHERE state = ? AND created_at >= ?"
        " AND created_at < ? AND iif(json_valid(change), json_extract(change, '$[0]') = 'schedule_task'"
        " AND json_extract(change, '$[1].chat') = ?, 0)",
        (now, State.WAITING, since, now, chat_id),
    )
    tx.execute("DELETE FROM early WHERE chat_id = ?", (chat_id,))


def sessions(tx: Tx, lane: str, now: int) -> None:
    """The lane's sessions of before now go as soon as no container has them open."""
    tx.execute("UPDATE lanes SET forget = ? WHERE lane = ?", (now, lane))


def unforgotten(tx: Tx) -> dict[str, str]:
    """Lanes whose sessions are to go and can go now, and the session of each that stays."""
    rows = tx.execute(
        "SELECT lane, session FROM lanes WHERE forget > 0 AND NOT EXISTS"
        " (SELECT 1 FROM runs WHERE runs.lane = lanes.lane AND state <> 'ended' AND started_at <= lanes.forget)"
    )
    return {row["lane"]: row["session"] for row in rows}


def forgotten(tx: Tx, lane: str) -> None:
    """They are gone."""
    tx.execute("UPDATE lanes SET forget = 0 WHERE lane = ?", (lane,))
