"""What the SDK's messages tell of a running turn: provisional events to watch, and in the end the answer."""

import json
from collections.abc import Iterator
from typing import Any

from claude_agent_sdk import AssistantMessage, Message, StreamEvent, SystemMessage, UserMessage
from claude_agent_sdk.types import TextBlock, ToolResultBlock, ToolUseBlock

from agent import cli

PIECE = 2000  # characters of one event: at most 8 KB
_ABOUT = 120  # characters of a tool's input
# The first one counts.
_TELLING = ("command", "file_path", "pattern", "url", "query", "skill", "description", "question", "text")
_ASKING = 1800  # seconds; the host ends a question before
_DELTAS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking")}
_MARKS = {"completed": "[x]", "in_progress": "[>]"}

Told = tuple[str, str]  # an Event's `what` and `text`


class Teller:
    """Tells one turn: what it remembers ends with it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # of tools that run, by id
        self._seconds: dict[str, int] = {}  # that those of them may take which said so
        self._streamed: str | None = None  # the message that was streamed last
        self._unfinished = False  # it has not said why it stopped
        self._gap = False  # text was told, and a later block's text wants a blank line before it
        self._texts: dict[str, list[str]] = {}  # by message: all text blocks since the last tool

    @property
    def patience(self) -> int:
        """The longest time in seconds that a running tool was given; 0 where none said."""
        return max(self._seconds.values(), default=0)

    def tell(self, message: Message) -> Iterator[Told]:
        """The events of one message, often none."""
        if isinstance(message, StreamEvent):
            if message.parent_tool_use_id is None:  # a subagent's words are not the answer
                yield from self._stream(message.event)
        elif isinstance(message, AssistantMessage):
            yield from self._whole(message)
        elif isinstance(message, UserMessage) and isinstance(message.content, list):
            for block in message.content:
                if isinstance(block, ToolResultBlock):
                    yield from self._tool_done(block)
        elif isinstance(message, SystemMessage) and message.subtype == "api_retry":
            yield from self._broken_off()
            yield "retry", f"attempt {message.data.get('attempt', '?')} of {message.data.get('max_retries', '?')}"

    def answer(self, result: str) -> str:
        """The text for people, of which the CLI's `result` is only the last block.

        A message that was cut, or grew too long, is continued by another one in mid-sentence.
        """
        said = self._said()
        return (said if said.endswith(result) else result).strip()

    def _said(self) -> str:
        return "".join("\n\n".join(texts) for texts in self._texts.values())

    def _stream(self, event: dict[str, Any]) -> Iterator[Told]:
        kind = event.get("type")
        if kind == "message_start":
            yield from self._broken_off()
            self._unfinished, self._streamed = True, event["message"].get("id")
        elif kind == "message_delta":
            self._unfinished = not event["delta"].get("stop_reason")
            usage = {k: v for k, v in event.get("usage", {}).items() if isinstance(v, int)}
            yield "usage", json.dumps(usage)[:PIECE]
        elif kind == "content_block_start" and event["content_block"].get("type") == "text" and self._gap:
            self._gap = False
            yield "text", "\n\n"
        elif kind == "content_block_delta" and (known := _DELTAS.get(event["delta"].get("type", ""))):
            yield from self._pieces(known[0], event["delta"].get(known[1], ""))

    def _whole(self, message: AssistantMessage) -> Iterator[Told]:
        """One finished block. After a cut the CLI may ask again without streaming: then it comes only here."""
        ours = message.parent_tool_use_id is None and not message.error
        unseen = ours and message.message_id != self._streamed
        if unseen:
            yield from self._broken_off()
        for block in message.content:
            if isinstance(block, ToolUseBlock):
                yield self._tool(block)
            elif isinstance(block, TextBlock) and ours:
                self._texts.setdefault(message.message_id or "", []).append(block.text)
                if unseen:
                    yield from self._pieces("text", block.text)

    def _pieces(self, what: str, text: str) -> Iterator[Told]:
        self._gap = self._gap or what == "text"
        for start in range(0, len(text), PIECE):
            yield what, text[start : start + PIECE]

    def _broken_off(self) -> Iterator[Told]:
        """If the API was cut in mid-message: only its finished blocks count, the rest comes again."""
        if self._unfinished:
            self._unfinished = self._gap = False
            yield "reset", ""
            yield from self._pieces("text", self._said())
            self._gap = False

    def _tool(self, block: ToolUseBlock) -> Told:
        if block.name == "TodoWrite":
            return "todo", _todos(block.input)[:PIECE]
        name = self._names[block.id] = block.name.removeprefix("mcp__nanoclaw__")
        if block.name == "Bash" and isinstance(limit := block.input.get("timeout"), int):
            self._seconds[block.id] = min(max(0, limit), cli.MAX_COMMAND) // 1000
        if name == "ask_user":  # it may be an answer away from its next sign
            self._seconds[block.id] = _ASKING
        about = next((block.input[key] for key in _TELLING if isinstance(block.input.get(key), str)), "")
        return "tool", f"{name}: {' '.join(about.split())[:_ABOUT]}" if about else name

    def _tool_done(self, block: ToolResultBlock) -> Iterator[Told]:
        self._texts.clear()  # what was said before a tool is progress, not the answer
        self._seconds.pop(block.tool_use_id, None)
        if name := self._names.pop(block.tool_use_id, ""):
            yield "tool_done", f"{name} failed" if block.is_error else name


def _todos(args: dict[str, Any]) -> str:
    items = [t for t in args.get("todos", []) if isinstance(t, dict)]
    return "\n".join(f"{_MARKS.get(t.get('status', ''), '[ ]')} {t.get('content', '')}" for t in items)
