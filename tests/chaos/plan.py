"""What people say and what goes wrong: everything that chance decides, from one seed."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

CHATS = ("main", "ben", "family", "club")
# Who writes where. The club's agent hears only what begins with its name.
MEMBERS = {"main": ("mia",), "ben": ("ben",), "family": ("mia", "ben", "zoe"), "club": ("mia", "ben")}
WORD = "@Andy "
FILE = "note.txt"  # in every group's folder
ASLEEP = "!say slept"  # how the prompt of a task begins whose script asks for nobody
COMMANDS = ("/status", "/status", "/help", "/stop", "/new")

# Named instants, with the number of hits after which the host dies there.
POINTS = [
    *("hearing", "hearing:3", "heard", "heard:4", "claimed", "claimed:2", "given", "given:2", "letter", "letter:2"),
    *("letter:4", "container", "apply", "apply:3", "applied", "applied:3", "acted", "sending", "sending:3"),
    *("sent", "sent:2", "sent:4", "copied", "fired:2", "fired:4"),
    *(f"{side}-commit:{n}" for side in ("before", "after") for n in (2, 4, 6, 8, 11, 14, 18, 23, 29, 36)),
]
TROUBLES = ("drop", "deaf", "refusing", "agent dies", "agents die", "engine gone", "clock", "no commit", "disk full")


@dataclass(frozen=True)
class Saying:
    """One thing that somebody says.

    plain, slow, retry (the model's API fails once), tool, file (the agent sends one), task (to be done soon), gate (the
    same with a script that asks for the agent, or does not), aside, command, edit or delete.
    """

    number: int
    chat: str
    person: str
    kind: str
    text: str = ""
    target: int = 0  # the number of the message that is changed


@dataclass(frozen=True)
class Life:
    """How one host lives and ends: by a fail point, or after so many seconds."""

    number: int
    fail_point: str
    seconds: float  # from when it is connected (if `early`: from its start), whatever the fail point
    early: bool
    troubles: tuple[tuple[float, str], ...]  # seconds from when it is connected, and what happens


def sayings(rng: random.Random, kinds: tuple[str, ...] = ()) -> Iterator[Saying]:
    """Without end. `kinds`: of these alone."""
    weights = {
        "plain": 36,
        "slow": 12,
        "retry": 4,
        "tool": 12,
        "file": 8,
        "task": 16,
        "gate": 10,
        "command": 8,
        "aside": 6,
        "edit": 7,
        "delete": 5,
    }
    weights = {k: w for k, w in weights.items() if not kinds or k in kinds}
    earlier: list[Saying] = []
    number = 0
    while True:
        number += 1
        (kind,) = rng.choices(list(weights), list(weights.values()))
        chat = rng.choice(CHATS)
        person = rng.choice(MEMBERS[chat])
        made = _made(rng, number, kind, chat, person, earlier[-6:])
        earlier.append(made)
        yield made


def _made(rng: random.Random, number: int, kind: str, chat: str, person: str, earlier: list[Saying]) -> Saying:
    word = WORD if chat == "club" else ""
    if kind in ("edit", "delete"):
        own = [s for s in earlier if s.kind in ("plain", "slow")]
        if not own:
            kind = "plain"
        else:
            target = rng.choice(own)
            word = WORD if target.chat == "club" else ""
            return Saying(number, target.chat, target.person, kind, f"{word}say m{number}", target.number)
    if kind == "command":
        text = rng.choice(COMMANDS)
        return Saying(number, chat, person if person != "zoe" else "mia", kind, text)
    if kind == "aside":
        return Saying(number, "club", "ben", kind, f"by the way m{number}")
    text = f"{word}say m{number}"
    wish: dict[str, object]
    if kind == "tool":
        text += f"\n!tool acted m{number}"
    if kind == "file":
        wish = {"path": FILE, "caption": f"filed m{number}"}
        text += f"\n!call send_file {json.dumps(wish)}"
    if kind in ("task", "gate"):
        wish = {"prompt": f"!say fired m{number}", "in_seconds": rng.randint(1, 4)}
        if kind == "gate":
            wakes = rng.random() < 0.5
            verdict = json.dumps({"wake": wakes, "data": number})
            wish |= {"script": f"echo '{verdict}'", "prompt": wish["prompt"] if wakes else f"{ASLEEP} m{number}"}
        text += f"\n!call schedule_task {json.dumps(wish)}"
    return Saying(number, chat, person, kind, text)


def lives(rng: random.Random, troubles: tuple[str, ...] = TROUBLES) -> Iterator[Life]:
    """Without end: each instant once before any comes again; every third life ends at a moment of chance."""
    points: list[str] = []
    for number in itertools.count(1):
        if not points:
            points = rng.sample(POINTS, len(POINTS))
        by_chance = number % 3 == 0
        early = by_chance and rng.random() < 0.2
        span = rng.uniform(0.0, 1.2) if early else rng.uniform(0.1, 1.6) if by_chance else 2.5
        count = rng.choice((0, 1, 1, 2)) if troubles else 0
        some = tuple((rng.uniform(0.0, 1.0), rng.choice(troubles)) for _ in range(count))
        yield Life(number, "" if by_chance else points.pop(), span, early, some)
