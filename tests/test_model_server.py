"""The stand-in model server: it says what the script says and refuses what the real API refuses."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.model_server import Cut, ModelServer, Raw, Slow, Status, Text, Thinking, ToolUse, fault


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 99, "messages": list(messages) or [{"role": "user", "content": "hi"}]} | more


async def post(server: ModelServer, asked: object, path: str = "/v1/messages") -> tuple[int, dict[str, Any]]:
    headers = {"x-api-key": "k"}
    async with aiohttp.ClientSession() as http, http.post(server.url + path, json=asked, headers=headers) as answer:
        return answer.status, await answer.json()


async def stream(server: ModelServer, asked: object) -> list[dict[str, Any]]:
    headers = {"x-api-key": "k"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(server.url + "/v1/messages", json=asked, headers=headers) as r,
    ):
        return [json.loads(line[5:]) async for line in r.content if line.startswith(b"data:")]


async def test_without_a_script_it_echoes(model: ModelServer) -> None:
    """The default answer repeats the newest text of the person."""
    status, answer = await post(model, body())
    assert (status, answer["content"]) == (200, [{"type": "text", "text": "You said: hi"}])


async def test_streams_every_kind_of_block(model: ModelServer) -> None:
    """Thinking, text, a raw block and a tool call come as the events of the real API, in order."""
    model.script((Thinking("hm"), Text("hello", chunks=5), Raw({"type": "x"}), ToolUse("Bash", {"command": "ls"})))
    events = await stream(model, body(stream=True))
    kinds = [e["type"] for e in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "x", "tool_use"]
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert [d["text"] for d in deltas if d["type"] == "text_delta"] == list("hello")
    assert json.loads("".join(d.get("partial_json", "") for d in deltas)) == {"command": "ls"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[0]["message"]["usage"]["input_tokens"] > 0


async def test_scripts_are_matched_by_the_request(model: ModelServer) -> None:
    """Several groups can be scripted at once; a used up script gives way to the default."""
    model.script(Text("for b"), when="group b")
    model.script(Text("first"), Text("second"), when="group a")
    asked = [body({"role": "user", "content": f"group {g}"}) for g in "abaa"]
    said = [(await post(model, a))[1]["content"][0]["text"] for a in asked]
    assert said == ["first", "for b", "second", "You said: group a"]


async def test_errors_carry_status_and_retry_after(model: ModelServer) -> None:
    """An error has the real API's shape."""
    model.script(Status(429, retry_after=2))
    status, answer = await post(model, body())
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")


async def test_only_known_keys_are_served() -> None:
    """With a set of keys, every other one is 401."""
    async with ModelServer(keys={"good"}) as model:
        assert (await post(model, body()))[0] == 401
        model.keys = {"k"}
        assert (await post(model, body()))[0] == 200


async def test_cut_breaks_the_connection(model: ModelServer) -> None:
    """A cut answer ends without its end."""
    model.script(Cut("half"))
    with pytest.raises(aiohttp.ClientError):
        await stream(model, body(stream=True))
    assert (await model.seen(1, finished=True)).broken


async def test_slow_waits_for_the_test(model: ModelServer) -> None:
    """Nothing is sent until the gate opens, and the request can be awaited meanwhile."""
    gate = asyncio.Event()
    model.script((Slow(gate), Text("late")))
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(post(model, body()))
        seen = await model.seen(1)
        assert not answer.done()
        gate.set()
    assert answer.result()[1]["content"][0]["text"] == "late"
    assert seen.last_byte > seen.arrived


def call(name: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": name, "name": "B", "input": {}}]}


def outcome(name: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": name, "content": "ok"}]}


HI = {"role": "user", "content": "hi"}

REFUSED = {
    "no max_tokens": {"model": "m", "messages": [HI]},
    "no model": {"max_tokens": 9, "messages": [HI]},
    "no messages": body() | {"messages": []},
    "empty content": body({"role": "user", "content": ""}),
    "empty text": body({"role": "user", "content": [{"type": "text", "text": ""}]}),
    "unknown role": body({"role": "tool", "content": "hi"}),
    "assistant first": body({"role": "assistant", "content": "hi"}, HI),
    "call without result": body(HI, call("a"), HI),
    "call at the end": body(HI, call("a")),
    "result without call": body(HI, {"role": "assistant", "content": "x"}, outcome("a")),
    "result of another call": body(HI, call("a"), outcome("b")),
    "two tools of one name": body(tools=[{"name": "a"}, {"name": "a"}]),
}


@pytest.mark.parametrize("asked", REFUSED.values(), ids=REFUSED.keys())
async def test_refuses_what_the_real_api_refuses(model: ModelServer, asked: dict[str, Any]) -> None:
    """A request that the real API answers with 400 is 400 here."""
    assert (await post(model, asked))[0] == 400


async def test_takes_a_tool_round(model: ModelServer) -> None:
    """Calls with their results are fine, and the results can be read by the test."""
    assert (await post(model, body(HI, call("a"), outcome("a"))))[0] == 200
    assert model.requests[0].tool_results == ["ok"]


async def test_counts_tokens(model: ModelServer) -> None:
    """count_tokens answers with a number and is recorded."""
    status, answer = await post(model, body(), "/v1/messages/count_tokens")
    assert status == 200
    assert answer["input_tokens"] > 0
    assert model.requests[0].path == "/v1/messages/count_tokens"


def picture(width: int = 30, form: str = "png", height: int = 30, **source: Any) -> dict[str, Any]:
    """An image block."""
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, form)
    data = base64.b64encode(out.getvalue()).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": f"image/{form}", "data": data, **source}}


PICTURES = [
    ([picture()], ""),
    ([picture(form="webp")] * 100, ""),
    ([picture()] * 101, "at most 100"),
    ([picture(8000)], ""),
    ([picture(8001)], "8000 pixels"),
    ([picture(2001)] * 20, ""),
    ([picture(2001)] + [picture()] * 20, "2000 pixels"),
    ([picture(media_type="image/jpeg")], "appears to be PNG"),
    ([picture(media_type="image/tiff")], "four media types"),
    ([picture(type="url")], "four media types"),
    ([picture(data="????")], "Could not process image"),
    ([picture(data=base64.b64encode(b"hello").decode())], "Could not process image"),
    ([picture(data="A" * (6 << 20))], "exceeds 5 MB"),
    ([{"type": "tool_result", "tool_use_id": "t", "content": [picture(8001)]}], "8000 pixels"),
]


@pytest.mark.parametrize(("blocks", "wanted"), PICTURES)
def test_refuses_pictures_as_the_real_one_does(blocks: list[dict[str, Any]], wanted: str) -> None:
    """By size, number, type and content, wherever they stand."""
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Read", "input": {}}]}
    before = [call] if blocks[0]["type"] == "tool_result" else []
    told = fault(body({"role": "user", "content": "hi"}, *before, {"role": "user", "content": blocks}))
    assert wanted in told
    assert bool(told) == bool(wanted)
