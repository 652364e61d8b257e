"""What can be set for a group: by name, from a text, checked strictly."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.errors import Refused
from nanoclaw.gateway import MAX_PATTERNS, check_pattern
from nanoclaw.models import Group, Limits, TriggerMode, Who
from nanoclaw.prompts import plain

# A new group's; those that depend on the chat are chosen when it is added.
FRESH = Group(0, "", "", limits=Limits(turns_per_hour=10, open_messages=3))
DEFAULT = "default"  # the text that sets a setting back
NONE = "none"

_WORDS = ("word", "prefix", "reaction")  # settings that are somebody's words
_INNER = str.maketrans("«»", "''")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,99}")
_SKILL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


_HEAD = """# Groups

A chat is served once its owner has added it: by `/groups` and `/groups add NUMBER` in the main chat, or here:

```
nanoclaw groups chats                     every chat that was seen, newest first, each with its number
nanoclaw groups add 12                    serve chat 12, in a folder named as the chat
nanoclaw groups show family
nanoclaw groups set family who=allowed memory=2048
nanoclaw groups set family memory=default
nanoclaw groups pause family              only read along; `resume` ends it
nanoclaw groups remove family             serve it no more; its folder is kept
nanoclaw people allow +4915112345678
nanoclaw people deny +4915112345678       what they say is read along at most, until they are allowed
```

A change counts at once. A new group is told who speaks there, who may call and what is kept. In a group of up to 16
people everybody who is in it may call, in a larger one its owner alone; who joins later is read along until allowed.
In a group the word, a mention or a reply calls; in a direct chat everything does, if its person is allowed. With a
number of its own the assistant opens a direct chat for whoever is allowed; of all other direct chats nothing is kept,
and main is told once a day and person who wrote, with the command that lets them.

An agent sets nothing by itself. It asks: the owner sees the whole change in the main chat, and types the code.
"""


@dataclass(frozen=True)
class Setting:
    """One of them."""

    help: str
    put: Callable[[Group, str], Group]  # the group with this value; raises Refused with what is right
    show: Callable[[Group], str]
    main: bool = True  # whether it means anything in main


def put(group: Group, settings: Mapping[str, str]) -> Group:
    """The group with these settings. Raises Refused: nothing is set then."""
    for key, text in settings.items():
        if key not in SETTINGS:
            raise Refused(f"there is no setting {key[:40]!r}; known are {', '.join(SETTINGS)}")
        if group.is_main and not SETTINGS[key].main:
            raise Refused(f"{key} cannot be set for main: there all is for me, and only its owner is heard")
        if not isinstance(text, str):
            raise Refused(f"{key} must be given as a text")
        group = SETTINGS[key].put(group, text.strip())
    return group


def changes(before: Group, after: Group) -> list[str]:
    """What is set otherwise, whole, as in "who: owner -> everyone"; somebody's words stand between « and »."""
    pairs = ((key, s.show(before), s.show(after)) for key, s in SETTINGS.items())
    return [f"{key}: {_quoted(key, old)} -> {_quoted(key, new)}" for key, old, new in pairs if old != new]


def recorded(before: Group, after: Group) -> list[str]:
    """The same for the record, which holds nobody's words."""
    own = {f"{key}:" for key in _WORDS}
    return [line.split()[0].rstrip(":") if line.split()[0] in own else line for line in changes(before, after)]


def _quoted(key: str, value: str) -> str:
    return f"«{value.translate(_INNER)}»" if key in _WORDS else value


def reference() -> str:
    """docs/groups.md: every setting, as a table."""
    chosen = dict.fromkeys(("mode", "who"), "by the chat, see above")
    rows = [f"| `{key}` | {chosen.get(key) or s.show(FRESH)} | {s.help} |" for key, s in SETTINGS.items()]
    return "\n".join([_HEAD, "| Setting | In a new group | Meaning |", "|---|---|---|", *rows]) + "\n"


# --- kinds of settings -------------------------------------------------------------------------


def _text(key: str, help: str, check: Callable[[str], str], *, unset: str, main: bool = True) -> Setting:
    """A field that is "" by default, which is shown as `unset`."""

    def write(group: Group, text: str) -> Group:
        return _with(group, key, "" if text in ("", DEFAULT) else check(text))

    return Setting(help, write, lambda group: getattr(group, key) or unset, main)


def _word(key: str, help: str, words: Sequence[str], kind: Callable[[str], Any] = str, *, main: bool = True) -> Setting:
    """One of these words."""

    def write(group: Group, text: str) -> Group:
        if text.lower() not in words:
            raise Refused(f"{key} is one of {', '.join(words)}, not {text[:40]!r}")
        return _with(group, key, kind(text.lower()))

    return Setting(help, write, lambda g: str(getattr(g, key)), main)


def _names(key: str, help: str, check: Callable[[str], str], *, unset: str) -> Setting:
    """A list; without an entry it is shown as `unset`."""

    def write(group: Group, text: str) -> Group:
        entries = [] if text.lower() in ("", DEFAULT, unset) else [e for e in re.split(r"[,\s]+", text) if e]
        if len(entries) > MAX_PATTERNS:
            raise Refused(f"{key} has at most {MAX_PATTERNS} entries")
        return _with(group, key, tuple(dict.fromkeys(check(entry) for entry in entries)))

    return Setting(help, write, lambda g: ", ".join(getattr(g, key)) or unset)


def _number(
    key: str, help: str, low: float, high: float, *, field: str = "", whole: bool = True, unset: str = "",
    main: bool = True,
) -> Setting:  # fmt: skip
    """One of the limits; `unset`: what 0 means."""
    field = field or key

    def write(group: Group, text: str) -> Group:
        value = getattr(FRESH.limits, field) if text.lower() == DEFAULT else _parsed(text)
        more: dict[str, Any] = {field: value}
        return replace(group, limits=replace(group.limits, **more))

    def _parsed(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,12}" if whole else r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
            value = int(text) if whole else float(text)
            if low <= value <= high or (unset and not value):
                return value
        zero = f", or 0 for {unset}" if unset else ""
        raise Refused(f"{key} is a number from {low:g} to {high:.12g}{zero}, not {text[:40]!r}")

    def shown(group: Group) -> str:
        value = getattr(group.limits, field)
        return unset if unset and not value else f"{value:g}" if not whole else str(value)

    return Setting(help, write, shown, main)


def _with(group: Group, key: str, value: Any) -> Group:
    return replace(group, **{key: value})


# --- what is right -----------------------------------------------------------------------------


def _a_trigger(text: str) -> str:
    if (
        text != " ".join(plain(text).split())
        or len(text) > 40
        or text.startswith("/")
        or not any(map(str.isalnum, text))
    ):
        raise Refused("the word is up to 40 characters on one line, without a / before them, as in @Andy")
    return text


def _a_model(text: str) -> str:
    if not _MODEL.fullmatch(text):
        raise Refused(f"{text[:40]!r} is no model's name; write it as in claude-sonnet-5-5")
    return text


def _a_skill(text: str) -> str:
    if not _SKILL.fullmatch(text):
        raise Refused(f"{text[:40]!r} is no skill's name: it is that of its folder")
    return text


def _a_zone(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (KeyError, ValueError, OSError):
        raise Refused(f"{text[:40]!r} is no time zone; write it as in Europe/Berlin") from None


def _a_prefix(text: str) -> str:
    if text != " ".join(plain(text).split()) or len(text) > 40 or set("*_~`") & set(text):
        raise Refused("the prefix is up to 40 characters on one line, without * _ ~ `; it is shown as *prefix:*")
    return text


def _a_sign(text: str) -> str:
    if text != plain(text) or len(text) > 16 or (text.isascii() and text != NONE):
        raise Refused("the reaction is one sign, as in 👀, or none")
    return text


SETTINGS: dict[str, Setting] = {
    "mode": _word(
        "mode", "what is meant for me: `mention` (a mention, or a reply to me), `word` (also the word at the start),"
        " `always` (all)", ("mention", "word", "always"), TriggerMode, main=False,
    ),
    "word": _text("word", "the word that calls me", _a_trigger, unset="@ and my name", main=False),
    "who": _word(
        "who", "who may call me: `owner`, `allowed` (and the owner) or `everyone` (but who was denied, and who joined"
        " later, until allowed)", ("owner", "allowed", "everyone"), Who, main=False,
    ),
    "model": _text("model", "the Claude model", _a_model, unset="the configuration's"),
    "fallback_model": _text(
        "fallback_model", "the one that answers while the model is overloaded", _a_model, unset=NONE
    ),
    "network": _word("network", "what it reaches: `none`, `allowlist` or `public`", ("none", "allowlist", "public")),
    "hosts": _names("hosts", "hosts of the allowlist, with commas between them", check_pattern, unset=NONE),
    "memory": _number("memory", "MB of memory", 256, 1 << 20, field="memory_mb"),
    "cpus": _number("cpus", "processors", 0.1, 256, whole=False),
    "pids": _number("pids", "processes at once", 64, 32768),
    "turn_timeout": _number("turn_timeout", "seconds that one turn may take", 60, 86_400, unset="the configuration's"),
    "run_timeout": _number(
        "run_timeout", "seconds after which a container takes no more turns", 60, 2_592_000, unset="no limit"
    ),
    "tokens_per_day": _number(
        "tokens_per_day", "tokens that it may use a day", 1, 10**11, unset="the configuration's"
    ),
    "turns_per_hour": _number(
        "turns_per_hour", "turns an hour that one person gets who is no owner", 1, 1000, unset="no limit", main=False
    ),
    "open_messages": _number(
        "open_messages", "messages of such a person that may wait for their answer", 1, 1000, unset="no limit",
        main=False,
    ),
    "skills": _names("skills", "the skills that it has, with commas between them", _a_skill, unset="all"),
    "zone": _text("zone", "the time zone, as in Europe/Berlin", _a_zone, unset="the configuration's"),
    "prefix": _text(
        "prefix", "what stands before my texts on a number that I share", _a_prefix, unset="my name"
    ),
    "reaction": _text(
        "reaction", "the sign on what I took up; `none` for no sign", _a_sign, unset="the configuration's"
    ),
}  # fmt: skip
