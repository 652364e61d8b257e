"""The outside world of the way out: a resolver that says what the test wants, and TLS servers on loopback."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nanoclaw.gateway import Border, Level, Reach, outward
from nanoclaw.gateway.addresses import refusal
from nanoclaw.gateway.egress import SOCKET, Egress, Limits

Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PUBLIC = "93.184.216.34"  # what the test's names resolve to; connecting to it ends at the test's own server


@dataclass
class Authority:
    """A certificate authority that only a test trusts."""

    folder: Path

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._cert = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
        self.file = self.folder / "ca.pem"
        self.file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))
        self.file.chmod(0o644)

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server with these names shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        cert = self._sign(subject, key.public_key(), x509.SubjectAlternativeName([x509.DNSName(n) for n in names]))
        file = self.folder / f"{names[0]}.pem"
        pem = serialization.Encoding.PEM
        file.write_bytes(
            cert.public_bytes(pem)
            + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def client(self) -> ssl.SSLContext:
        """What a client that trusts it uses."""
        return ssl.create_default_context(cafile=self.file)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=False)
        own, theirs = self._key.public_key(), key
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(theirs), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        return builder.not_valid_after(now + datetime.timedelta(days=1)).sign(self._key, hashes.SHA256())


@dataclass
class House:
    """A Border that the test writes."""

    level: Level = Level.ALLOWLIST
    hosts: tuple[str, ...] = ("files.example.org",)
    bytes_left: int = 1 << 40
    wanted: list[tuple[str, str, int]] = field(default_factory=list)
    bytes: int = 0

    async def reach(self, run_id: str) -> Reach:
        return Reach("family", self.level, self.hosts, self.bytes_left)

    def refused(self, run_id: str, host: str, port: int) -> None:
        self.wanted.append((run_id, host, port))

    def carried(self, run_id: str, count: int) -> None:
        self.bytes += count
        self.bytes_left -= count


@dataclass
class World:
    """Names, addresses and servers, as the egress sees them."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    servers: dict[int, int] = field(default_factory=dict)  # a port of the outside -> one of loopback
    asked: list[str] = field(default_factory=list)  # names that were looked up
    dialled: list[tuple[str, int]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)  # addresses that refuse connections

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        return self.answers.get(host, [])

    def judge(self, addresses: Iterable[str]) -> str:
        return next(filter(None, map(refusal, addresses)), "")

    async def dial(self, address: str, port: int) -> socket.socket:
        self.dialled.append((address, port))
        if address in self.dead or port not in self.servers:
            raise ConnectionRefusedError
        return await outward.dial("127.0.0.1", self.servers[port])

    def egress(self, house: Border, limits: Limits | None = None, upstream: str = "") -> Egress:
        return Egress(house, lambda: upstream, limits=limits, resolve=self.resolve, judge=self.judge, dial=self.dial)


@asynccontextmanager
async def serving(served: Served, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback; its port."""
    guests: set[asyncio.Task[None]] = set()

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        guests.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            await served(reader, writer)
        writer.close()
        guests.discard(task)

    server = await asyncio.start_server(guest, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for _ in range(20):  # those that have not begun yet hear of their end in the loop's own time
            await asyncio.sleep(0)
        for task in list(guests):
            task.cancel()
        await asyncio.gather(*guests, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


@dataclass
class Asked:
    """One connection to the proxy, after its answer."""

    status: int
    reason: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def close(self) -> None:
        """Let go of it."""
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def over(self) -> bytes:
        """Until the proxy has closed it; what came before."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""


async def ask(folder: Path, *parts: bytes) -> Asked:
    """Say this to the proxy, and read its answer's head."""
    reader, writer = await asyncio.open_unix_connection(folder / SOCKET)
    with suppress(BrokenPipeError, ConnectionResetError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    try:
        first = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return Asked(0, "closed", reader, writer)
    _, status, reason = first.split(" ", 2)
    return Asked(int(status), reason, reader, writer)


def connect(host: str = "files.example.org", port: int = 443) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
