"""What the WhatsApp library must find in the environment is there from the process's first moment on."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanoclaw.cli.environment import NEEDED
from tests.fakes import hosting

# What the kernel gave the process at its start, which is what Go reads; and standard input as it was.
_CODE = (
    "import sys; from nanoclaw.cli.environment import complete; complete();"
    "print('NEONIZE_BOT_TAG=' in open('/proc/self/environ').read(), sys.argv[1:], sys.stdin.read())"
)


async def begun(home: Path, **env: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NANOCLAW_") and k not in NEEDED}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CODE, "a word", env=kept | {"NANOCLAW_HOME": str(home)} | env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(b"what was piped in")
    return out.decode().strip()


@pytest.mark.parametrize("number", ["own", "shared"])
async def test_a_process_that_is_to_load_the_library_begins_anew_with_it(tmp_path: Path, number: str) -> None:
    """Once, with the same words, and nothing of its input is lost."""
    assert await begun(tmp_path, NANOCLAW_WHATSAPP=number) == "True ['a word'] what was piped in"


async def test_without_the_library_nothing_begins_anew(folder: Path) -> None:
    """Where no number is used, where a host lives already, and what somebody chose stays."""
    assert (await begun(folder / "none")).startswith("False")
    async with hosting(folder) as host:
        assert (await begun(host.config.home, NANOCLAW_WHATSAPP="own")).startswith("False")
    assert (await begun(folder / "none", NANOCLAW_WHATSAPP="own", NEONIZE_BOT_TAG="on")).startswith("True")
