"""The Sandbox on a Docker engine: its client in threads of our own, its events awaited on the loop."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from nanoclaw.errors import Cause, SandboxError
from nanoclaw.sandbox import Death, Exit, Found, Spec
from nanoclaw.sandbox.engine import address_of, connect, explained, knock
from nanoclaw.sandbox.hostpaths import HostPaths, discover, moved, unseen
from nanoclaw.sandbox.spec import ENDS, LABEL_INSTALL, LABEL_LANE, LABEL_RUN, Engine, create_body, engine_of, violations

if TYPE_CHECKING:
    from docker import DockerClient

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8  # one hears events, one may build the image, the others carry calls; a start takes 0.2 s of one
_LOOK_AGAIN = 10.0  # seconds after which a container is looked at though no event came
_LOG_BYTES = 4096
_KILLED = (128 + 9, 128 + 15)  # by SIGKILL; by SIGTERM, as an engine that is stopped does it


class DockerSandbox:
    """One engine, and the containers that carry our install's label. `stop()` it at the end."""

    def __init__(
        self,
        *,
        install_id: str,
        environ: Mapping[str, str],
        address: str = "",
        image: str = "nanoclaw-agent",
        base_image: str = "",
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._install = install_id
        self._environ = environ
        self._address = address_of(environ, address)
        self._image = image
        self._base_image = base_image
        self._progress = progress
        self._pool = ThreadPoolExecutor(_THREADS, "engine")
        self._connecting = threading.Lock()
        self._client: DockerClient | None = None
        self._engine: Engine | None = None
        self._paths: HostPaths | None = None
        self._imaging: asyncio.Task[str] | None = None
        self._deaths = _Deaths(partial(self._call, _events, install_id), self._pool)

    async def image(self) -> str:
        """The id of the current agent image; builds it, with progress, when it is missing or stale.

        Who asks while a build runs shares it and its end, also after its asker was cancelled: one thread builds.
        """
        if self._imaging is None or self._imaging.done():
            tell = partial(_tell, asyncio.get_running_loop(), self._progress)
            self._imaging = asyncio.create_task(self._call(self._ensure_image, tell), name="image")
        return await asyncio.shield(self._imaging)

    async def probe(self) -> Engine:
        """What the engine can enforce."""
        return await self._call(self._probe)

    async def open(self, spec: Spec) -> str:
        """Create, compare what must hold with what was made, start; return the container's id.

        The comparison comes before the start: in a container that fails it nothing ever runs.
        """
        job = asyncio.ensure_future(self._call(self._open, spec))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            # The thread goes on: without this its container would belong to nobody.
            with contextlib.suppress(SandboxError):
                await self.close(await job)
            raise

    async def wait(self, container: str) -> Exit:
        """Return when it has ended. Raises SandboxError(ENGINE) while the engine is gone."""
        with self._deaths.waking(container) as woken:
            while True:
                woken.clear()
                await self._deaths.listen()  # before looking, so that an end in between is heard of
                if end := await self._call(_end, container):
                    return end
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN):
                        await woken.wait()

    async def close(self, container: str) -> None:
        """Kill and remove it, at once; one that is gone already is no error."""
        await self._call(_remove, container)

    async def found(self) -> list[Found]:
        """Every container with our install's label."""
        return await self._call(found, self._install)

    async def stop(self) -> None:
        """End the threads. Containers live on: the next host adopts or removes them."""
        if self._imaging:
            self._imaging.cancel()
        await self._deaths.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._forget()

    async def _call(self, job: "Callable[Concatenate[DockerClient, P], T]", *args: P.args, **kwargs: P.kwargs) -> T:
        run = partial(self._run, job, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    def _run(self, job: "Callable[Concatenate[DockerClient, P], T]", *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with explained(self._address):
                knock(self._address)
                return job(self._connected(), *args, **kwargs)
        except SandboxError as e:
            if e.cause is Cause.ENGINE:
                self._forget()
            raise

    def _forget(self) -> None:
        """What comes back may be another engine, with other limits."""
        with self._connecting:
            client, self._client, self._engine, self._paths = self._client, None, None, None
        if client is not None:
            client.close()

    def _connected(self) -> "DockerClient":
        with self._connecting:
            if self._client is None:
                self._client = connect(self._address)
            return self._client

    def _probe(self, client: "DockerClient") -> Engine:
        self._engine = engine_of(client.api.info())
        return self._engine

    def _ensure_image(self, client: "DockerClient", tell: Callable[[str], None]) -> str:
        from nanoclaw.sandbox.image import ensure_image, resources

        return ensure_image(
            client,
            self._image,
            root=resources(),
            environ=self._environ,
            base=self._base_image,
            progress=tell,
        )

    def _open(self, client: "DockerClient", spec: Spec) -> str:
        engine = self._engine or self._probe(client)
        self._paths = self._paths or discover(client)
        asked = self._paths.spec(spec)
        container = _create(client, create_body(asked, install_id=self._install, engine=engine), spec, asked)
        try:
            if wrong := violations(client.api.inspect_container(container), asked, engine):
                raise SandboxError(f"the container would not be safe: {'; '.join(wrong)}")
            _check_moved(spec)
            client.api.start(container)
            _check_moved(spec)  # the engine looks for the folders while it starts
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what counts
                _remove(client, container)
            raise
        return container


def _create(client: "DockerClient", body: dict[str, Any], spec: Spec, asked: Spec) -> str:
    from docker.errors import APIError

    try:
        made = client.api.create_container_from_config(body, f"nanoclaw-{spec.run_id}")  # type: ignore[no-untyped-call]
    except APIError as e:
        raise unseen(str(e.explanation or e), spec, asked) or e from None
    return str(made["Id"])


def _check_moved(spec: Spec) -> None:
    if gone := moved(spec):
        raise SandboxError(f"another folder was put in the place of {gone[0]} while the container started")


def _tell(loop: asyncio.AbstractEventLoop, progress: Callable[[str], None], line: str) -> None:
    loop.call_soon_threadsafe(progress, line)


def _end(client: "DockerClient", container: str) -> Exit | None:
    """How it ended; None while it runs."""
    from docker.errors import NotFound

    try:
        state = client.api.inspect_container(container)["State"]
        if state["Status"] in ("removing", "dead"):
            return Exit(Death.REMOVED, -1)
        if state["Status"] not in ("exited", "stopped"):  # the second is Podman's, until it has tidied up
            return None
        log = client.api.logs(container, tail=50)
    except NotFound:
        return Exit(Death.REMOVED, -1)
    code = int(state["ExitCode"])
    return Exit(_death(code, out_of_memory=bool(state["OOMKilled"])), code, _plain(log[-_LOG_BYTES:]))


def _death(code: int, *, out_of_memory: bool) -> Death:
    """The kernel may kill a shell of the agent's, and the agent live on: that is no death by memory."""
    if out_of_memory and code:
        return Death.MEMORY
    return Death.KILLED if code in _KILLED else Death.EXITED


def _plain(log: bytes) -> str:
    return "".join(c for c in log.decode("utf-8", "replace") if c == "\n" or c.isprintable())


def _remove(client: "DockerClient", container: str) -> None:
    from docker.errors import APIError, NotFound

    try:
        client.api.remove_container(container, v=True, force=True)
    except NotFound:
        return
    except APIError as e:
        if e.status_code != 409:  # its removal is on the way already
            raise


def found(client: "DockerClient", install_id: str) -> list[Found]:
    """Every container with this label; blocks."""
    rows: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": f"{LABEL_INSTALL}={install_id}"})
    return [
        Found(
            container=r["Id"],
            run_id=r["Labels"].get(LABEL_RUN, ""),
            image=r["ImageID"],
            running=r["State"] == "running",
            lane=r["Labels"].get(LABEL_LANE, ""),
            created=int(r["Created"]),
        )
        for r in rows
    ]


def _events(client: "DockerClient", install_id: str) -> Any:
    """The engine's stream of our containers' ends."""
    wanted = {"type": "container", "event": [*ENDS], "label": f"{LABEL_INSTALL}={install_id}"}
    return client.api.events(filters=wanted, decode=True)


class _Deaths:
    """One thread that hears of every container's end and wakes who waits for it; they look for themselves."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], pool: ThreadPoolExecutor) -> None:
        self._connect = connect  # raises SandboxError(ENGINE)
        self._pool = pool
        self._connecting = asyncio.Lock()
        self._stream: Any = None
        self._reading: asyncio.Future[None] | None = None
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextlib.contextmanager
    def waking(self, container: str) -> Iterator[asyncio.Event]:
        """An event that is set when this container ended, or when the engine was lost."""
        woken = asyncio.Event()
        self._waiting[container].add(woken)
        try:
            yield woken
        finally:
            self._waiting[container].discard(woken)
            if not self._waiting[container]:
                del self._waiting[container]

    async def listen(self) -> None:
        """Return when the engine's events are heard."""
        async with self._connecting:
            if self._stream is None:
                self._stream = await self._connect()
                loop = asyncio.get_running_loop()
                self._reading = loop.run_in_executor(self._pool, self._read, self._stream, loop)

    async def stop(self) -> None:
        """Close the stream, which ends the thread."""
        if self._stream is not None and self._reading is not None:
            with contextlib.suppress(AttributeError, OSError):  # it ended by itself a moment ago
                self._stream.close()
            await asyncio.wait({self._reading}, timeout=5)

    def _read(self, stream: Any, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(Exception):  # however the stream ends, it is over
            for event in stream:
                loop.call_soon_threadsafe(self._wake, event["id"])
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._lost, stream)

    def _wake(self, container: str) -> None:
        for woken in self._waiting.get(container, ()):
            woken.set()

    def _lost(self, stream: Any) -> None:
        if self._stream is stream:
            self._stream = None
        for container in list(self._waiting):
            self._wake(container)
