"""What a look at the house finds: one line each, and the command that mends it (pure)."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How bad it is. Only FAIL changes an exit code."""

    OK = "ok"
    WARN = "warn"  # it works, and something about it is worth knowing
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what it is, and what to do about it. No names, texts or keys of people."""

    check: str  # "engine", "disk", "capabilities": a word or two, stable for scripts
    grade: Grade
    said: str  # one sentence
    mend: str = ""  # the command that mends it, or what to do; empty where nothing has to be done


def worst(findings: Iterable[Finding]) -> Grade:
    """The worst of them; OK for none."""
    order = list(Grade)
    return max((finding.grade for finding in findings), key=order.index, default=Grade.OK)
