"""What may be asked of the model's API: a request is parsed, held against an allowlist and written anew, or refused.

Anything that makes the provider fetch, run or keep something (url sources, files, MCP connector, code
execution, containers) would leave past every network rule of the sandbox, so unknown means no.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from nanoclaw.errors import Refused

# What the pinned CLI sends. Others are dropped, not refused: the body decides what can be asked for,
# and a CLI that learns a new beta keeps working without it.
BETAS = frozenset(
    {
        "advanced-tool-use-2025-11-20",
        "claude-code-20250219",
        "context-management-2025-06-27",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",
        "fallback-credit-2026-06-01",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-tool-changes-2026-07-01",
        "oauth-2025-04-20",
        "per-turn-control-2026-07-01",
        "thinking-display-updates-2026-08-18",
        "thinking-token-count-2026-05-13",
        "token-counting-2024-11-01",
    }
)

# What was parsed from text cannot be circular: not looking for that is quicker.
# Unescaped, so that its length says as much of one alphabet as of another.
_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_LAST = ("messages", "max_tokens")
_END = 64  # bytes at a request's end that hold its max_tokens
MAX_VALUES = 1_000_000  # of one request: 32 MiB of empty lists would take a gigabyte here; a context holds fewer

Check = Callable[[Any], None]  # looks at a parsed value; raises _No


class _No(Exception):
    """Not on the list. The path grows on the way up, so that an honest request pays nothing for it."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.path: list[str] = []

    def at(self, place: str | int) -> "_No":
        self.path.insert(0, str(place))
        return self


def rebuild(body: bytes, *, search: bool) -> bytes:
    """The request, written anew; `search` allows server-side web search. Raises Refused, naming place and word."""
    return parsed(body, search=search)[1]


def parsed(body: bytes, *, search: bool) -> tuple[dict[str, Any], bytes]:
    """The same, with what it says."""
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise Refused(f"body: more than {MAX_VALUES} values")
    try:
        asked = json.loads(body)
        (_WITH_SEARCH if search else _PLAIN)(asked)
        asked = {k: asked[k] for k in sorted(asked, key=_place)}
        return asked, _WRITER.encode(asked).encode("utf-8", "replace")
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise Refused("body: is not JSON") from None
    except _No as no:
        raise Refused(f"{'.'.join(no.path) or 'body'}: {no}") from None


def _place(key: str) -> int:
    """What grows and changes comes last: requests of one conversation begin equally, and an end is soon replaced."""
    return _LAST.index(key) if key in _LAST else -1


def limited(body: bytes, output: int) -> bytes:
    """The request, with fewer tokens of output."""
    return body[:-_END] + re.sub(rb'"max_tokens":[0-9]+}$', b'"max_tokens":%d}' % output, body[-_END:])


def betas(header: str) -> str:
    """The anthropic-beta header with what is known alone."""
    return ",".join(name for part in header.split(",") if (name := part.strip()) in BETAS)


# --- checks -------------------------------------------------------------------------------------


def word(text: object) -> str:
    """A word of the agent, fit for a log line: it may be anything."""
    return re.sub(r"[^\w.-]", "?", text, flags=re.ASCII)[:40] if isinstance(text, str) else type(text).__name__


def _of(*kinds: type) -> Check:
    def check(value: Any) -> None:
        if type(value) not in kinds:  # not isinstance: True is no number here
            raise _No(f"{type(value).__name__} is not allowed")

    return check


def _count(value: Any) -> None:
    if type(value) is not int or value < 1:
        raise _No("is no number from 1 on")


def _like(pattern: str) -> Check:
    fits = re.compile(pattern, re.ASCII).fullmatch

    def check(value: Any) -> None:
        if not isinstance(value, str) or not fits(value):
            raise _No(f"{word(value)!r} is not allowed")

    return check


def _each(item: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise _No("is no list")
        for place, v in enumerate(value):
            try:
                item(v)
            except _No as no:
                raise no.at(place) from None

    return check


def _text_or(other: Check) -> Check:
    return lambda value: None if isinstance(value, str) else other(value)


def _or_null(other: Check) -> Check:
    return lambda value: None if value is None else other(value)


def _record(fields: dict[str, Check]) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _No("is no object")
        for key, v in value.items():
            if key not in fields:
                raise _No(f"{word(key)!r} is not allowed")
            try:
                fields[key](v)
            except _No as no:
                raise no.at(key) from None

    return check


def _tagged(kinds: dict[str, dict[str, Check]]) -> Check:
    """An object whose `type` says which fields it may have."""
    records = {kind: _record({"type": _TEXT, **fields}) for kind, fields in kinds.items()}

    def check(value: Any) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in records:
            raise _No(f"type {word(kind)!r} is not allowed")
        records[kind](value)

    return check


# --- the allowlist ------------------------------------------------------------------------------

_TEXT = _of(str)
_FLAG = _of(bool)
_NUMBER = _of(int, float)
_DATA: Check = _of(dict)  # the client's own tools' arguments and schemas: the provider only shows them to the model
_CACHE = _or_null(_tagged({"ephemeral": {"ttl": _like("5m|1h")}}))

_SOURCE = _tagged(
    {
        "base64": {"media_type": _TEXT, "data": _TEXT},
        "text": {"media_type": _like("text/plain"), "data": _TEXT},
    }
)
_SHOWN: dict[str, dict[str, Check]] = {
    "text": {"text": _TEXT, "cache_control": _CACHE},
    "image": {"source": _SOURCE, "cache_control": _CACHE},
    "document": {"source": _SOURCE, "title": _or_null(_TEXT), "context": _or_null(_TEXT), "cache_control": _CACHE},
    "tool_reference": {"tool_name": _TEXT, "cache_control": _CACHE},
}
_BLOCKS: dict[str, dict[str, Check]] = _SHOWN | {
    "thinking": {"thinking": _TEXT, "signature": _TEXT},
    "redacted_thinking": {"data": _TEXT},
    "tool_use": {"id": _TEXT, "name": _TEXT, "input": _DATA, "cache_control": _CACHE},
    "tool_result": {
        "tool_use_id": _TEXT,
        "content": _text_or(_each(_tagged(_SHOWN))),
        "is_error": _FLAG,
        "cache_control": _CACHE,
    },
}
_CUSTOM_TOOL = _record(
    {
        "type": _like("custom"),
        "name": _TEXT,
        "description": _TEXT,
        "input_schema": _DATA,
        "cache_control": _CACHE,
        "defer_loading": _FLAG,
        "eager_input_streaming": _FLAG,
        "strict": _FLAG,
    }
)
_SEARCH_TOOL = _record(
    {
        "type": _like("web_search_20250305"),
        "name": _like("web_search"),
        "max_uses": _of(int),
        "allowed_domains": _or_null(_each(_TEXT)),
        "blocked_domains": _or_null(_each(_TEXT)),
        "cache_control": _CACHE,
    }
)
_EFFORT = _record({"effort": _TEXT})


def _search_or_custom_tool(value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    search = isinstance(kind, str) and kind.startswith("web_search_")
    (_SEARCH_TOOL if search else _CUSTOM_TOOL)(value)


def _tool_changes(tool: Check) -> dict[str, dict[str, Check]]:
    """The CLI tells of tools that came and went in messages of role system."""
    named: dict[str, Check] = {"name": _TEXT}
    known = _tagged({"tool_reference": named})
    new = _tagged({"tool_reference": named, "tool_definition": {"definition": tool}})
    return {"tool_addition": {"tool": new, "cache_control": _CACHE}, "tool_removal": {"tool": known}}


def _request(tool: Check) -> Check:
    message = _record(
        {
            "role": _like("user|assistant|system"),
            "content": _text_or(_each(_tagged(_BLOCKS | _tool_changes(tool)))),
            "output_config": _EFFORT,
        }
    )
    return _record(
        {
            "model": _like(r"[\w.:@/\[\]-]{1,100}"),
            "messages": _each(message),
            "system": _text_or(_each(_tagged({"text": _SHOWN["text"]}))),
            "tools": _each(tool),
            "tool_choice": _tagged(
                {
                    "auto": {"disable_parallel_tool_use": _FLAG},
                    "any": {"disable_parallel_tool_use": _FLAG},
                    "tool": {"name": _TEXT, "disable_parallel_tool_use": _FLAG},
                    "none": {},
                }
            ),
            "max_tokens": _count,
            "stream": _FLAG,
            "temperature": _NUMBER,
            "top_p": _NUMBER,
            "top_k": _of(int),
            "stop_sequences": _each(_TEXT),
            "metadata": _record({"user_id": _TEXT}),
            "thinking": _tagged(
                {
                    "adaptive": {"display": _TEXT},
                    "enabled": {"budget_tokens": _count, "display": _TEXT},
                    "disabled": {},
                }
            ),
            "output_config": _EFFORT,
            "context_management": _record(
                {"edits": _each(_tagged({"clear_thinking_20251015": {"keep": _text_or(_DATA)}}))}
            ),
        }
    )


_PLAIN = _request(_CUSTOM_TOOL)
_WITH_SEARCH = _request(_search_or_custom_tool)
