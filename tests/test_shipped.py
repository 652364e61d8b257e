"""The skills that come with NanoClaw: a copy in the home, which the engine can see wherever the host runs."""

from pathlib import Path

from nanoclaw.run.shipped import refresh
from nanoclaw.sandbox.image import resources
from tests.fakes import hosting


def _files(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


async def test_every_run_is_given_the_copy_in_the_home(folder: Path) -> None:
    """And it is what NanoClaw brings along."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        (bind,) = [b for b in host.sandbox.opened[-1].binds if b.target == "/opt/agent/plugins/nanoclaw/skills"]
        assert bind.source.is_relative_to(host.config.home.resolve())
        assert not bind.read_write
        assert "memory/SKILL.md" in _files(bind.source)
        assert _files(bind.source) == _files(resources() / "skills")


def test_a_new_version_s_skills_take_the_old_ones_place(tmp_path: Path) -> None:
    """Changed, added, removed, another kind: all as it comes, in the folder that a living container has open."""
    source, shipped = tmp_path / "source", tmp_path / "shipped"
    for root, names in ((source, ("a/SKILL.md", "b/x", "c")), (shipped, ("a/SKILL.md", "gone/SKILL.md", "b", "c/y"))):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{root.name}")
    (shipped / "link").symlink_to(tmp_path)
    inode = shipped.stat().st_ino
    refresh(source, shipped)
    assert _files(shipped) == _files(source) == {"a/SKILL.md": "source", "b/x": "source", "c": "source"}
    assert {p.name for p in shipped.iterdir()} == {"a", "b", "c"}
    assert (shipped.stat().st_ino, (shipped / "b/x").stat().st_mode & 0o777) == (inode, 0o644)
    same = (shipped / "a/SKILL.md").stat().st_ino
    refresh(source, shipped)
    assert (shipped / "a/SKILL.md").stat().st_ino == same


def test_a_copy_that_fails_stops_no_host(tmp_path: Path) -> None:
    """What was there before is still there."""
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "source/a/SKILL.md").write_text("x")
    refresh(tmp_path / "source", tmp_path / "never")
    assert not (tmp_path / "never").exists()
