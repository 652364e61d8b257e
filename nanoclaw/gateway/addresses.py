"""Which addresses are the internet, and which are somebody's own network (pure)."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Written out, because Python's is_global takes NAT64, 6to4 and others that lead to private addresses for public.
_NOT_PUBLIC = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this host": connects to the host itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT; also the metadata of some clouds
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public address by number, and a cloud's own services by use
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols; the metadata of one cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
]
# Of IPv6 the global unicast block alone. Outside it: loopback, link-local, unique local, multicast, IPv4-mapped and
# -compatible, NAT64 (64:ff9b::), site-local. Inside, these are not:
_UNICAST = IPv6Network("2000::/3")
_NOT_UNICAST = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocols: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
]


def refusal(text: str, own: Iterable[Network] = ()) -> str:
    """Why nobody may be connected to this address, "" for one on the internet; `own` are the host's networks."""
    try:
        address = ip_address(text)
    except ValueError:
        return "is no address"
    if isinstance(address, IPv6Address) and (address.scope_id or not _unicast(address)):
        return "is not on the internet"
    if isinstance(address, IPv4Address) and any(address in net for net in _NOT_PUBLIC):
        return "is not on the internet"
    if any(address in net for net in own if net.version == address.version):
        return "is in the host's own network"
    return ""


def _unicast(address: IPv6Address) -> bool:
    return address in _UNICAST and not any(address in net for net in _NOT_UNICAST)


def own_networks(routes: str, local: str, routes6: str) -> list[Network]:
    """The networks that the host is in, from /proc/net/route, fib_trie and ipv6_route: what needs no router."""
    found: set[Network] = set()  # a route as wide as those of a VPN is no network that the host is in
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and int(fields[2], 16) == 0:
            net = IPv4Network((_little(fields[1]), str(_little(fields[7]))))
            found |= {net} if net.prefixlen >= 8 else set()
    before = ""
    for line in local.splitlines():
        if "/32 host LOCAL" in line:
            found.add(IPv4Network(before.rsplit(" ", 1)[-1]))
        before = line.strip()
    for line in routes6.splitlines():
        fields = line.split()
        if len(fields) > 4 and int(fields[4], 16) == 0 and int(fields[1], 16) >= 16:
            found.add(IPv6Network((int(fields[0], 16), int(fields[1], 16)), strict=False))
    return sorted(found, key=str)


def _little(text: str) -> IPv4Address:
    return IPv4Address(bytes.fromhex(text)[::-1])
