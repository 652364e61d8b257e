"""Fifty kills: each fail point, moments of chance, and everything else that goes wrong beside them."""

import pytest

from tests.chaos.house import House, built
from tests.chaos.judge import judge
from tests.chaos.storm import Storm

KILLS = 10


@pytest.mark.timeout(240)  # half a minute on a machine of its own
@pytest.mark.parametrize("seed", range(1, 3))
async def test_ten_kills(seed: int) -> None:
    """Nothing stored is lost, nothing known to be said is said again; order, house and database are as they were."""
    async with built(House, {}) as house:
        storm = Storm(house, seed, KILLS)
        verdict = judge(await storm.run())
        told = "\n".join(f"{fault.promise}: {fault.story}" for fault in verdict.faults)
        assert not verdict.faults, f"seed {seed}: {verdict.line(KILLS)}\n{told}\n{house.last_words()}"
        assert storm.counts.kills == KILLS
        assert verdict.messages > KILLS
