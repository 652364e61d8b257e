"""What no host can beat: the bare CLI in a container, without anything of ours around it."""

import asyncio
import json
import time
from pathlib import Path

from tests.model_server import ModelServer

_RUN = ("docker", "run", "--rm", "-i", "--network", "host", "--user", "10001", "--tmpfs", "/tmp:exec,mode=1777")
_ENV = {"HOME": "/tmp", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "ANTHROPIC_API_KEY": "fake-key-for-the-bench"}


def _command(url: str, image: str, *args: str) -> list[str]:
    env = {**_ENV, "ANTHROPIC_BASE_URL": url}
    flags = [x for key, value in env.items() for x in ("-e", f"{key}={value}")]
    model = ("--model", "claude-sonnet-5-5")
    return [*_RUN, *flags, "--entrypoint", "claude", "-w", "/tmp", image, *model, *args]


async def _started(command: list[str]) -> asyncio.subprocess.Process:
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=null, stderr=null)


async def cold(server: ModelServer, image: str, rounds: int) -> list[float]:
    """Milliseconds from `docker run` of the bare CLI to its first request."""
    times = []
    for _ in range(rounds):
        number, begun = len(server.requests), time.monotonic()
        process = await _started(_command(server.url, image, "-p", "hello"))
        assert process.stdin
        process.stdin.close()
        times.append((await server.seen(number + 1)).arrived - begun)
        await process.wait()
    return [t * 1000 for t in times]


async def warm(server: ModelServer, image: str, rounds: int) -> list[float]:
    """Milliseconds from a line on the standard input of a CLI that is kept alive to its request."""
    stream = ("-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json")
    process = await _started(_command(server.url, image, *stream))
    assert process.stdin
    times = []
    for n in range(rounds + 1):
        number, begun = len(server.requests), time.monotonic()
        content = {"type": "user", "message": {"role": "user", "content": f"hello {n}"}}
        process.stdin.write(json.dumps(content).encode() + b"\n")
        times.append((await server.seen(number + 1)).arrived - begun)
        await server.seen(number + 1, finished=True)
        await asyncio.sleep(0.2)  # as people do, the next one comes when the CLI is idle again
    process.stdin.close()
    await process.wait()
    return [t * 1000 for t in times[1:]]


def anonymous_mib(container: str) -> float:
    """Anonymous memory of a container, by the control group's own account (version 1 or 2)."""
    paths = (
        (Path(f"/sys/fs/cgroup/memory/docker/{container}/memory.stat"), "total_rss"),
        (Path(f"/sys/fs/cgroup/system.slice/docker-{container}.scope/memory.stat"), "anon"),
    )
    for path, key in paths:
        if path.exists():
            rows = dict(line.split() for line in path.read_text().splitlines())
            return int(rows[key]) / (1 << 20)
    return float("nan")
