"""The allowlist of requests: what the pinned CLI sends passes, every other way out is refused by name."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.errors import Refused
from nanoclaw.gateway.request import MAX_VALUES, betas, rebuild

# Sent by the pinned CLI to the stand-in server, texts shortened; made anew at each bump of the CLI.
CLI = json.loads(Path(__file__).with_name("cli_requests.json").read_text("utf-8"))


def ask(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]} | changes


def say(*blocks: object) -> dict[str, Any]:
    return ask(messages=[{"role": "user", "content": list(blocks)}])


def result(*blocks: object) -> dict[str, Any]:
    return say({"type": "tool_result", "tool_use_id": "t", "content": list(blocks)})


def url(kind: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "url", "url": "https://example.org/?secret"}}


SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}

WAYS_OUT = {
    "image by url": say(url("image")),
    "document by url": say(url("document")),
    "image of the files API": say({"type": "image", "source": {"type": "file", "file_id": "f"}}),
    "document of content blocks": say({"type": "document", "source": {"type": "content", "content": [url("image")]}}),
    "url beside base64": say({"type": "image", "source": {"type": "base64", "data": "", "url": "https://e.org"}}),
    "image by url in a tool's result": result(url("image")),
    "document by url in a tool's result": result(url("document")),
    "tool result in a tool result": result({"type": "tool_result", "tool_use_id": "x", "content": []}),
    "container upload": say({"type": "container_upload", "file_id": "f"}),
    "unknown block": say({"type": "hologram"}),
    "block without a type": say({"text": "hi"}),
    "unknown key of a block": say({"type": "text", "text": "hi", "fetch": "https://e.org"}),
    "block that is no object": say("hi"),
    "server tool's call": say({"type": "server_tool_use", "id": "s", "name": "web_fetch", "input": {}}),
    "MCP tool's call": say({"type": "mcp_tool_use", "id": "s", "name": "n", "server_name": "s", "input": {}}),
    "web fetch": ask(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}]),
    "code execution": ask(tools=[{"type": "code_execution_20250825", "name": "code_execution"}]),
    "server-side memory": ask(tools=[{"type": "memory_20250818", "name": "memory"}]),
    "MCP toolset": ask(tools=[{"type": "mcp_toolset", "mcp_server_name": "s"}]),
    "search that may be called by code": ask(tools=[SEARCH | {"allowed_callers": ["code_execution_20250825"]}]),
    "search under a wrong name": ask(tools=[SEARCH | {"name": "web_fetch"}]),
    "server tool announced in mid-conversation": say(
        {
            "type": "tool_addition",
            "tool": {"type": "tool_definition", "definition": {"type": "web_fetch_20250910", "name": "web_fetch"}},
        }
    ),
    "MCP connector": ask(mcp_servers=[{"type": "url", "url": "https://e.org", "name": "n"}]),
    "container": ask(container="c"),
    "skills": ask(container={"skills": [{"type": "anthropic", "skill_id": "pdf"}]}),
    "unknown top-level key": ask(callback="https://e.org"),
    "unknown role": ask(messages=[{"role": "tool", "content": "hi"}]),
    "image in the system prompt": ask(system=[url("image")]),
    "metadata with more": ask(metadata={"user_id": "u", "webhook": "https://e.org"}),
    "unknown context edit": ask(context_management={"edits": [{"type": "compact_20260112"}]}),
    "cache of another scope": say({"type": "text", "text": "hi", "cache_control": {"type": "global"}}),
    "model that is a path": ask(model="../v1/files?x"),
    "NaN": ask(temperature=float("nan")),
    "not an object": ["hi"],
}


@pytest.mark.parametrize("body", WAYS_OUT.values(), ids=WAYS_OUT.keys())
def test_way_out_is_refused(body: object) -> None:
    """Nothing that makes the provider fetch, run or keep something passes, with search on or off."""
    for search in (False, True):
        with pytest.raises(Refused):
            rebuild(json.dumps(body).encode(), search=search)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"model": 1e999}', b"[" + b"1," * MAX_VALUES]
)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    """Broken, deep and huge JSON is a refusal, never a crash."""
    with pytest.raises(Refused):
        rebuild(raw, search=False)


def test_search_is_a_switch() -> None:
    """Server-side web search passes only where it is allowed."""
    body = json.dumps(ask(tools=[SEARCH])).encode()
    assert json.loads(rebuild(body, search=True))["tools"] == [SEARCH]
    with pytest.raises(Refused, match=r"^tools\.0\.type: 'web_search_20250305' is not allowed$"):
        rebuild(body, search=False)


def test_refusal_names_the_place() -> None:
    """The log says where and which word, and never a text or an address."""
    with pytest.raises(Refused) as refused:
        rebuild(json.dumps(result({"type": "text", "text": "hi"}, url("image"))).encode(), search=True)
    assert str(refused.value) == "messages.0.content.0.content.1.source: type 'url' is not allowed"


def test_refused_word_is_fit_for_a_log() -> None:
    """A key is the agent's own words: control characters and length do not pass."""
    with pytest.raises(Refused) as refused:
        rebuild(json.dumps(ask(**{"\x1b[31m\n" + "x" * 500: 1})).encode(), search=False)
    assert len(str(refused.value)) < 80
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("case", CLI, ids=[c["name"] for c in CLI])
def test_requests_of_the_pinned_cli_pass_whole(case: dict[str, Any]) -> None:
    """What Claude Code really sends is rebuilt to the same JSON, and its betas are known."""
    assert json.loads(rebuild(json.dumps(case["body"]).encode(), search=True)) == case["body"]
    assert betas(case["betas"]) == case["betas"]


def test_second_key_of_the_same_name_counts_alone() -> None:
    """Two parsers can read one text in two ways: what goes out was written by us."""
    raw = b'{"model":"m","max_tokens":9,"container":"c","messages":[],"messages":[{"role":"user","content":"b"}]}'
    with pytest.raises(Refused, match="container"):
        rebuild(raw, search=False)
    assert rebuild(raw.replace(b'"container":"c",', b""), search=False).count(b"messages") == 1


def test_unknown_betas_are_dropped() -> None:
    """A beta that is not known is left out; the known ones stay."""
    assert betas("files-api-2025-04-14, effort-2025-11-24,x\r\ny: z") == "effort-2025-11-24"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_rebuilt_or_refused(value: object) -> None:
    """Whatever comes, the outcome is bytes or a refusal."""
    for body in (value, ask(messages=value), say(value), ask(tools=value)):
        with suppress(Refused):
            assert isinstance(rebuild(json.dumps(body).encode(), search=True), bytes)


@pytest.mark.parametrize("count", [0, -1, -(10**12), 1.5, True, "9", None])
def test_an_answer_has_at_least_one_token(count: object) -> None:
    """Less than nothing would be given back to the budget."""
    with pytest.raises(Refused, match="max_tokens"):
        rebuild(json.dumps({"model": "m", "messages": [], "max_tokens": count}).encode(), search=False)


def test_search_is_the_one_that_the_cli_knows() -> None:
    """Another version of it may run code at the provider."""
    for kind, may in (("web_search_20250305", True), ("web_search_20260209", False)):
        body = {"model": "m", "messages": [], "max_tokens": 9, "tools": [{"type": kind, "name": "web_search"}]}
        if may:
            rebuild(json.dumps(body).encode(), search=True)
        else:
            with pytest.raises(Refused, match="tools"):
                rebuild(json.dumps(body).encode(), search=True)
