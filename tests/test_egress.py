"""The way out on a real socket: who gets through, who does not, and what it may carry."""

import asyncio
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from loguru import logger

from nanoclaw.errors import GatewayError
from nanoclaw.gateway import Border, Level, outward
from nanoclaw.gateway.egress import SOCKET, Egress, Limits
from nanoclaw.gateway.hello import asks_again
from tests.egress import PUBLIC, Asked, Authority, House, World, ask, connect, echo, serving
from tests.fakes import eventually, short_folder
from tests.test_egress_rules import extension, hello, sni

HOST = "files.example.org"
PATIENCE = 30.0  # seconds on a busy machine


@dataclass
class Out:
    """An egress with the run `r` open, and everything around it."""

    folder: Path
    house: House
    world: World
    authority: Authority
    egress: Egress
    log: list[str]
    connections: list[Asked] = field(default_factory=list)

    async def ask(self, *parts: bytes, folder: Path | None = None) -> Asked:
        async with asyncio.timeout(PATIENCE):
            self.connections.append(await ask(folder or self.folder, *parts))
            return self.connections[-1]

    async def tls(self, asked: Asked, name: str = HOST) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Speak TLS through what was connected."""
        async with asyncio.timeout(PATIENCE):
            await asked.writer.start_tls(self.authority.client(), server_hostname=name)
        return asked.reader, asked.writer

    async def again(self, limits: Limits) -> None:
        """The same with other limits."""
        await self.egress.aclose()
        self.egress = self.world.egress(self.house, limits)
        await self.egress.open("r", self.folder)


@pytest.fixture
async def out() -> AsyncIterator[Out]:
    log: list[str] = []
    sink = logger.add(lambda m: log.append(str(m)), format="{message}", level="DEBUG")
    with short_folder() as folder:
        authority = Authority(folder)
        async with serving(echo, authority.server(HOST, "other.example.org")) as port:
            world = World(answers={HOST: [PUBLIC]}, servers={443: port})
            house = House()
            it = Out(folder, house, world, authority, world.egress(house), log)
            await it.egress.open("r", folder)
            yield it
            for asked in it.connections:
                await asked.close()
            await it.egress.aclose()
    logger.remove(sink)


# What a client says that offers no key at first (x25519, groups, signatures, TLS 1.3), and then one.
RETRY = (
    extension(10, b"\0\2\0\x1d"),
    extension(13, b"\0\6\4\3\x08\4\4\1"),
    extension(43, b"\2\3\4"),
    extension(51, b"\0\0"),
)
SHARE = extension(51, struct.pack(">HHH", 36, 29, 32) + b"\x09" + bytes(31))


def test_the_house_of_the_tests_is_a_border() -> None:
    """mypy compares the class with the Protocol."""
    _: Callable[..., Border] = House


# --- who gets through --------------------------------------------------------------------------


async def test_an_allowed_host_is_reached_by_its_name(out: Out) -> None:
    """The client speaks TLS with the server itself: nothing is taken apart on the way."""
    asked = await out.ask(connect())
    assert asked.status == 200
    reader, writer = await out.tls(asked)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    assert out.world.dialled == [(PUBLIC, 443)]
    assert f"Egress: family was connected to {HOST}:443\n" in out.log
    writer.close()
    await eventually(lambda: out.house.bytes > 1000, PATIENCE)


async def test_a_host_that_is_not_allowed_is_not_even_looked_up(out: Out) -> None:
    """A lookup tells somebody of the name; the refusal says who can change it, the owner is told, the log knows."""
    asked = await out.ask(connect("secret.evil.example"))
    assert asked.status == 403
    assert "the owner can allow it" in asked.reason
    assert out.world.asked == []
    assert out.house.wanted == [("r", "secret.evil.example", 443)]
    assert any("family was refused secret.evil.example:443" in line for line in out.log)


async def test_the_models_provider_is_not_reached_and_not_proposed(out: Out) -> None:
    """Neither Anthropic nor the API that is configured, however open the group is."""
    out.house.level = Level.PUBLIC
    await out.egress.aclose()
    out.egress = out.world.egress(out.house, upstream="https://llm.corp.example:8443/v1")
    await out.egress.open("r", out.folder)
    for host in ("api.anthropic.com", "llm.corp.example", "x.llm.corp.example", "claude.ai"):
        assert (await out.ask(connect(host))).status == 403
    assert (out.house.wanted, out.world.asked) == ([], [])


async def test_public_reaches_every_host_by_tls(out: Out) -> None:
    """But no other port, and no address."""
    out.house.level, out.house.hosts = Level.PUBLIC, ()
    assert (await out.ask(connect())).status == 200
    assert (await out.ask(connect(port=22))).status == 403
    assert (await out.ask(connect(PUBLIC))).status == 403


async def test_what_the_owner_sets_counts_at_once(out: Out) -> None:
    """For the next connection, and for one that is open: it is cut off."""
    await out.again(Limits(look=0.05))
    asked = await out.ask(connect())
    await out.tls(asked)
    out.house.hosts = ()
    async with asyncio.timeout(PATIENCE):
        await asked.over()
    assert (await out.ask(connect())).status == 403
    assert any("was cut off" in line for line in out.log)


# --- a resolver that lies ----------------------------------------------------------------------

LIES = {
    "itself": ["127.0.0.1"],
    "all of itself": ["127.8.8.8"],
    "nothing": ["0.0.0.0"],
    "a home network": ["192.168.1.1"],
    "a company": ["10.1.2.3"],
    "a container engine": ["172.17.0.1"],
    "metadata": ["169.254.169.254"],
    "metadata of a task": ["169.254.170.2"],
    "metadata behind CGNAT": ["100.100.100.200"],
    "metadata by protocol": ["192.0.0.192"],
    "metadata by IPv6": ["fd00:ec2::254"],
    "a cloud's wire server": ["168.63.129.16"],
    "multicast": ["224.0.0.251"],
    "broadcast": ["255.255.255.255"],
    "reserved": ["250.1.1.1"],
    "benchmarks": ["198.18.0.1"],
    "documentation": ["203.0.113.9"],
    "6to4 relay": ["192.88.99.1"],
    "loopback 6": ["::1"],
    "nothing 6": ["::"],
    "mapped": ["::ffff:127.0.0.1"],
    "mapped public": ["::ffff:93.184.216.34"],
    "compatible": ["::7f00:1"],
    "NAT64": ["64:ff9b::a9fe:a9fe"],
    "local NAT64": ["64:ff9b:1::a9fe:a9fe"],
    "6to4": ["2002:7f00:1::1"],
    "Teredo": ["2001:0:7f00:1::1"],
    "unique local": ["fd12:3456::1"],
    "link-local": ["fe80::1"],
    "link-local of a link": ["fe80::1%1"],
    "public of a link": ["2606:4700::1111%1"],
    "site-local": ["fec0::1"],
    "multicast 6": ["ff02::fb"],
    "documentation 6": ["2001:db8::1"],
    "discard": ["100::1"],
    "public, then itself": [PUBLIC, "127.0.0.1"],
    "itself, then public": ["127.0.0.1", PUBLIC],
    "public, then itself 6": [PUBLIC, "::1"],
    "public 6, then metadata": ["2606:4700::1111", "169.254.169.254"],
    "many, the last one not": [*[PUBLIC] * 9, "10.0.0.1"],
    "no address": ["files.example.org"],
    "a number": ["2130706433"],
    "octal": ["0177.0.0.1"],
    "empty": [""],
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES.keys())
async def test_no_lie_of_a_resolver_leads_inside(out: Out, answer: list[str]) -> None:
    """A name that resolves to anything but the internet, also beside it, is refused before a connection is tried."""
    out.world.answers[HOST] = answer
    assert (await out.ask(connect())).status == 403
    assert out.world.dialled == []


async def test_rebinding_is_useless(out: Out) -> None:
    """The address that was looked at is the one that is connected: the name is asked for once."""
    rebound = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])

    async def resolve(host: str) -> list[str]:
        out.world.asked.append(host)
        return next(rebound)

    out.egress._resolve = resolve
    assert (await out.ask(connect())).status == 200
    assert (out.world.asked, out.world.dialled) == ([HOST], [(PUBLIC, 443)])
    assert (await out.ask(connect())).status == 403


async def test_a_name_without_an_address_and_a_dead_host_are_told(out: Out) -> None:
    """502, and the next address of a name is tried when one does not answer."""
    out.world.answers = {HOST: []}
    assert (await out.ask(connect())).status == 502
    out.world.answers = {HOST: ["1.1.1.1", PUBLIC]}
    out.world.dead = {"1.1.1.1"}
    assert (await out.ask(connect())).status == 200
    out.world.dead = {"1.1.1.1", PUBLIC}
    assert (await out.ask(connect())).status == 502


async def test_a_resolver_that_hangs_is_not_waited_for(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client learns it, and others are served meanwhile."""
    monkeypatch.setattr(outward, "_LOOKUP", 0.1)

    async def resolve(host: str) -> list[str]:
        if host == HOST:
            await asyncio.Event().wait()
        return [PUBLIC]

    out.egress._resolve = resolve
    out.house.hosts = (HOST, "other.example.org")
    slow = asyncio.create_task(out.ask(connect()))
    assert (await out.ask(connect("other.example.org"))).status == 200
    assert (await slow).status == 504


async def test_who_is_denied_meanwhile_is_not_connected(out: Out) -> None:
    """A connection that was taken before counts for nothing; nor one that is looked up just now."""
    reader, writer = await asyncio.open_unix_connection(out.folder / SOCKET)
    async with asyncio.timeout(PATIENCE):
        while not any(run.open for run in out.egress._runs.values()):
            await asyncio.sleep(0.01)
        out.house.hosts = ()
        writer.write(connect())
        assert b" 403 " in await reader.readline()
    writer.close()
    assert out.world.asked == []
    out.house.hosts = (HOST,)

    async def resolve(host: str) -> list[str]:
        out.house.hosts = ()
        return [PUBLIC]

    out.egress._resolve = resolve
    assert (await out.ask(connect())).status == 403


async def test_a_name_of_thousands_of_addresses_is_refused(out: Out) -> None:
    """They are not even looked at."""
    out.world.answers = {HOST: [PUBLIC] * 65}
    assert (await out.ask(connect())).status == 502
    assert out.world.dialled == []


async def test_one_run_does_not_take_all_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names of a run hang, and whoever gave up waiting for them: others are looked up."""
    gate = threading.Event()
    monkeypatch.setattr(outward, "_ask", lambda host: [PUBLIC] if host == HOST or gate.wait() else [])
    room = asyncio.Semaphore(outward.LOOKUPS)
    greedy, other = outward.Lookups(room), outward.Lookups(room)
    hanging = [asyncio.create_task(greedy(f"slow{n}.example.org")) for n in range(2 * outward.LOOKUPS)]
    try:
        async with asyncio.timeout(PATIENCE):
            assert await other(HOST) == [PUBLIC]
        hanging[0].cancel()
        await asyncio.sleep(0)
        assert room._value == outward.LOOKUPS - 4
    finally:
        gate.set()
        await asyncio.gather(*hanging, return_exceptions=True)


def test_the_models_provider_is_known_however_it_is_written() -> None:
    """With a user, a port, in capitals."""
    for upstream in ("https://key@llm.example.org/v1", "https://LLM.example.org:8443"):
        assert World().egress(House(), upstream=upstream)._providers()[-1] == "llm.example.org"


async def test_the_systems_resolver_is_asked_for_the_name_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dot behind it: the host's own search list must not make another name of it. No address is no error."""
    asked: list[str] = []

    def answer(host: str, *args: object, **kwargs: object) -> list[object]:
        asked.append(host)
        if host == "gone.example.":
            raise OSError
        return [(0, 0, 0, "", (PUBLIC, 0)), (0, 0, 0, "", (PUBLIC, 0)), (0, 0, 0, "", ("::1", 0, 0, 0))]

    monkeypatch.setattr("socket.getaddrinfo", answer)
    lookups = outward.Lookups()
    assert await lookups(HOST) == [PUBLIC, "::1"]
    assert await lookups("gone.example") == []
    assert asked == [f"{HOST}.", "gone.example."]


# --- TLS by the name ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n", b"SSH-2.0-x\r\n", b"\x00" * 50])
async def test_what_is_no_tls_does_not_go_out(out: Out, first: bytes) -> None:
    """Behind port 443 stands TLS, or nothing."""
    asked = await out.ask(connect())
    asked.writer.write(first)
    await asked.writer.drain()
    async with asyncio.timeout(PATIENCE):
        await asked.over()
    assert out.house.bytes == 0
    assert any("was cut off" in line for line in out.log)


async def test_another_name_in_tls_does_not_go_out(out: Out) -> None:
    """Domain fronting: connected to one host, asking for another that the same server has. The client is told."""
    asked = await out.ask(connect())
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await out.tls(asked, "other.example.org")
    assert out.house.bytes == 0
    assert any("TLS for another name" in line for line in out.log)


async def test_a_second_hello_cannot_name_another_host(out: Out) -> None:
    """A server that knows no key of the first hello asks for another one, which must not ask for another server;
    also when it comes before the question, or when the host's own name is asked for, which passes."""
    other = "other.example.org"
    for name, behind, passes in ((other, False, False), (other, True, False), (HOST, False, True), (HOST, True, True)):
        before, asked = out.house.bytes, await out.ask(connect())
        first = hello(sni(HOST.encode()), *RETRY)
        second = hello(sni(name.encode()), *RETRY[:-1], SHARE)
        asked.writer.write(first + (second if behind else b""))
        async with asyncio.timeout(PATIENCE):
            assert asks_again(await asked.reader.readexactly(43))
            if not behind:
                asked.writer.write(second)
            if passes:
                while out.house.bytes < before + len(first) + len(second):
                    await asyncio.sleep(0.01)
            else:
                await asked.over()
                assert out.house.bytes <= before + len(first) + 4096  # with what the server said
                assert any("TLS for another name" in line for line in out.log)
        await asked.close()


async def test_a_hello_that_trickles_passes_whole_or_not_at_all(out: Out) -> None:
    """Byte by byte without an end is cut off."""
    asked = await out.ask(connect())
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionError):
            for _ in range(200):
                asked.writer.write(b"\x16")
                await asked.writer.drain()
                await asyncio.sleep(0)
        await asked.over()
    assert out.house.bytes == 0


async def test_an_owners_port_may_carry_another_protocol(out: Out) -> None:
    """One whose server speaks first, too; but not plain http."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-server\r\n")
        await echo(reader, writer)

    out.house.hosts = (f"{HOST}:22",)
    async with serving(greet) as port:
        out.world.servers[22] = port
        asked = await out.ask(connect(port=22))
        assert await asked.reader.readline() == b"SSH-2.0-server\r\n"
        asked.writer.write(b"SSH-2.0-client\r\n")
        assert await asked.reader.readline() == b"SSH-2.0-client\r\n"
        asked.writer.close()
        asked = await out.ask(connect(port=22))
        await asked.reader.readline()
        asked.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"GET" not in await asked.over()


# --- smuggling ---------------------------------------------------------------------------------


async def test_what_comes_before_the_answer_is_refused(out: Out) -> None:
    """A body or a second request right behind the first is not taken for either."""
    for more in (b"\x16\x03\x01", connect("evil.example"), b"\r\n"):
        assert (await out.ask(connect() + more)).status == 400
    assert out.world.dialled == []


async def test_a_request_in_pieces_is_one(out: Out) -> None:
    """However the bytes come."""
    assert (await out.ask(*(bytes([b]) for b in connect()))).status == 200


async def test_a_request_of_too_many_bytes_is_refused(out: Out) -> None:
    """A head without an end is not collected."""
    assert (await out.ask(b"CONNECT a.org:443 HTTP/1.1\r\n", b"X: y\r\n" * 5000)).status in (431, 0)
    assert (await out.ask(b"x" * 20_000)).status in (431, 0)
    assert out.world.asked == []


async def test_plain_http_is_answered_in_words(out: Out) -> None:
    """The agent's program shows what to do instead."""
    asked = await out.ask(b"GET http://files.example.org/ HTTP/1.1\r\nHost: files.example.org\r\n\r\n")
    assert (asked.status, asked.reason) == (405, "only https goes out: use an https address")


# --- limits ------------------------------------------------------------------------------------


async def test_who_says_nothing_is_let_go(out: Out) -> None:
    """Neither a request that does not come nor a connection that carries nothing is held."""
    await out.again(Limits(head=0.1, idle=0.1, look=0.05))
    async with asyncio.timeout(PATIENCE):
        assert (await out.ask(b"CONNECT ")).status == 0
        asked = await out.ask(connect())
        await asked.over()
        asked = await out.ask(connect())
        with suppress(OSError):
            reader, _ = await out.tls(asked)
            assert await reader.read() == b""


async def test_connections_at_once_and_of_a_run_are_limited(out: Out) -> None:
    """A run that holds all it may have gets no more until it lets go, and at last none at all."""
    await out.again(Limits(at_once=2, per_run=4))
    held = [await out.ask(connect()) for _ in range(2)]
    assert (await out.ask(connect())).status == 0
    for asked in held:
        asked.writer.close()
    await eventually(lambda: out.egress._runs["r"].open == 0, PATIENCE)
    assert (await out.ask(connect())).status == 200
    assert (await out.ask(connect())).status == 200
    assert (await out.ask(connect())).status == 0
    await out.egress.close("r")
    assert sum("no more" in line for line in out.log) == 1


async def test_bytes_of_a_run_and_of_a_day_are_limited(out: Out) -> None:
    """What is over ends the connection, and the next one is refused with a sentence."""
    out.house.bytes_left = 100_000
    asked = await out.ask(connect())
    reader, writer = await out.tls(asked)
    async with asyncio.timeout(PATIENCE):
        with suppress(OSError):
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
                if not await reader.read(10_000):
                    break
    await eventually(lambda: out.house.bytes > 90_000, PATIENCE)
    assert out.house.bytes < 300_000
    assert (await out.ask(connect())).status == 429
    out.house.bytes_left = 1 << 40
    await out.again(Limits(run_bytes=1000))
    asked = await out.ask(connect())
    with suppress(OSError):
        await out.tls(asked)
    assert (await out.ask(connect())).status == 429


# --- a run's life ------------------------------------------------------------------------------


async def test_one_run_never_speaks_for_another(out: Out, tmp_path: Path) -> None:
    """The socket says who asks."""
    with short_folder() as other:
        await out.egress.open("s", other)
        await out.ask(connect("wanted.example"), folder=other)
        assert out.house.wanted == [("s", "wanted.example", 443)]
        await out.egress.close("s")
        assert not (other / SOCKET).exists()
    assert (await out.ask(connect())).status == 200


async def test_a_run_that_ends_takes_its_connections_with_it(out: Out) -> None:
    """And what they carried is counted; one that was never there is no error."""
    asked = await out.ask(connect())
    await out.tls(asked)
    await out.egress.close("r")
    await out.egress.close("r")
    async with asyncio.timeout(PATIENCE):
        await asked.over()
    assert out.house.bytes > 0


async def test_a_socket_of_a_killed_host_is_replaced(out: Out) -> None:
    """And one folder is not given to two runs of the same name."""
    with pytest.raises(GatewayError):
        await out.egress.open("r", out.folder)
    await out.egress.close("r")
    (out.folder / SOCKET).write_text("left over")
    await out.egress.open("r", out.folder)
    assert (await out.ask(connect())).status == 200
    await out.egress.aclose()
    with pytest.raises(GatewayError):
        await out.egress.open("r", out.folder / ("x" * 120))
