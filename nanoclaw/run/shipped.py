"""The skills that come with NanoClaw, as a copy in the home: the engine sees that one wherever the host itself runs."""

from pathlib import Path

from loguru import logger

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath


def refresh(source: Path, shipped: Path) -> None:
    """Make the copy what `source` is; where that fails (a full disk, say) the host starts with the one of before."""
    try:
        _copy(source, shipped)
    except (OSError, UnsafePath) as e:
        logger.error("The skills that come with NanoClaw could not be copied to {}: {}", shipped, e)


def _copy(source: Path, shipped: Path) -> None:
    """File by file: a container that lives has the folder open."""
    wanted = {p.relative_to(source).as_posix(): p for p in sorted(source.rglob("*")) if not p.name.startswith(".")}
    for found in sorted(shipped.rglob("*"), reverse=True):
        twin = wanted.get(found.relative_to(shipped).as_posix())
        if twin is None or twin.is_dir() != found.is_dir() or found.is_symlink():
            found.rmdir() if found.is_dir() and not found.is_symlink() else found.unlink()
    for rel, path in wanted.items():
        if path.is_dir():
            safefs.make_folder(shipped, rel)
        elif not (copy := shipped / rel).is_file() or copy.read_bytes() != path.read_bytes():
            safefs.write_file(shipped, rel, path.read_bytes())
