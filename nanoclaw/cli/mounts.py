"""nanoclaw mounts: which folders of this machine a group's agent sees beside its own."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import load
from nanoclaw.control import groups, mounts
from nanoclaw.errors import Refused
from nanoclaw.groups import MAIN, open_home
from nanoclaw.models import Group
from nanoclaw.mounts import EXTRA, Place, Rule, Verdict, allowlist, inside
from nanoclaw.mounts.judge import judge
from nanoclaw.prompts import plain
from nanoclaw.sandbox.engine import address_of

_HELP = """Folders of this machine that a group's agent sees beside its own, below /workspace/extra.

\b
Examples:
  nanoclaw mounts check ~/projects                would it be allowed, and why
  nanoclaw mounts check ~/projects --group family --write
  nanoclaw mounts add main ~/projects             read-only, from the next start on
  nanoclaw mounts add main ~/notes --as notes --write
  nanoclaw mounts list
  nanoclaw mounts remove family notes

Nothing can be granted but what lies in a folder that mounts.toml in the home allows:

\b
  non_main_read_only = true     groups other than main never write
  blocked_names = ["taxes"]     hidden wherever they stand, beside .ssh, .env and their like
  [[allowed_roots]]
  path = "~/projects"
  read_write = true             without it: read-only
  description = "my code"
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
PathArg = Annotated[str, typer.Argument(metavar="PATH", help="A folder of this machine.")]
GroupArg = Annotated[str, typer.Argument(metavar="GROUP", help="Folder, name or chat's number.")]
Write = Annotated[bool, typer.Option("--write", help="To be written too; else it is read-only.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def check(
    path: PathArg,
    group: Annotated[str, typer.Option("--group", help="For this group.")] = MAIN,
    write: Write = False,
    as_json: Json = False,
) -> None:
    """Say rule by rule whether a folder may be granted. Exit code 1: it may not."""
    main = group == MAIN or look(groups.find, group).is_main
    verdict, hidden = _examine(_place(), _absolute(path), write=write, main=main)
    if as_json:
        typer.echo(json.dumps(_facts(verdict, hidden)))
    else:
        typer.echo("\n".join(plain(line) for line in _explained(verdict, hidden)))
    if verdict.refusal:
        raise typer.Exit(1)


@app.command()
def add(
    group: GroupArg,
    path: PathArg,
    name: Annotated[str, typer.Option("--as", help="Its name below /workspace/extra.")] = "",
    write: Write = False,
) -> None:
    """Let a group's agent see a folder, from its next start on."""
    here, source = _place(), _absolute(path)
    found = look(groups.find, group)
    verdict, hidden = _examine(here, source, write=write, main=found.is_main)
    if verdict.refusal:
        raise Refused(verdict.refusal)
    name = name or Path(os.path.normpath(source)).name
    judged = judge(here, source, read_write=write, main=found.is_main)  # before: the store's writers wait for no disk
    mount, _ = do(mounts.grant, found.folder, source, name, write, lambda *_, **__: judged, TERMINAL, _now())
    typer.echo(f"{found.folder} sees {mount.source} as {EXTRA}/{mount.target} from its next start on.")
    typer.echo(f"It is {verdict.rules[-2].words}; {verdict.rules[-1].words}.")
    if mount.read_write:
        typer.echo(mounts.CODE)
    if people := look(mounts.who, found):
        typer.echo(f"In that group are {people}: all of them can get these files.")
    for rel, why in hidden:
        typer.echo(plain(f"  not seen: {rel} ({why})"))


@app.command()
def remove(group: GroupArg, name: Annotated[str, typer.Argument(metavar="NAME", help="As `list` shows it.")]) -> None:
    """Take a folder back, from the next start on."""
    mount = do(mounts.revoke, group, name, TERMINAL, _now())
    typer.echo(f"{mount.source} is taken back. A turn that runs just now keeps it until it ends.")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """What mounts.toml allows, and what groups were granted."""
    here, granted = _place(), look(mounts.listed)
    allowed = here.allowlist
    if as_json:
        roots = [] if isinstance(allowed, str) else [asdict(root) for root in allowed.roots]
        groups_of = {g.folder: [asdict(m) for m in g.mounts] for g in granted}
        fault = allowed if isinstance(allowed, str) else ""
        typer.echo(json.dumps({"allowed_roots": roots, "fault": fault, "groups": groups_of}))
        return
    typer.echo("\n".join(plain(line) for line in (*_allowed(here), *_granted(granted))))


def _allowed(here: Place) -> list[str]:
    if isinstance(here.allowlist, str):
        return [here.allowlist]
    return [
        f"allowed: {root.path}, {'read-write' if root.read_write else 'read-only'}"
        + (f" ({root.description})" if root.description else "")
        for root in here.allowlist.roots
    ] or ["allowed: nothing"]


def _granted(granted: list[Group]) -> list[str]:
    return [f"{g.folder}: {m.source} as {m.target}, {mounts.access(m)}" for g in granted for m in g.mounts] or [
        "granted: nothing"
    ]


def _place() -> Place:
    config = load(os.environ)
    home = open_home(config.home, config.run_dir)
    return allowlist.place(home.root, home.run_dir, address_of(os.environ, config.engine))


def _absolute(path: str) -> str:
    """As a shell would: from here on."""
    return str(Path(path).expanduser().absolute())


def _examine(here: Place, source: str, *, write: bool, main: bool) -> tuple[Verdict, list[tuple[str, str]]]:
    """The verdict with the rule that a start adds: what lies inside."""
    verdict = judge(here, source, read_write=write, main=main)
    if verdict.refusal:
        return verdict, []
    try:
        found = inside.look(verdict.source, here.blocked, read_write=verdict.read_write)
    except Refused as e:
        return _with(verdict, Rule("inside", False, str(e)), writes=False), []
    words = f"{len(found.hidden)} name(s) in it are hidden" + (", its .git stays read-only" if found.kept else "")
    words += f"; it will be read-only: {found.read_only}" if found.read_only else ""
    writes = verdict.read_write and not found.read_only
    kept = [(rel, "read-only: git's own") for rel in found.kept]
    return _with(verdict, Rule("inside", True, words), writes=writes), [*((h.rel, h.why) for h in found.hidden), *kept]


def _with(verdict: Verdict, rule: Rule, *, writes: bool) -> Verdict:
    return Verdict((*verdict.rules, rule), verdict.source, writes)


def _explained(verdict: Verdict, hidden: list[tuple[str, str]]) -> list[str]:
    lines = [f"{'ok' if rule.holds else 'NO':<3} {rule.name}: {rule.words}" for rule in verdict.rules]
    lines += [f"      {rel} ({why})" for rel, why in hidden]
    if verdict.refusal:
        return [*lines, "Refused."]
    return [*lines, f"Allowed, {'read-write' if verdict.read_write else 'read-only'}."]


def _facts(verdict: Verdict, hidden: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "allowed": not verdict.refusal,
        "refusal": verdict.refusal,
        "source": "" if verdict.refusal else str(verdict.source),
        "read_write": verdict.read_write and not verdict.refusal,
        "rules": [asdict(rule) for rule in verdict.rules],
        "inside": [{"path": rel, "why": why} for rel, why in hidden],
    }


def _now() -> int:
    return time.time_ns() // 1_000_000
