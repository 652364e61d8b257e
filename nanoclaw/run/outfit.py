"""What the container of a run is given: its spec, and what it is told of the outside."""

from collections.abc import Mapping

from nanoclaw.config import Config
from nanoclaw.gateway import Credential, CredentialKind
from nanoclaw.groups import Home, binds
from nanoclaw.models import Group, RunRow
from nanoclaw.sandbox import Bind, Spec

PLACEHOLDER = "placeholder-the-real-one-stays-with-the-host"


def environment(config: Config, credential: Credential | None, own: Mapping[str, str]) -> dict[str, str]:
    """Of every container; `own` is what the agents' identity asks for. A placeholder of the credential's kind, since
    the CLI goes by that."""
    oauth = credential is not None and credential.kind is CredentialKind.OAUTH
    name = "CLAUDE_CODE_OAUTH_TOKEN" if oauth else "ANTHROPIC_API_KEY"
    return {name: PLACEHOLDER, "TZ": config.zone, "ASSISTANT_NAME": config.name, **own}


def spec(
    home: Home,
    group: Group,
    row: RunRow,
    *,
    image: str,
    runtime: str,
    user: tuple[int, int],
    env: Mapping[str, str],
    extra: tuple[Bind, ...] = (),
) -> Spec:
    """Of one run of a group; `extra` are the folders beside its own. The folders of the run are there already."""
    limits = group.limits
    uid, gid = user
    return Spec(
        run_id=row.id,
        lane=row.lane,
        image=image,
        uid=uid,
        gid=gid,
        binds=binds(home, group, row.lane, row.id, row.sockets, home.shipped) + extra,
        env={**env, **({"TZ": group.zone} if group.zone else {})},
        memory_mb=limits.memory_mb,
        cpus=limits.cpus,
        pids=limits.pids,
        runtime=runtime,
    )
