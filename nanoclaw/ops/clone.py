"""The clone of the project that this program runs from: which version it is, and moving it to another."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanoclaw.errors import UpgradeError

_LIMIT = 300.0  # seconds of one command of git
_TOLD = 10  # names of changed files


@dataclass(frozen=True)
class Place:
    """Where a clone stands."""

    commit: str
    branch: str  # "" on none


@dataclass(frozen=True)
class Clone:
    """One clone; `root` is its top folder."""

    root: Path

    def git(self, *words: str) -> str:
        """What git says. Raises UpgradeError."""
        code, said = self._run(words)
        if code:
            raise UpgradeError(f"git {words[0]}: {_sentence(said) or f'exit code {code}'}")
        return said

    def _run(self, words: Sequence[str]) -> tuple[int, str]:
        # No question can be answered here: a key that wants a passphrase is a failure with a name.
        environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *words], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=_LIMIT, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise UpgradeError("git is not installed") from None
        except subprocess.TimeoutExpired:
            raise UpgradeError(f"git {words[0]} took more than {_LIMIT:.0f} s: check the network") from None
        return done.returncode, (done.stderr if done.returncode else done.stdout).strip()

    def is_one(self) -> bool:
        """Whether this folder is the top of a clone."""
        if not (self.root / ".git").exists():
            return False
        code, top = self._run(["rev-parse", "--show-toplevel"])
        return code == 0 and Path(top).resolve() == self.root.resolve()

    def work(self) -> Path:
        """A folder in git's own, which no version of the program sees."""
        return (self.root / self.git("rev-parse", "--git-dir")).resolve() / "nanoclaw"

    def here(self) -> Place:
        """Where it stands."""
        code, branch = self._run(["symbolic-ref", "-q", "--short", "HEAD"])
        return Place(self.git("rev-parse", "HEAD"), "" if code else branch)

    def changed(self) -> list[str]:
        """Files of the project that somebody has changed."""
        lines = self.git("status", "--porcelain", "--untracked-files=no").splitlines()
        return [line[2:].strip() for line in lines]

    def refuse_changed(self) -> None:
        """Raises UpgradeError when files are changed, and names them."""
        if names := self.changed():
            more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
            raise UpgradeError(
                f"{self.root} has changes of yours: {', '.join(names[:_TOLD])}{more}; commit them or `git stash`"
            )

    def newest(self, ref: str) -> str:
        """The commit to go to: of `ref`, else the newest of what this branch follows. Raises UpgradeError."""
        self.git("fetch", "--quiet", "--tags")
        if ref.startswith("-"):
            raise UpgradeError(f"{ref} is no branch, tag or commit of this project")
        if ref:
            for name in (f"origin/{ref}", ref):  # a branch as it is there, not as it was here
                code, commit = self._run(["rev-parse", "--verify", "-q", f"{name}^{{commit}}"])
                if code == 0:
                    return commit
            raise UpgradeError(f"{ref} is no branch, tag or commit of this project")
        for name in ("@{upstream}", "origin/HEAD"):
            code, commit = self._run(["rev-parse", "--verify", "-q", f"{name}^{{commit}}"])
            if code == 0:
                return commit
        raise UpgradeError("this clone follows no branch: say which one by --to")

    def is_before(self, old: str, new: str) -> bool:
        """Whether `new` has everything that `old` has."""
        return self._run(["merge-base", "--is-ancestor", old, new])[0] == 0

    def between(self, old: str, new: str) -> list[str]:
        """The commits that are new, newest first, one line each."""
        return self.git("log", "--format=%h %s", f"{old}..{new}").splitlines()

    def name(self, commit: str) -> str:
        """As people call it."""
        return self.git("describe", "--tags", "--always", commit)

    def unfold(self, commit: str, folder: Path) -> None:
        """The project as of that commit, in a folder of its own."""
        self.fold(folder)
        self.git("worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)

    def fold(self, folder: Path) -> None:
        """Remove such a folder; one that is not there is no error."""
        self._run(["worktree", "remove", "--force", "--force", str(folder)])
        self._run(["worktree", "prune"])

    def move(self, place: Place, to: str) -> None:
        """Bring the files to that commit: the branch goes forward with them, or is left. Raises UpgradeError."""
        if place.branch and self.is_before(place.commit, to):
            self.git("merge", "--quiet", "--ff-only", to)
        else:
            self.git("checkout", "--quiet", "--detach", to)

    def refuse_foreign(self, place: Place, to: str) -> None:
        """Raises UpgradeError where more than a move from there to `to`, or a part of one, would be taken back."""
        branch = place.branch
        for name in ("HEAD", *([f"refs/heads/{branch}"] if branch else [])):
            code, commit = self._run(["rev-parse", "--verify", "-q", f"{name}^{{commit}}"])
            if code == 0 and commit not in (place.commit, to):
                raise UpgradeError(
                    f"{self.root} has commits of yours since: keep them with `git branch mine {commit[:12]}`, then"
                    f" `git checkout {f'-B {branch}' if branch else '--detach'} {to[:12]}`"
                )
        if names := [name for name in self._differing(place.commit, to) if not self._is_part(name, place.commit, to)]:
            raise UpgradeError(
                f"{self.root} has changes of yours since: {', '.join(names[:_TOLD])}; `git stash` sets them aside"
            )

    def _differing(self, *commits: str) -> list[str]:
        """Files that are as in none of these commits."""
        sets = [set(self.git("diff", "--name-only", "-z", commit).split("\0")) for commit in commits]
        return sorted(set.intersection(*sets) - {""})

    def _is_part(self, name: str, *commits: str) -> bool:
        """Whether a file holds the beginning of what it is in one of these commits: git was ended while it wrote."""
        try:
            there = (self.root / name).read_bytes()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return any(self._blob(commit, name).startswith(there) for commit in commits)

    def _blob(self, commit: str, name: str) -> bytes:
        command = ["git", "-C", str(self.root), "show", f"{commit}:{name}"]
        return subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False).stdout

    def move_back(self, place: Place, to: str) -> None:
        """As it was before a move to `to`, after `refuse_foreign`. Raises UpgradeError."""
        new = self.git("diff", "--name-only", "--diff-filter=A", "-z", place.commit, to).split("\0")
        self.git("reset", "--quiet", "--hard")
        self.git("checkout", "--quiet", *([place.branch] if place.branch else ["--detach", place.commit]))
        self.git("reset", "--quiet", "--hard", place.commit)
        for name in filter(None, new):  # what git wrote and did not write down before it was ended
            if (self.root / name).is_file() and self._is_part(name, to):
                (self.root / name).unlink()


def _sentence(text: str) -> str:
    return " ".join(text.split())[:400]
