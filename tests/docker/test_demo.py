"""`./nanoclaw.sh demo --check`: what a user is shown before a phone is linked."""

import asyncio
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(240)  # five turns, two of them in new containers
async def test_the_demo_holds(agent_image: str) -> None:
    """Link, claim, a direct chat, a group, a stranger: through everything real, with a verdict as the exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.demo", "--check"),
        cwd=Path(__file__).parent.parent.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.terminate()  # it ends its host and removes its home
            await process.wait()
    assert process.returncode == 0, told
    assert "checks held" in told
