"""What one request cost: read from the answer as it passes, without holding it up."""

import json
from typing import Any

from nanoclaw.gateway import Ask
from nanoclaw.models import Usage

_MAX_LINE = 1 << 20
_DELTA = b'"content_block_delta"'
# Of an answer that broke off nobody says what it took; both are more than models do.
_BYTES_PER_TOKEN = 2
_TOKENS_PER_SECOND = 100


def _counters(usage: dict[str, Any]) -> dict[str, int]:
    """All numbers, those of its parts (cache_creation, server_tool_use) too; their names are the API's."""
    parts = [part for part in usage.values() if isinstance(part, dict)]
    return {k: v for part in (*parts, usage) for k, v in part.items() if type(v) is int and v >= 0}


class UsageTap:
    """Fed with an answer's bytes; says the tokens at any instant, so that a broken off answer counts too."""

    def __init__(self, ask: Ask, *, sse: bool) -> None:
        """What was asked for counts until the API has said what it took: the model, and the tokens of input."""
        self._ask, self._model, self._sse = ask, ask.model, sse
        self._rest = b""
        self._heard: dict[str, int] = {}
        self._streamed = 0  # tokens
        self._final = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if not self._sse:
            self._rest += chunk
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            self._rest = b""
        for line in lines:
            # The usage first: a stop sequence, which the agent chooses, may spell the name of a delta.
            if line.startswith(b"data:") and not (b'"usage"' in line and self._take(line[5:])) and _DELTA in line:
                self._streamed += _words(line[5:])

    def usage(self, seconds: float) -> Usage:
        """The API's own counters; what an answer that was broken off after so many seconds did not say is guessed,
        never taken as nothing: also what nobody is shown is paid."""
        if not self._sse:
            self._take(self._rest)
        heard = self._heard
        output = heard.get("output_tokens", 0)
        thought = min(self._ask.output, round(seconds * _TOKENS_PER_SECOND))
        return Usage(
            self._model,
            input=heard.get("input_tokens", 0) if heard else self._ask.input,
            output=output if self._final else max(output, self._streamed, thought),
            cache_read=heard.get("cache_read_input_tokens", 0),
            cache_write=heard.get("cache_creation_input_tokens", 0),
            cache_write_1h=heard.get("ephemeral_1h_input_tokens", 0),
            searches=heard.get("web_search_requests", 0),
        )

    def _take(self, text: bytes) -> bool:
        """Whether the line told the usage."""
        try:
            said: Any = json.loads(text)
            message = said.get("message") or said
            counters = _counters(message["usage"])
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            return False
        self._model = str(message.get("model") or self._model)
        self._final = self._final or said.get("type") != "message_start"
        for key, value in counters.items():  # the counters are cumulative
            self._heard[key] = max(value, self._heard.get(key, 0))
        return True


def _words(text: bytes) -> int:
    """The tokens of one delta, rather too many than too few."""
    try:
        delta = json.loads(text)["delta"]
        said = sum(len(v.encode("utf-8", "replace")) for k, v in delta.items() if k != "type" and isinstance(v, str))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        said = len(text)
    return max(1, said // _BYTES_PER_TOKEN)
