"""What an agent's letters, and the end of its run, do to the rows: each batch is one transaction."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loguru import logger

from nanoclaw import notices
from nanoclaw.control.firing import back_off
from nanoclaw.control.heartbeat import HEARTBEAT_OK, MAX_HEARTBEAT_OK
from nanoclaw.errors import PARKING, Cause
from nanoclaw.mailbox import Hello, Reply, Request, ToHost, TurnDone, Woken, prompt_of
from nanoclaw.models import OutKind, RunRow, RunState, Turn, TurnState, is_of_task
from nanoclaw.store import Tx, chats, messages, outgoing, runs, tasks, turns
from nanoclaw.tools.chat import MAX_SAID
from nanoclaw.tools.words import Parts, Spoken, spoken

MAX_RETRIES = 5  # overloads waited for, after the CLI itself gave up
RETRY_BASE_MS = 5_000  # doubled each time
MAX_WAIT_MS = RETRY_BASE_MS * 2**MAX_RETRIES  # no turn is ever put off for longer
MAX_KILLS = 2  # containers that may die under one turn
MAX_BAD = 100  # letters that an honest agent does not write, before the run is ended
_REPLIES = 2 * MAX_SAID + MAX_BAD  # of one batch; an agent that writes more of them is a flood
MAX_WOKEN = 40_000  # characters of what a script tells the model
MAX_WAITING = 16  # requests of one run that may wait for their answers
ASLEEP = "the script did not ask for the model"  # in the task's log
_SESSION = re.compile(r"\w[\w-]{0,63}", re.ASCII)
_HISTORY = (400, 413)  # statuses by which the API may refuse the whole conversation, not what was said last
_STATUS = {
    401: Cause.CREDENTIAL,
    402: Cause.BILLING,
    403: Cause.CREDENTIAL,
    429: Cause.QUOTA,
    502: Cause.NETWORK,
    504: Cause.NETWORK,
}


@dataclass(frozen=True)
class Ready:
    """A reply that is put into words already: they can take longer than a transaction may."""

    turns: tuple[str, ...]
    said: Spoken


@dataclass
class Effects:
    """What the living process has to do once the transaction is on the disk."""

    calls: list[int] = field(default_factory=list)  # requests to handle
    refused: bool = False  # others have their answer already: a letter to be written
    ended: list[str] = field(default_factory=list)  # turns, in whatever state
    again: dict[str, str] = field(default_factory=dict)  # turns of those that are tried again, and why
    said: bool = False  # rows for the outbox
    bad: int = 0  # letters, or parts of them, that an honest agent does not write
    spoiled: str = ""  # the session that the model's API refuses
    succeeded: bool = False  # a turn was answered: what was parked may go on


def ready(batch: Sequence[ToHost], parts: Parts, clean: Callable[[str], str] = str) -> list[ToHost | Ready]:
    """The letters to be applied, each reply in words; `clean` takes out what nobody may say. It may take a second."""
    done: list[ToHost | Ready] = []
    room = _REPLIES
    for letter in (_cleaned(x, clean) for x in _joined(batch)):
        if isinstance(letter, Reply) and (room := room - 1) >= 0:
            done.append(Ready(letter.turns, spoken(letter.text, parts)))
        else:
            done.append(letter)
    return done


def apply(tx: Tx, run_id: str, batch: Sequence[ToHost | Ready], offset: int, now: int, *, over_budget: bool) -> Effects:
    """Apply what `ready` made of a batch together with the offset behind it, so that each letter counts once."""
    effects = Effects()
    for letter in batch:
        if effects.bad > MAX_BAD:
            break  # the run is ended for it; others want to write too
        if isinstance(letter, Hello):
            runs.hello(tx, run_id)
        elif isinstance(letter, Request):
            _request(tx, run_id, letter, effects)
        elif isinstance(letter, Ready):
            _reply(tx, run_id, letter, now, effects)
        elif isinstance(letter, Reply):
            effects.bad += 1
        elif isinstance(letter, Woken):
            _woken(tx, run_id, letter, effects)
        elif isinstance(letter, TurnDone):
            _done(tx, run_id, letter, now, effects, over_budget)
    runs.set_offset(tx, run_id, offset)
    return effects


def _cleaned(letter: ToHost, clean: Callable[[str], str]) -> ToHost:
    """The same with every text in it looked through."""
    if isinstance(letter, Reply):
        return replace(letter, text=clean(letter.text))
    if isinstance(letter, Woken):
        return replace(letter, data=clean(letter.data))
    if isinstance(letter, TurnDone):
        return replace(letter, error=clean(letter.error))
    if isinstance(letter, Request):
        return replace(letter, tool=clean(letter.tool), args=_clean_args(letter.args, clean))
    return letter


def _clean_args(args: dict[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """Nothing is left of them where it is spread over several, or too deep to be looked for: no tool does anything."""
    try:
        if (text := json.dumps(args, ensure_ascii=False)) == clean(text):
            return args
        args = {key: _clean_value(value, clean) for key, value in args.items()}
        return args if (text := json.dumps(args, ensure_ascii=False)) == clean(text) else {}
    except RecursionError:
        return {}


def _clean_value(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean_value(inner, clean) for inner in value]
    return {key: _clean_value(inner, clean) for key, inner in value.items()} if isinstance(value, dict) else value


def _joined(batch: Sequence[ToHost]) -> list[ToHost]:
    """A long reply comes in parts: they are one text again before anything is looked for in it."""
    whole: list[ToHost] = []
    for letter in batch:
        last = whole[-1] if whole else None
        if isinstance(letter, Reply) and isinstance(last, Reply) and letter.turns == last.turns:
            whole[-1] = Reply(letter.turns, last.text + letter.text)
        else:
            whole.append(letter)
    return whole


def _request(tx: Tx, run_id: str, letter: Request, effects: Effects) -> None:
    turn = turns.get(tx, letter.turn)
    if turn is None or turn.run_id != run_id:
        effects.bad += 1
    elif runs.add_request(tx, run_id, letter.n, letter.turn, letter.tool, letter.args):
        if len(runs.unanswered(tx, run_id)) > MAX_WAITING:
            runs.answer(tx, run_id, letter.n, False, "too many calls at once: wait for the answers to the others")
            effects.bad += 1
            effects.refused = True
        else:
            effects.calls.append(letter.n)


def _mine(tx: Tx, run_id: str, ids: tuple[str, ...], effects: Effects) -> list[Turn]:
    """The named turns that this run was given; a stopped one counts as named but is not reopened."""
    found = [t for i in ids if (t := turns.get(tx, i)) is not None and t.run_id == run_id]
    effects.bad += len(ids) - len(found)
    return found


def _reply(tx: Tx, run_id: str, letter: Ready, now: int, effects: Effects) -> None:
    if not letter.turns:
        _unsolicited(tx, run_id, letter.said, now, effects)
        return
    given = [t for t in _mine(tx, run_id, letter.turns, effects) if t.state is TurnState.GIVEN]
    if not given:
        return  # stopped: its late reply is dropped
    last = given[-1]
    if (part := outgoing.spoken(tx, last.id)) >= 2 * MAX_SAID:
        effects.bad += 1
        return
    texts = letter.said.on(chats.chat(tx, last.chat_id).channel)
    if all(t.silent for t in given) or not texts or _nothing_new(tx, last, texts):
        return  # it is for nobody
    if any(outgoing.said_in_turn(tx, t.id, texts) for t in given):
        return  # the agent had sent the same by send_message
    quote = messages.newest_of_turn(tx, last.id)
    outgoing.queue_parts(tx, last.chat_id, texts, OutKind.REPLY, now, turn_id=last.id, part=part, quote=quote)
    for turn in given:
        turns.replied(tx, turn.id)
    effects.said = True


def _nothing_new(tx: Tx, turn: Turn, texts: list[str]) -> bool:
    """Whether it is a heartbeat's word for that."""
    text = "".join(texts).strip("*_`~ \n")
    if turn.firing is None or not text.startswith(HEARTBEAT_OK) or len(text) > MAX_HEARTBEAT_OK:
        return False
    task = tasks.get(tx, tasks.of_turn(tx, turn.id) or 0)
    return task is not None and task.options.heartbeat


def _unsolicited(tx: Tx, run_id: str, said: Spoken, now: int, effects: Effects) -> None:
    last = turns.last_of_run(tx, run_id)
    if last is None or turns.all_silent(tx, run_id):
        return
    if texts := said.on(chats.chat(tx, last.chat_id).channel):
        outgoing.queue_parts(tx, last.chat_id, texts, OutKind.REPLY, now)
        effects.said = True
        effects.bad += 1  # a few may come; a stream of them is a flood


def _woken(tx: Tx, run_id: str, letter: Woken, effects: Effects) -> None:
    """What a script watches may look as it did when it is asked again: it has been heard, whatever happens now."""
    turn = turns.get(tx, letter.turn)
    if turn is None or turn.run_id != run_id or not turn.script or len(letter.data) > MAX_WOKEN:
        effects.bad += 1
    elif turn.state is TurnState.GIVEN:
        turns.woken(tx, turn.id, prompt_of(turn.prompt, letter.data))


def _done(tx: Tx, run_id: str, letter: TurnDone, now: int, effects: Effects, over_budget: bool) -> None:
    named = _mine(tx, run_id, letter.turns, effects)
    run = runs.get(tx, run_id)
    assert run is not None  # noqa: S101 - who reads its letters knows it
    session = letter.session if _SESSION.fullmatch(letter.session) else ""  # it goes into a command line, and a path
    if named and session and run.state is not RunState.CLOSING and not is_of_task(run.lane):  # not after /new
        turns.set_session(tx, run.lane, session)
    given = [t for t in named if t.state is TurnState.GIVEN]
    effects.ended += [t.id for t in named]
    if named:
        turns.add_cost(tx, named[0].id, letter.cost)
        turns.joined(tx, run_id, [turn.id for turn in named])
    for turn in given:
        if turn.script and letter.outcome in ("asleep", "script"):
            _without_model(tx, turn, letter, now)
            effects.said = True
        elif letter.outcome == "ok":
            _answered(tx, turn, given[-1].id, now)
            effects.succeeded = True
        elif letter.outcome == "stopped" and len(given) < len(named):  # with the one that a person stopped
            turns.end(tx, turn.id, TurnState.STOPPED, now)
        elif letter.outcome == "stopped":
            _orphaned(tx, turn, Cause.SANDBOX, "it was interrupted, and nobody had asked for that", now)
            effects.said = True
        elif not over_budget and _refuses_history(tx, run, letter):
            effects.spoiled = session or run.session
            _afresh(tx, turn, run, letter, now, effects)
        else:
            cause = Cause.BUDGET if over_budget else _cause(letter)
            if wait := failed(tx, turn, cause, letter.error, now):
                effects.again[turn.id] = notices.again(cause, wait)
            effects.said = True


def _answered(tx: Tx, turn: Turn, by: str, now: int) -> None:
    turns.end(tx, turn.id, TurnState.DONE, now)
    turns.answered_by(tx, turn.id, by)
    forget(tx, turn.lane)
    if turn.firing is not None:
        _forget_task(tx, turn)


def _without_model(tx: Tx, turn: Turn, letter: TurnDone, now: int) -> None:
    """Its script did not ask for the model, or failed."""
    if letter.outcome == "asleep":
        turns.end(tx, turn.id, TurnState.DONE, now, error=ASLEEP)
        _forget_task(tx, turn)
        return
    _end_told(tx, turn, Cause.SCRIPT, letter.error, now, quoted=True)
    if (task_id := tasks.of_turn(tx, turn.id)) is not None:
        back_off(tx, task_id, now)


def _refuses_history(tx: Tx, run: RunRow, letter: TurnDone) -> bool:
    """Whether what was said in earlier turns may be to blame; in a new session it cannot be."""
    earlier = run.session or runs.first_turn(tx, run.id) not in ("", *letter.turns)
    return letter.status in _HISTORY and _cause(letter) is Cause.MODEL and bool(earlier)


def _afresh(tx: Tx, turn: Turn, run: RunRow, letter: TurnDone, now: int, effects: Effects) -> None:
    """The lane gets a new session with its next run, and the turn is tried there: once, since that has no history."""
    turns.refuse_session(tx, run.lane, effects.spoiled)
    runs.closing(tx, run.id)
    if turn.spoke:
        _end_told(tx, turn, Cause.MODEL, letter.error, now, quoted=True)
        effects.said = True
    else:
        turns.reopen(tx, turn.id)
        effects.again[turn.id] = notices.AFRESH


def _cause(letter: TurnDone) -> Cause:
    if "credit balance" in letter.error.lower():
        return Cause.BILLING
    if "cannot be reached" in letter.error:  # the gateway's own words, as in the next lines
        return Cause.NETWORK
    if letter.status == 403 and ("daily limit of" in letter.error or "monthly limit of" in letter.error):
        return Cause.BUDGET
    if letter.status == 403 and "limit of one turn" in letter.error:
        return Cause.COST
    if letter.status == 403 and "the gateway" in letter.error:
        return Cause.POLICY
    if not letter.status:
        return Cause.SANDBOX
    return _STATUS.get(letter.status, Cause.OVERLOAD if letter.status >= 500 else Cause.MODEL)


def failed(tx: Tx, turn: Turn, cause: Cause, detail: str, now: int, *, quoted: bool = True) -> int:
    """The model gave no answer: try again later, park the lane, or end the turn and tell it.

    Milliseconds until the next try, 0 for none. `quoted`: an agent may have written the detail.
    """
    logger.warning("Turn {} of {} failed: {}", turn.id, turn.lane, cause)
    patient = cause in (Cause.OVERLOAD, Cause.NETWORK, Cause.QUOTA) and turn.retries < MAX_RETRIES
    wait = RETRY_BASE_MS * 2**turn.retries if patient and not turn.spoke else 0
    if wait:
        turns.reopen(tx, turn.id, not_before=now + wait, retried=True)
    elif cause in PARKING and not turn.spoke:
        turns.reopen(tx, turn.id)
    else:
        _end_told(tx, turn, cause, detail, now, quoted=quoted)
    if cause in PARKING and not patient:
        park(tx, turn.lane, turn.chat_id, cause, detail, now, quoted=quoted, silent=turn.silent)
    return wait


def park(
    tx: Tx, lane: str, chat_id: int, cause: Cause, detail: str, now: int, *, quoted: bool, silent: bool = False
) -> None:
    """The lane waits; its chat is told once (of all its tasks, too), main learns the detail once."""
    turns.park(tx, lane, cause, detail[:2000], now)
    words = notices.detail(cause, lane, detail, quoted=quoted)
    text = notices.TASK_WAITS if is_of_task(lane) else notices.waits(cause)
    for told, said in _told(tx, chat_id, text, words, silent=silent).items():
        outgoing.tell_once(tx, _parked(cause, lane), told, said, now)


def _parked(cause: Cause, lane: str) -> str:
    return f"parked:{cause}:{lane.partition('#')[0]}"


def release(tx: Tx, lane: str) -> None:
    """The lane goes on."""
    turns.release(tx, lane)
    forget(tx, lane)


def forget(tx: Tx, lane: str) -> None:
    """What parked the lane is over: the next trouble is told again."""
    for cause in PARKING:
        outgoing.forget_notices(tx, _parked(cause, lane))


def _end_told(tx: Tx, turn: Turn, cause: Cause, detail: str, now: int, *, quoted: bool = False) -> None:
    turns.end(tx, turn.id, TurnState.FAILED, now, error=f"{cause}: {detail[:500]}")
    if turn.firing is not None:
        _task_told(tx, turn, cause, detail, now, quoted=quoted)
        return
    words = notices.detail(cause, turn.lane, detail, quoted=quoted)
    told = _told(tx, turn.chat_id, notices.failed(cause, spoke=turn.spoke), words)
    for chat_id, text in told.items():
        of = turn.id if chat_id == turn.chat_id else ""
        outgoing.queue(tx, chat_id, text, OutKind.NOTICE, now, turn_id=of)


def _task_told(tx: Tx, turn: Turn, cause: Cause, detail: str, now: int, *, quoted: bool) -> None:
    """A task that fails of the same every hour is told of once, until it was done again."""
    task_id = tasks.of_turn(tx, turn.id)
    words = notices.detail(cause, f"{turn.lane.partition('#')[0]}, task {task_id}", detail, quoted=quoted)
    text = notices.task_failed(task_id, spoke=turn.spoke)
    for chat_id, said in _told(tx, turn.chat_id, text, words, silent=turn.silent).items():
        outgoing.tell_once(tx, f"task:{task_id}:{cause}", chat_id, said, now)


def _forget_task(tx: Tx, turn: Turn) -> None:
    task_id = tasks.of_turn(tx, turn.id)
    for cause in Cause:
        outgoing.forget_notices(tx, f"task:{task_id}:{cause}")


def _told(tx: Tx, chat_id: int, text: str, detail: str, *, silent: bool = False) -> dict[int, str]:
    """By chat: the sentence for the one that it concerns, the detail for main alone; one message if they are one."""
    group_id = chats.chat(tx, chat_id).group_id
    if group_id is not None and chats.group(tx, group_id).is_main:
        return {chat_id: f"{text}\n{detail}"}
    main = chats.main_chat(tx)
    here = {} if silent else {chat_id: text}
    return here if main is None else {**here, main.id: detail}


def end_run(tx: Tx, run_id: str, cause: Cause, detail: str, now: int) -> list[str]:
    """A run is over: what it was given is open again, or failed and told. The ids of those turns."""
    given = turns.of_run(tx, run_id)
    if not runs.end(tx, run_id, cause, now):
        return []
    for turn in given:
        _orphaned(tx, turn, cause, detail, now)
    return [t.id for t in given]


def _orphaned(tx: Tx, turn: Turn, cause: Cause, detail: str, now: int) -> None:
    if cause in PARKING and not turn.spoke:
        turns.reopen(tx, turn.id)
        park(tx, turn.lane, turn.chat_id, cause, detail, now, quoted=False, silent=turn.silent)
    elif turn.spoke or cause is Cause.TIMEOUT:
        _end_told(tx, turn, cause, detail, now)
    elif cause is Cause.RESTART:  # our own doing: no fault of the turn
        turns.reopen(tx, turn.id)
    elif turn.kills + 1 >= MAX_KILLS:
        _end_told(tx, turn, cause, detail, now)
    else:
        turns.reopen(tx, turn.id, killed=True)
