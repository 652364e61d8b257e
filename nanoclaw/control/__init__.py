"""The owner's verbs, one function each: commands, the command line and tools all call these."""

from typing import Any

from nanoclaw.control.groups import ensure_main
from nanoclaw.control.groups import serve as add_group
from nanoclaw.store import Tx, chats, ledger, outgoing, runs, turns


def status(tx: Tx, since: int) -> dict[str, Any]:
    """Facts of the store for `nanoclaw status`; `since` is the start of the day."""
    groups, claim = chats.groups(tx), ledger.claim(tx)
    return {
        "owners": chats.owners(tx),
        "claim": claim.until if claim else 0,
        "groups": [{"folder": g.folder, "state": g.state, "tokens_today": ledger.tokens_since(tx, g.id, since)}
                   for g in groups],
        "runs": [{"run": r.id, "lane": r.lane, "state": r.state} for r in runs.living(tx)],
        "parked": [{"lane": lane, "cause": cause} for lane, cause in turns.parked_lanes(tx).items()],
        "outgoing": outgoing.counts(tx),
    }  # fmt: skip


__all__ = ["add_group", "ensure_main", "status"]
