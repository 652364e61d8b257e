"""A look at everything that the assistant stands on; it changes nothing, and works with the host up or down."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from nanoclaw.config import Config
from nanoclaw.config.reading import Loaded, load_home
from nanoclaw.errors import ConfigError
from nanoclaw.groups import Home
from nanoclaw.ops.doctor import access, disk, engine, living, program, rights, rows, settings, whatsapp
from nanoclaw.ops.doctor.scene import LIMIT, Scene, bounded, soon
from nanoclaw.ops.findings import Finding

Look = Callable[[Scene], list[Finding]]

# In the order in which they are told. Each in a thread of its own, all at once.
LOOKS: dict[str, Look] = {
    "home": rights.look_home,
    "files": rights.look_files,
    "group folders": rights.look_groups,
    "disk": disk.look_room,
    "filesystem": disk.look_filesystem,
    "ballast": disk.look_ballast,
    "settings": settings.look_settings,
    "zone": settings.look_zone,
    "clock": settings.look_clock,
    "mounts": settings.look_mounts,
    "database": rows.look_database,
    "copy": rows.look_copy,
    "waiting": rows.look_waiting,
    "newest row": rows.look_rows_of_the_future,
    "host": living.look_host,
    "starts": living.look_starts,
    "sockets": living.look_sockets,
    "leftovers": living.look_leftovers,
    "whatsapp": whatsapp.look,
    "python": program.look_python,
    "packages": program.look_packages,
    "open files": program.look_files,
}
_OF_A_HOME = (
    "files",
    "group folders",
    "disk",
    "filesystem",
    "ballast",
    "copy",
    "leftovers",
    "starts",
)  # nothing without one
_OF_THE_MACHINE = ("home", "python", "packages", "open files")


async def arrive(home: Path, environ: Mapping[str, str], now: int) -> Scene:
    """What is to be looked at, as of `now` (ms): nothing is made, also where there is no home yet."""
    root = home.resolve()
    try:
        loaded = load_home(home, environ)
    except ConfigError:
        loaded = Loaded(Config.model_validate({"home": home}), {})
    run_dir = loaded.config.run_dir
    place = Home(root, run_dir.resolve() if run_dir else root / "run")
    return Scene(place, loaded.config, loaded.sources, environ, now, await living.ask_host(place))


async def examine(
    scene: Scene, *, offline: bool = False, tell: Callable[[str, bool], None] = lambda name, begins: None
) -> list[Finding]:
    """Every finding, in the order of the checks. `tell` hears of each look's begin and end. Nobody is asked whom the
    host would not ask: the engine, and the model's API unless `offline`."""
    names = [name for name in LOOKS if _makes_sense(name, scene.home.root)]
    looks = [_told(name, bounded(name, soon(name, partial(LOOKS[name], scene))), tell) for name in names]
    looks.append(_told("engine", bounded("engine", engine.look(scene), 3 * LIMIT), tell))
    looks.append(_told("model API", bounded("model API", access.look(scene, offline=offline)), tell))
    return [finding for found in await asyncio.gather(*looks) for finding in found]


def _makes_sense(name: str, root: Path) -> bool:
    """There is little to see where there is no home, and less where we may not look into it."""
    try:
        return root.is_dir() or name not in _OF_A_HOME
    except PermissionError:
        return name in _OF_THE_MACHINE


async def _told(name: str, look: Awaitable[list[Finding]], tell: Callable[[str, bool], None]) -> list[Finding]:
    tell(name, True)
    try:
        return await look
    finally:
        tell(name, False)
