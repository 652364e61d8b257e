"""The model gateway: one socket per run, the real credential put in, nothing held back, every token counted."""

import asyncio
import contextlib
import gzip
import io
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from nanoclaw.config.leak import REMOVED
from nanoclaw.errors import GatewayError, Refused
from nanoclaw.gateway import Ask, Credential, CredentialKind, Gateway
from nanoclaw.gateway import model as gateway_model
from nanoclaw.gateway.answer import Watcher
from nanoclaw.gateway.model import MAX_BODY, MAX_CONNECTIONS, ModelGateway
from nanoclaw.gateway.usage import UsageTap
from nanoclaw.models import Usage
from tests.fakes import LIMIT
from tests.model_server import Cut, ModelServer, Slow, Status, Text

CLI = json.loads(Path(__file__).with_name("cli_requests.json").read_text("utf-8"))
ASK: dict[str, Any] = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
KEY = Credential(CredentialKind.API_KEY, "real")
TOKEN = Credential(CredentialKind.OAUTH, "real")


@dataclass
class Count:
    """A Meter that the test reads."""

    no: str = ""
    poor: str = ""  # for what a request would cost
    held: list[tuple[str, Ask]] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    most: int = 1 << 40  # tokens of an answer that it affords
    uses: list[tuple[str, Usage]] = field(default_factory=list)
    overloads: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def refusal(self, run_id: str) -> str:
        return self.no

    def affords(self, run_id: str, ask: Ask) -> int:
        if self.poor:
            raise Refused(self.poor)
        return min(ask.output, self.most)

    def reserve(self, run_id: str, ask: Ask) -> int:
        self.held.append((run_id, ask))
        return len(self.held) - 1

    def settle(self, held: int, usage: Usage | None, *, overloaded: bool = False) -> None:
        self.settled.append(held)
        self.overloads += overloaded
        if usage is not None:
            self.uses.append((self.held[held][0], usage))
            self.came.set()


@dataclass
class Way:
    """A gateway in front of the stand-in model, with one run `r` open."""

    gateway: ModelGateway
    model: ModelServer
    meter: Count
    folder: Path
    credential: Credential | None = KEY
    leaks: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def http(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.UnixConnector(str(self.folder / "model.sock"))
        async with aiohttp.ClientSession("http://gateway", connector=connector) as session:
            yield session

    async def ask(self, body: object = ASK, path: str = "/v1/messages", **headers: str) -> tuple[int, str]:
        async with self.http() as http, http.post(path, json=body, headers=headers) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    meter = Count()
    async with ModelServer(keys={"real"}) as model:
        gateway = ModelGateway(lambda: model.url, lambda: it.credential, meter, lambda: it.leaks.append("once"))
        it = Way(gateway, model, meter, tmp_path)
        await it.gateway.open("r", tmp_path, search=False)
        yield it
        await it.gateway.aclose()


def test_it_is_a_gateway() -> None:
    """mypy compares the class with the Protocol that the core knows."""
    _: Callable[..., Gateway] = ModelGateway


async def test_real_key_goes_out_and_the_placeholder_does_not(way: Way) -> None:
    """What the sandbox wrote into headers is built anew: no placeholder, no cookie, no unknown beta."""
    betas = {"anthropic-beta": "effort-2025-11-24,files-api-2025-04-14"}
    wild = {"authorization": "Bearer placeholder", "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "user-agent": "exfil"}
    status, _ = await way.ask(**{"x-api-key": "placeholder"}, **betas, **wild)
    headers = way.model.requests[0].headers
    assert status == 200
    assert headers["x-api-key"] == "real"
    assert headers["anthropic-beta"] == "effort-2025-11-24"
    assert headers["user-agent"] == "nanoclaw"
    assert not {"authorization", "cookie", "x-forwarded-for"} & set(headers)


async def test_token_goes_out_as_bearer_with_its_beta(way: Way) -> None:
    """A token of a subscription needs its beta, whatever the sandbox asked for."""
    way.credential = TOKEN
    assert (await way.ask())[0] == 200
    headers = way.model.requests[0].headers
    assert (headers["authorization"], headers["anthropic-beta"]) == ("Bearer real", "oauth-2025-04-20")
    assert "x-api-key" not in headers


async def test_new_key_counts_at_once(way: Way) -> None:
    """Without a credential the agent is told so; the next request uses the one that was set meanwhile."""
    way.credential = None
    status, text = await way.ask()
    assert (status, json.loads(text)["error"]["type"]) == (403, "permission_error")
    way.credential = KEY
    assert (await way.ask())[0] == 200


@pytest.mark.parametrize("case", CLI, ids=[c["name"] for c in CLI])
async def test_requests_of_the_pinned_cli_pass(tmp_path: Path, case: dict[str, Any]) -> None:
    """What Claude Code sends arrives as it was, in both methods that are allowed."""
    meter = Count()
    async with ModelServer() as model:
        way = Way(ModelGateway(lambda: model.url, lambda: KEY, meter), model, meter, tmp_path)
        await way.gateway.open("r", tmp_path, search=True)
        status, _ = await way.ask(case["body"], case["path"] + "?beta=true", **{"anthropic-beta": case["betas"]})
        await way.gateway.aclose()
    assert status == 200
    assert model.requests[0].body == case["body"]
    assert len(meter.uses) == (case["path"] == "/v1/messages")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/messages"),
        ("DELETE", "/v1/messages"),
        ("POST", "/v1/files"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messages/"),
        ("POST", "//v1/messages"),
        ("POST", "/v1/messages%2F..%2Ffiles"),
    ],
)
async def test_other_paths_are_not_known(way: Way, method: str, path: str) -> None:
    """Only the two methods exist; nothing else reaches the API."""
    async with way.http() as http, http.request(method, URL(path, encoded=True), json=ASK) as answer:
        assert answer.status == 404
    assert not way.model.requests
    assert not way.model.others


async def test_refused_request_stays_here(way: Way) -> None:
    """A way out is 403 with its name, and the API never hears of it."""
    status, text = await way.ask(ASK | {"mcp_servers": []})
    assert status == 403
    assert "mcp_servers" in text
    assert not way.model.requests
    assert not way.meter.uses


async def test_search_is_a_switch_of_the_run(way: Way, tmp_path: Path) -> None:
    """One run may search on the provider's side, another may not."""
    other = tmp_path / "other"
    other.mkdir()
    await way.gateway.open("s", other, search=True)
    ask = ASK | {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    assert (await way.ask(ask))[0] == 403
    way.folder = other
    assert (await way.ask(ask))[0] == 200
    assert way.meter.uses[0][0] == "s"


async def test_used_up_budget_is_403_with_its_sentence(way: Way) -> None:
    """At 403 the CLI stops, and people read why."""
    way.meter.no = "The daily limit is used up."
    status, text = await way.ask()
    assert (status, json.loads(text)["error"]["message"]) == (403, "The daily limit is used up.")
    assert not way.model.requests


async def test_body_limits(way: Way) -> None:
    """Too much is 413; a packed body is not unpacked."""
    async with way.http() as http:
        async with http.post("/v1/messages", data=io.BytesIO(b" " * (MAX_BODY + 1))) as answer:
            assert answer.status == 413
        packed = gzip.compress(json.dumps(ASK).encode())
        async with http.post("/v1/messages", data=packed, headers={"content-encoding": "gzip"}) as answer:
            assert answer.status == 403


async def test_large_request_passes(way: Way) -> None:
    """A request with a document of 2 MiB is parsed beside the loop and arrives whole."""
    page = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * (2 << 20)}}
    ask = ASK | {"messages": [{"role": "user", "content": [page]}]}
    async with way.http() as http, http.post("/v1/messages", data=io.BytesIO(json.dumps(ask).encode())) as answer:
        assert answer.status == 200
    assert way.model.requests[0].body == ask


async def test_answer_is_streamed_as_it_comes(way: Way) -> None:
    """The first words are here while the model has not yet said the rest; the usage is the API's own."""
    gate = asyncio.Event()
    way.model.script((Text("first", chunks=1), Slow(gate), Text("rest", chunks=1)))
    async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
        early = await _until(answer, b"first")
        assert b"rest" not in early
        assert not way.meter.uses
        gate.set()
        assert b"rest" in await answer.read()
    ((run, usage),) = way.meter.uses
    assert (run, usage.model) == ("r", "m")
    assert usage.input > 0
    assert usage.output > 1


async def test_plain_answer_is_counted(way: Way) -> None:
    """An answer that is not streamed carries its usage too."""
    assert (await way.ask(ASK | {"stream": False}))[0] == 200
    assert way.meter.uses[0][1].output > 1


@pytest.mark.parametrize("code", [400, 429, 500, 529])
async def test_errors_pass_and_cost_nothing(way: Way, code: int) -> None:
    """The CLI sees the API's own status, and how long to wait."""
    way.model.script(Status(code, retry_after=7))
    async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
        assert (answer.status, answer.headers["retry-after"]) == (code, "7")
        assert "request-id" in answer.headers
    assert not way.meter.uses
    assert way.meter.overloads == (code == 529)


LONG_KEY = "sk-ant-api03-visibly0Fake-no7key2At4all-Just3Letters-AA"


@pytest.mark.parametrize("written", [LONG_KEY, LONG_KEY[::-1], LONG_KEY.encode().hex(), " ".join(LONG_KEY)])
async def test_an_error_that_names_the_key_does_not_reach_the_agent(way: Way, written: str) -> None:
    """The API, or a proxy before it, may say what it was asked with; the sentence around it stays."""
    way.model.keys = None
    way.credential = Credential(CredentialKind.API_KEY, LONG_KEY)
    way.model.script(Status(400, message=f"prompt is too long, says {written}!"))
    status, text = await way.ask()
    told = {"type": "invalid_request_error", "message": f"prompt is too long, says {REMOVED}!"}
    assert (status, json.loads(text)) == (400, {"type": "error", "error": told})
    assert way.leaks == ["once"]


async def test_an_answer_that_holds_the_key_is_broken_off(way: Way) -> None:
    """Also where it comes in two pieces."""
    way.model.keys = None
    way.credential = Credential(CredentialKind.API_KEY, LONG_KEY)
    way.model.script(Text(f"before {LONG_KEY} behind", chunks=1))
    with pytest.raises(aiohttp.ClientError):
        await way.ask()
    assert way.leaks == ["once"]
    asked = len(way.model.requests)
    status, text = await way.ask()  # as its CLI does: no retry mends it
    assert (status, "Stopped by the gateway" in text) == (403, True)
    assert len(way.model.requests) == asked
    watcher = Watcher(LONG_KEY)
    assert [watcher.holds(piece.encode()) for piece in ("x" * 99, LONG_KEY[:9], LONG_KEY[9:-1], LONG_KEY[-1:])] == [
        *[False] * 3,
        True,
    ]


async def _echoes(request: web.Request) -> web.Response:
    """A proxy that hides nothing: what it was asked with, in every place."""
    key = request.headers["x-api-key"]
    said = {"error": {"type": key, "message": {"headers": key}}, "key": key}
    return web.json_response(said, status=502, headers={"x-key": key, "request-id": key, "set-cookie": key})


async def test_an_error_is_written_anew(way: Way, tmp_path: Path) -> None:
    """Kind and sentence in words that are known; no header and no field besides."""
    app = web.Application()
    app.router.add_post("/v1/messages", _echoes)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    way.credential = Credential(CredentialKind.API_KEY, LONG_KEY)
    gateway = ModelGateway(lambda: f"http://127.0.0.1:{port}", lambda: way.credential, way.meter)
    way.folder = tmp_path / "x"
    way.folder.mkdir()
    await gateway.open("r", way.folder, search=False)
    async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
        assert answer.status == 502
        assert LONG_KEY not in str(answer.headers)
        error = {"type": "api_error", "message": "The model's API said 502."}
        assert await answer.json() == {"type": "error", "error": error}
    await gateway.aclose()
    await runner.cleanup()


async def test_a_refused_key_is_403_for_the_agent(way: Way) -> None:
    """The CLI would repeat a request five times at 401; no retry mends a key."""
    way.model.script(Status(401))
    status, text = await way.ask()
    assert (status, "refused the credential" in text) == (403, True)
    assert not way.meter.uses


async def test_unreachable_api_is_529(way: Way, tmp_path: Path) -> None:
    """The CLI tries again later, and nothing is counted."""
    gateway = ModelGateway(lambda: "http://127.0.0.1:9", lambda: KEY, way.meter)
    way.folder = tmp_path / "x"
    way.folder.mkdir()
    await gateway.open("r", way.folder, search=False)
    assert (await way.ask())[0] == 529
    await gateway.aclose()
    assert not way.meter.uses


async def test_cut_answer_is_cut_for_the_agent_and_counted(way: Way) -> None:
    """Half an answer never looks whole, and what was said of it is paid."""
    way.model.script(Cut("half " * 100))
    with pytest.raises(aiohttp.ClientError):
        await way.ask()
    assert way.meter.uses[0][1].output >= 100


async def _hang_up(way: Way) -> None:
    """Take the first bytes and leave."""
    async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
        await _until(answer, b"word")
        answer.close()


async def _close_run(way: Way) -> None:
    async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
        await _until(answer, b"word")
        await way.gateway.close("r")


@pytest.mark.parametrize("end", [_hang_up, _close_run])
async def test_broken_off_request_ends_at_the_api_and_is_counted(
    way: Way, end: Callable[[Way], Awaitable[None]]
) -> None:
    """Hanging up saves nobody's budget: the tokens so far count, and the model stops working."""
    way.model.script((Text("word " * 100), Slow(asyncio.Event())))
    await end(way)
    assert (await way.model.seen(1, finished=True)).broken
    await way.meter.came.wait()
    assert way.meter.uses[0][1].output >= 100


async def test_request_that_waits_is_counted_when_it_is_broken_off(way: Way) -> None:
    """The API has said nothing yet, but its work is paid: the input is guessed from the request's length."""
    way.model.script((Slow(asyncio.Event()), Text("never")))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(way.ask())
        await way.model.seen(1)
        asking.cancel()
    await way.meter.came.wait()
    assert way.meter.uses[0][1].input == len(json.dumps(ASK, separators=(",", ":"))) // 4


async def test_socket_is_of_one_life(way: Way, tmp_path: Path) -> None:
    """It is open to any uid, gone after close, and one left by a killed host is replaced."""
    socket = tmp_path / "model.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o666
    with pytest.raises(GatewayError):
        await way.gateway.open("r", tmp_path, search=False)
    await way.gateway.close("r")
    await way.gateway.close("r")
    assert not socket.exists()
    socket.touch()
    await way.gateway.open("r", tmp_path, search=False)
    assert (await way.ask())[0] == 200


async def test_folder_that_cannot_hold_a_socket(way: Way, tmp_path: Path) -> None:
    """A too long path and a missing folder are clear errors, and the run can be opened elsewhere."""
    with pytest.raises(GatewayError, match="107"):
        await way.gateway.open("x", tmp_path / ("x" * 100), search=False)
    with pytest.raises(GatewayError):
        await way.gateway.open("x", tmp_path / "missing", search=False)
    (tmp_path / "x").mkdir()
    await way.gateway.open("x", tmp_path / "x", search=False)


async def test_one_run_cannot_ask_without_end(way: Way) -> None:
    """Four answers at once, the others wait for their turn; beyond a number of those the run is told to wait."""
    gate = asyncio.Event()
    way.model.answer(lambda _: (Slow(gate), Text("late")))
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(way.ask()) for _ in range(32)]
        await way.model.seen(4)
        while await _status(way) != 429:  # until all of them have arrived
            await asyncio.sleep(0)
        assert len(way.model.requests) == len(way.meter.held) == 4
        gate.set()
    assert {t.result()[0] for t in asking} == {200}
    assert sorted(way.meter.settled) == list(range(32))


async def test_a_run_asks_at_most_sixty_times_a_minute(way: Way) -> None:
    """Then it is told when to come back; counting tokens is free."""
    assert {(await way.ask())[0] for _ in range(60)} == {200}
    async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
        assert answer.status == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
    assert (await way.ask(path="/v1/messages/count_tokens"))[0] == 200
    assert len(way.meter.held) == 60


async def test_what_a_request_may_cost_is_held_before_it_goes_out(way: Way) -> None:
    """And given back when it cost nothing; one that would cost too much is 403 and stays here."""
    way.model.script(Status(500), Text("ok"))
    assert [(await way.ask())[0] for _ in range(2)] == [500, 200]
    assert (way.meter.held[0][1].input, way.meter.held[0][1].output) == (
        len(json.dumps(ASK, separators=(",", ":"))) // 4,
        9,
    )
    assert (way.meter.settled, len(way.meter.uses)) == ([0, 1], 1)
    way.meter.poor = "the limit of one turn, $1.00, is used up"
    status, text = await way.ask()
    assert (status, json.loads(text)["error"]["message"]) == (403, way.meter.poor)
    assert len(way.model.requests) == 2


async def test_an_agent_that_runs_in_a_circle_is_stopped(way: Way) -> None:
    """The same call twenty times in a row ends the turn; its name is in the message, fit for a log."""
    call = {"type": "tool_use", "id": "t", "name": "Bash\n", "input": {"command": "true"}}
    done = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]}
    rounds = [{"role": "assistant", "content": [call]}, done]
    for count, expected in ((19, 200), (20, 403)):
        status, text = await way.ask(ASK | {"messages": [*ASK["messages"], *rounds * count]})
        assert status == expected
    assert "Stopped by the gateway: Bash? was called 20 times" in text
    assert len(way.model.requests) == 1


async def test_one_run_cannot_hold_the_hosts_connections(way: Way, tmp_path: Path) -> None:
    """Beyond a number of them a new one is closed at once; another run's are not touched, and one that ends is room."""
    other = Way(way.gateway, way.model, way.meter, tmp_path / "s")
    other.folder.mkdir()
    await way.gateway.open("s", other.folder, search=False)
    held = [await asyncio.open_unix_connection(way.folder / "model.sock") for _ in range(MAX_CONNECTIONS)]
    reader, writer = await asyncio.open_unix_connection(way.folder / "model.sock")
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert (await other.ask())[0] == 200
    assert not any(reader.at_eof() for reader, _ in held)
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(LIMIT):
        while await _status(way) != 200:  # they are forgotten one by one
            await asyncio.sleep(0)


async def _status(way: Way) -> int:
    try:
        return (await way.ask())[0]
    except aiohttp.ClientError:
        return 0


async def test_connection_that_asks_nothing_is_closed(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead one does not hold its place for ever; one that is asking does, however long the model thinks."""
    monkeypatch.setattr(gateway_model, "_IDLE", 0.05)
    way.folder = tmp_path / "s"
    way.folder.mkdir()
    await way.gateway.open("s", way.folder, search=False)
    gate = asyncio.Event()
    way.model.script((Slow(gate), Text("late")))
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(way.ask())
        await way.model.seen(1)
        reader, writer = await asyncio.open_unix_connection(way.folder / "model.sock")
        assert await reader.read() == b""
        gate.set()
    writer.close()
    assert asking.result()[0] == 200


def test_usage_is_the_same_however_the_bytes_are_cut() -> None:
    """Counters are cumulative, and a chunk may end anywhere."""
    lines = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "message_delta", "usage": {"output_tokens": 9, "cache_read_input_tokens": 5, "service_tier": "x"}},
    ]
    data = b"".join(f"event: x\ndata: {json.dumps(line)}\n\n".encode() for line in lines)
    for size in (1, 7, len(data)):
        tap = UsageTap(Ask("", 0, 0), sse=True)
        for i in range(0, len(data), size):
            tap.feed(data[i : i + size])
        assert tap.usage(60) == Usage("m", input=3, output=9, cache_read=5)


async def _until(answer: aiohttp.ClientResponse, word: bytes) -> bytes:
    got = b""
    while word not in got:
        got += await answer.content.readany()
    return got


async def test_an_answer_is_cut_to_what_is_left(way: Way) -> None:
    """The API is asked for no more than the limits afford; everything else stays."""
    way.meter.most = 1234
    assert (await way.ask(ASK | {"max_tokens": 128_000}))[0] == 200
    assert way.model.requests[0].body == ASK | {"max_tokens": 1234}
    assert way.meter.held[0][1].output == 1234


async def test_an_answer_that_is_not_streamed_is_paid_when_it_is_broken_off(way: Way) -> None:
    """By the time that the model had for it."""
    way.model.script((Slow(asyncio.Event()), Text("never")))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(way.ask(ASK | {"stream": False, "max_tokens": 64_000}))
        await way.model.seen(1)
        await asyncio.sleep(0.1)
        asking.cancel()
    await way.meter.came.wait()
    assert way.meter.uses[0][1].output >= 10


async def test_an_api_that_says_nothing_is_paid(way: Way) -> None:
    """What was sent was worked at, whoever gave up waiting; what never arrived costs nothing."""
    way.gateway._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_read=0.3))
    way.model.script((Slow(asyncio.Event()), Text("never")))
    assert (await way.ask(ASK | {"stream": False}))[0] == 529
    assert way.meter.uses[0][1].output > 0


async def test_an_answer_that_cannot_be_read_gives_back_what_was_held(way: Way) -> None:
    """However deep it is."""
    deep = "[" * 5000 + "]" * 5000
    tap = UsageTap(Ask("m", 5, 9), sse=False)
    tap.feed(f'{{"content": {deep}, "usage": {{"output_tokens": 5}}}}'.encode())
    assert tap.usage(60) == Usage("m", input=5, output=9)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/messages", ASK | {"container": "c"}), ("/v1/messages/count_tokens", ASK)]
)
async def test_what_costs_no_tokens_is_limited_too(
    way: Way, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """Reading a request holds up the host: one that is refused as well as one that only counts, the large ones more."""
    monkeypatch.setattr(gateway_model, "_LARGE", 1 << 10)
    expected = 403 if "container" in body else 200
    large = ASK | {"messages": [{"role": "user", "content": "x" * (5 << 10)}], "zz": 1}
    assert [(await way.ask(body, path))[0] for _ in range(gateway_model.MAX_FREE - 12)] == [expected] * 48
    assert [(await way.ask(large, path))[0] for _ in range(3)] == [403, 403, 429]
    assert (await way.ask())[0] == 429


async def test_limits_of_the_whole_account_stay_here(way: Way) -> None:
    """They tell of all chats; the agent needs them only when it has to wait."""
    seen = []
    for status in (200, 429):
        way.model.script(Text("ok") if status == 200 else Status(429, retry_after=7))
        async with way.http() as http, http.post("/v1/messages", json=ASK) as answer:
            seen.append((answer.status, [h for h in answer.headers if h.lower().startswith("anthropic-ratelimit-")]))
    assert seen[0] == (200, [])
