"""The settings: frozen, strict, from nanoclaw.toml and the environment; and the credential."""

from nanoclaw.config.credential import SECRETS_FILE, known_secrets, read_credential
from nanoclaw.config.reading import SETTINGS_FILE, home_of, load
from nanoclaw.config.schema import DEFAULT_MODEL, Config, Current

__all__ = [
    "DEFAULT_MODEL",
    "SECRETS_FILE",
    "SETTINGS_FILE",
    "Config",
    "Current",
    "home_of",
    "known_secrets",
    "load",
    "read_credential",
]
