"""The table of all commands: who may use which, and where."""

from nanoclaw.commands import groups, heartbeat, house, memory, network, people, tasks, turns
from nanoclaw.commands.base import Command, May
from nanoclaw.models import Role

_OWNER = {Role.OWNER: May.YES}
_MAIN = {Role.OWNER: May.MAIN}
_PEOPLE = {Role.OWNER: May.YES, Role.ALLOWED: May.YES}
_OWN_CHAT = {Role.OWNER: May.YES, Role.ALLOWED: May.DIRECT}
_ALL = {Role.OWNER: May.YES, Role.ALLOWED: May.YES, Role.GUEST: May.YES}
_ALL_OWN = {Role.OWNER: May.YES, Role.ALLOWED: May.YES, Role.GUEST: May.OWN}

COMMANDS: dict[str, Command] = {
    "status": Command("what I am doing", _PEOPLE, turns.status),
    "stop": Command("stop what I am doing", _ALL_OWN, turns.stop, touches=True),
    "tasks": Command("what is scheduled", _PEOPLE, tasks.scheduled, of_group=True),
    "tasks pause": Command("let a task of that list rest", _OWNER, tasks.pause, "NUMBER"),
    "tasks resume": Command("let it be due again", _OWNER, tasks.resume, "NUMBER"),
    "tasks run": Command("do it once, now", _OWNER, tasks.run, "NUMBER"),
    "tasks cancel": Command("end it for good", _OWNER, tasks.cancel, "NUMBER", touches=True),
    "heartbeat": Command("whether I look after HEARTBEAT.md by myself", _OWNER, heartbeat.show, of_group=True),
    "heartbeat on": Command(
        "do that every 30m, or as often as EVERY says; not in the HOURS, as in 22:00-07:00", _OWNER, heartbeat.on,
        "[EVERY] [HOURS]", of_group=True, touches=True,
    ),
    "heartbeat off": Command("do that no more", _OWNER, heartbeat.off, of_group=True, touches=True),
    "new": Command("start a new conversation; my memory stays", _PEOPLE, turns.new, touches=True),
    "forget": Command("what I keep of this chat, and how to have it removed", _OWN_CHAT, turns.forget),
    "forget today": Command(
        "remove what was said here in 24 hours", _OWN_CHAT, turns.forget_since(lambda now: now - turns.DAY_MS),
        touches=True,
    ),
    "forget all": Command(
        "remove all that was said here", _OWN_CHAT, turns.forget_since(lambda now: 0), touches=True
    ),
    "memory": Command("what I keep in my memory", _PEOPLE, memory.show, of_group=True),
    "memory diff": Command("what changed in it since N versions ago", _PEOPLE, memory.diff, "[N]", of_group=True),
    "memory undo": Command(
        "bring the version of N versions ago back", _OWNER, memory.undo, "[N]", of_group=True, touches=True
    ),
    "memory reset": Command(
        "begin with an empty memory; the versions stay", _OWNER, memory.reset, of_group=True, touches=True
    ),
    "groups": Command(
        "the chats that I have seen, newest first; with a GROUP what is set", _MAIN, groups.listed, of_group=True
    ),
    "groups add": Command("serve a chat of that list", _MAIN, groups.add, "NUMBER [FOLDER]"),
    "pause": Command("only read along", _OWNER, groups.pause, of_group=True),
    "resume": Command("answer again", _OWNER, groups.resume, of_group=True),
    "model": Command(
        "which model answers, or another one (`default`: the usual one)", _OWNER, groups.model, "[MODEL]", of_group=True
    ),
    "mounts": Command("which folders of the machine my agent sees", _OWNER, groups.seen_folders, of_group=True),
    "network": Command("what my agent may connect to", _OWNER, network.show, of_group=True),
    "network allow": Command("let it connect to a host", _OWNER, network.allow, "HOST", of_group=True),
    "network deny": Command("let it connect to that no more", _OWNER, network.deny, "HOST", of_group=True),
    "network public": Command("let it connect to all public hosts for an hour", _OWNER, network.public, of_group=True),
    "network none": Command("let it connect to nothing", _OWNER, network.none, of_group=True),
    "allow": Command("let somebody call me; alone: who may", _MAIN, people.allow, "[PERSON]"),
    "deny": Command("let somebody not call me", _MAIN, people.deny, "PERSON"),
    "yes": Command("allow a change that an agent asked for; alone: what waits", _MAIN, house.yes, "[CODE]"),
    "no": Command("refuse it", _MAIN, house.no, "[CODE]"),
    "usage": Command("what was used, and where it went", _MAIN, house.usage),
    "restart": Command("end in order and begin anew", _MAIN, house.restart, touches=True),
}  # fmt: skip
