"""The key or token: read anew whenever it is asked for, so that a new one counts without a restart."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from nanoclaw.gateway import Credential, CredentialKind

SECRETS_FILE = ".env"
VARIABLES = {CredentialKind.API_KEY: "ANTHROPIC_API_KEY", CredentialKind.OAUTH: "CLAUDE_CODE_OAUTH_TOKEN"}


def read_credential(home: Path, environ: Mapping[str, str]) -> Credential | None:
    """Of the environment, else of home/.env; an API key wins over a token."""
    return next(_credentials(home, environ), None)


def known_secrets(home: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Every key and token that is there, also those that are not used."""
    return tuple(credential.secret for credential in _credentials(home, environ))


def _credentials(home: Path, environ: Mapping[str, str]) -> Iterator[Credential]:
    stored: dict[str, str] = {}
    try:
        for line in (home / SECRETS_FILE).read_text("utf-8", "replace").splitlines():
            key, eq, value = line.partition("=")
            if eq:
                stored[key.strip()] = value.strip().strip("\"'")
    except OSError:
        stored = {}
    for source in (environ, stored):
        for kind, key in VARIABLES.items():
            if secret := source.get(key, "").strip():
                yield Credential(kind, secret)
