"""One connection of the program: websocket, Noise handshake, stanzas; and the HTTP beside it.

A subprocess comes as through a user's proxy: CONNECT web.whatsapp.com:443, then TLS. The library in process comes
straight, without TLS. Media are asked for at the same port: GET serves a blob, POST takes one.
"""

import asyncio
import base64
import datetime
import hashlib
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.whatsapp.keys import Key
from tests.whatsapp.library import load
from tests.whatsapp.wire import Node, Noise, decode, encode

load()
from neonize.proto.waCert import WACert_pb2 as cert_pb  # noqa: E402
from neonize.proto.waWa6 import WAWebProtobufsWa6_pb2 as wa6_pb  # noqa: E402

_HOSTS = ("web.whatsapp.com", "mmg.whatsapp.net")
GONE = (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)


def certify(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A throw-away authority that vouches for WhatsApp's names: its file, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    hosts = x509.SubjectAlternativeName([x509.DNSName(host) for host in _HOSTS])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(hosts, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = folder / "ca.pem", folder / "key.pem"
    pem = serialization.Encoding.PEM
    authority.write_bytes(certificate.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return authority, context


class Identity:
    """The server's Noise keys: a certificate chain that begins at the root key."""

    def __init__(self) -> None:
        self.root, middle, self.static = Key(), Key(), Key()
        self.chain = cert_pb.CertChain(
            intermediate=self._vouch(self.root, middle, 1, 0), leaf=self._vouch(middle, self.static, 2, 1)
        ).SerializeToString()

    @staticmethod
    def _vouch(signer: Key, key: Key, serial: int, issuer: int) -> Any:
        details = cert_pb.CertChain.NoiseCertificate.Details(
            serial=serial, issuerSerial=issuer, key=key.public, notBefore=0, notAfter=2**40
        ).SerializeToString()
        return cert_pb.CertChain.NoiseCertificate(details=details, signature=signer.sign(details))


async def upgrade(request: str, writer: asyncio.StreamWriter) -> None:
    """Say yes to a websocket."""
    key = next(line.split(": ")[1] for line in request.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{head}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())


class Connection:
    """Stanzas in and out, once `handshake` is done."""

    def __init__(self, identity: Identity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._identity, self._reader, self._writer, self._buffer = identity, reader, writer, b""

    async def _payload(self) -> bytes:
        """The next data frame's bytes; pings are answered."""
        head = await self._reader.readexactly(2)
        kind, size = head[0] & 15, head[1] & 127
        if size > 125:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        mask = await self._reader.readexactly(4)
        masked = int.from_bytes(await self._reader.readexactly(size), "big")
        data = (masked ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")).to_bytes(size, "big")
        if kind == 8:
            raise ConnectionError("closed by the program")
        if kind == 9:
            self._writer.write(b"\x8a" + bytes([size]) + data)
        return data if kind in (0, 2) else b""

    async def _frame(self) -> bytes:
        while len(self._buffer) < 3 + int.from_bytes(self._buffer[:3], "big"):
            self._buffer += await self._payload()
        end = 3 + int.from_bytes(self._buffer[:3], "big")
        frame, self._buffer = self._buffer[3:end], self._buffer[end:]
        return frame

    def _write(self, frame: bytes) -> None:
        data = len(frame).to_bytes(3, "big") + frame
        if len(data) < 126:
            size = bytes([len(data)])
        else:
            size = struct.pack(">BH", 126, len(data)) if len(data) < 65536 else struct.pack(">BQ", 127, len(data))
        self._writer.write(b"\x82" + size + data)

    async def handshake(self) -> Any:
        """Noise XX; what the program says of itself (ClientPayload)."""
        while len(self._buffer) < 4:
            self._buffer += await self._payload()
        header, self._buffer = self._buffer[:4], self._buffer[4:]
        theirs = wa6_pb.HandshakeMessage.FromString(await self._frame()).clientHello.ephemeral
        noise, ours = Noise(header), Key()
        noise.see(theirs)
        noise.see(ours.public)
        noise.mix(ours.exchange(theirs))
        hello = wa6_pb.HandshakeMessage()
        hello.serverHello.ephemeral = ours.public
        hello.serverHello.static = noise.seal(self._identity.static.public)
        noise.mix(self._identity.static.exchange(theirs))
        hello.serverHello.payload = noise.seal(self._identity.chain)
        self._write(hello.SerializeToString())
        finish = wa6_pb.HandshakeMessage.FromString(await self._frame()).clientFinish
        noise.mix(ours.exchange(noise.open(finish.static)))
        payload = wa6_pb.ClientPayload.FromString(noise.open(finish.payload))
        self._incoming, self._outgoing = noise.split()
        return payload

    async def receive(self) -> Node:
        """The program's next stanza."""
        return decode(self._incoming.open(await self._frame()))

    def send(self, node: Node) -> None:
        """A stanza for the program."""
        if not self._writer.is_closing():
            self._write(self._outgoing.seal(b"\0" + encode(node)))

    def drop(self) -> None:
        """The line breaks."""
        self._writer.transport.abort()

    def end(self) -> None:
        """The server hangs up: a moment later, for the library forgets what it has not yet handled at a close."""
        asyncio.get_running_loop().call_later(0.3, self._close)

    def _close(self) -> None:
        if not self._writer.is_closing():
            self._writer.write(b"\x88\x00")
            self._writer.close()


@contextmanager
def closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """However it ends, the socket is closed; a program that went away is no error here."""
    try:
        yield
    except (*GONE, asyncio.CancelledError):  # a cancelled handler is a server that stops
        pass
    finally:
        writer.close()
