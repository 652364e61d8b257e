"""A base for the agent image where no image registry can be reached: this machine's own Debian or Ubuntu, minimal."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nanoclaw.errors import Cause, SandboxError

if TYPE_CHECKING:
    from docker import DockerClient

RELEASE = Path("/etc/os-release")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_TOO_OLD = {"buster", "bullseye", "bionic", "focal", "jammy"}  # their Python is older than 3.11


def _read_release(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return {}
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def own_base(release: Path = RELEASE) -> str:
    """The name of the base that this Debian or Ubuntu can make by itself; "" elsewhere."""
    system = _read_release(release)
    suite = system.get("VERSION_CODENAME", "")
    if system.get("ID") not in ("debian", "ubuntu") or not suite or suite in _TOO_OLD:
        return ""
    return f"nanoclaw-base:{suite}"


def make_base(client: "DockerClient", name: str) -> None:
    """Make a minimal system of this machine's own release with debootstrap and import it under `name`."""
    if not shutil.which("debootstrap", path=_SBIN):
        raise SandboxError(
            "debootstrap is needed to make a base image: `sudo apt-get install debootstrap`", Cause.IMAGE
        )
    if os.geteuid() != 0:
        raise SandboxError("only root can make a base image: run `sudo ./nanoclaw.sh image build` once", Cause.IMAGE)
    suite = name.rpartition(":")[2]
    # Not in /tmp, which may be mounted nodev or noexec.
    with tempfile.TemporaryDirectory(prefix="nanoclaw-base-", dir="/var/tmp") as scratch:
        system = Path(scratch) / "system"
        _debootstrap(suite, system)
        _import(client, system, name)


def _debootstrap(suite: str, system: Path) -> None:
    ubuntu = _read_release(RELEASE).get("ID") == "ubuntu"
    parts = "main,universe" if ubuntu else "main"
    security = "http://security.ubuntu.com/ubuntu" if ubuntu else "http://deb.debian.org/debian-security"
    mirror = _mirror(suite) or ("http://archive.ubuntu.com/ubuntu" if ubuntu else "http://deb.debian.org/debian")
    _run("debootstrap", "--variant=minbase", f"--components={parts}", "--force-check-gpg", suite, str(system), mirror)
    sources = [(mirror, suite), (mirror, f"{suite}-updates"), (security, f"{suite}-security")]
    lines = "".join(f"deb {site} {name} {parts.replace(',', ' ')}\n" for site, name in sources)
    (system / "etc/apt/sources.list").write_text(lines)
    for command in ("update", "upgrade", "clean"):
        _run("chroot", str(system), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", command)
    shutil.rmtree(system / "var/lib/apt/lists")


def _mirror(suite: str) -> str:
    """The address that this system's apt takes `suite` from, "" where it does not say."""
    try:
        made = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    rows = (line.split() for line in made.stdout.splitlines())
    return next((row[0] for row in rows if len(row) == 2 and row[1] == suite and "security" not in row[0]), "")


def _run(*command: str) -> None:
    environ = {**os.environ, "PATH": _SBIN, "LC_ALL": "C"}
    made = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, check=False
    )
    if made.returncode:
        last = (made.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise SandboxError(f"the base image could not be made: {command[0]}: {last[:300]}", Cause.IMAGE)


def _import(client: "DockerClient", system: Path, name: str) -> None:
    repository, _, tag = name.rpartition(":")
    command = ["tar", "-C", str(system), "--one-file-system", "-c", "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        client.api.import_image_from_stream(tar.stdout, repository=repository, tag=tag)
    if tar.returncode or not client.images.list(name):
        raise SandboxError("the base image could not be imported into the engine; is its disk full?", Cause.IMAGE)
