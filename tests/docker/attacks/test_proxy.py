"""The proxy from inside a container, with every host of the world allowed: by TLS, to the internet, and no further."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanoclaw.gateway import Level
from nanoclaw.groups import open_home
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from tests.agent_harness import source
from tests.docker.attacks.conftest import Once, arm, plain_run
from tests.egress import PUBLIC, House, World, connect, echo, serving
from tests.egress import ask as ask_proxy

pytestmark = pytest.mark.timeout(300)

REFUSED = frozenset({"403"})
UNREAD = frozenset({"400", "403", "405", "431", "closed"})
CUT = frozenset({"cut off"})

# What is tried (see inside/ways.py), and what must be seen.
LITERALS = ("127.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.1", "0", "10.0.0.1", "1.1.1.1")
SIX = ("[::1]", "[::]", "[::ffff:127.0.0.1]", "[fd00:ec2::254]", "[64:ff9b::7f00:1]")
NAMES = ("localhost", "metadata.google.internal", "host.docker.internal", "api.anthropic.com", "console.anthropic.com")
LIES = ("inside.example.org", "mixed.example.org", "mapped.example.org")
CASES: dict[str, frozenset[str]] = {
    **{f"to {host}": REFUSED for host in (*LITERALS, "169.254.169.254", *NAMES, *LIES)},
    **{f"to {host}": UNREAD for host in SIX},
    "to nowhere.example.org": frozenset({"502"}),
    **dict.fromkeys(("port 25", "port 22"), REFUSED),
    **dict.fromkeys(("port 0", "port 65979, which is 443", "no port", "a user before the host"), UNREAD),
    **dict.fromkeys(("a null in the name", "a line end in the name", "letters that look alike"), UNREAD),
    **dict.fromkeys(("wide digits", "two dots", "a name of 300 letters"), UNREAD),
    **dict.fromkeys(("plain http", "plain http to metadata", "HTTP/2 to the proxy"), UNREAD),
    "SOCKS": UNREAD,
    **dict.fromkeys(("words before the answer", "a body with CONNECT", "a head without an end"), UNREAD),
    **dict.fromkeys(("TLS for another name", "TLS without a name", "TLS for an address"), CUT),
    **dict.fromkeys(("http in the tunnel", "ssh in the tunnel", "noise in the tunnel"), CUT),
    "the name with a dot at its end": frozenset({"echoed"}),  # the same name to DNS, and it must be to us
    "the good name": frozenset({"echoed"}),  # the control: what is allowed comes through
}


@dataclass
class Tried:
    """What came of it, on both sides."""

    found: dict[str, str]
    world: World
    other: int  # the status that another run's proxy gave meanwhile


async def attack(folder: Path, install: str, image: str) -> Tried:
    home = open_home(folder / "home")
    sandbox = DockerSandbox(install_id=install, environ={})
    spec, other = (plain_run(home, image, name, "ways.py proxy.json proxy") for name in ("attacker", "neighbour"))
    arm(source(spec, "/workspace/group"))
    async with serving(echo) as port:
        answers = {"good.example.org": [PUBLIC], "inside.example.org": ["10.1.2.3"]}
        answers |= {"mixed.example.org": [PUBLIC, "127.0.0.1"], "mapped.example.org": ["::ffff:127.0.0.1"]}
        world = World(answers, {443: port})
        egress = world.egress(House(level=Level.PUBLIC, hosts=()))
        for run in (spec, other):
            await egress.open(run.run_id, source(run, "/run/nanoclaw/sockets"))
        try:
            container = await sandbox.open(spec)
            neighbour = await ask_proxy(source(other, "/run/nanoclaw/sockets"), connect("good.example.org"))
            await neighbour.close()
            async with asyncio.timeout(100):
                end = await sandbox.wait(container)
            result = source(spec, "/workspace/group") / "proxy.json"
            assert result.exists(), end.log
            return Tried(json.loads(result.read_text()), world, neighbour.status)
        finally:
            await sandbox.close(container)
            await egress.aclose()
            await sandbox.stop()


@pytest.fixture(scope="module")
def tried(agent_image: str, once: Once[Tried]) -> Tried:
    """All of it, once."""
    return once("proxy", lambda folder: asyncio.run(attack(folder, "attacks-proxy", agent_image)))


@pytest.mark.parametrize("case", CASES)
def test_the_proxy_leads_to_the_internet_alone(tried: Tried, case: str) -> None:
    """However it is spelled."""
    assert tried.found[case] in CASES[case]


def test_nothing_else_was_connected_or_looked_up(tried: Tried) -> None:
    """Whatever was asked for; and another run's way was open meanwhile."""
    assert set(tried.found) == set(CASES)
    assert set(tried.world.dialled) == {(PUBLIC, 443)}
    assert set(tried.world.asked) <= {"good.example.org", "nowhere.example.org", *LIES}
    assert tried.other == 200
