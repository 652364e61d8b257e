"""What of the API's answers goes back to a sandbox: an error is written anew, and none holds the credential."""

import json
import re
from collections.abc import Callable

import aiohttp
from aiohttp import web
from loguru import logger

from nanoclaw.config.leak import REMOVED, removed

MAX_ERROR = 64 << 10  # bytes that are read of one
_LONGEST = 2000  # characters of its sentence
_LEAST = 8  # characters of a credential that are looked for as they stand: shorter ones are words
_BACK = frozenset({"content-type", "request-id", "retry-after", "retry-after-ms", "x-should-retry"})
_BACK_PREFIX = (
    "anthropic-ratelimit-"  # at 429 alone, when the CLI says by them how long to wait: they tell of all chats
)


class Watcher:
    """Looks through the bytes of one answer as they pass: for the credential as it stands, in one piece.

    What a model is made to say letter by letter, in many events, passes; so does another way of writing it. To read
    each event would cost more than it holds: an agent says to nobody what is not looked through again.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode() if len(secret) >= _LEAST else b""
        self._before = b""

    def holds(self, chunk: bytes) -> bool:
        """Whether the credential ends in this piece, with what came before it."""
        if not self._secret:
            return False
        seen = self._before + chunk
        self._before = seen[-len(self._secret) + 1 :]
        return self._secret in seen


def passing(answer: aiohttp.ClientResponse, secret: str) -> dict[str, str]:
    """The headers that go back."""
    limits = answer.status == 429
    found = {}
    for name, value in answer.headers.items():
        known = name.lower() in _BACK or (limits and name.lower().startswith(_BACK_PREFIX))
        if known and not Watcher(secret).holds(value.encode("utf-8", "replace")):
            found[name] = value
    return found


async def error_of(answer: aiohttp.ClientResponse, secret: str, leaked: Callable[[], None]) -> web.Response:
    """An answer that is none: its status, kind and sentence. A proxy in between may have put anything into it."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ERROR:
            break
    kind, sentence = _read(bytes(body))
    clean = removed(sentence.replace(secret, REMOVED) if len(secret) >= _LEAST else sentence, secret)[:_LONGEST]
    if clean != sentence[:_LONGEST]:
        leaked()
        logger.error("The model's API has sent the credential back; the agent did not see it")
    told = {"type": "error", "error": {"type": kind, "message": clean or f"The model's API said {answer.status}."}}
    back = {name: value for name, value in passing(answer, secret).items() if name.lower() != "content-type"}
    return web.json_response(told, status=answer.status, headers=back)


def _read(body: bytes) -> tuple[str, str]:
    try:
        told = json.loads(body)["error"]
        kind, sentence = told["type"], told["message"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return "api_error", ""
    known = isinstance(kind, str) and re.fullmatch(r"[a-z_]{1,40}", kind)
    return kind if known else "api_error", sentence if isinstance(sentence, str) else ""
