"""Where the engine is looked for, and what its failures are called."""

from pathlib import Path

import pytest
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import ConnectionError, ReadTimeout

from nanoclaw.errors import Cause, SandboxError
from nanoclaw.sandbox.engine import address_of, connect, explained


def test_where_the_engine_is_looked_for(tmp_path: Path) -> None:
    """The setting, then DOCKER_HOST, then the usual sockets: also that of a rootless engine."""
    environ = {"DOCKER_HOST": "tcp://there:1", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert address_of(environ, "unix:///mine") == "unix:///mine"
    assert address_of(environ) == "tcp://there:1"
    assert address_of({}) == "unix:///var/run/docker.sock"
    if not Path("/var/run/docker.sock").exists():
        (tmp_path / "docker.sock").touch()
        assert address_of({"XDG_RUNTIME_DIR": str(tmp_path)}) == f"unix://{tmp_path}/docker.sock"


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    """One sentence that says how to start it, and the cause that parks a lane."""
    with pytest.raises(SandboxError, match=r"start it .*or set DOCKER_HOST") as e:
        connect(f"unix://{tmp_path}/none.sock")
    assert e.value.cause is Cause.ENGINE
    with pytest.raises(SandboxError) as e:
        connect("nonsense://x")
    assert e.value.cause is Cause.ENGINE


def _api(words: str) -> APIError:
    return APIError("500 Server Error", explanation=words)


def _wrapped(inner: Exception) -> DockerException:
    """As the client does it: the system's own failure is an argument of an argument."""
    return DockerException("Error while fetching server API version", ConnectionError("Connection aborted.", inner))


FAILURES: list[tuple[Exception, Cause, str]] = [
    (_wrapped(PermissionError(13, "Permission denied")), Cause.ENGINE, "docker group|usermod"),
    (_wrapped(FileNotFoundError(2, "No such file")), Cause.ENGINE, "start it"),
    (_wrapped(ConnectionRefusedError(111, "refused")), Cause.ENGINE, "start it"),
    (ReadTimeout("Read timed out. (read timeout=30)"), Cause.ENGINE, "does not answer: restart it"),
    (ConnectionResetError(104, "reset"), Cause.ENGINE, "start it"),
    (ImageNotFound("404", explanation="No such image"), Cause.IMAGE, "nanoclaw image build"),
    (_api("write /x: no space left on device"), Cause.DISK, "full"),
    (_api("OCI runtime create failed:\n\tno\nway"), Cause.SANDBOX, "refused: OCI runtime create failed: no way$"),
]


@pytest.mark.parametrize(("raised", "cause", "words"), FAILURES)
def test_each_failure_has_a_cause_and_an_advice(raised: Exception, cause: Cause, words: str) -> None:
    """Whatever the client raises becomes one line that a person can act on."""
    with pytest.raises(SandboxError, match=words) as e, explained("unix:///e.sock"):
        raise raised
    assert e.value.cause is cause
    assert "\n" not in str(e.value)


def test_no_password_of_an_engine_is_told() -> None:
    """It may stand in the address."""
    address = "tcp://user:not-a-password@127.0.0.1:1"
    for raised in (ReadTimeout("Read timed out."), ConnectionResetError(104, "reset"), _api(f"no: {address}")):
        with pytest.raises(SandboxError) as e, explained(address):
            raise raised
        assert "not-a-password" not in str(e.value)
        assert "tcp://127.0.0.1:1" in str(e.value)
