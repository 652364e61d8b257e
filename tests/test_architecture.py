"""The house's rules, held by reading the source: who may import whom, who may touch files, how long things are."""

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "nanoclaw"
FILES = sorted(ROOT.rglob("*.py"))
TREES = {p.relative_to(ROOT).with_suffix("").as_posix(): ast.parse(p.read_text("utf-8")) for p in FILES}

# Each module imports what stands before it: in a lower layer, or earlier in its own.
LAYERS = [
    ["errors", "hints", "models", "mailbox", "failpoints", "schedule", "config", "safefs", "mounts"],
    ["prompts", "notices", "logs", "store", "groups"],
    ["meter", "control", "outbox", "tools", "media", "run"],
    ["dispatcher"],
    ["commands", "router", "ears", "scheduler"],
    ["ops"],
    ["app"],
    ["guard"],
    ["cli", "__main__"],
]
ORDER = [name for layer in LAYERS for name in layer]
TOP = {"app", "ops", "guard", "cli", "__main__"}  # they wire the edges; all others know them as Protocols
EDGES = {"channels", "sandbox", "gateway"}
EDGES_MAY = {*LAYERS[0], "groups"}
GUARD_MAY = {"errors", "mailbox", "safefs", "sandbox"}  # it holds the engine's socket, so it is little

# Where a library may be imported: the beginnings of module names.
LIBRARIES = {
    "loguru": ("",),
    "pydantic": ("config/", "mounts/allowlist"),
    "tomlkit": ("config/writing",),
    "croniter": ("schedule",),
    "sqlite3": ("store/",),
    "docker": ("sandbox/",),
    "requests": ("sandbox/",),
    "urllib3": ("sandbox/",),
    "aiohttp": ("gateway/", "guard/"),
    "neonize": ("channels/whatsapp/",),
    "segno": ("cli/pair",),
    "markdown_it": ("channels/markup",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}

# Bare file calls, and whose files they touch. What an agent can write is touched by safefs alone.
FILE_CALLS = {
    "app/__init__": {"os.open"},  # the lock
    "app/watching": {"iterdir", "rglob"},  # the kernel's list of our own files; the program itself
    "cli/descriptors": {"os.open"},  # what the library prints
    "cli/config": {"unlink"},  # its own draft
    "cli/logs": {"open"},  # the log file
    "cli/setup/credential": {"read_text", "open"},  # the credential, and what the system says of its zone
    "channels/whatsapp/files": {"open"},  # an address of WhatsApp's media server
    "channels/whatsapp/pairing": {"os.open"},  # its own file, which holds a QR code
    "channels/whatsapp/session": {"unlink"},  # the library's database
    "config/credential": {"read_text"},
    "config/reading": {"os.open"},  # settings
    "config/writing": {"os.open", "unlink", "rename"},  # settings and credential
    "channels/control_sock": {"unlink"},  # its own socket
    "gateway/model": {"unlink"},  # its own sockets, in a folder that is read-only inside
    "gateway/egress": {"unlink"},  # the same
    "gateway/outward": {"read_text"},  # the kernel's routes
    "groups": {"iterdir"},  # the home itself
    "guard/__main__": {"unlink"},  # its own socket
    "logs": {"os.open", "unlink"},  # the log files
    # The inbox is read-only inside; out.ndjson is opened without following, and its kind is looked at.
    "mailbox": {"os.open", "rename", "read_bytes"},
    # A file of the owner's, copies of our own, and a new home that nobody else can reach yet.
    "ops/backup": {"open", "os.open", "rename"},
    "ops/clone": {"read_bytes", "unlink"},  # the clone's
    "ops/leaving": {"iterdir", "unlink", "rmdir"},  # the home's own names; what lies in its folders goes by safefs
    "ops/migrating": {"open", "rename", "unlink", "glob"},  # the database and copies of it
    "ops/doctor/disk": {"read_text"},  # the kernel's list of mounts
    "ops/doctor/living": {"iterdir"},  # folders that only we make
    "ops/doctor/mending": {"unlink"},  # the socket of a host that has died
    "ops/doctor/program": {"read_text", "iterdir"},  # the lock beside the program; the kernel's word on the host
    "ops/doctor/rights": {"iterdir"},  # names in folders that only the host writes; agents' are looked at, not into
    "ops/status": {"read_text", "iterdir"},  # the kernel's list of locks, and of a process's files
    "ops/retention": {"iterdir"},  # folders that only we make
    "ops/probe": {"read_text"},  # the kernel's word on memory
    "ops/restore": {"open", "os.open", "rename", "iterdir", "unlink", "hardlink_to"},
    "ops/service": {"os.open", "read_text", "write_text", "unlink"},  # the unit, and a log of its own
    "ops/upgrade": {
        "open",
        "read_text",
        "read_bytes",
        "write_text",
        "glob",
        "unlink",
        "rename",
        "shutil.rmtree",
    },  # the clone's
    "run/shipped": {"rglob", "read_bytes", "unlink", "rmdir"},  # skills: ours, and a copy that only we write
    "mounts/way": {"read_text"},  # the kernel's list of mounts
    "sandbox/memory": {"read_text"},  # the kernel's count
    "sandbox/hostpaths": {"read_text"},  # the kernel's word on the container that we run in
    "meter/prices": {"read_text"},  # the table beside it
    "sandbox/base": {"read_text", "write_text", "shutil.rmtree"},  # a system that debootstrap made
    "sandbox/seccomp": {"read_text"},  # the profile beside it
    "sandbox/image": {"rglob", "read_bytes"},  # what the image is built from
    "store/__init__": {"glob", "read_text"},  # migrations
    "store/health": {"glob"},  # the same
}
METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "glob", "rglob", "walk"}
METHODS |= {"unlink", "rename", "rmdir", "symlink_to", "hardlink_to"}
MODULES = {"os", "shutil", "tarfile"}  # tarfile is given a file that is open already
OF_OS = {"open", "walk", "scandir", "listdir", "remove", "unlink", "rename", "replace", "rmdir", "removedirs", "link"}


def _imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is named in an import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _ours(tree: ast.Module) -> set[str]:
    """The modules of ours that it imports: "store", "sandbox.spec"."""
    names = {name.removeprefix("nanoclaw.") for name in _imports(tree) if name.startswith("nanoclaw.")}
    known = {module.replace("/", ".").removesuffix(".__init__") for module in TREES}
    return names & known


@pytest.mark.parametrize("module", TREES)
def test_a_module_imports_what_is_below_it(module: str) -> None:
    """One direction; edges are known as Protocols to all but those that wire them."""
    own = module.split("/")[0]
    for name in _ours(TREES[module]):
        other = name.split(".")[0]
        if other == own or own == "__init__":
            continue
        if own == "guard":
            assert other in GUARD_MAY, f"{module} holds the engine and imports {name}"
        elif other in EDGES:
            assert own in TOP or "." not in name, f"{module} imports the inside of an edge: {name}"
        elif own in EDGES:
            assert other in EDGES_MAY, f"{module} is an edge and imports {name}"
        else:
            assert ORDER.index(other) < ORDER.index(own), f"{module} imports {name}, which is above it"


@pytest.mark.parametrize("module", TREES)
def test_a_library_stands_behind_one_edge(module: str) -> None:
    """No library but those of the table, and each where it belongs."""
    for name in {name.split(".")[0] for name in _imports(TREES[module])}:
        if (name in sys.stdlib_module_names and name not in LIBRARIES) or name == "nanoclaw":
            continue
        assert module.startswith(LIBRARIES.get(name, ("nowhere",))), f"{module} imports {name}"


def _file_calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Calls that read, write, list or remove by a path (an `open` that is awaited is something else)."""
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        func = node.func
        if isinstance(func, ast.Name) and func.id == "open":
            yield "open", node.lineno
        if isinstance(func, ast.Attribute):
            of = func.value.id if isinstance(func.value, ast.Name) else ""
            if (of == "shutil" and func.attr != "which") or (of == "os" and func.attr in OF_OS):
                yield f"{of}.{func.attr}", node.lineno
            elif of not in MODULES and func.attr in METHODS:
                yield func.attr, node.lineno
            elif of not in MODULES and func.attr == "open" and id(node) not in awaited:
                yield "open", node.lineno


@pytest.mark.parametrize("module", [m for m in TREES if m != "safefs"])
def test_files_are_touched_where_the_table_says(module: str) -> None:
    """Whoever needs another file call says here whose files it touches; an agent's go through safefs."""
    allowed = FILE_CALLS.get(module, set())
    calls = list(_file_calls(TREES[module]))
    assert [f"{module}:{line} {name}" for name, line in calls if name not in allowed] == []
    assert allowed == {name for name, _ in calls}, "the table names calls that are no more"


def _code_lines(path: Path) -> int:
    """Lines that hold code: no blank, no comment, no docstring."""
    text = path.read_text("utf-8")
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_files_and_functions_stay_small() -> None:
    """No file over 400 code lines, the root at most 3,000; functions: median 10, nine in ten 30, none over 50."""
    sizes = {path.relative_to(ROOT).as_posix(): _code_lines(path) for path in FILES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert sum(size for name, size in sizes.items() if "/" not in name) <= 3000
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: n for name, n in lengths.items() if n > 50} == {}
    assert statistics.median(lengths.values()) <= 10
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 30


@pytest.mark.parametrize("module", TREES)
def test_each_module_says_what_it_is(module: str) -> None:
    """A docstring at the head of every file."""
    assert ast.get_docstring(TREES[module])


def test_who_uses_no_whatsapp_does_not_pay_for_it() -> None:
    """The host alone does not load its library, which takes a tenth of a second and 40 MB."""
    code = "import sys, nanoclaw.app; sys.exit('neonize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
