"""`./nanoclaw.sh chaos [--kills N] [--seed N] [--engine]`: the long proof; its last line can be quoted."""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.chaos.evidence import Evidence
from tests.chaos.house import House, built
from tests.chaos.judge import Verdict, judge
from tests.chaos.storm import Counts, Storm


async def scripted(seed: int, kills: int, screen: Console) -> int:
    """With agents that are a script: for volume. The exit code."""
    async with built(House, {}) as house:
        return await stormed(house, Storm(house, seed, kills), kills, screen)


async def real(seed: int, kills: int, screen: Console) -> int:
    """With containers and Claude Code. The exit code."""
    from nanoclaw.sandbox.engine import address_of, connect
    from tests.chaos import engine

    client = connect(address_of(os.environ))
    try:
        async with engine.built_with(client) as house:
            return await stormed(house, engine.storm(house, seed, kills), kills, screen, echoes=False)
    finally:
        client.close()


async def stormed(house: House, storm: Storm, kills: int, screen: Console, *, echoes: bool = True) -> int:
    """Run it, say how far it is, and judge."""
    with screen.status("linking ...") as status:

        def progress(counts: Counts) -> None:
            status.update(f"{counts.kills} of {kills} kills, {counts.said} messages, {counts.troubles} other troubles")

        storm.progress = progress
        found = await storm.run(echoes=echoes)
    verdict = judge(found)
    if verdict.faults:
        log = Path(tempfile.gettempdir()) / "nanoclaw-chaos.log"
        log.write_text(house.last_words(10**6))
        screen.print(f"the hosts' log: {log}")
    say(screen, found, verdict, storm.counts)
    return 1 if verdict.faults else 0


def say(screen: Console, found: Evidence, verdict: Verdict, counts: Counts) -> None:
    """The faults with their stories, and the line."""
    for fault in verdict.faults:
        screen.print(f"{fault.promise}: {fault.story}\n", markup=False, soft_wrap=True)
    screen.print(f"{counts.by_point} of the kills at a fail point; {counts.troubles} other troubles")
    files = sum(row.kind == "file" and row.state == "sent" for row in found.outgoing)
    done = f"{len(found.firings)} firings of tasks, {files} files sent"
    screen.print(f"{done}; {verdict.failed} messages whose turn failed, which was told")
    if found.unreadable:
        screen.print(f"{len(found.unreadable)} texts that WhatsApp took could not be decrypted by every phone")
    screen.print(verdict.line(counts.kills), soft_wrap=True)


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="./nanoclaw.sh chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the host")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="what chance decides")
    parser.add_argument("--engine", action="store_true", help="real containers instead of scripted agents")
    args = parser.parse_args()
    screen = Console(highlight=False)
    screen.print(f"seed {args.seed}")
    return asyncio.run((real if args.engine else scripted)(args.seed, args.kills, screen))


if __name__ == "__main__":
    sys.exit(main())
