"""What the server answers to the program's requests (<iq>): keys, devices, groups, media hosts."""

from typing import TYPE_CHECKING

from tests.whatsapp.settings import COLLECTION
from tests.whatsapp.wire import Jid, Node

if TYPE_CHECKING:
    from tests.whatsapp.server import FakeWhatsApp, Group, Person


def answer(wa: "FakeWhatsApp", node: Node) -> list[Node] | None:
    """The content of the result; None: an empty one will do."""
    found = _ANSWERS.get((node.attrs.get("xmlns", ""), node.attrs["type"]))
    return found(wa, node) if found else None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _take_keys(wa: "FakeWhatsApp", node: Node) -> None:
    """The program brings its public keys."""
    keys = node.child("list")
    if keys is None:
        return
    signed = node.data("skey", "value"), _number(node.data("skey", "id"))
    wa.bundle = {"identity": node.data("identity"), "signed": signed[0], "signed_id": signed[1]}
    wa.prekeys += [(_number(key.data("id")), key.data("value")) for key in keys.children("key")]


def _give_keys(wa: "FakeWhatsApp", node: Node) -> list[Node]:
    """How many of its keys are left, or the keys of people."""
    if node.child("count"):
        return [Node("count", {"value": str(len(wa.prekeys))})]
    asked = node.child("key")
    users = [_keys_of(wa, user.attrs["jid"]) for user in (asked.children("user") if asked else [])]
    return [Node("list", {}, users)]


def _keys_of(wa: "FakeWhatsApp", jid: str) -> Node:
    person = wa.find(jid)
    if person is None:
        return Node("user", {"jid": jid}, [Node("error", {"code": "404", "text": "item-not-found"})])
    phone, first = person.phone, Node("id", {}, b"\0\0\1")
    signed = [first, Node("value", {}, phone.signed.public), Node("signature", {}, phone.signature)]
    keys = [
        Node("registration", {}, phone.registration.to_bytes(4, "big")),
        Node("type", {}, b"\5"),
        Node("identity", {}, phone.identity.public),
        Node("key", {}, [first, Node("value", {}, phone.once.public)]),
        Node("skey", {}, signed),
    ]
    return Node("user", {"jid": jid}, keys)


def _devices(wa: "FakeWhatsApp", node: Node) -> list[Node]:
    """Which devices people have, and which LID: everybody has a phone, the account the program too."""
    asked = node.child("usync", "list")
    users = [_devices_of(wa, user) for user in (asked.children("user") if asked else [])]
    return [Node("usync", {}, [Node("list", {}, [user for user in users if user])])]


def _devices_of(wa: "FakeWhatsApp", user: Node) -> Node | None:
    contact = user.child("contact")
    asked = contact.content.decode().lstrip("+") if contact and isinstance(contact.content, bytes) else ""
    jid = user.attrs.get("jid") or Jid(f"{asked}@s.whatsapp.net")
    person = wa.find(jid)
    if person is None:
        return Node("user", {"jid": jid}, [Node("contact", {"type": "out"}, asked.encode())])
    numbers = ["0", "7"] if person is wa.owner else ["0"]
    devices = Node("devices", {}, [Node("device-list", {}, [Node("device", {"id": number}) for number in numbers])])
    lid = Node("lid", {"val": person.jid})
    return Node("user", {"jid": jid}, [devices, lid, Node("contact", {"type": "in"}, asked.encode())])


def _pairing(_wa: "FakeWhatsApp", node: Node) -> list[Node] | None:
    if not node.child("link_code_companion_reg"):
        return None
    return [Node("link_code_companion_reg", {}, [Node("link_code_pairing_ref", {}, b"ref")])]


def _media(wa: "FakeWhatsApp", _node: Node) -> list[Node]:
    limits = {"auth": "A", "ttl": "300", "auth_ttl": "300", "max_buckets": "12"}
    return [Node("media_conn", limits, [Node("host", {"hostname": wa.host.name})])]


def _groups(wa: "FakeWhatsApp", node: Node) -> list[Node]:
    if node.child("participating"):
        return [Node("groups", {}, [_group(wa, group) for group in wa.groups.values()])]
    return [_group(wa, wa.groups[Jid(node.attrs["to"]).user])]


def _group(wa: "FakeWhatsApp", group: "Group") -> Node:
    head = {"id": group.id, "subject": group.subject, "creation": "1700000000", "s_t": "1700000000"}
    inside = [_member(person, admin=person in group.admins) for person in [wa.owner, *group.members]]
    if group.expires:
        inside.append(Node("ephemeral", {"expiration": str(group.expires)}))
    return Node("group", head | {"addressing_mode": "lid"}, inside)


def _member(person: "Person", admin: bool) -> Node:
    number = {"phone_number": person.number_jid} if person.number else {}
    return Node("participant", {"jid": person.jid, **number, **({"type": "admin"} if admin else {})})


def _settings(wa: "FakeWhatsApp", node: Node) -> list[Node]:
    asked = node.child("sync")
    return [Node("sync", {}, [_collection(wa, one) for one in (asked.children("collection") if asked else [])])]


def _collection(wa: "FakeWhatsApp", asked: Node) -> Node:
    name, known = asked.attrs["name"], int(asked.attrs.get("version", "0"))
    if name != COLLECTION:
        return Node("collection", {"name": name, "version": "0"})
    patches = [] if known else [Node("patch", {}, wa.settings.patch())]
    return Node("collection", {"name": name, "version": "1"}, [Node("patches", {}, patches)])


_ANSWERS = {
    ("encrypt", "set"): _take_keys,
    ("encrypt", "get"): _give_keys,
    ("usync", "get"): _devices,
    ("md", "set"): _pairing,
    ("w:sync:app:state", "set"): _settings,
    ("w:m", "set"): _media,
    ("w:g2", "get"): _groups,
}
