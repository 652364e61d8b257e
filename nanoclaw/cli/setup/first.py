"""The engine, the network and the first chat: link, say hello, serve a group, be reminded, by the usual commands."""

import os
import subprocess
import sys
import time

import typer

from nanoclaw.channels.terminal import CHAT, OWNER
from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import load
from nanoclaw.control import ensure_main, groups, network
from nanoclaw.errors import NanoClawError
from nanoclaw.gateway import Level
from nanoclaw.groups import MAIN
from nanoclaw.store import Tx

_YEAR = 527_040  # minutes
_SHOWN = 15  # chats that are offered, the newest
_NETWORK = """How far may the agent of your own chat reach, by https? Those of other chats reach nothing at first.
  starter  {hosts}
  none     nothing
  public   every host of the internet: whatever it reads there may try to talk it into something"""


def engine() -> None:
    """Say whether a container engine answers, and what it cannot do."""
    from nanoclaw.sandbox.engine import address_of, connect
    from nanoclaw.sandbox.spec import engine_of, shortfalls

    try:
        client = connect(address_of(os.environ, load(os.environ).engine))
    except NanoClawError as e:
        typer.echo(f"{e}\nEverything else can be chosen meanwhile; once it runs: nanoclaw setup engine", err=True)
        return
    try:
        found = engine_of(client.info())
    finally:
        client.close()
    typer.echo(f"The container engine answers (version {found.version}{', rootless' if found.rootless else ''}).")
    for text in shortfalls(found):
        typer.echo(f"It works, but {text}.")


def ask_network() -> str:
    """How far main's agent may reach: starter, none or public."""
    text = _NETWORK.format(hosts=", ".join(network.STARTER))

    def checked(answer: str) -> str:
        if (word := answer.strip().lower()) not in ("starter", "none", "public"):
            raise typer.BadParameter("starter, none or public")
        return word

    return str(typer.prompt(f"{text}\nNetwork", default="starter", value_proc=checked))


def set_network(choice: str) -> None:
    """Do what was chosen, also before a host ever lived here."""
    do(_set_network, choice, load(os.environ).name, time.time_ns() // 1_000_000)


def _set_network(tx: Tx, choice: str, name: str, now: int) -> None:
    main = ensure_main(tx, CHAT, CHAT, OWNER.jids[0], name, now)
    if choice == "starter":
        for host in network.STARTER:
            main = groups.find(tx, MAIN)
            if host not in main.hosts:
                network.allow_host(tx, main, host, TERMINAL, now)
    level = Level.ALLOWLIST if choice == "starter" else Level(choice)
    network.set_level(tx, groups.find(tx, MAIN), level, TERMINAL, now)


def link() -> None:
    """Link the WhatsApp number, where there is one."""
    if load(os.environ).whatsapp == "off":
        typer.echo("No WhatsApp number is chosen (nanoclaw setup number): you talk to it here.")
    elif typer.confirm("Link WhatsApp now? Its phone has to be at hand", default=True):
        command("pair")


def hello() -> None:
    """See it answer."""
    if typer.confirm("Say hello to it now? It costs what a first message costs", default=True):
        command("chat", "-m", "Hello! Who are you, and what can you do for me? In three sentences, please.")


def group() -> None:
    """Serve one more chat."""
    seen = [chat for chat in look(groups.seen) if not chat.folder][:_SHOWN]
    if not seen:
        typer.echo("No other chat was seen yet. Once somebody has written in one: /groups in your own chat, or")
        typer.echo("nanoclaw setup group")
        return
    zone = load(os.environ).zone
    for chat in seen:
        typer.echo(f"{chat.number:>5}  {groups.summary(chat, zone)}")
    number = typer.prompt("Which of these chats shall have an agent of its own? (Enter: none)", default="").strip()
    if number:
        command("groups", "add", number)


def reminder() -> None:
    """Schedule something small and see it come."""
    what = typer.prompt("What may it remind you of, to try it? (Enter: nothing)", default="").strip()
    if what:
        minutes = typer.prompt("In how many minutes?", default=2, value_proc=_minutes)
        command("tasks", "add", MAIN, f"Remind the owner of this, in one sentence: {what}", "--in", str(minutes * 60))
        typer.echo("It comes to your own chat while the assistant runs: nanoclaw run")


def _minutes(answer: str) -> int:
    if not answer.strip().isdecimal() or not 1 <= int(answer[:9]) <= _YEAR:
        raise typer.BadParameter(f"a number from 1 to {_YEAR}")
    return int(answer)


def command(*words: str) -> None:
    """Do it as the owner would, in this terminal, and say how; what fails is no end of the set-up."""
    typer.secho(f"$ nanoclaw {' '.join(w if ' ' not in w else repr(w) for w in words)}", dim=True)
    try:
        done = subprocess.run([sys.executable, "-m", "nanoclaw", *words], check=False)
    except KeyboardInterrupt:  # it had the same Ctrl-C
        typer.echo("\nLeft out.")
        return
    if done.returncode:
        typer.echo("That did not work; it can be done later by the same command.", err=True)
