"""How a command is typed where NanoClaw itself lives in a container: advice has to work as it stands."""

import os
import re

UNDER_COMPOSE = "NANOCLAW_UNDER_COMPOSE"  # set by docker-compose.yml
_PREFIX = "docker compose exec nanoclaw "
_OWN = {
    "run": "docker compose up -d",
    "stop": "docker compose stop",
    "upgrade": "docker compose up -d --build",
}
_COMMAND = re.compile(
    rf"(?<![\w./-])(?<!{_PREFIX})(?<!-m )nanoclaw (?P<verb>backup|chat|config|doctor|groups|heartbeat|image|log|"
    r"logout|logs|memory|mounts|network|pair|pending|people|restore|run|setup|status|stop|tasks|upgrade|usage)(?![\w-])"
    r"(?P<options>(?<=logs)(?: -f| -n [0-9]+)+)?"  # compose knows these too
)


def typed(text: str) -> str:
    """The same text, with each `nanoclaw VERB` in it as one types it here. Twice is as good as once."""
    if not os.environ.get(UNDER_COMPOSE):
        return text
    return _COMMAND.sub(_here, text)


def _here(found: re.Match[str]) -> str:
    if found["verb"] == "logs":
        return f"docker compose logs{found['options'] or ''} nanoclaw"
    return _OWN.get(found["verb"]) or _PREFIX + found[0]
