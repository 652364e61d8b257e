"""The settings: frozen, strict, from nanoclaw.toml and the environment; and the credential."""

from nanoclaw.config.credential import SECRETS_FILE, read_credential
from nanoclaw.config.reading import SETTINGS_FILE, home_of, load
from nanoclaw.config.schema import DEFAULT_MODEL, Config, Current

__all__ = [
    "DEFAULT_MODEL",
    "SECRETS_FILE",
    "SETTINGS_FILE",
    "Config",
    "Current",
    "home_of",
    "load",
    "read_credential",
]
