"""What one request cost: read from the answer as it passes, without holding it up."""

import json
from typing import Any

from nanoclaw.models import Usage

_MAX_LINE = 1 << 20
_DELTA = b'"content_block_delta"'
_FRAME = 90  # bytes of a delta's line that are not the model's words
_BYTES_PER_TOKEN = 4


class UsageTap:
    """Fed with an answer's bytes; says the tokens at any instant, so that a broken off answer counts too."""

    def __init__(self, sent: int, *, sse: bool) -> None:
        """`sent` is the request's length in bytes, from which input is guessed until the API has said it."""
        self._model, self._guess, self._sse = "", sent // _BYTES_PER_TOKEN, sse
        self._rest = b""
        self._heard: dict[str, int] = {}
        self._streamed = 0
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
            if _DELTA in line:
                self._streamed += max(0, len(line) - _FRAME) if line.startswith(b"data:") else 0
            elif line.startswith(b"data:") and b'"usage"' in line:
                self._take(line[5:])

    def usage(self) -> Usage:
        """The API's own counters; what an answer that was broken off did not say is guessed, never taken as nothing."""
        if not self._sse:
            self._take(self._rest)
        heard = self._heard
        output = heard.get("output_tokens", 0)
        return Usage(
            self._model,
            input=heard.get("input_tokens", 0) if heard else self._guess,
            output=output if self._final else max(output, self._streamed // _BYTES_PER_TOKEN),
            cache_read=heard.get("cache_read_input_tokens", 0),
            cache_write=heard.get("cache_creation_input_tokens", 0),
        )

    def _take(self, text: bytes) -> None:
        try:
            said: Any = json.loads(text)
            message = said.get("message") or said
            counters = {k: v for k, v in message["usage"].items() if isinstance(v, int)}
        except (ValueError, AttributeError, KeyError, TypeError):
            return
        self._model = str(message.get("model") or self._model)
        self._final = self._final or said.get("type") != "message_start"
        for key, value in counters.items():  # the counters are cumulative
            self._heard[key] = max(value, self._heard.get(key, 0))
