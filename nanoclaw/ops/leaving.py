"""The home's end: which folder is none to delete, and what of one is ours."""

import re
from collections.abc import Sequence
from pathlib import Path

from nanoclaw import safefs
from nanoclaw.errors import NanoClawError

# All that we ever make there: folders, and files with what stands beside them while they are written.
_FOLDERS = frozenset(
    {"groups", "kept", "state", "runs", "run", "logs", "skills", "shipped", "empty", "backups", "whatsapp"}
)
_FILES = re.compile(
    r"nanoclaw\.(db|toml|lock|edit-\d+)([.-].*)?|\.[0-9a-f]{16}\.part|(\.env|mounts\.toml|starts\.json|control\.sock|ballast)(\..*)?"
)


def kept(home: Path, program: Sequence[Path]) -> str:
    """Why this folder must not be deleted, "" where it may be. `program` is where ours lies."""
    if home.is_symlink() or home.is_mount():
        return "is a link or a mount"
    root = home.resolve()
    if Path.home().resolve().is_relative_to(root):
        return "is the folder of all your files, or one above it"
    for path in program:
        if path.resolve().is_relative_to(root):
            return f"holds this program ({path})"
    return ""


def delete(home: Path) -> list[str]:
    """Delete what is ours of it, and itself where nothing else is in it; the names of what else is.

    Nobody may live there. Raises NanoClawError.
    """
    left = []
    try:
        for path in sorted(home.iterdir()):
            is_folder = path.is_dir() and not path.is_symlink()
            if not (path.name in _FOLDERS if is_folder else _is_ours(path)):
                left.append(path.name)
            elif is_folder:
                safefs.remove_tree(path)
            else:
                path.unlink()
        if not left:
            home.rmdir()
    except OSError as e:
        raise NanoClawError(f"{e.filename or home} cannot be deleted: {e.strerror}") from None
    return left


def _is_ours(path: Path) -> bool:
    return bool(_FILES.fullmatch(path.name)) or path.name in _FOLDERS
