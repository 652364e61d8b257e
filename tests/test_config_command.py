"""nanoclaw config, through the command itself; and that nothing but a person at the terminal changes settings."""

import ast
import json
import shlex
import sys
from pathlib import Path

import pytest

from nanoclaw.config.reference import reference
from nanoclaw.config.schema import KEYS
from tests.commands import Terminal, nanoclaw

ROOT = Path(__file__).parent.parent
KEY = "sk-ant-api03-visibly-fake"


async def config(home: Path, *words: str, **env: str) -> tuple[int | None, str, str]:
    return await nanoclaw(home, "config", *words, **env)


def editor(folder: Path, code: str) -> str:
    """A command that changes the file it is given: `text` there is what it holds."""
    script = folder / "editor.py"
    script.write_text(f"import sys, pathlib\np = pathlib.Path(sys.argv[-1]); text = p.read_text()\n{code}\n")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}"


async def test_show_says_all_of_each_setting_and_no_secret(tmp_path: Path) -> None:
    """Value, where it comes from, what it means, whether it needs a restart; of the key only that there is one."""
    (tmp_path / "nanoclaw.toml").write_text('zone = "Asia/Tokyo"\n')
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY={KEY}\n")
    code, out, err = await config(tmp_path, "show", "--json", NANOCLAW_MAX_RUNS="3")
    told = json.loads(out)
    assert (code, err, set(told["settings"])) == (0, "", set(KEYS))
    assert told["settings"]["zone"] | {"meaning": ""} == {
        "value": "Asia/Tokyo", "source": "file", "restart": False, "meaning": "",
    }  # fmt: skip
    assert (told["settings"]["max_runs"]["value"], told["settings"]["max_runs"]["source"]) == (3, "environment")
    assert (told["settings"]["engine"]["source"], told["settings"]["engine"]["restart"]) == ("default", True)
    assert all(setting["meaning"] for setting in told["settings"].values())
    assert told["credential"] == "given"
    code, text, _ = await config(tmp_path, "show")
    assert code == 0
    assert 'zone = "Asia/Tokyo"' in text
    assert KEY not in out + text


async def test_set_get_and_unset(tmp_path: Path) -> None:
    """A new home begins with it; "" is the default again, but where it says something by itself."""
    code, out, err = await config(tmp_path, "set", "zone", "Europe/Berlin")
    assert (code, out, err) == (0, 'zone = "Europe/Berlin": counts from the next start on\n', "")
    assert (await config(tmp_path, "set", "owners", "+4915112345678,+12025550123"))[0] == 0
    assert (await config(tmp_path, "get", "owners"))[1] == "+4915112345678,+12025550123\n"
    assert json.loads((await config(tmp_path, "get", "owners", "--json"))[1]) == ["+4915112345678", "+12025550123"]
    assert (await config(tmp_path, "set", "zone", ""))[1] == 'zone = "UTC": counts from the next start on\n'
    assert (await config(tmp_path, "unset", "owners"))[0] == 0
    assert (tmp_path / "nanoclaw.toml").read_text() == "\n"
    assert (await config(tmp_path, "set", "reaction", ""))[1] == 'reaction = "": counts from the next start on\n'
    assert (tmp_path / "nanoclaw.toml").read_text().strip() == 'reaction = ""'
    assert (await config(tmp_path, "unset", "zone"))[1] == "zone was so already\n"


async def test_what_the_environment_says_goes_first_and_is_said(tmp_path: Path) -> None:
    """Who sets a key that a variable gives too is not left wondering."""
    _, out, _ = await config(tmp_path, "set", "zone", "Europe/Berlin", NANOCLAW_ZONE="UTC")
    assert out == 'zone = "Europe/Berlin": written, but NANOCLAW_ZONE in the environment goes before it\n'


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("set", "zoen", "UTC"), "unknown setting 'zoen': do you mean zone?"),
        (("set", "zone", "Mars"), "zone: 'Mars' is no time zone; write it as in Europe/Berlin"),
        (("set", "max_runs", "-1"), "max_runs: it should be greater than or equal to 1"),
        (("set", "home", "/x"), "the home is said by NANOCLAW_HOME alone"),
        (("get", "tokens"), "unknown setting 'tokens'"),
        (("unset", "nothing"), "unknown setting 'nothing'"),
        (("check", "absent.toml"), "absent.toml does not exist"),
    ],
)
async def test_a_refusal_is_one_line_that_says_what_to_do(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    """Code 1, and nothing is written."""
    code, out, err = await config(tmp_path, *words)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("nanoclaw: ")
    assert told in err
    assert not list(tmp_path.iterdir())


async def test_check_says_everything_at_once(tmp_path: Path) -> None:
    """One line for each fault, code 1; another file too, which the environment has nothing to do with."""
    assert (await config(tmp_path, "check"))[0] == 0
    other = tmp_path / "other.toml"
    other.write_text('zone = "Mars"\nmax_rnus = 1\n')
    (tmp_path / "nanoclaw.toml").write_text('zone = "UTC"\n')
    code, out, _ = await config(tmp_path, "check", str(other), NANOCLAW_MAX_RUNS="0")
    assert (code, [line.partition(": ")[0] for line in out.splitlines()]) == (
        1, [f"{other}, line 1", f"{other}, line 2"],
    )  # fmt: skip
    code, out, _ = await config(tmp_path, "check", "--json", NANOCLAW_MAX_RUNS="0")
    assert (code, [fault["key"] for fault in json.loads(out)]) == (1, ["max_runs"])
    (tmp_path / "nanoclaw.toml").write_bytes(b"\xff\xfe")
    code, out, _ = await config(tmp_path, "check")
    assert (code, out.count("\n"), "not UTF-8" in out) == (1, 1, True)


async def test_edit_takes_what_is_right(tmp_path: Path) -> None:
    """What was written takes the file's place, also where the file was broken before; the draft is gone."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "nanoclaw.toml").write_text("zone = Mars\n")
    code, out, err = await config(home, "edit", EDITOR=editor(tmp_path, "p.write_text('zone = \"Asia/Tokyo\"\\n')"))
    assert (code, out, err) == (0, "written: it counts from the next start on\n", "")
    assert (home / "nanoclaw.toml").read_text() == 'zone = "Asia/Tokyo"\n'
    assert (home / "nanoclaw.toml.before").read_text() == "zone = Mars\n"
    assert (await config(home, "edit", EDITOR=editor(tmp_path, "")))[1] == "nothing was changed\n"
    assert sorted(p.name for p in home.iterdir()) == ["nanoclaw.toml", "nanoclaw.toml.before"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("p.write_text('zone = \"Mars\"')", "no time zone"),
        ("sys.exit(3)", "ended with code 3"),
        ("(p.parent / 'nanoclaw.toml').write_text('max_runs = 9\\n'); p.write_text('max_runs = 8\\n')", "meanwhile"),
    ],
)
async def test_edit_keeps_what_cannot_be_taken(tmp_path: Path, code: str, told: str) -> None:
    """The file is as it was, and nothing that was written is lost."""
    home = tmp_path / "home"
    home.mkdir()
    ended, _, err = await config(home, "edit", EDITOR=editor(tmp_path, code))
    assert (ended, told in err, "Traceback" in err) == (1, True, False)
    assert len(list(home.glob("nanoclaw.edit-*.toml"))) == 1
    assert not (home / "nanoclaw.toml").exists() or (home / "nanoclaw.toml").read_text() == "max_runs = 9\n"


async def test_edit_without_an_editor(tmp_path: Path) -> None:
    """It says which variable names one."""
    code, _, err = await config(tmp_path, "edit", EDITOR="/nonexistent/editor")
    assert (code, "name your editor in EDITOR" in err) == (1, True)


async def test_edit_offers_to_edit_again(tmp_path: Path) -> None:
    """In a terminal: the faults are shown, and the next try begins with what was written."""
    home = tmp_path / "home"
    home.mkdir()
    again = editor(tmp_path, "p.write_text(text.replace('Mars', 'UTC') if 'Mars' in text else 'zone = \"Mars\"\\n')")
    terminal = await Terminal.open(home, "config", "edit", EDITOR=again)
    shown = await terminal.shows("Edit it again? [Y/n]: ")
    assert "is no time zone" in shown
    terminal.type("\n")
    assert await terminal.ends() == 0
    assert (home / "nanoclaw.toml").read_text() == 'zone = "UTC"\n'


async def test_a_change_is_on_record(tmp_path: Path) -> None:
    """Which setting and that it was at the terminal; not what it was set to."""
    home = tmp_path / "h"
    await config(home, "set", "zone", "Asia/Tokyo")
    assert not (home / "nanoclaw.db").exists()  # a new home gets no database by a setting
    from nanoclaw.app import opened
    from nanoclaw.store import Store, audit

    async with opened(Store(home / "nanoclaw.db")) as store:
        await config(home, "set", "name", "Bea")
        (entry,) = await store.read(audit.newest, 10)
    assert (entry.who, entry.verb, entry.detail) == ("terminal", "config", "name")


async def test_the_page_about_settings_is_made_from_the_code(tmp_path: Path) -> None:
    """docs/configuration.md is what `nanoclaw config reference` prints; if this fails, print it there anew."""
    assert (await config(tmp_path, "reference"))[1] == (ROOT / "docs/configuration.md").read_text() == reference()


def test_only_the_terminal_changes_settings() -> None:
    """Nothing that a chat or an agent reaches can write nanoclaw.toml: only the command line imports what does."""
    importers = set()
    for path in (ROOT / "nanoclaw").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name in ("nanoclaw.config.writing", "writing", "set_settings", "write_whole") for name in names):
                importers.add(path.relative_to(ROOT / "nanoclaw").parts[0])
    assert importers == {"cli"}
    mentions = {
        path.relative_to(ROOT / "nanoclaw").as_posix()
        for path in (ROOT / "nanoclaw").rglob("*.py")
        if "SETTINGS_FILE" in path.read_text("utf-8")
    }
    readers = {"app/live.py", "ops/backup.py", "config/__init__.py", "config/reading.py", "config/writing.py"}
    readers.add("ops/doctor/settings.py")  # it looks, and only looks
    assert mentions == {*readers, "cli/config.py"}
