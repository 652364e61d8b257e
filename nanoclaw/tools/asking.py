"""ask_user: a question to whoever the turn answers; the call waits, and the run's slot is another's meanwhile."""

from nanoclaw import failpoints, prompts
from nanoclaw.control import questions as rule
from nanoclaw.errors import Refused
from nanoclaw.models import Authority, OutKind, OutState, TurnState
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, chats, messages, outgoing, people, questions, runs, turns
from nanoclaw.store.questions import Question
from nanoclaw.store.runs import Call
from nanoclaw.tools.chat import next_part
from nanoclaw.tools.desk import Kit, running

MAX_MINUTES = 20
MAX_OPTIONS = 10
_MINUTES = 5
_MAX_QUESTION = 1000  # characters
_MAX_OPTION = 100
_MOST_MS = 28 * 60_000  # after which the agent gives the call up, whoever was restarted meanwhile
_LOOK = 10.0  # seconds; a bell is the rule, this finds what it does not tell


async def ask_user(kit: Kit, call: Call) -> tuple[bool, str]:
    """The question is a row, so is its answer."""
    await kit.store.insist(ask, call, kit.clock())
    failpoints.hit("acted")
    kit.outbox.wake()
    return await _waited(kit, call)


async def again(kit: Kit, call: Call) -> tuple[bool, str]:
    """After a start: nobody could answer while no host lived, so its time begins anew."""
    await kit.store.insist(rearm, call, kit.clock())
    return await _waited(kit, call)


async def _waited(kit: Kit, call: Call) -> tuple[bool, str]:
    if len(await kit.store.read(runs.unanswered, call.run_id)) == 1:  # else it does other things, too
        kit.rest(call.run_id)
    while (told := await kit.store.read(outcome, call, kit.new_nonce(), kit.clock())) is None:
        await kit.answers.wait(_LOOK)
    await kit.rise(call.run_id)
    return told


def ask(tx: Tx, call: Call, now: int) -> None:
    """The effect of ask_user, in the caller's transaction. Raises Refused."""
    turn = running(tx, call)
    person = messages.asker(tx, turn.id)
    if turn.authority is Authority.TASK or person is None:
        raise Refused("nobody is there who could be asked: decide yourself, and say what you assumed")
    text, options, minutes = _wanted(call)
    chat = chats.chat(tx, turn.chat_id)
    part, quote = next_part(tx, turn), messages.newest_of_turn(tx, turn.id)
    said = rule.worded(text, options, chat)
    out_id = outgoing.queue(tx, chat.id, said, OutKind.REPLY, now, turn_id=turn.id, part=part, quote=quote)
    patience = minutes * 60_000
    question = Question(call.run_id, call.n, chat.id, person, out_id, options, now, patience, now + patience)
    questions.insert(tx, question)
    runs.acted(tx, call.run_id, call.n, out_id)
    turns.spoke(tx, turn.id)


def _wanted(call: Call) -> tuple[str, tuple[str, ...], int]:
    question, options = call.args.get("question"), call.args.get("options") or []
    minutes = call.args.get("minutes", _MINUTES)
    text = prompts.for_people(question) if isinstance(question, str) else ""
    if not text or len(text) > _MAX_QUESTION:
        raise Refused(f"question must have 1 to {_MAX_QUESTION} characters")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise Refused("options must be a list of short texts")
    shown = tuple(" ".join(plain(option).split()) for option in options)
    if shown and not 2 <= len(shown) <= MAX_OPTIONS:
        raise Refused(f"options are 2 to {MAX_OPTIONS}, or none")
    if len({option.casefold() for option in shown}) < len(shown) or any(not 0 < len(o) <= _MAX_OPTION for o in shown):
        raise Refused(f"each option must be another one, of 1 to {_MAX_OPTION} characters")
    if not isinstance(minutes, int) or not 1 <= minutes <= MAX_MINUTES:
        raise Refused(f"minutes must be a number from 1 to {MAX_MINUTES}")
    return text, shown, minutes


def rearm(tx: Tx, call: Call, now: int) -> None:
    """It may be answered for as long as at first; the agent's own patience is not outlasted."""
    if (question := questions.get(tx, call)) is not None and not question.answer:
        questions.rearm(tx, question, min(now + question.patience, question.asked_at + _MOST_MS))


def outcome(tx: Tx, call: Call, nonce: str, now: int) -> tuple[bool, str] | None:
    """What the agent is told; None while it is to wait. Raises Refused when the turn has ended."""
    question = questions.get(tx, call)
    if question is None:
        return True, "Nobody answered: decide yourself, and say what you assumed."
    if question.answer:
        return True, _told(tx, question, nonce)
    turn = turns.get(tx, call.turn_id)
    if turn is None or turn.state is not TurnState.GIVEN:
        raise Refused("this turn has ended")
    state, error = outgoing.state(tx, question.outgoing_id)
    if state is OutState.DEAD:
        return False, f"Not asked: {error or 'the other side refused it'}."
    if now < question.until:
        return None
    if state is not OutState.SENT:
        return False, "The question is not delivered yet: the chat cannot be reached just now. Go on without an answer."
    minutes = question.patience // 60_000
    return True, f"Nobody answered within {minutes} min: decide yourself, and say what you assumed, or end here."


def _told(tx: Tx, question: Question, nonce: str) -> str:
    person = people.get(tx, question.person_id)
    name = person.name if person is not None else ""
    which = rule.chosen(question.options, question.answer)
    if which is not None:
        return f'"{prompts.clean_name(name)}" chose {which + 1}: {question.options[which]}'
    return prompts.answer(name, question.answer, nonce)
