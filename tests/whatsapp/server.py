"""FakeWhatsApp: WhatsApp's server and everybody's phones, on loopback, for the real library.

    async with FakeWhatsApp() as wa:
        wa.patch()                                  # this process's library dials it, or:
        subprocess.Popen(..., env=wa.env())         # an unmodified program does
        wa.scan(qr)                                 # the owner's phone scans what the program shows
        ann = wa.person("777", "15552223333", "Ann")
        wa.group("1203", "Family", ann)
        wa.say(ann, "hello", group="1203")          # -> the program
        out = await wa.next_sent()                  # <- what Ann's phone decrypts

A message that was sent to the program stays here until the program has acknowledged it; what is left is sent again,
marked as offline, at its next login: as the real server does.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.whatsapp import answers, library
from tests.whatsapp.connection import Connection, Identity, certify, closing, upgrade
from tests.whatsapp.keys import Key, hkdf
from tests.whatsapp.media import MediaHost
from tests.whatsapp.peer import Phone
from tests.whatsapp.people import Group, Person, Sent
from tests.whatsapp.settings import Settings
from tests.whatsapp.wire import Jid, Node

library.load()
from neonize.proto.waAdv import WAAdv_pb2 as adv_pb  # noqa: E402
from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import Message  # noqa: E402

SERVER = Jid("@s.whatsapp.net")
PATIENCE = 25.0  # seconds: far more than anything here takes, on a machine that stood still for some
DEVICE = 7  # the program's number among the account's devices; the phone is 0


class FakeWhatsApp:
    """The stand-in. Attributes that are not private may be changed by a test at any time."""

    def __init__(self, number: str = "15550001111", lid: str = "99900011122", name: str = "Owner") -> None:
        self.account = Key()  # signs the linked devices
        self.owner = Person(lid, number, name, Phone(self.account))  # the account, on its phone
        self.people: dict[str, Person] = {lid: self.owner}
        self.groups: dict[str, Group] = {}

        self.sent: asyncio.Queue[Sent] = asyncio.Queue()  # texts, media, edits
        self.reactions: asyncio.Queue[Sent] = asyncio.Queue()
        self.heard: list[Node] = []  # every stanza of the program
        self.logins = 0
        self.linked = False
        self.hosts: list[str] = []  # whom the program asked the proxy for

        self.refuse = False  # no connection is taken
        self.failure: Mapping[str, str] | None = None  # the login is answered <failure ...>: reason, code, expire
        self.acks = True  # False: the program's messages are delivered, but never acknowledged
        self.error = 0  # the program's messages are refused with this
        self.silent = False  # nothing is answered any more, the line stays

        self.bundle: dict[str, Any] = {}
        self.prekeys: list[tuple[int, bytes]] = []
        self.host = MediaHost()
        self.settings = Settings(name)
        self.port = 0
        self._identity = Identity()
        self._connection: Connection | None = None
        self._login = asyncio.Event()
        self._pulse = asyncio.Event()
        self._waiting: dict[str, Node] = {}  # not yet acknowledged by the program
        self._companion: Any = None
        self._code: dict[str, Any] = {}  # linking by code
        self._unheard: list[Node] = []  # acknowledgements that are withheld
        self._ids = itertools.count(1)

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Listen; again on the same port after a `stop`."""
        if not self.port:
            self.folder = Path(tempfile.mkdtemp(prefix="wa-"))
            self.authority, self._tls = certify(self.folder)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._served: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """The server is gone: nobody listens, every line is cut."""
        self._server.close()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.stop()
        shutil.rmtree(self.folder)

    @property
    def proxy(self) -> str:
        """What HTTPS_PROXY says."""
        return f"http://127.0.0.1:{self.port}"

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment in which an unmodified program meets this server and nobody else."""
        overlay = self.folder / "overlay"
        if not overlay.exists():
            library.overlay(overlay, self._identity.root.public)
        env = {k: v for k, v in (os.environ if base is None else base).items() if not k.lower().endswith("_proxy")}
        path = os.pathsep.join(filter(None, (str(overlay), env.get("PYTHONPATH"))))
        return env | {"PYTHONPATH": path, "SSL_CERT_FILE": str(self.authority), "HTTPS_PROXY": self.proxy}

    def patch(self) -> None:
        """From its next connect on, the library in this process meets this server and nobody else."""
        library.patch(self._identity.root.public, self.port)
        self.host.name = f"127.0.0.1:{self.port}"

    # ---------------------------------------------------------------- what tests wait for

    async def login(self) -> None:
        """Until the program is logged in, and has brought its keys."""
        await self._until(lambda: self._login.is_set() and self.bundle)

    async def next_sent(self, timeout: float = PATIENCE) -> Sent:
        """The program's next message that is no reaction."""
        async with asyncio.timeout(timeout):
            return await self.sent.get()

    async def next_reaction(self, timeout: float = PATIENCE) -> Sent:
        """The program's next reaction."""
        async with asyncio.timeout(timeout):
            return await self.reactions.get()

    async def hear(self, matches: Callable[[Node], Any], timeout: float = PATIENCE) -> Node:
        """The first stanza of the program that matches, of those that came and those to come."""
        await self._until(lambda: any(map(matches, self.heard)), timeout)
        return next(filter(matches, self.heard))

    async def acknowledged(self, id: str, timeout: float = PATIENCE) -> None:
        """Until the program has acknowledged that message."""
        await self._until(lambda: id not in self._waiting, timeout)

    async def _until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._pulse.clear()
                await self._pulse.wait()

    # ---------------------------------------------------------------- linking, unlinking, trouble

    def scan(self, qr: str) -> None:
        """The owner's phone scans the QR that the program showed."""
        _, _, identity, secret, *_ = qr.rpartition("#")[2].split(",")
        self._vouch(base64.b64decode(identity), base64.b64decode(secret))

    def enter(self, code: str) -> None:
        """The owner types the code that the program showed; a wrong one leads nowhere, as there."""
        key = _code_key(code, self._code["salt"])
        self._code["theirs"] = _ctr(key, self._code["iv"], self._code["wrapped"])
        ours = self._code["ours"] = Key()
        salt, iv = os.urandom(32), os.urandom(16)
        wrapped = salt + iv + _ctr(_code_key(code, salt), iv, ours.public)
        offer = [
            Node("link_code_pairing_ref", {}, b"ref"),
            Node("link_code_pairing_wrapped_primary_ephemeral_pub", {}, wrapped),
            Node("primary_identity_pub", {}, self.account.public),
        ]
        self._notify("link_code_companion_reg", Node("link_code_companion_reg", {"stage": "primary_hello"}, offer))

    def _finish_code(self, node: Node) -> None:
        """The program answers the code with its own key bundle, sealed for the phone."""
        bundle = node.data("link_code_pairing_wrapped_key_bundle")
        identity = node.data("companion_identity_public")
        shared = self._code["ours"].exchange(self._code["theirs"])
        key = hkdf(shared, 32, bundle[:32], b"link_code_pairing_key_bundle_encryption_key")
        try:
            chance = AESGCM(key).decrypt(bundle[32:44], bundle[44:], None)[64:]
        except InvalidTag:  # the code was wrong
            return
        secret = hkdf(shared + self.account.exchange(identity) + chance, 32, info=b"adv_secret")
        self._vouch(identity, secret)

    def _vouch(self, identity: bytes, secret: bytes) -> None:
        details = adv_pb.ADVDeviceIdentity(rawID=1, timestamp=int(time.time()), keyIndex=1).SerializeToString()
        signed = adv_pb.ADVSignedDeviceIdentity(
            details=details,
            accountSignatureKey=self.account.public,
            accountSignature=self.account.sign(b"\6\0" + details + identity),
        ).SerializeToString()
        boxed = adv_pb.ADVSignedDeviceIdentityHMAC(details=signed, HMAC=hmac.digest(secret, signed, "sha256"))
        jid, lid = f"{self.owner.number}:{DEVICE}@s.whatsapp.net", f"{self.owner.lid}:{DEVICE}@lid"
        success = [
            Node("device-identity", {}, boxed.SerializeToString()),
            Node("device", {"jid": Jid(jid), "lid": Jid(lid)}),
            Node("platform", {"name": "android"}),
            Node("biz", {"name": ""}),
        ]
        stamp = {"from": SERVER, "type": "set", "id": self.new_id(), "t": int(time.time())}
        self._send(Node("iq", stamp, [Node("pair-success", {}, success)]))

    def log_out(self) -> None:
        """The owner removes the device on the phone."""
        self.linked = False
        self.stream_error("401", Node("conflict", {"type": "device_removed"}))

    def replace(self) -> None:
        """Another program logs in with the same session."""
        self.stream_error("", Node("conflict", {"type": "replaced"}))

    def stream_error(self, code: str, *inside: Node) -> None:
        """The server ends the stream, and says why."""
        self._send(Node("stream:error", {"code": code} if code else {}, list(inside)))
        if self._connection:
            self._connection.end()

    def drop(self) -> None:
        """The line breaks; the server would take the next."""
        if self._connection:
            self._connection.drop()

    def acknowledge(self) -> None:
        """Give the acknowledgements that were withheld."""
        while self._unheard:
            self._send(self._unheard.pop(0))

    def few_prekeys(self, left: int = 3) -> None:
        """The one-time keys run out: the program should bring more."""
        del self.prekeys[left:]
        self._notify("encrypt", Node("count", {"value": str(left)}))

    # ---------------------------------------------------------------- people and groups

    def person(self, lid: str, number: str = "", name: str = "Ann") -> Person:
        """Somebody new."""
        person = self.people[lid] = Person(lid, number, name)
        return person

    def group(self, id: str, subject: str, *members: Person, admins: Sequence[Person] = (), expires: int = 0) -> Group:
        """A group of these and the account."""
        group = self.groups[id] = Group(id, subject, list(members), list(admins), expires)
        return group

    def group_change(self, id: str, by: Person, *change: Node) -> None:
        """Tell the program what `by` did to the group: <subject>, <ephemeral>, <add>, <remove>, <promote>, ..."""
        attrs = {"from": self.groups[id].jid, "participant": by.jid, "addressing_mode": "lid"}
        self._notify("w:gp2", *change, **attrs)

    def rename(self, id: str, subject: str, by: Person) -> None:
        """A group gets another name."""
        self.groups[id].subject = subject
        self.group_change(id, by, Node("subject", {"subject": subject, "s_t": int(time.time()), "s_o": by.jid}))

    def set_timer(self, id: str, seconds: int, by: Person) -> None:
        """A group's messages are to vanish after that time; 0: never."""
        self.groups[id].expires = seconds
        on = Node("ephemeral", {"expiration": str(seconds)})
        self.group_change(id, by, on if seconds else Node("not_ephemeral"))

    def receipt(self, person: Person, *ids: str, kind: str = "read") -> None:
        """A person's phone has read, or merely got (kind ""), messages of the program."""
        attrs = {"from": person.jid, "id": ids[0], "t": int(time.time())} | ({"type": kind} if kind else {})
        more = [Node("list", {}, [Node("item", {"id": id}) for id in ids[1:]])] if ids[1:] else None
        self._send(Node("receipt", attrs, more))

    # ---------------------------------------------------------------- messages to the program

    def new_id(self) -> str:
        """An id that nobody had."""
        return f"3A{next(self._ids):018X}"

    def say(self, person: Person, message: "Message | str", group: str = "", **options: Any) -> str:
        """A person writes to the account, or into a group; the message's id. Options: see `stanza`."""
        node = self.stanza(person, message, group, **options)
        self.deliver(node)
        return str(node.attrs["id"])

    def type(self, message: "Message | str", to: str = "", **options: Any) -> str:
        """The owner types on the phone: into a chat (a jid), or into "message yourself"."""
        chat = Jid(to or self.owner.jid)
        if chat.endswith("@g.us"):
            return self.say(self.owner, message, chat.user, **options)
        wrapped = Message()
        wrapped.deviceSentMessage.destinationJID = chat
        wrapped.deviceSentMessage.message.CopyFrom(text(message))
        known = self.people.get(chat.user)
        number = {"peer_recipient_pn": known.number_jid} if known and known.number else {}
        return self.say(self.owner, wrapped, recipient=chat, **number, **options)

    def stanza(
        self, person: Person, message: "Message | str", group: str = "", id: str = "", at: int = 0, **attrs: Any
    ) -> Node:
        """The message encrypted now, to be delivered later: in another order, twice, or never.

        `at` is in seconds. More attributes of the stanza may be given: offline="1", edit="7", category="peer".
        """
        if not person.phone.has_session:
            person.phone.begin(self._take_bundle())
        kind, data = person.phone.seal(text(message).SerializeToString())
        return self._message(person, Node("enc", {"v": "2", "type": kind}, data), group, id, at, attrs)

    def garble(self, person: Person, group: str = "", id: str = "") -> str:
        """A message that the program cannot decrypt. It will ask for it again (a receipt of type retry)."""
        node = self._message(person, Node("enc", {"v": "2", "type": "msg"}, b"\x33" + os.urandom(60)), group, id, 0, {})
        self.deliver(node)
        return str(node.attrs["id"])

    def _message(self, person: Person, enc: Node, group: str, id: str, at: int, attrs: Mapping[str, Any]) -> Node:
        head = {"id": id or self.new_id(), "t": at or int(time.time()), "type": "text", "notify": person.name}
        number = {"participant_pn" if group else "sender_pn": person.number_jid} if person.number else {}
        chat = {"from": Jid(f"{group}@g.us"), "participant": person.jid} if group else {"from": person.jid}
        return Node("message", {**head, "addressing_mode": "lid", **chat, **number, **attrs}, [enc])

    def deliver(self, node: Node) -> None:
        """Send it now if the program is there, else at its next login; kept until it is acknowledged."""
        self._waiting[node.attrs["id"]] = node
        if self._login.is_set():
            self._send(node)

    def _take_bundle(self) -> dict[str, Any]:
        assert self.bundle, "the program is not linked"
        return self.bundle | {"once": self.prekeys.pop(0) if self.prekeys else None}

    def _notify(self, kind: str, *content: Node, **attrs: Any) -> None:
        head = {"from": SERVER, "id": self.new_id(), "type": kind, "t": int(time.time())}
        self._send(Node("notification", head | attrs, list(content)))

    def _send(self, node: Node) -> None:
        assert self._connection, "the program is not connected"
        self._connection.send(node)

    # ---------------------------------------------------------------- serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        with closing(writer):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            if self.refuse:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            if request.startswith("CONNECT "):
                self.hosts.append(request.split()[1])
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await writer.start_tls(self._tls)
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
            while "upgrade: websocket" not in request.lower():
                await self.host.serve(request, reader, writer)
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
            await upgrade(request, writer)
            await self._talk(Connection(self._identity, reader, writer))

    async def _talk(self, connection: Connection) -> None:
        payload = await connection.handshake()
        old, self._connection = self._connection, connection
        try:
            if payload.username:
                if old:
                    old.send(Node("stream:error", {}, [Node("conflict", {"type": "replaced"})]))
                    old.end()
                self._welcome(connection)
            else:
                refs = [Node("ref", {}, b"2@ref%d" % i) for i in range(6)]
                head = {"from": SERVER, "type": "set", "id": self.new_id(), "xmlns": "md"}
                connection.send(Node("iq", head, [Node("pair-device", {}, refs)]))
            while True:
                self._hear(connection, await connection.receive())
        finally:
            if self._connection is connection:
                self._connection = None
                self._login.clear()

    def _welcome(self, connection: Connection) -> None:
        failure = self.failure or (None if self.linked else {"reason": "401"})
        if failure:
            connection.send(Node("failure", dict(failure)))
            connection.end()
            return
        self.logins += 1
        lid = Jid(f"{self.owner.lid}:{DEVICE}@lid")
        connection.send(Node("success", {"t": int(time.time()), "lid": lid, "props": "1"}))
        for node in list(self._waiting.values()):
            connection.send(Node(node.tag, node.attrs | {"offline": "1"}, node.content))
        connection.send(Node("ib", {"from": SERVER}, [Node("offline", {"count": str(len(self._waiting))})]))
        self._login.set()
        self._pulse.set()

    def _hear(self, connection: Connection, node: Node) -> None:
        self.heard.append(node)
        if not self.silent:
            self._answer(connection, node)
        self._pulse.set()

    def _answer(self, connection: Connection, node: Node) -> None:
        if node.tag == "iq" and node.child("pair-device-sign"):
            self._link(connection)
        elif node.tag == "iq" and node.attrs.get("type") in ("get", "set"):
            head = {"from": node.attrs.get("to") or SERVER, "type": "result", "id": node.attrs["id"]}
            connection.send(Node("iq", head, answers.answer(self, node)))
            self._after(node)
        elif node.tag == "message":
            self._deliver_out(connection, node)
        elif node.tag in ("receipt", "ack") and node.attrs.get("type") != "retry":
            self._waiting.pop(node.attrs["id"], None)

    def _link(self, connection: Connection) -> None:
        """The program has accepted: it is a device of the account, with keys that nobody knows yet."""
        self.linked = True
        self.bundle, self.prekeys = {}, []
        for person in self.people.values():
            person.phone.forget()
        # The program hangs up. If we did, the library could miss its cue: then it never comes back.
        connection.send(Node("stream:error", {"code": "515"}))

    def _after(self, node: Node) -> None:
        """What an answered request sets off."""
        if node.attrs.get("xmlns") == "encrypt" and node.child("list") and not self.owner.phone.has_session:
            self._share_settings()
        if node.child("remove-companion-device"):
            self.log_out()
        request = node.child("link_code_companion_reg")
        if request and request.attrs.get("stage") == "companion_hello":
            wrapped = request.data("link_code_pairing_wrapped_companion_ephemeral_pub")
            self._code = {"salt": wrapped[:32], "iv": wrapped[32:48], "wrapped": wrapped[48:]}
        elif request and request.attrs.get("stage") == "companion_finish":
            self._finish_code(request)

    def _share_settings(self) -> None:
        """A new device has brought its keys: the phone gives it the account's settings."""
        share = Message()
        share.protocolMessage.type = share.protocolMessage.APP_STATE_SYNC_KEY_SHARE
        key = share.protocolMessage.appStateSyncKeyShare.keys.add()
        key.keyID.keyID, key.keyData.keyData, key.keyData.timestamp = self.settings.key_id, self.settings.key, 1
        key.keyData.fingerprint.rawID = 1
        self.say(self.owner, share, category="peer")

    # ---------------------------------------------------------------- messages of the program

    def _deliver_out(self, connection: Connection, node: Node) -> None:
        head = {"class": "message", "id": node.attrs["id"], "from": node.attrs["to"], "t": int(time.time())}
        if self.error:
            connection.send(Node("ack", head | {"error": str(self.error)}))
            return
        chat = str(node.attrs["to"])
        message = self._read(chat.partition("@")[0], node)
        if message is not None:
            sent = Sent(chat, message, node.attrs["id"], node, time.perf_counter())
            (self.reactions if message.HasField("reactionMessage") else self.sent).put_nowait(sent)
        if self.acks:
            connection.send(Node("ack", head))
        else:
            self._unheard.append(Node("ack", head))

    def _read(self, chat: str, node: Node) -> Any:
        """Decrypt it as each recipient's device would; what they read."""
        read = None
        boxes = node.child("participants")
        for box in boxes.children("to") if boxes else []:
            person = self.find(box.attrs["jid"])
            enc = box.child("enc")
            if not person or not enc:
                continue
            message = Message.FromString(person.phone.open(enc.attrs["type"], enc.data()))
            if message.HasField("senderKeyDistributionMessage"):
                key = message.senderKeyDistributionMessage.axolotlSenderKeyDistributionMessage
                person.phone.learn_sender(chat, key)
            else:
                read = message.deviceSentMessage.message if message.HasField("deviceSentMessage") else message
        for enc in node.children("enc"):
            if enc.attrs["type"] == "skmsg":  # every member must be able to read it
                for member in self.groups[chat].members:
                    read = Message.FromString(member.phone.open_group(chat, enc.data()))
        return read

    def find(self, jid: str) -> Person | None:
        """Who has that LID or number."""
        user = Jid(jid).user
        return self.people.get(user) or next((p for p in self.people.values() if p.number == user), None)


def text(message: "Message | str") -> "Message":
    """A plain text as a message."""
    return Message(conversation=message) if isinstance(message, str) else message


def _code_key(code: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", code.replace("-", "").encode(), salt, 2 << 16, 32)


def _ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


__all__ = ["PATIENCE", "FakeWhatsApp", "Group", "Message", "Person", "Sent", "text"]
