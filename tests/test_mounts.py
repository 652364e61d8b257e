"""Which folders may be granted: the table of verdicts, the allowlist's file, and what is hidden inside."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanoclaw import safefs
from nanoclaw.errors import Refused
from nanoclaw.groups import open_home
from nanoclaw.mounts import Allowlist, Place, allowlist, check_target, names
from nanoclaw.mounts import judge as judging
from nanoclaw.mounts.inside import MAX_FOUND, Inside, look
from nanoclaw.mounts.judge import MAX_PATH, judge
from tests.fakes import LIMIT

ALLOWED = """
blocked_names = ["Taxes"]
non_main_read_only = true
[[allowed_roots]]
path = "W/projects"
read_write = true
description = "my code"
[[allowed_roots]]
path = "W/projects/frozen"
[[allowed_roots]]
path = "W/projects/moved"
[[allowed_roots]]
path = "W/projects/frozen/thaw"
read_write = true
[[allowed_roots]]
path = "W/docs"
[[allowed_roots]]
path = "W/by-link"
read_write = true
[[allowed_roots]]
path = "W/unplugged"
[[allowed_roots]]
path = "W/loop"
read_write = true
[[allowed_roots]]
path = "W/loop/inner"
[[allowed_roots]]
path = "W/house"
read_write = true
[[allowed_roots]]
path = "/proc"
[[allowed_roots]]
path = "/"
"""
# With the root "/" everything is allowed that no rule forbids: so the rules are seen at work. Without it:
NARROW = ALLOWED.replace('[[allowed_roots]]\npath = "/"\n', "")

FOLDERS = (
    *("projects/app/src", "projects/app/.git/hooks", "projects/frozen/old", "projects/frozen/thaw/a"),
    *("projects/.ssh/keys", "projects/app/.AWS", "projects/ssh", "projects/my.env.d", "projects/sub/id_rsa/x"),
    *("docs/a", "docs/Taxes", "docs/.Docker", "docs/.config/gcloud", "docs/new\nline", "docs/\u202eolleh"),
    *("projects/\uff43redentials", "projects/.\u017f\u017fh", "projects/.e\u200bnv", "projects/.kube. "),
    *("projects/taxes2", "projects/credentialing", "real/linked", "private/secret-diary", "house/user", "engine/run"),
)
LINKS = {
    "projects/to-docs": "../docs/a",
    "projects/to-private": "../private",
    "projects/chain1": "chain2",
    "projects/chain2": "chain3",
    "projects/chain3": "../private/secret-diary",
    "projects/good-chain": "good2",
    "projects/good2": "app/src",
    "loop": "loop",
    "projects/loop1": "loop2",
    "projects/loop2": "loop1",
    "projects/dangling": "nowhere",
    "projects/to-ssh": ".ssh/keys",
    "projects/to-home": "../house/user/.nanoclaw/groups",
    "projects/.netrc": "app",
    "projects/moved": "../private",
    "by-link": "real",
    "docs/up": "..",
}


@pytest.fixture
def world(folder: Path) -> Path:
    """A small machine."""
    root = folder.resolve() / "w"
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    open_home(root / "house/user/.nanoclaw", root / "sockets")
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    (root / "docs/file.txt").write_text("x")
    os.mkfifo(root / "docs/pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(root / "engine/run/e.sock"))
    return root


def placed(world: Path, text: str = NARROW) -> Place:
    home = world / "house/user/.nanoclaw"
    (home / "mounts.toml").write_text(text.replace("W/", f"{world}/"))
    return allowlist.place(home, world / "sockets", f"unix://{world}/engine/run/e.sock")


# What is asked for, and a piece of the refusal; "" is allowed.
VERDICTS = [
    # Where it lies
    ("W/projects", ""),
    ("W/projects/", ""),
    ("W/projects/app", ""),
    ("W/projects/app/src", ""),
    ("W//projects/./app", ""),
    ("W/docs", ""),
    ("W/docs/a", ""),
    ("W/private", "no allowed folder"),
    ("W/projects-other", "No such file"),
    ("W/real/linked", ""),  # the root by-link leads there
    ("W/by-link/linked", ""),
    ("W", "no allowed folder"),
    ("/etc", "no allowed folder"),
    ("/", "no allowed folder"),
    ("W/unplugged", "No such file"),
    ("W/projects/app/../../private", "no allowed folder"),
    ("W/projects/app/../app/src/..", ""),
    ("W/docs/../projects/app", ""),
    ("W/projects/../../../../../../../../etc", "no allowed folder"),
    # Links
    ("W/projects/to-docs", ""),
    ("W/projects/good-chain", ""),
    ("W/projects/to-private", "no allowed folder"),
    ("W/projects/to-private/secret-diary", "no allowed folder"),
    ("W/projects/chain1", "no allowed folder"),
    ("W/projects/to-docs/../../private", "no allowed folder"),  # ".." of where the link leads
    ("W/docs/up/private", "no allowed folder"),
    ("W/projects/moved", "no allowed folder"),  # a root that a writer could have made a link
    ("W/projects/moved/secret-diary", "no allowed folder"),
    ("W/projects/loop1", "cannot be used"),
    ("W/projects/dangling", "No such file"),
    ("W/projects/to-ssh", "never mounted"),
    ("W/projects/to-home", "NanoClaw's own"),
    # What it is
    ("W/docs/file.txt", "is no folder"),
    ("W/docs/file.txt/x", "Not a directory"),
    ("W/docs/pipe", "is no folder"),
    ("W/engine/run/e.sock", "is no folder"),
    ("/dev/null", "is no folder"),
    # How it is written
    ("projects/app", "not an absolute path"),
    ("./projects", "not an absolute path"),
    ("../w/projects", "not an absolute path"),
    ("", "not an absolute path"),
    ("~root/x", "not an absolute path"),
    ("~", "not an absolute path"),
    ("~/no-such-folder-here", "No such file"),
    ("file:///etc", "not an absolute path"),
    ("W/docs\0/a", "cannot be shown"),
    ("W/docs/new\nline", "cannot be shown"),
    ("W/docs/\u202eolleh", "cannot be shown"),
    ("W/docs/\udcff", "cannot be shown"),
    ("W/docs/" + "x/" * MAX_PATH, "longer than"),
    # Names that are never mounted
    ("W/projects/.ssh", "never mounted"),
    ("W/projects/.ssh/keys", "never mounted"),
    ("W/projects/.ssh/../app", "never mounted"),
    ("W/projects/.netrc", "never mounted"),  # by its own name, though it leads to the harmless app
    ("W/projects/app/.AWS", "never mounted"),
    ("W/docs/.Docker", "never mounted"),
    ("W/projects/sub/id_rsa/x", "never mounted"),
    ("W/docs/.config/gcloud", "never mounted"),
    ("W/docs/Taxes", "never mounted"),
    ("W/projects/\uff43redentials", "never mounted"),
    ("W/projects/.\u017f\u017fh", "never mounted"),
    ("W/projects/.e\u200bnv", "cannot be shown"),
    ("W/projects/.kube. ", "never mounted"),
    ("W/projects/ssh", ""),
    ("W/projects/my.env.d", ""),
    ("W/projects/taxes2", ""),
    ("W/projects/credentialing", ""),
    # NanoClaw's own
    ("W/house", "contains NanoClaw's own"),
    ("W/house/user", "contains NanoClaw's own"),
    ("W/house/user/.nanoclaw", "lies in NanoClaw's own"),
    ("W/house/user/.nanoclaw/groups", "lies in NanoClaw's own"),
    ("W/house/user/.nanoclaw/skills", "lies in NanoClaw's own"),
]
# With "/" as an allowed root.
WIDE = [
    ("W/private", ""),
    ("/etc", ""),
    ("/", "contains NanoClaw's own"),
    ("W", "contains NanoClaw's own"),
    ("W/sockets", "lies in NanoClaw's own"),
    ("W/engine", "container engine's socket"),
    ("W/engine/run", "container engine's socket"),
    ("/var/run", "container engine's socket"),
    ("/run", "container engine's socket"),
    ("/var", "holds or is a part of"),
    ("/var/lib/docker", "holds or is a part of"),
    ("/proc", "holds or is a part of"),
    ("/proc/self", "holds or is a part of"),
    ("/proc/self/cwd", ""),
    ("/sys/kernel", "holds or is a part of"),
    ("/dev/shm", "holds or is a part of"),
]


def put(source: str, world: Path) -> str:
    return str(world) + source.removeprefix("W") if source.startswith("W") else source


@pytest.mark.parametrize(("source", "words"), VERDICTS)
def test_what_may_be_granted(world: Path, source: str, words: str) -> None:
    """Allowed is what lies in an allowed folder, by whatever way it is reached, and meets no rule that forbids it."""
    verdict = judge(placed(world), put(source, world), main=True)
    assert words in verdict.refusal
    assert bool(verdict.refusal) == bool(words)
    if not words:
        assert verdict.source == verdict.source.resolve()


@pytest.mark.parametrize(("source", "words"), WIDE)
def test_what_no_allowlist_opens(world: Path, source: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allowed folder "/" does not open the home, the engine's socket or the machine itself."""
    monkeypatch.chdir(world / "private")
    if not Path(put(source, world)).exists():
        pytest.skip(f"this machine has no {source}")
    verdict = judge(placed(world, ALLOWED), put(source, world), main=True)
    assert words in verdict.refusal
    assert bool(verdict.refusal) == bool(words)


# source, asked for writing, main, whether it is writable then, why
ACCESS = [
    ("W/projects/app", False, True, False, "not asked for"),
    ("W/projects/app", True, True, True, "as asked and allowed"),
    ("W/projects/app", True, False, False, "non_main_read_only"),
    ("W/projects/app", False, False, False, "not asked for"),
    ("W/docs", True, True, False, "does not say read_write"),
    ("W/docs/a", True, True, False, "does not say read_write"),
    ("W/projects/to-docs", True, True, False, "does not say read_write"),
    ("W/projects/frozen", True, True, False, "does not say read_write"),
    ("W/projects/frozen/old", True, True, False, "does not say read_write"),
    ("W/projects/frozen/thaw", True, True, True, "as asked"),
    ("W/projects/frozen/thaw/a", True, True, True, "as asked"),
    ("W/projects", True, True, False, "contains"),
    ("W/projects/app/.git", True, True, False, "git's own"),
    ("W/projects/app/.git/hooks", True, True, False, "git's own"),
    ("W/by-link", True, True, True, "as asked"),
]


@pytest.mark.parametrize(("source", "asked", "main", "writes", "words"), ACCESS)
def test_read_only_unless_every_rule_says_otherwise(
    world: Path, source: str, asked: bool, main: bool, writes: bool, words: str
) -> None:
    """Asked for, allowed by the most specific folder, and not forbidden for the group."""
    verdict = judge(placed(world), put(source, world), read_write=asked, main=main)
    assert (verdict.refusal, verdict.read_write) == ("", writes)
    assert words in verdict.rules[-1].words


def test_other_groups_write_where_the_owner_says_so(world: Path) -> None:
    """`non_main_read_only = false` is the spelled-out choice."""
    place = placed(world, NARROW.replace("only = true", "only = false"))
    assert judge(place, f"{world}/projects/app", read_write=True, main=False).read_write


ALIAS = """
import sys; from pathlib import Path
from nanoclaw.mounts import Allowlist, Place, Root
from nanoclaw.mounts.judge import judge
place = Place(Allowlist((Root("/"),)), (Path(sys.argv[1]),))
for source in sys.argv[2:]: print("NanoClaw's own" in judge(place, source).refusal)
"""


def _bound(world: Path, onto: str, source: str, script: str, *args: str) -> list[str]:
    """What a script prints where one folder of the world is mounted once more over another."""
    (world / onto).mkdir(parents=True, exist_ok=True)
    command = ["unshare", "-rm", "sh", "-c", f'mount --bind {world}/{source} {world}/{onto} && exec "$@"', "-"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this user may mount nothing, not even for itself")
    command += [sys.executable, "-c", script, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_home_by_another_name_is_still_the_home(world: Path) -> None:
    """A bind mount gives a folder a second name: what it is counts, not how it is called."""
    sources = [f"{world}/docs/a/user", f"{world}/docs/a/user/.nanoclaw/groups", f"{world}/docs"]
    told = _bound(world, "docs/a", "house", ALIAS, f"{world}/house/user/.nanoclaw", *sources)
    assert told == ["True", "True", "False"]  # the last contains it only as another disk, which is not seen inside


def test_a_part_of_the_home_by_another_name_is_still_the_home(world: Path) -> None:
    """Also where nothing above the second name is the home's."""
    told = _bound(
        world, "alias", "house/user/.nanoclaw/groups", ALIAS, f"{world}/house/user/.nanoclaw", f"{world}/alias"
    )
    assert told == ["True"]


WRITES = """
import sys; from pathlib import Path
from nanoclaw.mounts import Allowlist, Place, Root
from nanoclaw.mounts.judge import judge
from nanoclaw.mounts.way import meet
top, source = sys.argv[1:]
roots = (Root(f"{top}/projects", read_write=True), Root(f"{top}/docs"))
print(judge(Place(Allowlist(roots), ()), source, read_write=True, main=True).read_write, meet(source, f"{top}/docs"))
"""


def test_a_read_only_folder_by_another_name_is_still_read_only(world: Path) -> None:
    """A part of it that is mounted in a writable folder; and two runs that meet there are seen to meet."""
    assert _bound(world, "projects/alias", "docs/a", WRITES, str(world), f"{world}/projects/alias") == ["False", "True"]


def test_a_root_behind_an_agent_s_link_allows_nothing(world: Path) -> None:
    """Also where the link is on the way to it, and leads back into an allowed folder's neighbour."""
    (world / "private/deep").mkdir()
    (world / "real/way").symlink_to(world / "private")
    text = f'{NARROW}[[allowed_roots]]\npath = "{world}/to-real/way/deep"\n'
    (world / "to-real").symlink_to("real")  # `real` may be written: by-link leads there
    assert "no allowed folder" in judge(placed(world, text), f"{world}/private/deep", main=True).refusal
    (world / "real/way").unlink()
    (world / "real/way/deep").mkdir(parents=True)
    assert judge(placed(world, text), f"{world}/real/way/deep", main=True).refusal == ""


def test_a_blocked_name_in_the_middle_of_a_chain_of_links_counts(world: Path) -> None:
    """`nice` leads through .netrc to the harmless app: it is what somebody keeps under a blocked name."""
    (world / "projects/nice").symlink_to(".netrc")
    assert "'.netrc' is a name that is never mounted" in judge(placed(world), f"{world}/projects/nice").refusal


def test_nothing_is_written_inside_of_git_s_own_folder(world: Path) -> None:
    """A bare repository, or the separate folder of one: hooks of it run, wherever below it the grant begins."""
    for name in ("objects", "refs", "hooks"):
        (world / "projects/bare" / name).mkdir(parents=True)
    (world / "projects/bare/HEAD").write_text("ref: refs/heads/main")
    for source in ("projects/bare", "projects/bare/hooks"):
        verdict = judge(placed(world), f"{world}/{source}", read_write=True, main=True)
        assert "git's own folder" in verdict.rules[-1].words
        assert not verdict.read_write


def test_a_dead_disk_takes_only_what_lies_on_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another allowed folder is judged without it, nothing is written meanwhile, and it is not asked twice."""
    answer, asked, really = threading.Event(), list[str](), Path.resolve

    def resolve(self: Path, strict: bool = False) -> Path:
        if self == world / "docs":
            asked.append(str(self))
            answer.wait(LIMIT)
        return really(self, strict)

    place = placed(world)
    monkeypatch.setattr(judging, "ROOT_PATIENCE", 0.2)
    monkeypatch.setattr(Path, "resolve", resolve)
    try:
        for _ in range(2):
            verdict = judge(place, f"{world}/projects/app", read_write=True, main=True)
            assert (verdict.refusal, verdict.read_write) == ("", False)
            assert "does not answer" in verdict.rules[-1].words
        assert len(asked) == 1
    finally:
        answer.set()


def test_a_swap_after_the_grant_is_seen_at_the_next_look(world: Path) -> None:
    """The same path, another folder behind it: each look says where it leads now."""
    place, path = placed(world), world / "projects/app/src"
    assert judge(place, str(path), main=True).source == path
    path.rmdir()
    path.symlink_to(world / "private")
    assert "no allowed folder" in judge(place, str(path), main=True).refusal
    path.unlink()
    path.symlink_to(world / "docs")
    assert judge(place, str(path), main=True).source == world / "docs"


# --- the file ----------------------------------------------------------------------------------

BROKEN = {
    "no toml": "allowed_roots = [",
    "an unknown key": "allow_everything = true",
    "an unknown key of a root": '[[allowed_roots]]\npath = "/srv"\nreadwrite = true',
    "a root without a path": "[[allowed_roots]]\nread_write = true",
    "a relative root": '[[allowed_roots]]\npath = "srv"',
    "a root with ..": '[[allowed_roots]]\npath = "/srv/../etc"',
    "a root of another user": '[[allowed_roots]]\npath = "~root"',
    "an empty root": '[[allowed_roots]]\npath = ""',
    "a root with an odd sign": '[[allowed_roots]]\npath = "/srv\\u202e"',
    "the same root twice": '[[allowed_roots]]\npath = "/srv"\n[[allowed_roots]]\npath = "/srv"',
    "a word for a truth": '[[allowed_roots]]\npath = "/srv"\nread_write = "yes"',
    "a number for a truth": "non_main_read_only = 0",
    "roots that are no list": 'allowed_roots = "/srv"',
    "roots that are words": 'allowed_roots = ["/srv"]',
    "a blocked path": 'blocked_names = ["a/b"]',
    "a blocked nothing": 'blocked_names = [""]',
    "blocked dots": 'blocked_names = [".."]',
    "a blocked number": "blocked_names = [1]",
    "too much": "#" * 70_000,
    "too deep": "a = " + "[" * 30_000,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_allowlist_allows_nothing(world: Path, what: str) -> None:
    """One word wrong anywhere, and what stands beside it allows nothing either; the file is named."""
    good = f'\n[[allowed_roots]]\npath = "{world}/docs"\n'
    place = placed(world, BROKEN[what] if "roots" in what else BROKEN[what] + good)
    refusal = judge(place, f"{world}/docs", main=True).refusal
    assert "mounts.toml" in refusal
    assert "no folder can be granted" in refusal


def test_an_allowlist_that_means_a_home_which_nobody_knows(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may run without HOME, under a user that the system does not know."""

    def expanduser(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    assert "no folder can be granted" in str(placed(world, '[[allowed_roots]]\npath = "~/x"').allowlist)


def test_a_missing_allowlist_allows_nothing_and_says_how_to_begin(world: Path) -> None:
    """No file; a link, a folder or other bytes in its place."""
    place = placed(world)
    path = world / "house/user/.nanoclaw/mounts.toml"
    text = path.read_text()
    path.unlink()
    assert "`nanoclaw mounts --help` shows how" in str(allowlist.read(path.parent))
    path.mkdir()
    assert isinstance(allowlist.read(path.parent), str)
    path.rmdir()
    (world / "elsewhere.toml").write_text(text)
    path.symlink_to(world / "elsewhere.toml")
    assert isinstance(allowlist.read(path.parent), str)
    path.unlink()
    path.write_bytes(b"\xff\xfe")
    assert isinstance(allowlist.read(path.parent), str)
    assert isinstance(place.allowlist, Allowlist)


def test_an_empty_allowlist_is_whole_and_allows_nothing(world: Path) -> None:
    """Nothing said, nothing open; and groups other than main are read-only by default."""
    place = placed(world, "")
    assert place.allowlist == Allowlist((), frozenset(), non_main_read_only=True)
    assert "no allowed folder" in judge(place, f"{world}/docs", main=True).refusal


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(".ssh", ".SSH", ".gnupg", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".env", ".ENV", ".netrc"),
        *(".npmrc", ".pypirc", "id_rsa", "ID_RSA", "id_ed25519", "credentials", "Credentials", "private_key"),
        *(".secret", ".git-credentials", ".env.local", ".env.prod", ".env.production.local", ".env~", ".env.bak"),
        *(".claude.json", "id_rsa.bak", "ID_RSA~", "credentials.json.old", ".netrc.swp"),
        *("\uff0essh", ".\uff53\uff53\uff48", ".\u017fsh", ".s\u200bsh", ".s\u00adsh", "id_r\u017fa", ".ssh.", ".ssh "),
    ],
)
def test_blocked_names_in_all_their_letters(name: str) -> None:
    """Case, width, old letters, signs that cannot be seen, and what some file systems leave out."""
    assert names.is_blocked(name)


@pytest.mark.parametrize(
    "name",
    [
        *("ssh", "my.ssh", ".sshx", "env", "environment", "secret-diary", "id_rsa.pub", "docker", "a credentials", "."),
        *(".env.example", ".env.sample", "notes.bak", ".environment"),
    ],
)
def test_a_part_of_a_name_blocks_nothing(name: str) -> None:
    """Whole parts of a path, not pieces of words."""
    assert not names.is_blocked(name)


@pytest.mark.parametrize("target", ["docs", "a/b", "My files", "ä", ".config", "x" * 100])
def test_good_targets(target: str) -> None:
    """Relative names, also with folders in them."""
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        *("", "/", "/etc", "..", "../x", "a/../b", "a/..", ".", "a//b", "a/", "a:b", "a:ro", "a\nb", "a\0"),
        *("\u202ea", "-x", "a\\b", " a", "x" * 101, "a/./b"),
    ],
)
def test_bad_targets(target: str) -> None:
    """What could leave /workspace/extra, mean something to the engine, or mislead who reads it."""
    with pytest.raises(Refused, match="cannot be a mount's name"):
        check_target(target)


@pytest.mark.parametrize("target", ["docs", "Docs", "\uff44ocs", "docs/inner", "a", "a/b", "a/b/c"])
def test_no_two_mounts_meet(target: str) -> None:
    """The same place, in other letters, around or inside another one."""
    with pytest.raises(Refused, match="is taken"):
        check_target(target, ["docs", "a/b"])
    assert check_target("a/c", ["docs", "a/b"])


# --- inside ------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "tree"
    root.mkdir()
    return root


def make(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("x")


def hidden(found: Inside) -> dict[str, bool]:
    return {h.rel: h.folder for h in found.hidden}


def test_secrets_inside_are_found_wherever_they_lie(tree: Path) -> None:
    """Files and folders, at any depth, in any letters; what lies in one of them is hidden with it."""
    make(tree, "a.txt", ".env", "x/y/.SSH/id_rsa", "x/credentials/", "x/id_ed25519", "ok/ssh/a", "own/z")
    found = look(tree, frozenset({"own"}))
    assert hidden(found) == {".env": False, "x/y/.SSH": True, "x/credentials": True, "x/id_ed25519": False, "own": True}


def test_what_a_blocked_link_leads_to_is_hidden_too(tree: Path) -> None:
    """As dotfile managers lay them; what it leads to outside cannot be reached from inside at all."""
    make(tree, "dot/sshdir/key", "dot/netrc", "a/")
    (tree / ".ssh").symlink_to("dot/sshdir")
    (tree / ".netrc").symlink_to(tree / "dot/netrc")
    (tree / ".aws").symlink_to("/etc")
    (tree / ".gnupg").symlink_to("nowhere")
    assert hidden(look(tree)) == {"dot/sshdir": True, "dot/netrc": False}
    (tree / "a/.env").symlink_to("..")
    with pytest.raises(Refused, match="itself what a link"):
        look(tree)


def test_sockets_and_pipes_are_hidden(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is a way out, also in a read-only folder."""
    make(tree, "x/")
    os.mkfifo(tree / "x/pipe")
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("agent.sock")
    assert hidden(look(tree)) == {"agent.sock": False, "x/pipe": False}


def test_git_is_read_only_where_the_mount_is_not(tree: Path) -> None:
    """A repository or a worktree's file, with submodules in it; none where nothing writes."""
    make(
        tree, "a/.git/config", "a/.git/HEAD", "a/.git/objects/", "a/.git/refs/", "a/.git/modules/m/.git/x", "a/no/HEAD"
    )
    make(tree, "wt/.git", "a/no/refs/", "a/.ssh/.git/x")
    assert look(tree / "a", read_write=True).kept == (".git",)
    assert look(tree / "wt", read_write=True) == Inside(kept=(".git",))
    assert look(tree / "a").kept == ()


@pytest.mark.parametrize("name", ["a/.git/config", "a/b/c/.git", "a/.GIT/x", ".github/.git/x"])
def test_git_deeper_than_the_top_makes_the_mount_read_only(tree: Path, name: str) -> None:
    """Whoever writes there could put another folder in the place of the one that it lies in."""
    make(tree, name)
    found = look(tree, read_write=True)
    assert "lies deeper than its top" in found.read_only
    assert found.kept == ()
    assert look(tree) == Inside()


def test_git_that_cannot_be_kept_makes_the_mount_read_only(tree: Path) -> None:
    """A link could be replaced; git's own folder has nothing beside it, and inside one without a name it can be put."""
    make(tree, "repo/HEAD", "repo/objects/", "repo/refs/", "work/file")
    assert look(tree / "repo", read_write=True).read_only == "it is git's own folder"
    assert look(tree, read_write=True).read_only == "repo is git's own folder"
    (tree / "work/.git").symlink_to("../repo")
    assert ".git is a link" in look(tree / "work", read_write=True).read_only


def test_a_blocked_link_makes_the_mount_read_only(tree: Path) -> None:
    """Else an agent removes the link, and what it leads to is open at the next start."""
    make(tree, "config/real.txt")
    (tree / ".env").symlink_to("config/real.txt")
    found = look(tree, read_write=True)
    assert ".env is a link with a blocked name" in found.read_only
    assert hidden(found) == {"config/real.txt": False}


def test_a_link_in_a_circle_hides_nothing_and_harms_nobody(tree: Path) -> None:
    """An agent that may write can lay one."""
    (tree / ".env").symlink_to(".env")
    (tree / ".ssh").symlink_to(".aws")
    (tree / ".aws").symlink_to(".ssh")
    assert look(tree, read_write=True) == Inside()


def test_a_secret_that_lies_too_deep_refuses_the_folder(tree: Path) -> None:
    """The engine could not start anything with a path that long."""
    here = os.open(tree, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 200, dir_fd=here)
        here, before = os.open("n" * 200, os.O_RDONLY, dir_fd=here), here
        os.close(before)
    assert look(tree) == Inside()
    os.mkdir(".ssh", dir_fd=here)
    os.close(here)
    with pytest.raises(Refused, match="lies too deep"):
        look(tree)


def test_a_flood_of_secrets_ends_the_look_at_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody walks on, or compares half a million names with each other, for a folder that is refused anyway."""
    make(tree, *(f"{n}.d/.env" for n in range(5 * MAX_FOUND)))
    monkeypatch.setattr(safefs, "MAX_ENTRIES", 3 * MAX_FOUND)
    with pytest.raises(Refused, match=f"more than {MAX_FOUND}"):
        look(tree)


def test_what_cannot_be_seen_whole_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many names, too deep, too slow, too much to hide: never half of it."""
    make(tree, *(f"{n}/.env" for n in range(MAX_FOUND)))
    assert len(look(tree).hidden) == MAX_FOUND
    make(tree, "one-more/.env")
    with pytest.raises(Refused, match=f"more than {MAX_FOUND}"):
        look(tree)
    for limit in ("MAX_ENTRIES", "MAX_SECONDS", "MAX_DEPTH"):
        with monkeypatch.context() as m:
            m.setattr(safefs, limit, -1 if limit != "MAX_ENTRIES" else 10)
            with pytest.raises(Refused, match="cannot be looked through"):
                look(tree)


def test_a_secret_with_an_odd_name_refuses_the_folder(tree: Path) -> None:
    """What can be neither shown nor hidden; elsewhere odd names harm nobody."""
    make(tree, "odd\n/a")
    (tree / os.fsdecode(b"\xff")).mkdir()
    assert look(tree) == Inside()
    make(tree, "odd\n/.env")
    with pytest.raises(Refused, match="neither shown nor hidden"):
        look(tree)


@pytest.mark.skipif(os.getuid() == 0, reason="root looks into every folder")
def test_a_closed_folder_is_hidden(tree: Path) -> None:
    """Names in it could be guessed."""
    make(tree, "closed/.env")
    (tree / "closed").chmod(0o111)
    assert hidden(look(tree)) == {"closed": True}
