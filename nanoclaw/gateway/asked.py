"""What a request tells of itself: what it will use, and whether its agent runs in a circle (pure)."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from nanoclaw.gateway import BYTES_PER_TOKEN, PIECE, Ask

MAX_REPEATS = 20  # same calls in a row within one turn
_PICTURE = 1600  # tokens of the largest one that the model is shown
_DOCUMENT = 20  # bytes of base64 per token: pages are mostly pictures and layout
_LEAST = 1000  # tokens of an answer that is worth asking for
# What differs between two requests with the same beginning: where the cache's marks stand.
_MARKS = re.compile(rb',?"cache_control":(null|\{"type":"ephemeral"(,"ttl":"(5m|1h)")?\})')
_FILE = re.compile(rb'"data":"[A-Za-z0-9+/=]{1000,}"')
_NAME = 40  # characters of a tool's name that are shown


@dataclass(frozen=True)
class Asked:
    """A request that may go out."""

    body: bytes
    ask: Ask
    circle: str = ""  # the tool that was called too often in the same way


def look(asked: dict[str, Any], body: bytes) -> Asked:
    """The facts of a request that was checked already; `body` is its text."""
    messages, output = asked.get("messages", []), asked.get("max_tokens", 0)
    tokens = (len(body) - _files(messages, measured=False)) // BYTES_PER_TOKEN + _files(messages, measured=True)
    budget = asked.get("thinking", {}).get("budget_tokens", 0)  # the API wants more than this
    text = _FILE.sub(lambda file: sha256(file[0]).digest(), _MARKS.sub(b"", body))
    ask = Ask(
        str(asked.get("model", "")), tokens, output, min(output, max(_LEAST, budget + 1)),
        _begins(text), len(text) % PIECE, b'"ttl":"1h"' in body,
    )  # fmt: skip
    return Asked(body, ask, _circle(messages))


def _begins(text: bytes) -> tuple[bytes, ...]:
    """A mark for each whole piece of the text, made of it and all before it."""
    all_before, marks = sha256(), []
    for at in range(PIECE, len(text) + 1, PIECE):
        all_before.update(text[at - PIECE : at])
        marks.append(all_before.digest()[:8])
    return tuple(marks)


def _files(messages: list[Any], *, measured: bool) -> int:
    """The bytes of pictures and documents in a request, or the tokens that they stand for."""
    total = 0
    for block in _blocks(messages):
        source = block.get("source")
        if isinstance(source, dict) and source.get("type") == "base64":
            size = len(source.get("data", ""))
            tokens = min(_PICTURE, size) if block["type"] == "image" else size // _DOCUMENT
            total += tokens if measured else size
    return total


def _blocks(messages: list[Any]) -> list[dict[str, Any]]:
    """Every block, also those within tool results."""
    found: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            found.append(block)
            inner = block.get("content")
            found += inner if isinstance(inner, list) else []
    return found


def _circle(messages: list[Any]) -> str:
    """The tool whose call was the same MAX_REPEATS times in a row, since somebody last spoke; "" where there is none.

    Counted here, where the whole conversation passes, and not by the agent's side, which nobody can trust.
    """
    first: tuple[Any, Any] | None = None
    count = 0
    for message in reversed(messages):
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        if message.get("role") == "user" and not any(b.get("type") == "tool_result" for b in blocks):
            break  # where the turn began
        for block in reversed(blocks if message.get("role") == "assistant" else []):
            if block.get("type") != "tool_use":
                continue
            call = (block.get("name"), block.get("input"))
            first = first or call
            if call != first:
                return ""
            count += 1
            if count >= MAX_REPEATS:
                return str(call[0])[:_NAME]
    return ""
