"""Where everything is inside the container; tests put it elsewhere."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Every path and port that the agent uses."""

    inbox: Path = Path("/run/nanoclaw/inbox")
    probe: Path = Path("/run/nanoclaw/inbox/probe.json")
    outbox: Path = Path("/run/nanoclaw/out.ndjson")
    model_socket: Path = Path("/run/nanoclaw/sockets/model.sock")
    model_port: int = 8080
    egress_socket: Path = Path("/run/nanoclaw/sockets/egress.sock")
    egress_port: int = 3128
    group: Path = Path("/workspace/group")
    media: Path = Path("/workspace/media")
    global_memory: Path = Path("/workspace/global/CLAUDE.md")
    persona: Path = Path("/opt/agent/persona.md")
    settings: Path = Path("/opt/agent/managed-settings.json")
    plugins: tuple[Path, ...] = (Path("/opt/agent/plugins/nanoclaw"), Path("/opt/agent/plugins/home"))
    cli: Path = Path("/opt/agent/bin/claude")
