"""An agent that does what the message says: `python scripted_agent.py INBOX OUT`, no model and no network.

One directive per line of a message; every other line is echoed, so that a test sees exactly what was in the
prompt and in which order:

    !say X         answer X                          !reply X       answer X at once, before the end
    !tool X        send_message X, await the answer  !report        answer with what the tools were answered
    !ask X         send_message X, await nothing     !unsolicited X a text of no turn
    !wait PATH     until the file exists             !hang          ignore Stop, for ever
    !mark PATH     make the file                     !late          a Stop is answered by a whole reply
    !read JSON     read_chat with these arguments, await the answer
    !call TOOL JSON  this tool, await the answer     !write PATH X  this file has this text
    !separate      what comes meanwhile waits        !silent        no reply
    !die [CODE]    exit at once                      !unless PATH !directive  while there is no such file
    !status N X    end with the API's status N       !session, !pid, !model, !data: answer with it
    !raw LINE      write this line                   !garbage N     write N lines that are no letters
    !big           write a line without end          !truncate      empty the outbox file
    !twice         write the last letters again      !die-first PATH  die unless the file exists, and make it
"""

import asyncio
import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanoclaw.mailbox import (
    Alive,
    Answer,
    Close,
    Event,
    Hello,
    Letter,
    Open,
    OutboxWriter,
    Prompt,
    Reply,
    Request,
    Stop,
    TurnDone,
    Watch,
    Woken,
    encode,
    prompt_of,
    take_letter,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "container"))

from agent import gate

LIFE = 60  # seconds after which it ends, whoever forgot it
_LOOK = 0.01  # seconds between two looks for a file
_MESSAGE = re.compile(r"<(?:message|task)-\w+ [^>]*>\n(.*?)\n</(?:message|task)-\w+>", re.DOTALL)
_CONTEXT = re.compile(r"<context-\w+ .*?</context-\w+>", re.DOTALL)
_ATTEMPT = re.compile(r"\[This is attempt (\d+)")


def bodies(prompt: str) -> list[str]:
    """What people said, in order; context first and marked, and the host's note of an earlier attempt."""
    note = _ATTEMPT.match(prompt)
    context = "".join(_CONTEXT.findall(prompt))
    found = [f"attempt {note[1]}"] if note else []
    found += [f"context {x}" for x in _MESSAGE.findall(context)]
    return found + _MESSAGE.findall(_CONTEXT.sub("", prompt))


class Stopped(Exception):
    """A Stop came."""


class Agent:
    """One run."""

    def __init__(self, inbox: Path, out: Path) -> None:
        self.inbox, self.out_path = inbox, out
        self.out = OutboxWriter(out)
        self.watch = Watch(inbox, poll=0.5)
        self.opened = Open("", "")
        self.waiting: asyncio.Queue[Prompt] = asyncio.Queue()
        self.prompts: list[Prompt] = []  # of the running turn, with what joined it
        self.separate = self.late = self.hangs = False
        self.stop = asyncio.Event()
        self.answers: dict[int, asyncio.Future[Answer]] = {}
        self.told: list[str] = []
        self.parts: list[str] = []
        self.echo: list[str] = []
        self.silent = self.twice = False
        self.status = (0, "")

    # --- letters in -------------------------------------------------------------------------------

    async def read(self) -> None:
        n = 1
        while True:
            letter = take_letter(self.inbox, n)
            if letter is None:
                await self.watch.wait()
                continue
            n += 1
            self.take(letter)

    def take(self, letter: Letter) -> None:
        match letter:
            case Open():
                self.opened = letter
                self.out.put(Hello("build", "scripted"), Alive())
            case Prompt():
                if self.prompts and not self.separate:
                    self.prompts.append(letter)
                else:
                    self.waiting.put_nowait(letter)
            case Stop():
                if not self.hangs and letter.turn in {p.turn for p in self.prompts}:
                    self.stop.set()
            case Answer():
                if (waiting := self.answers.get(letter.request)) is not None:  # else a test has asked in our name
                    waiting.set_result(letter)
            case Close():
                os._exit(0)

    # --- turns ------------------------------------------------------------------------------------

    async def work(self) -> None:
        while True:
            self.prompts = [await self.waiting.get()]
            self.parts, self.echo, self.told, self.status = [], [], [], (0, "")
            self.separate = self.late = self.silent = self.twice = False
            self.stop.clear()
            if self.prompts[0].script and not await self.gate(self.prompts[0]):
                self.prompts = []
                continue
            self.out.put(Event(self.prompts[0].turn, "thinking"))
            try:
                await self.play()
            except Stopped:
                self.finish_stopped()
            else:
                self.finish()
            self.prompts = []

    async def gate(self, letter: Prompt) -> bool:
        """As the real one does it; whether the turn goes on."""
        try:
            verdict = await gate.judge(letter.script, os.environ, self.inbox.parent)
        except gate.ScriptError as e:
            self.put(TurnDone((letter.turn,), "script", error=str(e)))
            return False
        if not verdict.wake:
            self.put(TurnDone((letter.turn,), "asleep"))
            return False
        self.put(Woken(letter.turn, verdict.data))
        self.prompts = [replace(letter, text=prompt_of(letter.text, verdict.data))]
        return True

    async def play(self) -> None:
        done = 0
        while done < len(self.prompts):  # what joins meanwhile is played too
            for body in bodies(self.prompts[done].text):
                for line in body.split("\n"):
                    await self.line(line)
            done += 1

    async def line(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if not word.startswith("!"):
            self.echo.append(line)
            return
        method = getattr(self, "do_" + word[1:].replace("-", "_"))
        result = method(rest)
        if result is not None:
            await result

    def turns(self) -> tuple[str, ...]:
        return tuple(p.turn for p in self.prompts)

    def finish(self) -> None:
        if self.echo:
            self.parts.append("echo: " + " | ".join(self.echo))
        status, error = self.status
        outcome = "error" if error or status else "ok"
        letters: list[Letter] = []
        if self.parts and not self.silent and outcome == "ok":
            letters.append(Reply(self.turns(), "\n".join(self.parts)))
        session = self.opened.session or f"session-{self.opened.run}"
        letters.append(TurnDone(self.turns(), outcome, session, status, error))
        for _ in range(2 if self.twice else 1):
            self.put(*letters)

    def finish_stopped(self) -> None:
        if self.late:
            self.put(Reply(self.turns(), "late"), TurnDone(self.turns(), "ok"))
        else:
            self.put(TurnDone(self.turns(), "stopped"))

    def put(self, *letters: Letter) -> None:
        self.raw(b"".join(encode(x) for x in letters))

    def raw(self, data: bytes) -> None:
        with self.out_path.open("ab") as f:
            f.write(data)

    # --- directives -------------------------------------------------------------------------------

    def do_say(self, text: str) -> None:
        self.parts.append(text)

    def do_reply(self, text: str) -> None:
        self.put(Reply(self.turns(), text))

    def ask(self, text: str) -> int:
        return self.call("send_message", {"text": text})

    def call(self, tool: str, args: dict[str, Any]) -> int:
        n = len(self.answers) + 1
        self.answers[n] = asyncio.get_running_loop().create_future()
        self.put(Request(n, self.prompts[0].turn, tool, args))
        return n

    def do_ask(self, text: str) -> None:
        self.ask(text)

    async def do_tool(self, text: str) -> None:
        answer = await self.answers[self.ask(text)]
        self.told.append(f"{'ok' if answer.ok else 'no'} {answer.text}")

    async def do_read(self, text: str) -> None:
        answer = await self.answers[self.call("read_chat", json.loads(text))]
        self.told.append(f"{'ok' if answer.ok else 'no'} {answer.text}")

    async def do_call(self, rest: str) -> None:
        tool, _, args = rest.partition(" ")
        answer = await self.answers[self.call(tool, json.loads(args or "{}"))]
        self.told.append(f"{'ok' if answer.ok else 'no'} {answer.text}")

    def do_write(self, rest: str) -> None:
        path, _, text = rest.partition(" ")
        Path(path).write_text(text.replace("\\n", "\n"))

    async def do_from(self, path: str) -> None:
        for line in Path(path).read_text().splitlines():
            await self.line(line)

    def do_report(self, _: str) -> None:
        self.parts.append("tools: " + " | ".join(self.told))

    def do_unsolicited(self, text: str) -> None:
        self.put(Reply((), text))

    async def do_wait(self, path: str) -> None:
        while not Path(path).exists():
            if self.stop.is_set():
                raise Stopped
            await asyncio.sleep(_LOOK)

    async def do_hang(self, _: str) -> None:
        self.hangs = True
        await asyncio.Event().wait()

    def do_mark(self, path: str) -> None:
        Path(path).touch()

    def do_late(self, _: str) -> None:
        self.late = True

    def do_separate(self, _: str) -> None:
        self.separate = True

    def do_silent(self, _: str) -> None:
        self.silent = True

    def do_twice(self, _: str) -> None:
        self.twice = True

    def do_die(self, code: str) -> None:
        os._exit(int(code or 1))

    async def do_unless(self, rest: str) -> None:
        path, _, line = rest.partition(" ")
        if not Path(path).exists():
            await self.line(line)

    def do_die_first(self, path: str) -> None:
        if not Path(path).exists():
            Path(path).touch()
            os._exit(1)

    def do_status(self, rest: str) -> None:
        status, _, error = rest.partition(" ")
        self.status = (int(status), error or "the API said no")

    def do_data(self, _: str) -> None:
        found = re.search(r"<script-data>\n(.*)\n</script-data>", self.prompts[0].text)
        self.parts.append(f"data {found[1] if found else 'none'}")

    def do_session(self, _: str) -> None:
        self.parts.append(f"resumed {self.opened.session or 'nothing'}")

    def do_pid(self, _: str) -> None:
        self.parts.append(f"pid {os.getpid()}")

    def do_model(self, _: str) -> None:
        self.parts.append(f"model {self.opened.model} {self.opened.fallback_model}".rstrip())

    def do_raw(self, line: str) -> None:
        self.raw(line.replace("TURN", self.prompts[0].turn).encode() + b"\n")

    def do_garbage(self, count: str) -> None:
        self.raw(b"no letter \xff\n" * int(count or 1))

    def do_big(self, _: str) -> None:
        self.raw(b"x" * (2 << 20))

    def do_truncate(self, _: str) -> None:
        os.truncate(self.out_path, 0)


async def main(inbox: Path, out: Path) -> None:
    agent = Agent(inbox, out)
    async with asyncio.TaskGroup() as tg:
        tg.create_task(agent.read())
        tg.create_task(agent.work())


if __name__ == "__main__":
    signal.alarm(LIFE)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
