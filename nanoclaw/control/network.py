"""How far a group's agent reaches: its level, the hosts of its list, and for an hour everything."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.errors import Refused
from nanoclaw.gateway import MAX_PATTERNS, Level, check_pattern
from nanoclaw.models import By, Group
from nanoclaw.store import Tx, audit, chats, network

# What main may reach from the start: programs and their source, and an encyclopedia. Nothing of it is the owner's.
STARTER = (
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "github.com",
    "codeload.github.com",
    "raw.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "*.wikipedia.org",
)
HOUR_MS = 3_600_000
MAX_HOURS = 24  # for which a group may be let out everywhere without staying so
_WEEK_MS = 7 * 86_400_000
_WORDS = {
    Level.NONE: "reaches nothing",
    Level.ALLOWLIST: "reaches the hosts of its list, by https",
    Level.PUBLIC: "reaches every host of the internet, by https",
}


def first_hosts(tx: Tx, main: Group) -> Group:
    """Give main its starter list, once in the life of a home: what the owner takes away stays away."""
    if not network.once(tx, "starter hosts") or main.hosts or main.network != Level.NONE:
        return main
    return chats.save_group(tx, replace(main, network=Level.ALLOWLIST.value, hosts=STARTER))


def allow_host(tx: Tx, group: Group, text: str, by: By, now: int) -> str:
    """Put a host on the group's list, which counts from then on; the host as it is kept. Raises Refused."""
    _typed(by, "allow a host")
    pattern = _new_host(group, text)
    level = Level.ALLOWLIST if group.network == Level.NONE else Level(group.network)
    chats.save_group(tx, replace(group, network=level.value, hosts=(*group.hosts, pattern)))
    network.unwanted(tx, group.id, pattern.partition(":")[0])
    audit.note(tx, by, "allow host", f"{group.folder} {pattern}", now)
    return pattern


def deny_host(tx: Tx, group: Group, text: str, by: By, now: int) -> str:
    """Take a host from the group's list; what is open to it is cut off. Raises Refused when it is not there."""
    pattern = text.strip().lower() if text.strip().lower() in group.hosts else check_pattern(text)
    if pattern not in group.hosts:
        raise Refused(f"{pattern} is not on the list of {group.folder}: see `nanoclaw network show {group.folder}`")
    chats.save_group(tx, replace(group, hosts=tuple(h for h in group.hosts if h != pattern)))
    audit.note(tx, by, "deny host", f"{group.folder} {pattern}", now)
    return pattern


def set_level(tx: Tx, group: Group, level: Level, by: By, now: int, until: int = 0) -> None:
    """How far the group reaches; `until` is for public alone, and the level of before holds again afterwards."""
    if level is Level.PUBLIC or _rank(level) > _rank(network.level(tx, group.id, now)):
        _typed(by, "open the network")
    if until and level is not Level.PUBLIC:
        raise Refused("only public can be given for some time")
    if until > now + MAX_HOURS * HOUR_MS:
        raise Refused(f"that is longer than {MAX_HOURS} hours: leave the time out, if it is to stay so")
    if not until:
        chats.save_group(tx, replace(group, network=level.value))
    network.set_public_until(tx, group.id, until)
    audit.note(tx, by, "network", f"{group.folder} {level}{f' until {until}' if until else ''}", now)


def in_force(tx: Tx, group: Group, now: int, zone: str) -> str:
    """How far a group reaches at this moment."""
    text, until = f"{group.folder} {_WORDS[network.level(tx, group.id, now)]}", network.public_until(tx, group.id)
    return f"{text}, until {datetime.fromtimestamp(until / 1000, ZoneInfo(zone)):%H:%M}." if until > now else f"{text}."


def listed_text(tx: Tx, group: Group, now: int, zone: str) -> str:
    """How far a group reaches and what it was refused, for people."""
    lines = [in_force(tx, group, now, zone)]
    if group.hosts:
        lines.append("On its list: " + ", ".join(group.hosts))
    elif network.level(tx, group.id, now) is Level.ALLOWLIST:
        lines.append("Its list is empty.")
    if refused := network.wanted(tx, group.id, now - _WEEK_MS):
        told = (f"{w.host}{f':{w.port}' if w.port != 443 else ''} ({w.count})" for w in refused[:10])
        lines.append("Refused in the last week: " + ", ".join(told))
    return "\n".join(lines)


def facts(tx: Tx, group: Group, now: int) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "group": group.folder,
        "level": network.level(tx, group.id, now),
        "public_until": until if (until := network.public_until(tx, group.id)) > now else 0,
        "hosts": list(group.hosts),
        "refused": [
            {"host": w.host, "port": w.port, "last": w.at, "count": w.count}
            for w in network.wanted(tx, group.id, now - _WEEK_MS)
        ],
    }


# --- asked for by an agent, done by the owner --------------------------------------------------


def allow_sentence(tx: Tx, args: dict[str, Any]) -> str:
    """What `allow_host` would change; args: group (a folder), host."""
    group = _group(tx, args)
    pattern = _new_host(group, _text(args, "host"))
    covers = " (that is every host below it)" if pattern.startswith("*.") else ""
    return (
        f"may the agent of {group.folder} connect to {pattern}{covers}, for good? Whatever it can read there or send"
        " there is then between it and that host."
    )


def allow_apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do that."""
    group = _group(tx, args)
    return f"Done: {group.folder} may connect to {allow_host(tx, group, _text(args, 'host'), by, now)}."


def level_sentence(tx: Tx, args: dict[str, Any]) -> str:
    """What `set_level` would change; args: group (a folder), level, hours (for public: 0 or none = for good)."""
    group, level, hours = _group(tx, args), _level(args), _hours(args)
    return f"shall the network of {group.folder} be {level}{_for(hours)}? Then it {_WORDS[level]}."


def level_apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do that."""
    group, level, hours = _group(tx, args), _level(args), _hours(args)
    set_level(tx, group, level, by, now, now + hours * HOUR_MS if hours else 0)
    return f"Done: the network of {group.folder} is {level}{_for(hours)}."


def _new_host(group: Group, text: str) -> str:
    pattern = check_pattern(text)
    if pattern in group.hosts and group.network != Level.NONE:
        raise Refused(f"{pattern} is on the list of {group.folder} already")
    if len(group.hosts) >= MAX_PATTERNS:
        raise Refused(f"the list of {group.folder} has {MAX_PATTERNS} entries already: take some away first")
    return pattern


def _typed(by: By, what: str) -> None:
    if not by.typed:
        raise Refused(f"only the owner's own word can {what}")


def _rank(level: Level) -> int:
    return list(Level).index(level)


def _group(tx: Tx, args: dict[str, Any]) -> Group:
    group = chats.group_by_folder(tx, _text(args, "group"))
    if group is None:
        raise Refused("there is no such group: name it by its folder")
    return group


def _text(args: dict[str, Any], key: str) -> str:
    value = args.get(key)
    if not isinstance(value, str):
        raise Refused(f"{key} is missing")
    return value


def _level(args: dict[str, Any]) -> Level:
    try:
        return Level(_text(args, "level"))
    except ValueError:
        raise Refused(f"the level is one of {', '.join(Level)}") from None


def _hours(args: dict[str, Any]) -> int:
    hours = args.get("hours", 0)
    if type(hours) is not int or not 0 <= hours <= MAX_HOURS:
        raise Refused(f"hours are a number up to {MAX_HOURS}; leave them out, if it is to stay so")
    return hours


def _for(hours: int) -> str:
    return f" for {hours} hour(s)" if hours else ""
