"""Carries the calls that `policy` lets pass to the engine's socket, and its answers back."""

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from aiohttp import web
from loguru import logger

from nanoclaw.errors import Refused, SandboxError
from nanoclaw.guard import policy
from nanoclaw.guard.policy import Act, Asked, Names, Root, Rules
from nanoclaw.guard.view import View, identities, views
from nanoclaw.mailbox import PROTOCOL
from nanoclaw.sandbox import Spec
from nanoclaw.sandbox.image import DOCKERFILE, build_arguments, build_hash, context, resources
from nanoclaw.sandbox.spec import Engine, engine_of

MAX_ANSWER = 16 << 20  # bytes of an answer that is no stream
MAX_CONTEXT = 256 << 20  # bytes of a build's context that are taken in, and thrown away
_MANY = 64  # calls at once: the host has eight threads
_EARS = 8  # of them that hear events: the host has one
_LOOK = 30.0  # seconds for one answer that this process needs itself
_STREAMS = (Act.EVENTS, Act.BUILD, Act.PULL)
_ABOUT = (Act.START, Act.LOGS, Act.STATS, Act.REMOVE, Act.LOOK)  # one container
_FULL = 64  # characters of its id


@dataclass(frozen=True)
class Settings:
    """Whom a guard is for, and what agents may get."""

    names: Names
    folders: tuple[str, ...]  # of the asker, as it calls them
    allowed: tuple[Root, ...]  # what the owner listed
    user: str  # "uid:gid" of agents on an engine that is not rootless
    environ: Mapping[str, str]  # proxies and CA of a build
    base: str = ""  # the setting base_image
    runtime: str = ""  # the setting runtime
    views: tuple[View, ...] = ()  # of the machine's folders; none: what the engine says of our own container

    @property
    def build(self) -> str:
        """What the current agent image was made from."""
        return build_hash(resources(), self.base)


class Lost(Exception):
    """The engine does not answer."""


class Guard:
    """One engine, one asker. `app()` is what a socket serves."""

    def __init__(self, engine: str, settings: Settings) -> None:
        self._path = engine
        self._settings = settings
        self._build = settings.build
        self._building = asyncio.Lock()
        self._room = asyncio.Semaphore(_MANY)
        self._creating = asyncio.Lock()
        self._starting: set[asyncio.Future[web.Response]] = set()
        self._ears = 0
        self._views = settings.views
        self._engine: Engine | None = None
        self._memory = 0  # MiB of the machine
        self._session: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        """The web application; to be served by one loop."""
        app = web.Application(client_max_size=policy.MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self.handle)
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, app: web.Application) -> Any:
        # Each call by a connection of its own: one that was kept may lead to an engine that is no more.
        connector = aiohttp.UnixConnector(self._path, force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_LOOK)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            yield

    async def watch(self, every: float = 30.0) -> None:
        """Return once the engine has not answered three times in a row, `every` seconds apart.

        An engine that began anew may have made its socket anew: only a container that begins anew gets to see it.
        """
        missed = 0
        while missed < 3:
            await asyncio.sleep(every)
            try:
                await self._json("/version")
                missed = 0
            except Lost:
                missed += 1

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The boundary of one call: whatever is wrong with it ends here."""
        if self._room.locked():
            return _told(503, "too many calls at once")
        async with self._room:
            try:
                return await self._answer(request)
            except Refused as e:
                logger.warning("Refused: {} {}: {}", request.method, repr(request.raw_path[:120]), e)
                return _told(403, f"the engine-guard refuses: {e}")
            except Lost as e:
                return _told(502, f"the engine-guard reaches no engine: {e}")
            except SandboxError as e:
                return _told(500, str(e))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "Upgrade" in request.headers or "upgrade" in request.headers.get("Connection", "").lower():
            raise Refused("no connection becomes another")
        call = policy.asked(request.method, request.raw_path, self._settings.names)
        if call.act is Act.CREATE:
            body = await _body(request)
            async with self._creating:  # of two at once the second counts the first
                return await self._carried(call, request, await self._created(call, body))
        if call.act is Act.BUILD:
            return await self._built(call, request)
        if await _body(request) not in (b"", b"{}", b"null"):
            raise Refused("this call has no body")
        found = await self._subject(call)
        if call.act in _ABOUT:
            if not found and len(call.of) < _FULL:
                return _told(404, "no such container")
            # From here on by its whole id: a shorter word could mean another one by now.
            call = replace(call, path=call.path.replace(call.of, str(found["Id"]), 1)) if found else call
        if call.act is Act.START:
            job = asyncio.ensure_future(self._started(call, found))
            self._starting.add(job)
            job.add_done_callback(self._starting.discard)
            return await asyncio.shield(job)  # to its end, also for somebody who does not wait for it
        if call.act is Act.EVENTS:
            return await self._heard(call, request)
        return await self._carried(call, request)

    async def _heard(self, call: Asked, request: web.Request) -> web.StreamResponse:
        if self._ears >= _EARS:
            return _told(503, "too many hear events")
        self._ears += 1
        try:
            return await self._carried(call, request)
        finally:
            self._ears -= 1

    # --- what a call is about ---------------------------------------------------------------------

    async def _subject(self, call: Asked) -> Mapping[str, Any]:
        """What the engine says of the container; one, or an image, that is not ours does not exist for the asker.

        Raises Refused.
        """
        names = self._settings.names
        found: Mapping[str, Any] = {}
        if call.act in _ABOUT:
            found = await self._json(f"/containers/{call.of}/json")
            own = call.act is Act.LOOK and policy.is_the_asker(found, names)
            if found and not own and not policy.is_made_here(found, names):
                raise Refused("that container was not made through this guard")
        if call.act in (Act.IMAGE, Act.DROP_IMAGE, Act.TAG) and call.of.startswith("sha256:"):
            self._check_image(call.act, await self._json(f"/images/{call.of}/json"))
        return found

    def _check_image(self, act: Act, found: Mapping[str, Any]) -> None:
        if found and not policy.is_ours(found):
            raise Refused("that image is none of agents")
        if act is Act.DROP_IMAGE and not policy.is_nameless(found):
            raise Refused("that image has a name")
        if act is Act.TAG and not self._is_current(found):
            raise Refused("that image is not the agent image of this version")

    def _is_current(self, image: Mapping[str, Any]) -> bool:
        return policy.is_current(image, self._build, str(PROTOCOL))

    async def _created(self, call: Asked, body: bytes) -> bytes:
        made = policy.created(call.query["name"], body, await self._rules(policy.asked_image(body)))
        await self._seen(policy.places(policy.made_binds(made)))
        label = f"{policy.LABEL_GUARD}={self._settings.names.project}"
        there: Any = await self._json("/containers/json", all="1", filters=json.dumps({"label": [label]}))
        if len(there) >= policy.MAX_CONTAINERS:
            raise Refused(f"there are {len(there)} containers already")
        return made

    async def _started(self, call: Asked, found: Mapping[str, Any]) -> web.Response:
        """Start it if it still may, and if what it mounts is the same before and after: the engine looks in between.

        Raises Refused, Lost.
        """
        binds = policy.started(found, await self._rules(policy.image_of(found)))
        places = policy.places(binds)
        before = await self._seen(places)
        assert self._session  # noqa: S101 - as below
        try:
            async with self._session.post(f"http://engine{call.path}", allow_redirects=False) as answer:
                told = web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        except aiohttp.ClientError as e:
            self._engine = None
            raise Lost(str(e)) from None
        try:
            if await self._seen(places) == before:
                return told
        except Refused as e:
            logger.warning("{}", e)
        logger.error("Removed the container {}: what it mounts was changed while it started", found["Id"][:12])
        await self._removed(str(found["Id"]))
        raise Refused("a folder was changed while the container started")

    async def _removed(self, container: str) -> None:
        assert self._session  # noqa: S101 - as below
        url, ways = f"http://engine/containers/{container}", {"force": "1", "v": "1"}
        try:
            async with self._session.delete(url, params=ways) as answer:
                if answer.status >= 400 and answer.status not in (404, 409):
                    logger.error("The container {} could not be removed: {}", container[:12], await answer.text())
        except aiohttp.ClientError as e:
            raise Lost(str(e)) from None

    async def _seen(self, places: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """What stands at these places of the machine. Raises Refused."""
        if not self._views:
            own = await self._json(f"/containers/{socket.gethostname()}/json")
            self._views = views(own) if policy.is_of_project(own, self._settings.names) else ()
        try:
            async with asyncio.timeout(_LOOK):
                return await asyncio.to_thread(identities, places, self._views)
        except TimeoutError:
            raise Refused("a disk does not answer") from None

    async def _rules(self, wanted: str) -> Rules:
        image = wanted if self._is_current(await self._json(f"/images/{wanted}/json")) else ""
        if self._engine is None:
            info = await self._json("/info")
            self._engine = engine_of(info)
            # A limit takes nothing away by itself: what is usual may be more than a small machine has.
            self._memory = max(int(info.get("MemTotal") or 0) >> 20, Spec.memory_mb)
        user = "0:0" if self._engine.rootless else self._settings.user
        roots = (*await self._own_folders(), *self._settings.allowed)
        settings = self._settings
        return Rules(settings.names, user, image, roots, self._engine, settings.runtime, self._memory)

    async def _own_folders(self) -> tuple[Root, ...]:
        """Those of the asker, looked for each time: an update makes its container anew."""
        names = self._settings.names
        label = [f"{policy.LABEL_PROJECT}={names.project}", f"{policy.LABEL_SERVICE}={names.service}"]
        found: Any = await self._json("/containers/json", filters=json.dumps({"label": label}))
        looked = [await self._json(f"/containers/{container['Id']}/json") for container in found]
        return tuple({root: None for one in looked for root in policy.folders(one, self._settings.folders)})

    async def _json(self, path: str, **query: str) -> Any:
        """What the engine answers to a question of our own; {} for what it does not know. Raises Lost."""
        assert self._session  # noqa: S101 - a call comes only once the application runs
        try:
            async with asyncio.timeout(_LOOK), self._session.get(f"http://engine{path}", params=query) as answer:
                return await answer.json(content_type=None) if answer.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            self._engine = None
            raise Lost(str(e) or type(e).__name__) from None

    # --- carrying ---------------------------------------------------------------------------------

    async def _built(self, call: Asked, request: web.Request) -> web.StreamResponse:
        """A build of our own files, whatever was sent: the asker only says when."""
        read = 0
        async for chunk in request.content.iter_any():
            read += len(chunk)
            if read > MAX_CONTEXT:
                raise Refused("that is too large a context")
        settings = self._settings
        arguments = build_arguments(self._build, base=call.base, environ=settings.environ)
        query = {"dockerfile": DOCKERFILE, "rm": "1", "forcerm": "1", "buildargs": json.dumps(arguments)}
        own = Asked(call.act, call.path, query, base=call.base)
        async with self._building:
            body = (await asyncio.to_thread(context, resources(), settings.environ)).getvalue()
            return await self._carried(own, request, body, "application/x-tar")

    async def _carried(
        self, call: Asked, request: web.Request, body: bytes | None = None, kind: str = "application/json"
    ) -> web.StreamResponse:
        """Ask the engine, and hand its answer on as it comes. Raises Lost."""
        assert self._session  # noqa: S101 - as above
        headers = {"Content-Type": kind} if body is not None else {}
        url, ways = f"http://engine{call.path}", {"params": call.query, "data": body, "headers": headers}
        try:
            async with self._session.request(request.method, url, allow_redirects=False, **ways) as answer:  # type: ignore[arg-type]
                return await _handed_on(answer, request, endless=call.act in _STREAMS)
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError) as e:
            self._engine = None
            raise Lost(str(e)) from None


async def _handed_on(answer: aiohttp.ClientResponse, request: web.Request, *, endless: bool) -> web.StreamResponse:
    told = web.StreamResponse(status=answer.status)
    told.content_type = answer.content_type
    if answer.content_length is not None:
        told.content_length = answer.content_length
    await told.prepare(request)
    read = 0
    async for chunk in answer.content.iter_any():
        read += len(chunk)
        if read > MAX_ANSWER and not endless:
            logger.warning("An answer of more than {} MiB was cut", MAX_ANSWER >> 20)
            break
        await told.write(chunk)
    await told.write_eof()
    return told


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refused("its body is too large") from None


def _told(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
