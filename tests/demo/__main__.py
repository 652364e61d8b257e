"""`./nanoclaw.sh demo [--check]`: see it work before a phone is linked. No account, no key, a temporary home.

Real: the WhatsApp library with its encryption, the host as a process of its own, the container, Claude Code.
Stand-ins: WhatsApp's server with everybody's phones, and the model's API.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.text import Text

from nanoclaw.router import begins_with
from tests.demo.stage import GROUP, Failed, Stage, staged
from tests.demo.story import Story


async def demo(screen: Console, *, check: bool) -> int:
    """The exit code: 0 when everything was as it should be."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    begun = time.perf_counter()
    with screen.status("starting the host ...") as status:
        async with staged() as stage:
            status.update("linking ...")
            await stage.link()
            status.stop()
            screen.print(Text(f"ready and linked after {time.perf_counter() - begun:.1f} s", "dim"))
            story = Story(stage, screen)
            await story.play()
            if not check and sys.stdin.isatty():
                await talk(stage, story)
            status.update("stopping the host ...")
            status.start()
    return verdict(screen, story)


def verdict(screen: Console, story: Story) -> int:
    """Say it, as an exit code."""
    screen.print()
    if story.faults:
        screen.print(Text(f"demo: {len(story.faults)} of {story.checks} checks failed", "bold red"))
        return 1
    screen.print(Text(f"demo: all {story.checks} checks held; the home is removed", "bold green"))
    return 0


async def talk(stage: Stage, story: Story) -> None:
    """The user writes as Mia, until the end of input."""
    story.heading("your turn: you are Mia", "(the model only echoes; try /help, /status; Ctrl-D ends)")
    story.below('A line that begins with @Andy goes to the group "Family".', "dim")
    async for line in lines(story.screen):
        if not line:
            continue
        try:
            await story.answer(stage.mia, line, group=GROUP if begins_with(line, "@Andy") else "")
        except Failed as e:
            story.below(str(e), "red")
        while not stage.whatsapp.sent.empty():  # a long answer comes in parts
            story.line("Andy", stage.whatsapp.sent.get_nowait().text)


async def lines(screen: Console) -> AsyncIterator[str]:
    """What is typed. Read by the loop and not by a thread, which nobody could interrupt."""
    fd, typed = sys.stdin.fileno(), b""
    while True:
        screen.print(Text("  Mia  ", "bold cyan"), end="")
        while b"\n" not in typed:
            await readable(fd)
            if not (more := os.read(fd, 1 << 16)):
                return
            typed += more
        line, _, typed = typed.partition(b"\n")
        yield line.decode("utf-8", "replace").strip()


async def readable(fd: int) -> None:
    """Until there is something to read."""
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        asyncio.get_running_loop().remove_reader(fd)


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="./nanoclaw.sh demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="no prompt; a verdict and an exit code")
    screen = Console(highlight=False)
    if sys.platform != "linux":
        screen.print("demo: the stand-in for WhatsApp needs Linux")
        return 1
    try:
        return asyncio.run(demo(screen, check=parser.parse_args().check))
    except Failed as e:
        screen.print(Text(f"demo: {e}", "bold red"))
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
