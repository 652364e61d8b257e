"""What uninstall takes away and, above all, what it leaves."""

import os
from pathlib import Path

import pytest

from nanoclaw.app import one_host
from nanoclaw.groups import open_home
from nanoclaw.ops import leaving
from tests.commands import nanoclaw

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the machine's systemd or engine."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")  # `nanoclaw` passes no NANOCLAW_ setting on


async def test_what_is_not_ours_stays(folder: Path) -> None:
    """A home in a folder that is somebody's loses what is ours; what is left is named."""
    home = open_home(folder / "home").root
    for name in ("nanoclaw.toml", "nanoclaw.toml.before", "nanoclaw.db-wal", ".env", "starts.json", "letter.txt"):
        (home / name).touch()
    (home / "Documents/state").mkdir(parents=True)
    (home / "skills").rmdir()
    (home / "skills").symlink_to(home / "Documents")
    code, out, err = await nanoclaw(home, "uninstall", "--purge")
    assert (code, err, "stays: Documents, letter.txt" in out) == (0, "", True), out
    assert sorted(path.name for path in home.rglob("*")) == ["Documents", "letter.txt", "state"]


async def test_no_folder_of_all_is_deleted(folder: Path) -> None:
    """One's own, one that holds the program, a link: refused before anything is done."""
    home = open_home(folder / "home").root
    (home / "nanoclaw.toml").touch()
    code, _, err = await nanoclaw(home, "uninstall", "--purge", HOME=str(home))
    assert (code, "all your files" in err) == (1, True), err
    link = folder / "link"
    link.symlink_to(home)
    code, _, err = await nanoclaw(link, "uninstall", "--purge")
    assert (code, "a link" in err) == (1, True), err
    assert (home / "nanoclaw.toml").exists()
    for path in (Path("/"), Path.home(), ROOT, ROOT.parent):
        assert leaving.kept(path, [ROOT])
    assert leaving.kept(home, [home / "clone"])
    assert not leaving.kept(home, [ROOT])


async def test_one_that_hangs_is_named_first(folder: Path) -> None:
    """Whoever holds the home and does not answer is not taken for nobody."""
    home = open_home(folder / "home")
    (home.root / "nanoclaw.toml").touch()
    with one_host(home.lock):
        code, out, err = await nanoclaw(home.root, "uninstall", "--purge")
    assert (code, out, f"kill -9 {os.getpid()}" in err) == (1, "", True), err
    assert (home.root / "nanoclaw.toml").exists()
