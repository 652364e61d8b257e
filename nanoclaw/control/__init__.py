"""The owner's verbs, one function each: commands, the command line and tools all call these."""

from nanoclaw.control.groups import ensure_main
from nanoclaw.control.groups import serve as add_group

__all__ = ["add_group", "ensure_main"]
