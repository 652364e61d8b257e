"""A stand-in for the model's API: says what a script says, and refuses what the real one refuses.

By hand: `python -m tests.model_server [--port N] [--script NAME]`.
"""

import argparse
import asyncio
import base64
import io
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from PIL import Image

Json = dict[str, Any]


# --- what a script is made of -------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text block, in `chunks` deltas with `delay` seconds between two."""

    text: str
    chunks: int = 3
    delay: float = 0.0


@dataclass(frozen=True)
class Thinking:
    """A thinking block with a signature."""

    text: str


@dataclass(frozen=True)
class ToolUse:
    """A call of one of the client's tools."""

    name: str
    input: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Any content block, sent whole in content_block_start (a server tool's call or result, say)."""

    block: Json


@dataclass(frozen=True)
class Slow:
    """Nothing more is sent until the test sets the event; first in a step it holds back the headers too."""

    gate: asyncio.Event


@dataclass(frozen=True)
class Cut:
    """Say the text, then break the connection in mid-block."""

    text: str = ""


@dataclass(frozen=True)
class Status:
    """An error instead of an answer."""

    code: int
    retry_after: float | None = None
    message: str = "scripted"


Item = Text | Thinking | ToolUse | Raw | Slow | Cut | Status
Step = Item | tuple[Item, ...]  # one answer: an item, or several in order


@dataclass
class Seen:
    """One request to /v1/messages or count_tokens, as it arrived. Times are time.monotonic()."""

    path: str
    headers: dict[str, str]  # names in lower case
    raw: bytes
    body: Json
    arrived: float
    last_byte: float = 0.0
    status: int = 0
    broken: bool = False  # the connection ended before the answer did

    @property
    def said(self) -> str:
        """The newest text of a person: the last user text that is no reminder of the CLI, and none of its notes."""
        texts = [t for m in self.body.get("messages", []) if m.get("role") == "user" for t in _texts(m.get("content"))]
        notes = ("<system-reminder>", "[Image: source: ")  # the CLI keeps a copy of each picture
        return next((t for t in reversed(texts) if not t.lstrip().startswith(notes)), "")

    @property
    def tool_results(self) -> list[str]:
        """The texts of the tool results in the newest user message (the CLI may put a system message behind it)."""
        users = [m for m in self.body.get("messages", []) if m.get("role") == "user"]
        blocks = users[-1].get("content") if users else None
        results = [b for b in blocks if b.get("type") == "tool_result"] if isinstance(blocks, list) else []
        return ["".join(_texts(b.get("content"))) for b in results]


Chooser = Callable[[Seen], Step | None]  # None: somebody else's request


def echo(seen: Seen) -> Step:
    """The answer where no script is."""
    return Text(f"You said: {seen.said}")


class ModelServer:
    """Listens on 127.0.0.1 (any free port) or on a unix socket; `requests` holds all that was asked."""

    def __init__(self, *, port: int = 0, socket: Path | None = None, keys: set[str] | None = None) -> None:
        self.requests: list[Seen] = []
        self.others: list[tuple[str, str]] = []  # method and path of everything else
        self.keys = keys  # credentials that are accepted; None takes any
        self.url = ""
        self._port, self._socket = port, socket
        self._rules: list[Chooser] = []
        self._changed = asyncio.Condition()
        self._ids = count(1)
        self._cached: dict[str, int] = {}
        self._runner: web.AppRunner | None = None

    # -- scripts

    def script(self, *steps: Step, when: str = "") -> None:
        """Answer the next requests whose body contains `when` with these steps, each once, in order."""
        left = list(steps)

        def choose(seen: Seen) -> Step | None:
            return left.pop(0) if left and when.encode() in seen.raw else None

        self._rules.append(choose)

    def answer(self, choose: Chooser) -> None:
        """Ask this function before the default answer; None passes the request on."""
        self._rules.append(choose)

    async def seen(self, number: int, *, finished: bool = False) -> Seen:
        """Return the request with this number (the first is 1) when it has arrived, or when its answer has ended."""

        def there() -> bool:
            return len(self.requests) >= number and (not finished or self.requests[number - 1].last_byte > 0)

        async with self._changed:
            await self._changed.wait_for(there)
        return self.requests[number - 1]

    # -- life

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        if self._socket:
            await web.UnixSite(self._runner, self._socket).start()
            self.url = "http://localhost"
        else:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner
        await self._runner.cleanup()

    # -- requests

    async def _record(self, request: web.Request) -> Seen:
        arrived, raw = time.monotonic(), await request.read()
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        headers = {k.lower(): v for k, v in request.headers.items()}
        seen = Seen(request.path, headers, raw, body if isinstance(body, dict) else {}, arrived)
        self.requests.append(seen)
        await self._tell()
        return seen

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _ended(self, seen: Seen, status: int) -> None:
        seen.status, seen.last_byte = status, time.monotonic()
        await self._tell()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        seen = await self._record(request)
        status, answered = 0, False
        try:
            response = await self._reply(request, seen)
            status, answered = response.status, not seen.broken
            return response
        finally:
            seen.broken = not answered
            await self._ended(seen, status)

    async def _reply(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        if error := self._unauthorized(seen):
            return _error(401, error)
        if error := fault(seen.body):
            return _error(400, error)
        step = next((s for choose in self._rules if (s := choose(seen)) is not None), None) or echo(seen)
        items = step if isinstance(step, tuple) else (step,)
        while items and isinstance(items[0], Slow):
            await items[0].gate.wait()
            items = items[1:]
        if items and isinstance(items[0], Status):
            return _error(items[0].code, items[0].message, items[0].retry_after)
        message = self._message(seen, items)
        if not seen.body.get("stream"):
            whole = _whole(message, items, self._ids, seen.body["max_tokens"])
            return web.json_response(whole, headers={"request-id": message["id"]})
        return await self._stream(request, seen, message, items)

    def _unauthorized(self, seen: Seen) -> str:
        key = seen.headers.get("x-api-key") or seen.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            return "x-api-key header is required"
        return "" if self.keys is None or key in self.keys else "invalid x-api-key"

    def _message(self, seen: Seen, items: tuple[Item, ...]) -> Json:
        usage = self._usage(seen)
        return {
            "id": f"msg_{next(self._ids):06d}",
            "type": "message",
            "role": "assistant",
            "model": seen.body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _usage(self, seen: Seen) -> Json:
        """About four bytes a token; with cache marks all but a little is read from or written to the cache."""
        total = max(1, len(seen.raw) // 4)
        read = write = 0
        if b'"cache_control"' in seen.raw:
            key = json.dumps(seen.body.get("system", ""))
            read = min(self._cached.get(key, 0), total - 1)
            write = total - 1 - read
            self._cached[key] = read + write
        return {
            "input_tokens": total - read - write,
            "cache_creation_input_tokens": write,
            "cache_read_input_tokens": read,
            "cache_creation": {"ephemeral_5m_input_tokens": write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
        }

    async def _stream(
        self, request: web.Request, seen: Seen, message: Json, items: tuple[Item, ...]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        response.headers["cache-control"] = "no-cache"
        response.headers["request-id"] = message["id"]
        await response.prepare(request)

        async def send(kind: str, **data: Any) -> None:
            line = json.dumps({"type": kind, **data}, ensure_ascii=False)
            await response.write(f"event: {kind}\ndata: {line}\n\n".encode())

        await send("message_start", message=message)
        await send("ping")
        index = count()
        for item in items:
            if isinstance(item, Slow):
                await item.gate.wait()
            elif isinstance(item, Cut):
                await _begin(send, next(index), item)
                seen.broken = True
                if request.transport:
                    request.transport.abort()
                return response
            elif not isinstance(item, Status):
                await _block(send, next(index), item, self._ids)
        usage = message["usage"] | {"output_tokens": min(_output(items), seen.body["max_tokens"])}
        await send("message_delta", delta={"stop_reason": _stop(items), "stop_sequence": None}, usage=usage)
        await send("message_stop")
        await response.write_eof()
        return response

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        seen = await self._record(request)
        await self._ended(seen, 200)
        return web.json_response({"input_tokens": max(1, len(seen.raw) // 4)})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.others.append((request.method, request.path))
        data = [{"type": "model", "id": "claude-sonnet-5-5", "display_name": "Sonnet", "created_at": "2026-01-01"}]
        return web.json_response({"data": data, "has_more": False, "first_id": None, "last_id": None})

    async def _other(self, request: web.Request) -> web.StreamResponse:
        self.others.append((request.method, request.path))
        if request.method in ("HEAD", "GET"):
            return web.Response()
        return _error(404, "not found")


# --- answers ------------------------------------------------------------------------------------

Send = Callable[..., Awaitable[None]]
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
_TYPES |= {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}


def _error(status: int, message: str, retry_after: float | None = None) -> web.Response:
    body = {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}
    headers = {"request-id": "req_stand_in"}
    if retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}"
    return web.json_response(body, status=status, headers=headers)


def _pieces(text: str, chunks: int) -> list[str]:
    size = max(1, -(-len(text) // max(1, chunks)))
    return [text[i : i + size] for i in range(0, len(text), size)]


async def _begin(send: Send, index: int, cut: Cut) -> None:
    await send("content_block_start", index=index, content_block={"type": "text", "text": ""})
    if cut.text:
        await send("content_block_delta", index=index, delta={"type": "text_delta", "text": cut.text})


async def _block(send: Send, index: int, item: Text | Thinking | ToolUse | Raw, ids: "count[int]") -> None:
    block = _content(item, ids)
    delay = item.delay if isinstance(item, Text) else 0.0
    deltas: list[Json] = []
    if isinstance(item, Text):
        deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(item.text, item.chunks)]
        block |= {"text": ""}
    elif isinstance(item, Thinking):
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(item.text, 2)]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        block |= {"thinking": "", "signature": ""}
    elif isinstance(item, ToolUse):
        deltas = [{"type": "input_json_delta", "partial_json": p} for p in _pieces(json.dumps(item.input), 2)]
        block |= {"input": {}}
    await send("content_block_start", index=index, content_block=block)
    for number, delta in enumerate(deltas):
        if delay and number:
            await asyncio.sleep(delay)
        await send("content_block_delta", index=index, delta=delta)
    await send("content_block_stop", index=index)


def _content(item: Text | Thinking | ToolUse | Raw, ids: "count[int]") -> Json:
    if isinstance(item, Text):
        return {"type": "text", "text": item.text}
    if isinstance(item, Thinking):
        return {"type": "thinking", "thinking": item.text, "signature": "c3RhbmQtaW4="}
    if isinstance(item, ToolUse):
        return {"type": "tool_use", "id": f"toolu_{next(ids):06d}", "name": item.name, "input": item.input}
    return dict(item.block)


def _whole(message: Json, items: tuple[Item, ...], ids: "count[int]", most: int) -> Json:
    content = [_content(i, ids) for i in items if isinstance(i, Text | Thinking | ToolUse | Raw)]
    usage = message["usage"] | {"output_tokens": min(_output(items), most)}
    return message | {"content": content, "stop_reason": _stop(items), "usage": usage}


def _stop(items: tuple[Item, ...]) -> str:
    return "tool_use" if any(isinstance(i, ToolUse) for i in items) else "end_turn"


def _output(items: tuple[Item, ...]) -> int:
    return max(1, sum(len(str(i)) // 4 for i in items))


# --- what the real API refuses ------------------------------------------------------------------


def fault(body: Json) -> str:
    """Why the real API would answer 400; "" when it would not."""
    if not isinstance(body.get("model"), str):
        return "model: Field required"
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 1:
        return "max_tokens: Field required"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    names = [t.get("name") for t in body.get("tools", [])]
    if len(names) != len(set(names)):
        return "tools: Tool names must be unique."
    return _message_fault(messages) or _pictures_fault(messages)


def _message_fault(messages: list[Json]) -> str:
    open_calls: set[str] = set()
    for number, message in enumerate(messages):
        if message.get("role") == "system" and number:
            continue  # a mid-conversation instruction (a beta that the CLI uses)
        if message.get("role") not in ("user", "assistant"):
            return f"messages.{number}.role: Input should be 'user' or 'assistant'"
        last = number == len(messages) - 1
        if error := _content_fault(message, number, last):
            return error
        blocks = message["content"] if isinstance(message["content"], list) else []
        results = {b.get("tool_use_id") for b in blocks if b.get("type") == "tool_result"}
        if message["role"] == "user" and results != open_calls:
            return f"messages.{number}: `tool_use` ids were found without `tool_result` blocks, or the other way round"
        if message["role"] == "assistant" and open_calls:
            return f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after"
        calls = {b["id"] for b in blocks if b.get("type") == "tool_use"}
        open_calls = calls if message["role"] == "assistant" else set()
    if open_calls:
        return "messages: `tool_use` ids were found without `tool_result` blocks immediately after"
    return "messages: first message must use the user role" if messages[0]["role"] != "user" else ""


def _content_fault(message: Json, number: int, last: bool) -> str:
    content = message.get("content")
    if not content and not (last and message["role"] == "assistant"):
        return f"messages.{number}: all messages must have non-empty content"
    for place, block in enumerate(content if isinstance(content, list) else []):
        if block.get("type") == "text" and not block.get("text"):
            return f"messages.{number}.content.{place}.text: text content blocks must be non-empty"
    return ""


def _pictures_fault(messages: list[Json]) -> str:
    found = [b for m in messages for b in _pictures(m.get("content"))]
    if len(found) > 100:
        return "messages: too many images: at most 100"
    side = 2000 if len(found) > 20 else 8000
    return next(filter(None, (_picture_fault(b.get("source", {}), side) for b in found)), "")


def _pictures(content: object) -> list[Json]:
    """Those in the results of tools too."""
    blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
    own = [b for b in blocks if b.get("type") == "image"]
    return own + [p for b in blocks if b.get("type") == "tool_result" for p in _pictures(b.get("content"))]


def _picture_fault(source: Json, side: int) -> str:
    kinds = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF", "image/webp": "WEBP"}
    if source.get("type") != "base64" or source.get("media_type") not in kinds:
        return "image.source: Input should be base64 with one of the four media types"
    if len(source["data"]) > 5 << 20:
        return f"image.source.base64: image exceeds 5 MB maximum: {len(source['data'])} bytes > 5242880 bytes"
    try:
        with Image.open(io.BytesIO(base64.b64decode(source["data"], validate=True))) as picture:
            picture.load()
    except Exception:
        return "Could not process image"
    if picture.format != kinds[source["media_type"]]:
        return f"image.source.base64: specified as {source['media_type']}, but appears to be {picture.format}"
    if max(picture.size) > side:
        return f"At least one of the image dimensions exceed max allowed size: {side} pixels"
    return ""


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    blocks = content if isinstance(content, list) else []
    return [b["text"] for b in blocks if isinstance(b, dict) and b.get("type") == "text" and "text" in b]


# --- by hand ------------------------------------------------------------------------------------

SCRIPTS: dict[str, Chooser] = {
    "echo": echo,
    "slow": lambda seen: Text(f"You said: {seen.said}. " + "word " * 100, chunks=100, delay=0.05),
    "bash": lambda seen: Text("done") if seen.tool_results else ToolUse("Bash", {"command": "id; ls -la"}),
    "overloaded": lambda _: Status(529),
    "refused": lambda _: Status(401),
}


async def _serve(port: int, script: str) -> None:
    async with ModelServer(port=port) as server:
        server.answer(SCRIPTS[script])
        print(server.url, flush=True)
        number = 0
        while True:
            number += 1
            seen = await server.seen(number, finished=True)
            print(number, seen.path, seen.status, len(seen.raw), "bytes", f"{seen.said[:60]!r}", flush=True)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--script", choices=sorted(SCRIPTS), default="echo")
    args = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(args.port, args.script))


if __name__ == "__main__":
    main()
