"""What the agent image is built from: the hash, the context, the base (no engine needed)."""

import re
import shutil
import tarfile
from pathlib import Path

import pytest

from nanoclaw.errors import Cause, SandboxError
from nanoclaw.sandbox import base, image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what the build sees."""
    shutil.copytree(image.resources() / "container", tmp_path / "container", ignore=shutil.ignore_patterns("ca.crt"))
    return tmp_path


def test_hash_changes_with_every_file(root: Path) -> None:
    """One changed byte, one new file or another base is another image."""
    seen = {image.build_hash(root), image.build_hash(root, "debian:trixie")}
    (root / "container/agent/new.py").write_text("")
    seen.add(image.build_hash(root))
    for name in ("Dockerfile", "requirements.txt", "persona.md", "agent/__main__.py"):
        path = root / "container" / name
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(image.build_hash(root))
    assert len(seen) == 7


@pytest.mark.parametrize("name", ["container/ca.crt", "container/agent/__pycache__/x.pyc", "container/requirements.in"])
def test_hash_ignores_what_is_not_built_from(root: Path, name: str) -> None:
    """A CA bundle and compiled files make no image stale."""
    before = image.build_hash(root)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("x")
    assert image.build_hash(root) == before


def test_hash_of_the_default_base_is_the_default_hash(root: Path) -> None:
    """Naming the base that is used anyway rebuilds nothing."""
    assert image.build_hash(root, image.DEFAULT_BASE) == image.build_hash(root)


def test_default_base_is_the_dockerfiles() -> None:
    """The name stands in two places: here they are compared."""
    dockerfile = (image.resources() / "container/Dockerfile").read_text()
    assert re.findall(r"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.M) == [image.DEFAULT_BASE]


def test_dockerfile_needs_no_buildkit() -> None:
    """Every builder must do: no syntax line, no mounts, no COPY --chmod, no here-documents."""
    dockerfile = (image.resources() / "container/Dockerfile").read_text()
    assert not re.search(r"^#\s*syntax|--mount|--chmod|--link|<<", dockerfile, re.M)


def test_context_is_what_dockerignore_lets_through(root: Path) -> None:
    """The SDK's context holds only container/ and the mailbox, all readable, whatever the checkout's modes."""
    (root / "container/persona.md").chmod(0o600)
    with tarfile.open(fileobj=image.context(root, {})) as tar:
        members = tar.getmembers()
    names = {m.name for m in members}
    assert {"container/Dockerfile", "nanoclaw/mailbox.py", "container/agent/__main__.py"} <= names
    assert all(name.startswith("container/") for name in names - {"nanoclaw/mailbox.py"})
    assert {m.mode for m in members} == {0o644}


@pytest.mark.parametrize("key", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"])
def test_ca_bundle_goes_into_the_context(root: Path, key: str) -> None:
    """Where the machine's Python is told a CA bundle, the build gets it; else it gets none."""
    ca = root / "corporate.pem"
    ca.write_text("certificates")
    with tarfile.open(fileobj=image.context(root, {key: str(ca)})) as tar:
        member = tar.extractfile("container/ca.crt")
        assert member is not None
        assert member.read() == b"certificates"
    with tarfile.open(fileobj=image.context(root, {key: str(root / "absent")})) as tar:
        assert "container/ca.crt" not in tar.getnames()


def test_missing_dockerfile_is_said(tmp_path: Path) -> None:
    """A broken installation has a sentence, not a traceback."""
    with pytest.raises(SandboxError, match="no Dockerfile") as e:
        image.build_hash(tmp_path)
    assert e.value.cause is Cause.IMAGE


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "nanoclaw-base:bookworm"),
        ('ID="ubuntu"\nVERSION_CODENAME="noble"\n', "nanoclaw-base:noble"),
        ("ID=ubuntu\nVERSION_CODENAME=jammy\n", ""),
        ("ID=debian\n", ""),
        ("ID=fedora\nVERSION_CODENAME=\n", ""),
    ],
)
def test_own_base(tmp_path: Path, release: str, name: str) -> None:
    """Debian and Ubuntu can make a base of their own, where their Python is new enough."""
    (tmp_path / "os-release").write_text(release)
    assert base.own_base(tmp_path / "os-release") == name


@pytest.mark.parametrize("lock", ["container/requirements.txt", "requirements/host.txt", "requirements/dev.txt"])
def test_locks_are_hashed_and_name_no_registry(lock: str) -> None:
    """Every line is a pinned package or a hash of it: no option, no address."""
    root = Path(__file__).parent.parent
    text = (root / lock).read_text()
    entry = re.compile(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in text.splitlines() if not entry.fullmatch(line)] == []
