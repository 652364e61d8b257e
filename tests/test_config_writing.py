"""Changing nanoclaw.toml: what the owner wrote stays, nothing wrong gets in, and whatever breaks leaves it whole."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nanoclaw.config import load
from nanoclaw.config.writing import replace_settings, set_settings, write_whole
from nanoclaw.errors import ConfigError

MINE = '# my house\nzone = "UTC"  # for now\n\n# people\nowners = [\n  "+4915112345678",  # Ann\n]\nmax_runs = 3\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/nanoclaw.toml").write_text(MINE)
    return tmp_path / "home"


def settings(home: Path) -> str:
    return (home / "nanoclaw.toml").read_text()


def names(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir())


def test_comments_and_order_stay(home: Path) -> None:
    """One value is another, what is new comes last, what goes leaves the rest as it was."""
    set_settings(home, {"zone": "Europe/Berlin", "name": 'B "the" Ö'})
    assert settings(home) == MINE.replace('"UTC"', '"Europe/Berlin"') + 'name = "B \\"the\\" Ö"\n'
    set_settings(home, {"name": None, "zone": "UTC"})
    assert settings(home) == MINE
    assert load({"NANOCLAW_HOME": str(home)}).owners == ("+4915112345678",)


def test_the_previous_file_stays_beside_it(home: Path) -> None:
    """As it was, for the owner's eyes alone; a change that changes nothing does not touch it."""
    assert set_settings(home, {"max_runs": 4})
    assert not set_settings(home, {"max_runs": "4"})
    assert (home / "nanoclaw.toml.before").read_text() == MINE
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in home.iterdir()} == {
        "nanoclaw.toml": 0o600,
        "nanoclaw.toml.before": 0o600,
    }


VALUES = [
    ("max_runs", "7", "7"),
    ("idle_timeout", "90", "90"),
    ("idle_timeout", "1.5", "1.5"),
    ("typing", "no", "false"),
    ("owners", "+12025550123,+1 202 555 0199", '["+12025550123", "+12025550199"]'),
    ("owners", ",", "[]"),
    ("run_dir", "/run/nc", '"/run/nc"'),
    ("base_url", "http://localhost:8080/", '"http://localhost:8080"'),
]


@pytest.mark.parametrize(("key", "text", "written"), VALUES)
def test_words_become_values_of_the_settings_kind(tmp_path: Path, key: str, text: str, written: str) -> None:
    """A number is written as one, a list as one."""
    set_settings(tmp_path, {key: text})
    assert settings(tmp_path) == f"{key} = {written}\n"
    assert load({"NANOCLAW_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("key", "value"), [("zone", "Mars"), ("zoen", "UTC"), ("home", "/x"), ("max_runs", "1e9"), ("owners", "5")]
)
def test_nothing_wrong_is_written(home: Path, key: str, value: str) -> None:
    """The refusal names the setting; not even the previous file is touched."""
    with pytest.raises(ConfigError, match=key):
        set_settings(home, {key: value})
    assert (settings(home), names(home)) == (MINE, ["nanoclaw.toml"])


def test_a_file_that_is_wrong_elsewhere_is_judged_whole(home: Path) -> None:
    """A change next to a fault is refused with the fault's line; taking the fault out is a change that mends it."""
    broken = MINE + "max_rnus = 5\n"
    (home / "nanoclaw.toml").write_text(broken)
    with pytest.raises(ConfigError, match="line 9: unknown setting 'max_rnus': do you mean max_runs"):
        set_settings(home, {"zone": "Europe/Berlin"})
    assert settings(home) == broken
    set_settings(home, {"max_rnus": None})
    assert settings(home) == MINE
    (home / "nanoclaw.toml").write_text(MINE + "= 5\n")
    with pytest.raises(ConfigError, match="line 9: this is no TOML"):
        set_settings(home, {"zone": "Europe/Berlin"})


def test_the_line_ends_of_windows_stay(home: Path) -> None:
    """In old lines and in new ones; a mark at the beginning goes."""
    (home / "nanoclaw.toml").write_bytes(b"\xef\xbb\xbf" + MINE.replace("\n", "\r\n").encode())
    set_settings(home, {"name": "Bea"})
    assert (home / "nanoclaw.toml").read_bytes() == (MINE + 'name = "Bea"\n').replace("\n", "\r\n").encode()


def test_a_file_without_an_end_of_line(home: Path) -> None:
    """What is new does not run into the last line."""
    (home / "nanoclaw.toml").write_text('zone = "UTC"')
    set_settings(home, {"max_runs": 2})
    assert settings(home) == 'zone = "UTC"\nmax_runs = 2\n'


def test_a_link_stays_one(home: Path, tmp_path: Path) -> None:
    """Settings may live among the owner's other dotfiles."""
    (tmp_path / "dotfiles").mkdir()
    (home / "nanoclaw.toml").rename(tmp_path / "dotfiles/nc.toml")
    (home / "nanoclaw.toml").symlink_to(tmp_path / "dotfiles/nc.toml")
    set_settings(home, {"max_runs": 4})
    assert (home / "nanoclaw.toml").is_symlink()
    assert "max_runs = 4" in (tmp_path / "dotfiles/nc.toml").read_text()
    assert (home / "nanoclaw.toml.before").read_text() == MINE


def in_a_process(code: str, *args: object, limit: int = 0) -> subprocess.Popen[str]:
    """Python that may write no more than so many bytes into a file."""
    head = "import sys; from pathlib import Path; from nanoclaw.config.writing import set_settings\n"

    def full() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)], stderr=subprocess.PIPE, text=True, preexec_fn=full
    )


def test_two_writers_at_once_lose_nothing(home: Path) -> None:
    """Each sets another key, over and over: in the end both keys are there, and the file is always whole."""
    code = "for n in range(1, 31): set_settings(Path(sys.argv[1]), {sys.argv[2]: n})"
    writers = [in_a_process(code, home, key) for key in ("keep_media", "keep_usage", "keep_audit")]
    while any(w.poll() is None for w in writers):
        load({"NANOCLAW_HOME": str(home)})
    assert [(w.communicate()[1], w.returncode) for w in writers] == [("", 0)] * 3
    config = load({"NANOCLAW_HOME": str(home)})
    assert (config.keep_media, config.keep_usage, config.keep_audit) == (30, 30, 30)
    assert settings(home).startswith("# my house\n")


@pytest.mark.parametrize("room", [1, len(MINE), len(MINE) + 5])
def test_a_full_disk_leaves_the_old_file(home: Path, room: int) -> None:
    """Whichever of the two files does not fit; and nothing half written stays behind."""
    writer = in_a_process("set_settings(Path(sys.argv[1]), {'name': 'x' * 40})", home, limit=room)
    assert "cannot be written" in writer.communicate()[1]
    assert writer.returncode == 1
    assert settings(home) == MINE
    assert not [name for name in names(home) if name.endswith(".part")]


def test_a_file_that_changed_meanwhile_is_not_overwritten(home: Path) -> None:
    """Who edited it for an hour does not undo what was set within it."""
    before = (home / "nanoclaw.toml").read_bytes()
    set_settings(home, {"max_runs": 9})
    with pytest.raises(ConfigError, match="meanwhile"):
        replace_settings(home, before, b'zone = "UTC"\n')
    assert "max_runs = 9" in settings(home)
    replace_settings(home, (home / "nanoclaw.toml").read_bytes(), b'zone = "UTC"\n')
    assert settings(home) == 'zone = "UTC"\n'


def test_no_rights_is_one_sentence(home: Path) -> None:
    """A home that is a file, and a place where nobody may write."""
    with pytest.raises(ConfigError, match="cannot be used: "):
        set_settings(home / "nanoclaw.toml", {"max_runs": 4})
    with pytest.raises(ConfigError, match=r"/proc/nanoclaw.toml cannot be written: "):
        write_whole(Path("/proc/nanoclaw.toml"), b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_leaves_the_file_whose_it_is(home: Path) -> None:
    """Its owner can still read and edit it; the mode is theirs too."""
    file = home / "nanoclaw.toml"
    os.chown(file, 12345, 12346)
    file.chmod(0o640)
    set_settings(home, {"zone": "Asia/Tokyo"})
    for path in (file, home / "nanoclaw.toml.before"):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12346, 0o640)


def test_the_file_is_never_quite_empty(tmp_path: Path) -> None:
    """Such a file was cut off, for whoever reads it."""
    set_settings(tmp_path, {"zone": "Asia/Tokyo"})
    set_settings(tmp_path, {"zone": None})
    assert (tmp_path / "nanoclaw.toml").read_text() == "\n"
