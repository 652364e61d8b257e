"""Every setting as a table in Markdown, made from the fields themselves."""

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from nanoclaw.config.schema import KEYS, Config, needs_restart

_HEAD = """# Settings

Every setting of `~/.nanoclaw/nanoclaw.toml`; each also as `NANOCLAW_…` in the environment, which wins
(`NANOCLAW_ZONE`, say). `NANOCLAW_HOME` names another folder than `~/.nanoclaw`.

```
nanoclaw config show               all of them, and where each value comes from
nanoclaw config set zone Europe/Berlin
nanoclaw config unset zone         the default again
nanoclaw config edit               the file in your editor; it counts only if it is right
nanoclaw config check              everything that is wrong with it
```

A change counts at once, also one made by hand, without a restart; those marked *restart* count from the next start
on. A file that is not right leaves the settings in force as they are, and the owner is told. The previous file stays
as `nanoclaw.toml.before`. What is set here holds for the whole house; a group's own settings go before it.

| Setting | Default | Meaning |
|---|---|---|
"""
_FOOT = """
The API key or token is no setting: `nanoclaw setup --replace-key` stores it in `~/.nanoclaw/.env`, and it is shown
nowhere.
"""


def reference() -> str:
    """The page."""
    return _HEAD + "".join(map(_row, KEYS)) + _FOOT


def _row(key: str) -> str:
    field = Config.model_fields[key]
    told = field.description or ""
    if limits := _limits(key):
        told += f" ({limits})"
    restart = "; *restart*" if needs_restart(key) else ""
    return f"| `{key}` | {_default(field.default)} | {told}{restart} |\n"


def _default(value: Any) -> str:
    return "" if value in (None, "", ()) else f"`{shown(value)}`"


def _limits(key: str) -> str:
    field = Config.model_fields[key]
    if get_origin(field.annotation) is Literal:
        words = get_args(field.annotation)
        return "" if all(word in (field.description or "") for word in words) else ", ".join(words)
    low = next((mark.ge for mark in field.metadata if hasattr(mark, "ge")), 0)
    high = next((mark.le for mark in field.metadata if hasattr(mark, "le")), 0)
    if high:
        return f"{low:,} to {high:,}"
    return f"at least {low:,}" if low else ""


def shown(value: Any) -> str:
    """A value as one would write it into the file."""
    if value is None:
        return ""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
