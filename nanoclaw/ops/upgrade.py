"""To another version and, where that does not work, back: all is prepared and checked beside the one that runs.

What was begun stands in a journal, so that an upgrade that was broken off is taken back by the next one. This program's
own files are exchanged while it runs: it loads all that it needs before, and asks the new one as a process of its own.
"""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanoclaw.errors import NanoClawError, UpgradeError
from nanoclaw.ops import migrating
from nanoclaw.ops.backup import DATABASE
from nanoclaw.ops.clone import Clone, Place
from nanoclaw.store import copy

_LIMIT = 900.0  # seconds of one step: an image is built, packages are fetched
_STALE = 3  # exit code of `nanoclaw image status`
_TAIL = 3  # lines of a step that failed
FORWARD = (
    "the new version has already received or sent something, and from then on there is only forward: it stays."
    " `nanoclaw logs` says what is wrong with it, `nanoclaw up` starts it"
)


@dataclass(frozen=True)
class Images:
    """What the engine's names mean; each may raise SandboxError."""

    name: str  # of the agent image
    id_of: Callable[[str], str]  # "" for none
    point: Callable[[str, str], None]  # a name, an image
    drop: Callable[[str], None]  # a name, or an image that nothing needs


@dataclass
class Journal:
    """What was done so far, so that it can be taken back."""

    home: str  # whose database it is about
    commit: str
    branch: str
    to: str
    ran: bool = False  # whether a host lived
    saved: str = ""  # the copy of the database
    trace: str = ""  # of the database before the new version's host began; "" = as in the copy
    image: str = ""  # what the agent image's name meant; "" = it still does
    moved: bool = False  # files and packages may be the new ones


@dataclass
class Upgrade:
    """One upgrade of one clone, for the home in `environ`."""

    clone: Clone
    home: Path
    environ: Mapping[str, str]
    living: Callable[[], bool]
    alone: Callable[[], AbstractContextManager[None]]  # holds the home's lock; raises HomeError where a host does
    now: Callable[[], int]
    say: Callable[[str], None]
    images: Images | None = None  # None: the image is left to the next start
    _work: Path = field(init=False)
    _next: Path = field(init=False)  # the new version's files
    _packages: Path = field(init=False)  # the new version's packages, where they are others
    _old_packages: Path = field(init=False)
    _next_image: str = ""  # a name of it, until it takes the usual one

    def __post_init__(self) -> None:
        self._work = self.clone.work()
        self._next, self._packages = self._work / "next", self._work / "venv"
        self._old_packages = self._work / "venv-before"

    @property
    def _venv(self) -> Path:
        return self.clone.root / ".venv"

    def run(self, ref: str) -> str:
        """Go to `ref` (""=the newest); one sentence of what came of it. Raises UpgradeError: then all is as before."""
        with self._alone():
            self._take_back_what_was_broken_off()
            self.clone.refuse_changed()
            place = self.clone.here()
            to = self.clone.newest(ref)
            if self._is_nothing_new(place, to, ref):
                return f"This is {self.clone.name(place.commit)}, which has all that was asked for; nothing to do."
            names = f"{self.clone.name(place.commit)} to {self.clone.name(to)}"
            try:
                image = self._prepare(place, to)
                self._switch(Journal(str(self.home), place.commit, place.branch, to), image)
            finally:
                self._sweep()
            return f"Upgraded from {names}."

    def _is_nothing_new(self, place: Place, to: str, ref: str) -> bool:
        """Only who names a version goes back, or leaves commits of his own behind. Raises UpgradeError."""
        if ref or to == place.commit:
            return to == place.commit
        if not self.clone.is_before(place.commit, to) and not self.clone.is_before(to, place.commit):
            name = self.clone.name(to)
            raise UpgradeError(
                f"this clone has commits of its own that {name} has not: bring them there (git rebase {to[:12]}), or"
                f" leave them behind (nanoclaw upgrade --to {to[:12]}). Nothing was changed"
            )
        return self.clone.is_before(to, place.commit)

    # --- beside the one that runs -----------------------------------------------------------------

    def _prepare(self, place: Place, to: str) -> str:
        """Everything that can fail without anybody noticing; the new image's id, "" where it is the same."""
        self.say("1/6 Fetching the new version's files and packages ...")
        self.clone.unfold(to, self._next)
        if self._needs_packages():
            self._step([sys.executable, "-m", "venv", str(self._packages)])
            lock = str(self._next / "requirements" / "host.txt")
            self._step([*self._pip(self._packages), "install", "--require-hashes", "-r", lock])
        image = self._make_image(to)
        self.say("3/6 Letting the new version check itself with a copy of the database ...")
        self._check_itself()
        return image

    def _needs_packages(self) -> bool:
        return self._wanted(self._next) != self._wanted(self.clone.root)

    def _wanted(self, root: Path) -> tuple[bytes, Any]:
        """What the packages are made from."""
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project")
        return (root / "requirements" / "host.txt").read_bytes(), project

    def _make_image(self, to: str) -> str:
        if self.images is None:
            return ""
        self.say("2/6 Making the new version's agent image ...")
        code, said = self._new("image", "status")
        if code == 0:
            return ""
        if code != _STALE:
            raise UpgradeError(f"{said}; --no-image leaves the image to the next start. Nothing was changed")
        self._next_image = name = f"{self.images.name.partition(':')[0]}:next-{to[:8]}"
        code, said = self._new("image", "build", more={"NANOCLAW_IMAGE": name})
        if code:
            raise UpgradeError(f"the new agent image could not be built: {said}. Nothing was changed")
        return self.images.id_of(name)

    def _check_itself(self) -> None:
        db = self.home / DATABASE
        trial = self._work / "trial.db"
        for path in self._work.glob(f"{trial.name}*"):
            path.unlink()
        words = ["self-check"]
        if db.exists():
            trial.touch(0o600)
            copy.copy(db, trial)
            words += ["--store", str(trial)]
        code, said = self._new(*words)
        if code:
            raise UpgradeError(f"the new version failed its own check: {said}. Nothing was changed")

    # --- the change -------------------------------------------------------------------------------

    def _switch(self, journal: Journal, image: str) -> None:
        """From here on every step can be taken back, as long as nothing was received or sent by the new version."""
        self._write(journal)
        try:
            self._change(journal, image)
        except (Exception, KeyboardInterrupt) as e:
            why = str(e) or type(e).__name__
            self.say(f"It did not work: {why}")
            try:
                is_back = self._take_back(journal)
            except (NanoClawError, OSError) as worse:
                raise UpgradeError(
                    f"{why}; and taking it back failed: {worse}. Mend that, then nanoclaw upgrade goes on with it"
                ) from None
            if not is_back:
                raise UpgradeError(f"{why}; {FORWARD}") from None
            raise UpgradeError(f"{why}. Everything is as it was before the upgrade") from None
        if journal.image and self.images:
            with suppress(NanoClawError):
                self.images.drop(journal.image)
        self._forget_journal()

    def _change(self, journal: Journal, image: str) -> None:
        journal.ran = self.living()
        self._write(journal)
        if journal.ran:
            self.say("4/6 Ending the assistant in order ...")
            self._ours("stop")
        self.say("5/6 Saving the database, exchanging files and packages ...")
        db = self.home / DATABASE
        if db.exists():
            journal.saved = str(migrating.save(self.home, f"{journal.commit[:8]}-to-{journal.to[:8]}", self.now()))
        self.clone.refuse_changed()  # it was looked at minutes ago
        journal.moved = True
        self._write(journal)
        self.clone.move(Place(journal.commit, journal.branch), journal.to)
        if self._packages.exists():
            self._exchange_packages()
        if image and self.images:
            journal.image = self.images.id_of(self.images.name)
            self._write(journal)
            self.images.point(self.images.name, image)
        if db.exists():
            self._ours("self-check", "--migrate")
            journal.trace = copy.trace(db)
            self._write(journal)
        if journal.ran:
            self.say("6/6 Starting it ...")
            self._ours("up")

    def _exchange_packages(self) -> None:
        if self._venv.exists():
            self._venv.rename(self._old_packages)
        self._packages.rename(self._venv)
        # Paths inside are of where it was made; this writes them anew.
        self._step([str(self._venv / "bin" / "python"), "-m", "venv", "--without-pip", str(self._venv)])
        editable = ["install", "--no-deps", "--no-build-isolation", "-e", str(self.clone.root)]
        self._step([*self._pip(self._venv), *editable])
        made_from = (self.clone.root / "requirements/host.txt").read_bytes()
        made_from += (self.clone.root / "pyproject.toml").read_bytes()
        with suppress(OSError):  # without it, nanoclaw.sh looks once more
            told = subprocess.run(["cksum"], input=made_from, capture_output=True, check=False).stdout.decode().strip()
            (self._venv / ".nanoclaw").write_text(f"{self.clone.root} {told}\n", "utf-8")

    # --- and back ---------------------------------------------------------------------------------

    def _is_forward(self, journal: Journal) -> bool:
        """Whether the old program could not go on from here without losing or repeating something."""
        db = self.home / DATABASE
        if not journal.moved or not db.exists():
            return False
        if not journal.saved:
            return True  # the new version made the database; the old one may not be able to read it
        saved = Path(journal.saved)
        if copy.schema(db) == copy.schema(saved):
            return False  # the old program can read what was written
        # Broken off before its trace was known: a host may have begun since.
        return copy.trace(db) != (journal.trace or copy.trace(saved))

    def _take_back(self, journal: Journal) -> bool:
        """Whether all is as it was; False where only forward is left. Raises NanoClawError, OSError."""
        if not self._is_forward(journal):
            if journal.moved:
                self.clone.refuse_foreign(Place(journal.commit, journal.branch), journal.to)
            lives = journal.moved and self.living()
            if lives:
                journal.ran = True
                self._write(journal)
                self._ours("stop")
            if not self._is_forward(journal):  # nothing came until it was ended
                self._undo(journal)
                return True
            if lives:
                self._ours("up")
        self._forget_journal()
        return False

    def _undo(self, journal: Journal) -> None:
        """Everything as the journal says that it was. Raises NanoClawError, OSError; then it can be tried again."""
        self.say("Taking it back: files, packages, image, database ...")
        db = self.home / DATABASE
        if journal.saved and db.exists() and copy.schema(db) != copy.schema(Path(journal.saved)):
            with self.alone():
                migrating.put_back(Path(journal.saved), self.home)
        if journal.image and self.images:
            self.images.point(self.images.name, journal.image)
        if self._old_packages.exists():
            if self._venv.exists():
                shutil.rmtree(self._venv)
            self._old_packages.rename(self._venv)
        if journal.moved:
            self.clone.move_back(Place(journal.commit, journal.branch), journal.to)
        if journal.ran and not self.living():
            self._ours("up")
        self._forget_journal()

    def _take_back_what_was_broken_off(self) -> None:
        path = self._work / "journal.json"
        if not path.exists():
            self._sweep()
            return
        try:
            journal = Journal(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError):
            raise UpgradeError(f"{path} cannot be read: look at `git status`, then delete it") from None
        if journal.home != str(self.home):
            told = f"NANOCLAW_HOME={shlex.quote(journal.home)}"
            raise UpgradeError(f"an upgrade of another home was broken off here: say it again with {told}")
        self.say("An upgrade was broken off.")
        is_back = self._take_back(journal)
        self._sweep()
        if not is_back:
            raise UpgradeError(f"an upgrade was broken off after its end; {FORWARD}")

    def _write(self, journal: Journal) -> None:
        path = self._work / "journal.json"
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as f:
            json.dump(asdict(journal), f)
            f.flush()
            os.fsync(f.fileno())
        part.rename(path)

    def _forget_journal(self) -> None:
        (self._work / "journal.json").unlink(missing_ok=True)

    # --- small things -----------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of two upgrades the second is refused."""
        self._work.mkdir(mode=0o700, exist_ok=True)
        with (self._work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UpgradeError("another upgrade is at work here") from None
            yield

    def _sweep(self) -> None:
        """What was only prepared."""
        if self._next_image and self.images:
            with suppress(NanoClawError):
                self.images.drop(self._next_image)
        self.clone.fold(self._next)
        for folder in (self._packages, *([] if (self._work / "journal.json").exists() else [self._old_packages])):
            shutil.rmtree(folder, ignore_errors=True)
        for path in self._work.glob("trial.db*"):
            path.unlink()

    def _pip(self, venv: Path) -> list[str]:
        return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-qq"]

    def _new(self, *words: str, more: Mapping[str, str] | None = None) -> tuple[int, str]:
        """A command of the new version, from the folder that it lies in; its exit code and last words."""
        venv = self._packages if self._packages.exists() else self._venv
        python = venv / "bin" / "python"
        # Before what the packages say of where the program is.
        path = os.pathsep.join(filter(None, [str(self._next), self.environ.get("PYTHONPATH", "")]))
        environ = {**self.environ, "PYTHONPATH": path, **(more or {})}
        return self._call([str(python if python.exists() else sys.executable), "-m", "nanoclaw", *words], environ)

    def _ours(self, *words: str) -> None:
        """A command of the version that lies in place now. Raises UpgradeError."""
        python = self._venv / "bin" / "python"
        path = os.pathsep.join(filter(None, [str(self.clone.root), self.environ.get("PYTHONPATH", "")]))
        command = [str(python if python.exists() else sys.executable), "-m", "nanoclaw", *words]
        code, said = self._call(command, {**self.environ, "PYTHONPATH": path})
        if code:
            raise UpgradeError(said or f"nanoclaw {' '.join(words)}: exit code {code}")

    def _step(self, command: Sequence[str]) -> None:
        # What lies elsewhere is none of the new packages.
        environ = {key: value for key, value in self.environ.items() if key != "PYTHONPATH"}
        code, said = self._call(command, environ)
        if code:
            raise UpgradeError(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {said}")

    def _call(self, command: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                command, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self._work,
                errors="replace", timeout=_LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 1, f"it took more than {_LIMIT:.0f} s"
        lines = [line for line in (done.stderr.strip() or done.stdout.strip()).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("nanoclaw: ")]
        return done.returncode, " / ".join(told[-1:] or lines[-_TAIL:]).removeprefix("nanoclaw: ")[:600]
