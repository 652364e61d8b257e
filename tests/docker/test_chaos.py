"""Killed again and again, with the real engine: the host, its containers, the line to WhatsApp."""

import pytest
from docker import DockerClient

from tests.chaos import engine as real
from tests.chaos.judge import judge

SEED, KILLS = 5, 5


@pytest.mark.timeout(300)  # a minute on a machine of its own
async def test_five_kills(engine: DockerClient, agent_image: str) -> None:
    """Every stored message is answered or told, in order; no container is left."""
    async with real.built_with(engine) as house:
        storm = real.storm(house, SEED, KILLS)
        verdict = judge(await storm.run(echoes=False))
        told = "\n".join(f"{fault.promise}: {fault.story}" for fault in verdict.faults)
        assert not verdict.faults, f"{verdict.line(KILLS)}\n{told}\n{house.last_words()}"
        assert storm.counts.kills == KILLS
        assert verdict.messages > KILLS
