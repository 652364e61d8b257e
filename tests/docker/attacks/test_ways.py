"""Every way out that is none, and the gateway by all its loopholes, from the shell of a real run's agent."""

import pytest

from tests.docker.attacks.conftest import Battle

pytestmark = pytest.mark.timeout(300)

NO_WAY = frozenset({"ENETUNREACH", "EADDRNOTAVAIL", "EINVAL", "EAFNOSUPPORT", "EHOSTUNREACH", "ENODEV"})
NONE = frozenset({"none"})
MISSING = frozenset({"ENOENT"})

# What is tried (see inside/ways.py), and what must be seen.
DIRECT: dict[str, frozenset[str]] = {
    **dict.fromkeys(("IPv4", "IPv6", "metadata of a cloud", "metadata by IPv6", "the engine's own address"), NO_WAY),
    **dict.fromkeys(("the host's network", "DNS by UDP", "UDP by IPv6", "multicast", "link-local of IPv6"), NO_WAY),
    "a name": frozenset({"no name"}),
    "a link of one's own": frozenset({"EPERM", "EACCES", "EOPNOTSUPP"}),
    "sockets without a file": NONE,
    "sockets of others": NONE,
    "the folder above": frozenset({"own"}),
    "the engine": MISSING,
    "the host's control socket": MISSING,
}

UNKNOWN = frozenset({"404"})
DENIED = frozenset({"403"})
BROKEN = frozenset({"400", "closed"})  # what could be read in two ways is not read at all
PASSED = frozenset({"200"})  # and what came out of it stands below

GATEWAY: dict[str, frozenset[str]] = {
    **dict.fromkeys(("another path", "the root", "the list of models", "batches", "an absolute URI"), UNKNOWN),
    **dict.fromkeys(("up by dots", "up by escaped dots", "two slashes", "a null in the path"), UNKNOWN),
    **dict.fromkeys(("another method", "DELETE", "TRACE", "CONNECT", "an upgrade"), UNKNOWN | BROKEN),
    "two requests at once": frozenset({"404", "404 404"}),
    "another host": BROKEN | PASSED,
    **dict.fromkeys(("a forged key", "a forged beta", "a forged query", "an upgrade to h2c"), PASSED),
    "one behind a good one": frozenset({"200", "200 404"}),
    **dict.fromkeys(("length and chunks", "chunks and length", "two lengths", "a length below zero"), BROKEN),
    **dict.fromkeys(("a length with a sign", "chunks by another name", "a hidden encoding"), BROKEN),
    **dict.fromkeys(("a folded header", "a header with a null", "a header with a bare line end"), BROKEN),
    **dict.fromkeys(("a huge header", "ten thousand headers", "HTTP/2", "TLS", "noise"), BROKEN),
    "a body that never ends": frozenset({"413"}),
    **dict.fromkeys(("a compressed bomb", "JSON of great depth", "a tool of the provider"), DENIED),
    **dict.fromkeys(("a picture by address", "an MCP server", "a container of the provider"), DENIED),
    "early close": frozenset({"done"}),
    "a crowd of half requests": frozenset({"most were closed"}),
}


@pytest.mark.parametrize("case", DIRECT)
def test_there_is_no_other_way(battle: Battle, case: str) -> None:
    """Around the gateway nothing is reached, and nobody else's socket is seen."""
    assert battle.found["direct"][case] in DIRECT[case]


@pytest.mark.parametrize("case", GATEWAY)
def test_the_gateway_has_one_door(battle: Battle, case: str) -> None:
    """What is no honest request to the model's API is refused or not even read."""
    assert battle.found["gateway"][case] in GATEWAY[case]


def test_every_attempt_is_in_the_table(battle: Battle) -> None:
    """So that none is tried and not looked at."""
    assert set(battle.found["direct"]) == set(DIRECT)
    assert set(battle.found["gateway"]) == set(GATEWAY)


def test_what_went_out_is_what_we_write(battle: Battle) -> None:
    """Nothing that was forged reached the API: its own host, our key, known betas, no other path, no second request."""
    assert battle.others == []
    attacks = [r for r in battle.upstream if r.said == "attack"]
    assert 5 <= len(attacks) <= 6
    for request in battle.upstream:
        assert request.path in ("/v1/messages", "/v1/messages/count_tokens")
        assert request.headers["x-api-key"] == battle.key
        assert "authorization" not in request.headers
        assert request.headers["host"].startswith("127.0.0.1:")
        assert not {"upgrade", "http2-settings", "x-y", "transfer-encoding"} & set(request.headers)
        assert "mcp-client" not in request.headers.get("anthropic-beta", "")
        assert "forged" not in str(request.headers)
