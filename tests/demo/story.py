"""The demo's scenes: what is said, what has to come back, and how it looks on the screen."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.demo.stage import GROUP, PATIENCE, Exchange, Stage
from tests.whatsapp.server import Message, Person, Sent

_COLOURS = {"Mia": "cyan", "Ben": "magenta", "Zoe": "yellow", "Andy": "green"}


@dataclass
class Story:
    """The stage, the screen, and what was found wrong."""

    stage: Stage
    screen: Console
    faults: list[str] = field(default_factory=list)
    checks: int = 0

    async def play(self) -> None:
        """Every scene in order."""
        stage = self.stage
        await self.claim()
        self.heading("Mia's direct chat")
        await self.ask(stage.mia, "Hello! What can you do?", "*Hello!*", "_stand-in model_", "~old~ *new*", "`code`")
        await self.ask(stage.mia, "and once more, to a warm container", "once more")
        await self.ask(stage.mia, "/status", costs=False)
        self.heading('the group "Family"', "(its word is @Andy)")
        self.silence(stage.ben, "Pizza or curry tonight?", GROUP, "not addressed: kept as context, costs nothing")
        found = await self.ask(stage.mia, "@Andy what did Ben ask?", "*Pizza or curry tonight?*", group=GROUP)
        curry = replying(found.reply, "Curry, then.", stage)
        await self.ask(stage.ben, curry, "You said: Curry, then.", group=GROUP, note="(replies to Andy)")
        self.heading("a stranger's direct chat")
        self.silence(stage.zoe, "Hi, who is this?", "", "nobody added this chat: no answer, no text is stored")
        told = await stage.whatsapp.next_sent(PATIENCE)
        self.line("Andy", told.text, "(to Mia, once a day)")
        self.check("the owner learns how to let them in", lambda: "/allow +15552220003" in told.text)
        await self.ask(stage.mia, "still there?", "still there?")
        self.check("nothing else was sent", lambda: stage.whatsapp.sent.empty())
        self.check("context is stored", lambda: stage.stored("Pizza or curry"))
        self.check("nothing of a stranger's is stored", lambda: not stage.stored("who is this"))

    async def claim(self) -> None:
        """Mia becomes the owner by the one-time code."""
        self.heading("the owner claims her assistant", "(`nanoclaw pair` shows the code)")
        await self.ask(self.stage.mia, await self.stage.claim(), costs=False)
        await self.stage.serve_group()

    async def ask(
        self, who: Person, said: Message | str, *expected: str, group: str = "", costs: bool = True, note: str = ""
    ) -> Exchange:
        """Say it, show what comes back, and look whether it is right."""
        self.line(who.name, said if isinstance(said, str) else said.extendedTextMessage.text, note)
        return await self.answer(who, said, *expected, group=group, costs=costs)

    async def answer(
        self, who: Person, said: Message | str, *expected: str, group: str = "", costs: bool | None = None
    ) -> Exchange:
        """The same for what is on the screen already. `costs`: whether the model has to be asked, if that is known."""
        with self.screen.status("Andy ...", spinner="dots"):
            found = await self.stage.exchange(who, said, group)
        text, context = found.reply.text, found.reply.message.extendedTextMessage.contextInfo
        self.line("Andy", text, quote=context.quotedMessage.conversation)
        self.below(hops(found), "dim")
        where = f"{group}@g.us" if group else who.jid
        self.check(f"the answer came to {where}", lambda: found.reply.chat == where)
        for part in expected:
            self.check(f"the answer has {part!r}", lambda part=part: part in text)
        if costs is not None:
            self.check("only the agent's turns cost tokens", lambda: (found.asked is not None) is costs)
        if costs:
            self.check("the message got its 👀", lambda: found.eyes is not None)
        if group:
            quoted = (context.stanzaID, context.participant)
            self.check("the answer quotes its question", lambda: quoted == (found.id, str(who.jid)))
        return found

    def silence(self, who: Person, said: str, group: str, why: str) -> None:
        """Say what nobody answers; that nothing came is looked at last."""
        self.line(who.name, said)
        self.stage.whatsapp.say(who, said, group)
        self.below(why, "dim italic")

    def check(self, what: str, holds: Callable[[], bool]) -> None:
        """Count it, and say so when it does not hold."""
        self.checks += 1
        if not holds():
            self.faults.append(what)
            self.screen.print(Text(f"  ✗ not so: {what}", "bold red"))

    def heading(self, words: str, more: str = "") -> None:
        """Where the next lines are said."""
        self.screen.print()
        self.screen.print(Text.assemble((f"── {words} ", "bold"), (more, "dim")))

    def line(self, who: str, said: str, note: str = "", quote: str = "") -> None:
        """Somebody's words, as text and never as markup."""
        words = Text(f"▏{quote}\n" if quote else "", "dim").append(said, "not dim")
        words.append(f"  {note}" if note else "")
        self._row(Text(who, f"bold {_COLOURS[who]}"), words)

    def below(self, words: str, style: str) -> None:
        """A remark on the line above."""
        self._row(Text(), Text(words, style))

    def _row(self, head: Text, words: Text) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=5, justify="right")
        grid.add_row(head, words)
        self.screen.print(grid)


def replying(to: Sent, words: str, stage: Stage) -> Message:
    """A reply to a message of the assistant's, as a phone writes it."""
    message = Message()
    message.extendedTextMessage.text = words
    context = message.extendedTextMessage.contextInfo
    context.stanzaID, context.participant = to.id, str(stage.whatsapp.owner.jid)
    context.quotedMessage.conversation = to.text
    return message


def hops(found: Exchange) -> str:
    """The milliseconds of each hop, in one line."""
    parts = [] if found.eyes is None else [f"👀 {found.eyes:,.0f}"]
    if found.asked is None:
        parts.append("by the host itself, without a token")
    else:
        parts += [f"to the model {found.asked:,.0f}", f"model {found.model:,.0f}", f"back {found.back:,.0f}"]
    return " · ".join([*parts, f"in all {found.total:,.0f} ms"])
