"""What a host leaves behind that dies between the folders of a run and its row."""

from pathlib import Path

from tests.fakes import ProcessSandbox, living


async def test_folders_of_runs_that_no_row_knows(folder: Path) -> None:
    """The next start removes them, and nothing beside them."""
    async with living(folder, ProcessSandbox(folder / "registry")) as hosted:
        home = hosted.config.home
    (home / "runs" / "deadbeef" / "inbox").mkdir(parents=True)
    (home / "run" / "0123abcd").mkdir()
    (home / "run" / "somebody's").touch()
    async with living(folder, ProcessSandbox(folder / "registry")):
        assert list((home / "runs").iterdir()) == []
        assert [path.name for path in (home / "run").iterdir()] == ["somebody's"]
