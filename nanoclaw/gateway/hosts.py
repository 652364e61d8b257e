"""Which names a sandbox may reach: how the owner writes them, and what they match (pure)."""

import re
from collections.abc import Iterable

from nanoclaw.errors import Refused

MAX_NAME = 253  # characters; the limit of DNS
MAX_PATTERNS = 200  # of one group
TLS = 443

# A model by another key would be one that nobody meters, and its provider is a place to put things.
PROVIDERS = ("anthropic.com", "claude.ai", "claude.com", "claudeusercontent.com")
# Names of the host's own network, whatever a resolver says of them.
_INTERNAL = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "arpa", "onion", "invalid")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as a last label it makes an address of any name
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def host_name(text: str) -> str:
    """The name as DNS has it: lower case, no dot at the end. Raises Refused for what is none, as an address."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise Refused("that is no host name: write it as in files.example.org")
    if _NUMBER.fullmatch(labels[-1]):
        raise Refused("an address is no host name: write the name that its certificate has")
    if len(labels) < 2 or _within(name, _INTERNAL):
        raise Refused("that is a name of a local network, which no sandbox may reach")
    return name


def check_pattern(text: str, providers: Iterable[str] = PROVIDERS) -> str:
    """What the owner wrote, in the one form that is kept: `files.example.org`, `*.example.org`, `example.org:8443`.

    Raises Refused, with what to write instead.
    """
    written = text.strip()
    if "/" in written or "@" in written:
        raise Refused("write the host alone, without https:// and without a path")
    host, colon, port = written.partition(":")
    below = host.startswith("*.")
    name = host_name(_ascii(host.removeprefix("*.")))
    if overlaps(name, providers, below=below):
        raise Refused(f"{name} is the model's provider, which is reached by the gateway alone")
    if colon and port != str(TLS):
        return f"{'*.' * below}{name}:{_port(port)}"
    return f"{'*.' * below}{name}"


def matches(pattern: str, host: str, port: int) -> bool:
    """Whether a pattern in its kept form covers this name at this port; `*.` stands for one label or more."""
    name, _, at = pattern.partition(":")
    if port != int(at or TLS):
        return False
    return host.endswith(name[1:]) and host != name[2:] if name.startswith("*.") else host == name


def overlaps(name: str, others: Iterable[str], *, below: bool = False) -> bool:
    """Whether the name is one of the others or below one; with `below`, also whether one of them is below it."""
    return _within(name, others) or (below and any(_within(other, (name,)) for other in others))


def _within(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.endswith("." + parent) for parent in parents)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise Refused("after the colon stands a port from 1 to 65535")
    if int(text) == 80:
        raise Refused("port 80 is plain http, which anybody on the way could read and change: use https")
    return int(text)


def _ascii(name: str) -> str:
    """Letters of other alphabets as DNS has them (xn--). Python knows the older rules alone: where the newer ones
    differ, the name could mean another host than its owner sees."""
    if name.isascii():
        return name
    try:
        labels = [label.encode("idna").decode("ascii") for label in name.split(".")]
        same = [label.encode("ascii").decode("idna") for label in labels] == name.lower().split(".")
    except UnicodeError:
        same = False
    if not same:
        raise Refused("that name cannot be written in ASCII without doubt: give its form with xn--")
    return ".".join(labels)
