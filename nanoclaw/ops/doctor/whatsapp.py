"""Where the linked device stands, by what the host and its files say: the library is not loaded, nothing connects."""

import json
from typing import Any

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath
from nanoclaw.ops.doctor.scene import Scene, fail, ok, warn
from nanoclaw.ops.findings import Finding

PAIR = "nanoclaw pair"
_FOLDER, _SESSION, _STATE = "whatsapp", "session.db", "pairing.json"
_MAX_FILE = 64 << 10
# What a person has to mend; every other trouble is tried again by the host itself.
_MENDS = {
    "unlinked": PAIR,
    "logged_out": PAIR,
    "replaced": PAIR,
    "outdated": "nanoclaw upgrade",
    "banned_until": "nanoclaw status",
    "store_failing": "nanoclaw doctor",
}


def look(scene: Scene) -> list[Finding]:
    """Linked, and since the last look connected?"""
    if scene.config.whatsapp == "off":
        return [ok("whatsapp", "off")]
    channels = [c for c in scene.host.status.get("channels") or [] if c.get("name") == "whatsapp"]
    told = channels[0] if channels else _last(scene)
    state, detail = str(told.get("state", "")), str(told.get("detail", ""))
    words = state.replace("_", " ") + (f" ({detail})" if detail else "")
    if state in _MENDS:
        return [fail("whatsapp", words, _MENDS[state])]
    if not (scene.home.root / _FOLDER / _SESSION).exists():
        return [fail("whatsapp", "no device is linked", PAIR)]
    if not channels:
        return [ok("whatsapp", f"linked, as far as its files say; last: {words or 'never connected'}")]
    return [ok("whatsapp", words) if state == "connected" else warn("whatsapp", words, "nanoclaw status")]


def _last(scene: Scene) -> dict[str, Any]:
    """What the last host wrote down."""
    try:
        told = json.loads(safefs.read_file(scene.home.root / _FOLDER, _STATE, _MAX_FILE))
    except (OSError, UnsafePath, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
