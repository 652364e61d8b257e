"""Widenings wait for the owner: a row with a code, the host's own sentence in main, and `/yes CODE`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanoclaw.models import By
from nanoclaw.store import Tx

CONFIRM_MS = 600_000  # ten minutes


@dataclass(frozen=True)
class Widening:
    """One verb that never acts when an agent asks. Both raise Refused when the change makes no sense (any more)."""

    sentence: Callable[[Tx, dict[str, Any]], str]  # what exactly would change, in our own words
    apply: Callable[[Tx, dict[str, Any], By, int], str]  # do it; what to tell the owner


# One line for each; the functions are those of the module that owns the rule.
WIDENINGS: dict[str, Widening] = {}
