"""The way out from inside: the real programs in the real container reach what is allowed, and nothing else."""

import asyncio
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pip
import pytest

from nanoclaw.sandbox import Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from tests.agent_harness import Agent, agent_of, source
from tests.egress import PUBLIC, Authority, House, World
from tests.model_server import Text, ToolUse

INSIDE = "/workspace/group"
CA = f"{INSIDE}/ca.pem"
# What programs are told of a certificate authority of one's own.
TRUST = dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT"), CA)
HOSTS = ("files.example.org", "git.example.org", "pypi.example.org")


@dataclass
class Out:
    """An agent in its container, its way out, and the world behind that."""

    agent: Agent
    house: House
    world: World
    turns: int = 0

    async def shell(self, command: str) -> str:
        """What the agent's shell says to it."""
        return await self.use("Bash", command=command)

    async def use(self, tool: str, **given: str) -> str:
        """What a tool answers to the agent."""
        self.turns += 1
        self.agent.model.script(ToolUse(tool, given), Text("done"), when='"tools":')
        await self.agent.ask(f"t{self.turns}", "go")
        return "".join(next(r.tool_results for r in reversed(self.agent.model.requests) if r.tool_results))


@contextmanager
def website(folder: Path, context: ssl.SSLContext) -> Iterator[int]:
    """The folder over https; its port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fill(folder: Path) -> None:
    """A page, a repository, a package index."""
    (folder / "page.html").write_text("<html><body><h1>Zebras</h1>They have stripes.</body></html>")
    work, bare = folder / "work", folder / "repo.git"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", str(work)], check=True)
    (work / "README").write_text("read me")
    subprocess.run([*git, "-C", str(work), "add", "README"], check=True)
    subprocess.run([*git, "-C", str(work), "commit", "-qm", "first"], check=True)
    subprocess.run([*git, "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run([*git, "-C", str(bare), "update-server-info"], check=True)
    wheel = folder / "zebra-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("zebra.py", "stripes = 7\n")
        z.writestr("zebra-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zebra\nVersion: 1.0\n")
        z.writestr("zebra-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("zebra-1.0.dist-info/RECORD", "")
    index = folder / "simple" / "zebra"
    index.mkdir(parents=True)
    (index / "index.html").write_text(f'<a href="/{wheel.name}">{wheel.name}</a>')


@asynccontextmanager
async def opened(spec: Spec, sandbox: DockerSandbox, folder: Path) -> AsyncIterator[Out]:
    folder.mkdir()
    fill(folder)
    authority = Authority(folder)
    group = source(spec, INSIDE)
    shutil.copy(authority.file, group / "ca.pem")
    with website(folder, authority.server(*HOSTS)) as port:
        world = World({host: [PUBLIC] for host in HOSTS}, {443: port})
        house = House(hosts=HOSTS)
        egress = world.egress(house)
        await egress.open(spec.run_id, source(spec, "/run/nanoclaw/sockets"))
        try:
            async with agent_of(sandbox, replace(spec, env={**spec.env, **TRUST})) as agent:
                yield Out(agent, house, world)
        finally:
            await egress.aclose()


@pytest.fixture
async def out(make_spec: Callable[..., Spec], sandbox: DockerSandbox, tmp_path: Path) -> AsyncIterator[Out]:
    async with opened(make_spec(), sandbox, tmp_path / "site") as it:
        yield it


async def test_programs_reach_an_allowed_host(out: Out) -> None:
    """curl, git, Python and pip go out by the variables that they know, without a word of configuration."""
    assert "stripes" in await out.shell("curl -sS https://files.example.org/page.html")
    cloned = await out.shell("cd /tmp && git clone -q https://git.example.org/repo.git && cat repo/README")
    assert "read me" in cloned
    fetch = "import urllib.request as u; print(u.urlopen('https://files.example.org/page.html').read())"
    assert "stripes" in await out.shell(f'python3 -c "{fetch}"')
    assert set(out.world.asked) == {"files.example.org", "git.example.org"}
    assert {address for address, _ in out.world.dialled} == {PUBLIC}


async def test_pip_installs_from_an_allowed_index(out: Out) -> None:
    """The real pip (where the image brings none, the tests' own) into a folder of the agent's."""
    shutil.copytree(Path(pip.__file__).parent, source(out.agent.spec, INSIDE) / "lib" / "pip")
    install = f"PYTHONPATH={INSIDE}/lib python3 -m pip install -q --no-cache-dir --target /tmp/got"
    told = await out.shell(
        f"{install} --index-url https://pypi.example.org/simple zebra;"
        " PYTHONPATH=/tmp/got python3 -c 'import zebra; print(\"stripes:\", zebra.stripes)'"
    )
    assert "stripes: 7" in told
    refused = await out.shell(f"{install} --retries 0 --index-url https://index.evil.example/simple zebra")
    assert "No matching distribution" in refused
    assert ("index.evil.example", 443) in {(host, port) for _, host, port in out.house.wanted}


async def test_claude_codes_own_web_fetch_goes_the_same_way(out: Out) -> None:
    """An allowed page is read, another one is a refusal that the model sees."""
    out.agent.model.answer(lambda seen: Text("zebras are striped") if "They have stripes" in seen.said else None)
    told = await out.use("WebFetch", url="https://files.example.org/page.html", prompt="what have zebras")
    assert "zebras are striped" in told
    await out.use("WebFetch", url="https://news.evil.example/", prompt="x")
    assert ("news.evil.example", 443) in {(host, port) for _, host, port in out.house.wanted}
    assert "news.evil.example" not in out.world.asked


async def test_there_is_no_other_way_out(out: Out) -> None:
    """By name, by address, by another port, by plain http, around the proxy: nothing, and nothing is looked up."""
    commands = (
        "curl -sS -m 5 https://evil.example/",
        "curl -sS -m 5 http://files.example.org/page.html",
        "curl -sS -m 5 https://93.184.216.34/",
        "curl -sS -m 5 -k https://127.0.0.1:2375/version",
        "curl -sS -m 5 https://files.example.org:8443/",
        "curl -sS -m 5 --noproxy '*' https://files.example.org/page.html",
        "curl -sS -m 5 --noproxy '*' https://1.1.1.1/",
        "curl -sS -m 5 https://api.anthropic.com/",
        "curl -sS -m 5 -k --connect-to files.example.org:443:evil.example:443 https://files.example.org/",
        "curl -sS -m 5 -k --connect-to evil.example:443:files.example.org:443 https://evil.example/",
        "getent hosts files.example.org",
    )
    for command in commands:
        told = await out.shell(f"{command}; echo code $?")
        assert "stripes" not in told, command
        assert "code 0" not in told or "only https goes out" in told, (command, told)
    assert set(out.world.asked) <= {"files.example.org"}


async def test_what_the_owner_takes_back_is_over(out: Out) -> None:
    """In the same container, for the next connection."""
    assert "stripes" in await out.shell("curl -sS https://files.example.org/page.html")
    out.house.hosts = ()
    told = await out.shell("curl -sS https://files.example.org/page.html; echo code $?")
    assert "403" in told


async def test_the_model_is_not_asked_through_the_proxy(out: Out) -> None:
    """Its own socket alone: the proxy sees nothing of it."""
    assert "127.0.0.1" in await out.shell("echo $NO_PROXY $no_proxy")
    assert (out.world.asked, out.house.wanted) == ([], [])
    await asyncio.sleep(0)
