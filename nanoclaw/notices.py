"""The host's own words when something went wrong: one sentence for the chat, the detail for main alone."""

from unicodedata import category

from nanoclaw.errors import Cause
from nanoclaw.hints import typed
from nanoclaw.prompts import plain

_LONGEST = 300  # characters of a detail
_UNQUOTED = str.maketrans("«»`", "'''")  # a backtick may begin what WhatsApp shows as it stands

_FAILED = {
    Cause.TIMEOUT: "Sorry, that took too long and I stopped it.",
    Cause.RESTART: "Sorry, I was restarted in the middle of that.",
    Cause.OVERLOAD: "Sorry, the model is overloaded and I could not finish that. Please ask again later.",
    Cause.NETWORK: "Sorry, I could not reach the model. Please ask again later.",
    Cause.COST: "Sorry, that became too expensive and I stopped. Ask again in smaller steps, or /new to start afresh.",
}
AFRESH = "the model refuses the earlier conversation; trying without it"  # provisional, as `again`
_WAITS = {
    Cause.BUDGET: "My limit for now is used up. Your message is kept; I will answer when the limit allows it.",
    Cause.QUOTA: "I am out of quota for now. Your message is kept; I will answer as soon as I can.",
    Cause.LOOP: "This goes on without anybody in charge, so I pause here until one of them writes to me.",
}
_ADVICE = {
    Cause.LOOP: "Two bots may be talking to each other: look at that chat, and write there to let it go on.",
    Cause.CREDENTIAL: "The model's API refused the key. Give a new one with `nanoclaw setup --replace-key`.",
    Cause.BILLING: "The model's API wants payment: check the account's billing.",
    Cause.QUOTA: "The account's quota is used up: wait, or raise it with the provider.",
    Cause.BUDGET: "A limit is used up: wait for it to start again, or raise it (tokens_per_day, budget_… in `nanoclaw"
    " config show`); /usage says where it went.",
    Cause.COST: "A turn may cost no more (budget_turn in `nanoclaw config show`).",
    Cause.IMAGE: "The agent image is missing or does not fit: run `nanoclaw image build`.",
    Cause.ENGINE: "The container engine does not answer: start it (for Docker: `sudo systemctl start docker`).",
    Cause.DISK: "The disk is full: free some space.",
    Cause.NETWORK: "The model's API cannot be reached: check the connection and base_url.",
    Cause.OVERLOAD: "The model's API is overloaded.",
    Cause.SCRIPT: "The task's script failed; it comes less often until it works.",
}
# Causes that the host alone can find, so that the words are its own.
_OURS = frozenset({Cause.IMAGE, Cause.ENGINE, Cause.DISK, Cause.TIMEOUT, Cause.RESTART, Cause.LOOP})


def failed(cause: Cause, *, spoke: bool) -> str:
    """A turn has ended without its answer; what was sent or done before stands."""
    text = _FAILED.get(cause, "Sorry, something went wrong and I could not finish that.")
    if spoke:
        return f"{text} What I had sent or done before that stands; I did not repeat it."
    if "ask again" in text:
        return text
    return f"{text} Please ask again."


def again(cause: Cause, wait_ms: int) -> str:
    """Provisional: a turn is tried once more."""
    why = {Cause.NETWORK: "the model cannot be reached", Cause.QUOTA: "the model's limit is reached"}
    return f"{why.get(cause, 'the model is overloaded')}; next try in {wait_ms // 1000} s"


def waits(cause: Cause) -> str:
    """The lane is parked: nothing is lost, but nothing moves until somebody acts."""
    return _WAITS.get(cause, "I cannot work at the moment. Your message is kept; I will answer when this is mended.")


TASK_WAITS = "I cannot do a scheduled task at the moment. It is kept; I will do it as soon as I can."


def task_failed(number: int | None, *, spoke: bool) -> str:
    """A task's turn has ended without its answer."""
    text = f"Sorry, I could not finish the scheduled task {number} this time."
    return f"{text} What I had sent or done before that stands; I did not repeat it." if spoke else text


def task_paused(number: int, folder: str, why: str) -> str:
    """For main: nothing of it is done any more."""
    return (
        f"Task {number} of {folder} {why}, so it is paused. `nanoclaw tasks log {number}` shows more, "
        f"`nanoclaw tasks resume {number}` lets it go on."
    )


def clock_leapt(by: str) -> str:
    """For main: what is due by the new time is not done yet."""
    return (
        f"My machine's clock went ahead by {by} at one stroke. If it is wrong, set it right now: in ten minutes I "
        "believe it, and do what is scheduled until then."
    )


def undelivered(channel: str, chat: str, why: str) -> str:
    """For main: a chat did not get a text, and will not."""
    return (
        f"A text for the chat «{unquoted(chat) or 'without a name'}» on {channel} could not be delivered "
        f"and is given up: «{unquoted(why)}». See whether I am still in that chat."
    )


def welcome(name: str) -> str:
    """To the person who has just become the owner, in the chat that has become main."""
    return (
        f"Hello! I am {name}, and you are my owner now. What you write in this chat reaches me; "
        "/help says what I understand. The code is used up."
    )


def detail(cause: Cause, lane: str, text: str, *, quoted: bool = True) -> str:
    """For main: what happened and what to do, on one line.

    An agent may have written `text`, and must not speak as the host: it is quoted, unless the caller knows better.
    """
    text = _one_line(text)
    own = not quoted or cause in _OURS
    text = typed(text) if own or not text else f"the agent's run said: «{unquoted(text)}»"
    return " ".join(x for x in (f"[{lane}: {cause}]", typed(_ADVICE.get(cause, "")), text) if x)


def unquoted(text: str) -> str:
    """Foreign text for between « and »: one line that can neither end the quotation nor go on for long, of signs that
    are seen."""
    return "".join(c for c in _one_line(text) if category(c) != "Cf").translate(_UNQUOTED)


def _one_line(text: str) -> str:
    text = " ".join(plain(text[: 10 * _LONGEST]).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
