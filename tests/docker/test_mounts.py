"""Granted folders on the real engine, seen from inside: what is there, what is empty, what can be written."""

import os
import socket
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from nanoclaw.errors import SandboxError
from nanoclaw.groups import Home
from nanoclaw.models import Mount
from nanoclaw.mounts.allowlist import place
from nanoclaw.run.extras import Given, given
from nanoclaw.sandbox import Spec, docker_sandbox
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.hostpaths import HostPaths, of_inspect, own_container
from nanoclaw.sandbox.spec import LABEL_INSTALL

Grant = Callable[..., Given]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as people have them: a repository, and among the files what nobody should see."""
    root = tmp_path.resolve() / "docs"
    for name in ("a/.ssh", "work/sub", "wt"):
        (root / name).mkdir(parents=True)
    for name in (".env", "a/.ssh/id_rsa", "wt/.git"):
        (root / name).write_text("fake-secret")
    (root / "a/note").write_text("hello")
    (root / "link-out").symlink_to("/etc/shadow")
    subprocess.run(["git", "init", "-q", root / "work"], check=True)
    git = ["git", "-C", root / "work", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    (root / "work/sub/code").write_text("one\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("engine.sock")
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)  # so that only the mount says what can be written
    return root


@pytest.fixture
def grant(home: Home, docs: Path) -> Grant:
    """What a start would make of the folder, with everything allowed."""
    (home.root / "mounts.toml").write_text(f'[[allowed_roots]]\npath = "{docs}"\nread_write = true\n')

    def make(*, read_write: bool, target: str = "docs") -> Given:
        return given(home, place(home.root, home.run_dir), Mount(str(docs), target, read_write), True)

    return make


LOOK = """
top = Path("/workspace/extra/docs")
run = lambda command: subprocess.run(command, shell=True, capture_output=True, text=True)
def connect():
    with socket.socket(socket.AF_UNIX) as s: s.connect(str(top / "engine.sock"))
report(note=(top / "a/note").read_text(), env=(top / ".env").read_text(), ssh=os.listdir(top / "a/.ssh"),
       git=(top / "work/.git/HEAD").read_text(), log=run(f"git -c safe.directory='*' -C {top}/work log").stdout,
       socket=attempt(connect), out=attempt((top / "link-out").read_text),
       new=attempt((top / "a/new").write_text, "x"), over=attempt((top / ".env").write_text, "x"),
       gone=[attempt(os.unlink, top / ".env"), attempt(os.rename, top / "a/.ssh", top / "b"),
             attempt(os.rename, top / ".env", top / "env2"), attempt(os.link, top / ".env", top / "env3"),
             attempt(os.symlink, "/etc", top / ".env")],
       hook=[attempt((top / "work/.git/hooks/post-commit").write_text, "x"),
             attempt((top / "work/.git/config").write_text, "x"), attempt(os.mkdir, top / "work/.git/modules"),
             attempt(os.rename, top / "work/.git", top / "work/g"), attempt((top / "wt/.git").write_text, "x"),
             attempt(os.unlink, top / "wt/.git")])
"""


async def test_a_read_only_folder(inside: Any, make_spec: Callable[..., Spec], grant: Grant, docs: Path) -> None:
    """It can be read, nothing in it be written; secrets are empty, the socket is none, a link out leads nowhere."""
    spec, found = make_spec(), grant(read_write=False)
    assert found.refused == ""
    _, said = await inside(LOOK, binds=(*spec.binds, *found.binds))
    assert (said["note"], said["env"], said["ssh"]) == ("hello", "", [])
    assert "first" in said["log"]
    assert said["out"] in ("No such file or directory", "Permission denied")  # the container's own
    assert said["socket"] != "done"
    assert {said["new"], said["over"]} == {"Read-only file system"}
    assert "done" not in (*said["gone"], *said["hook"])
    assert (docs / ".env").read_text() == "fake-secret"


async def test_a_writable_folder(inside: Any, make_spec: Callable[..., Spec], grant: Grant, docs: Path) -> None:
    """Files can be written; secrets can neither be read, replaced nor moved, and git's own can only be read."""
    (docs / "wt/.git").unlink()
    (docs / "work/.git").rename(docs / ".git")  # at the top, where nothing above it can be moved
    spec, found = make_spec(), grant(read_write=True)
    assert found.note == ""
    _, said = await inside(
        LOOK.replace("work/.git", ".git").replace("wt/.git", ".git"), binds=(*spec.binds, *found.binds)
    )
    assert said["new"] == "done"
    assert (docs / "a/new").read_text() == "x"
    assert (said["env"], said["ssh"]) == ("", [])
    assert said["socket"] != "done"
    assert "ref:" in said["git"]
    assert "done" not in (said["over"], *said["gone"], *said["hook"])
    assert (docs / "a/.ssh/id_rsa").read_text() == "fake-secret"
    assert (docs / ".git/HEAD").read_text().startswith("ref:")


REPLACE = """
run = lambda command: subprocess.run(command, shell=True, capture_output=True, text=True)
top = Path("/workspace/extra/docs")
made = run(f"mv {top} {top}.old; cd {top} && mv work work.old; mkdir work; cp -r work.old/.git work/.git;"
           " git -c safe.directory='*' config -f work/.git/config core.fsmonitor 'touch /tmp/pwned;false';"
           " mv .git g; mkdir .git; cp -r g/. .git; git config -f .git/config core.fsmonitor 'touch /tmp/pwned;false'")
report(made=made.stderr)
"""


@pytest.mark.parametrize("where", ["work", ""])
async def test_nothing_above_git_is_put_in_another_place(
    inside: Any, make_spec: Callable[..., Spec], grant: Grant, docs: Path, where: str
) -> None:
    """An agent moves what it may, copies it back, and writes a command for the owner's next `git status`."""
    if not where:
        (docs / "wt/.git").unlink()
        (docs / "work/.git").rename(docs / ".git")
    spec, found = make_spec(), grant(read_write=True)
    assert found.binds[0].read_write is (where == "")
    _, said = await inside(REPLACE, binds=(*spec.binds, *found.binds))
    assert said["made"]
    config = ["git", "-c", "safe.directory=*", "-C", docs / where, "config", "--list"]
    owner = subprocess.run(config, capture_output=True, text=True, check=True).stdout
    assert "core.bare=false" in owner
    assert "core.fsmonitor" not in owner


async def test_a_clone_is_how_to_work(inside: Any, make_spec: Callable[..., Spec], grant: Grant) -> None:
    """The shipped skill's own commands, on a folder that is read-only and somebody else's."""
    spec, found = make_spec(), grant(read_write=False)
    _, said = await inside(
        """
        run = lambda command: subprocess.run(command, shell=True, capture_output=True, text=True)
        made = run("printf '[safe]\\\\n\\\\tdirectory = *\\\\n' > /tmp/git-safe && GIT_CONFIG_GLOBAL=/tmp/git-safe"
                   " git clone --no-hardlinks /workspace/extra/docs/work /workspace/group/work")
        git = "git -C /workspace/group/work -c user.name=A -c user.email=a@example.org "
        Path("/workspace/group/work/sub/code").write_text("two\\n") if made.returncode == 0 else None
        report(made=made.stderr, code=made.returncode, commit=run(git + "commit -qam second").returncode,
               patch=run(git + "format-patch --stdout -1").stdout)
        """,
        binds=(*spec.binds, *found.binds),
    )
    assert (said["code"], said["commit"]) == (0, 0), said["made"]
    assert "+two" in said["patch"]


async def test_a_swap_between_the_look_and_the_start_is_caught(
    sandbox: DockerSandbox, make_spec: Callable[..., Spec], grant: Grant, docs: Path
) -> None:
    """A link to another folder in its place: no container starts, and none is left."""
    spec = make_spec()
    spec = replace(spec, binds=(*spec.binds, *grant(read_write=False).binds))
    docs.rename(docs.parent / "aside")
    docs.symlink_to("/etc")
    with pytest.raises(SandboxError, match="another folder was put in the place of"):
        await sandbox.open(spec)
    assert await sandbox.found() == []
    docs.unlink()
    (docs.parent / "aside").rename(docs)
    assert await sandbox.open(spec)


async def test_a_source_that_the_engine_does_not_find_is_named(
    sandbox: DockerSandbox, make_spec: Callable[..., Spec], grant: Grant, docs: Path
) -> None:
    """The path is said, not only the engine's words."""
    spec = make_spec()
    gone = replace(grant(read_write=False).binds[0], source=docs / "never", inode=None)
    with pytest.raises(SandboxError, match=f"the engine does not see {docs}/never of this machine"):
        await sandbox.open(replace(spec, binds=(*spec.binds, gone)))


async def test_a_start_speaks_of_the_machine_s_paths(
    sandbox: DockerSandbox, make_spec: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host in a container: the sources are its own, the engine is asked for the machine's; the wall is the same."""
    spec = make_spec()
    top = Path(os.path.commonpath([b.source for b in spec.binds]))
    ours = Path("/nowhere/data")
    monkeypatch.setattr(docker_sandbox, "discover", lambda client: HostPaths("0" * 64, ((ours, top),)))
    binds = [replace(b, source=ours / b.source.relative_to(top)) for b in spec.binds]
    assert await sandbox.open(replace(spec, binds=tuple(binds)))
    with pytest.raises(SandboxError, match="/elsewhere is only inside the container 000000000000"):
        await sandbox.open(replace(spec, run_id="other", binds=(replace(binds[0], source=Path("/elsewhere")),)))


def test_a_host_in_a_container_finds_its_paths_on_the_machine(
    engine: DockerClient, agent_image: str, install_id: str, tmp_path: Path
) -> None:
    """With a host name of its own, a folder and a volume: what it translates, a container beside it really sees."""
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups/file").write_text("seen\n")
    volume = engine.volumes.create(f"test-{uuid.uuid4().hex}")

    def run(command: str, mounts: list[dict[str, Any]], **more: Any) -> tuple[str, str]:
        host = {"Mounts": mounts, "NetworkMode": "none"}
        body = {"Image": agent_image, "Entrypoint": ["sh", "-c", command], "User": "0:0", "HostConfig": host}
        body |= {"Labels": {LABEL_INSTALL: install_id}, **more}
        container = engine.api.create_container_from_config(body)["Id"]  # type: ignore[no-untyped-call]
        engine.api.start(container)
        engine.api.wait(container)
        return container, engine.api.logs(container).decode()

    try:
        own = [
            {"Type": "bind", "Source": str(tmp_path), "Target": "/data"},
            {"Type": "volume", "Source": volume.name, "Target": "/data/run"},
        ]
        command = "echo socket > /data/run/s; cat /proc/self/mountinfo"
        container, mountinfo = run(command, own, Hostname="nanoclaw")
        assert own_container(mountinfo) == container
        paths = of_inspect(container, engine.api.inspect_container(container))
        theirs = [
            {"Type": "bind", "Source": str(paths.translate(Path(path))), "Target": target, "ReadOnly": True}
            for path, target in (("/data/groups", "/groups"), ("/data/run", "/run/x"))
        ]
        assert run("cat /groups/file /run/x/s", theirs)[1].split() == ["seen", "socket"]
        with pytest.raises(SandboxError, match="/opt/agent"):
            paths.translate(Path("/opt/agent"))
    finally:
        for made in engine.containers.list(all=True, filters={"label": f"{LABEL_INSTALL}={install_id}"}):
            made.remove(force=True)
        volume.remove()
    assert own_container(Path("/proc/self/mountinfo").read_text()) != container
