"""Names that hold secrets wherever they stand: whole parts of a path, in whatever letters they are written."""

import re
import unicodedata
from collections.abc import Iterable

_FOLDERS = (
    ".ssh .gnupg .gpg .aws .azure .gcloud gcloud .kube .docker .oci .password-store .secret .secrets .keys .vault"
    " .credentials credentials keyrings .mozilla .thunderbird"
)
_FILES = (
    ".env .envrc .netrc _netrc .npmrc .pypirc .claude.json"
    " .pgpass .my.cnf .htpasswd .git-credentials .vault-token .credentials.json credentials.json credentials.db"
    " id_rsa id_dsa id_ecdsa id_ed25519 id_ecdsa_sk id_ed25519_sk private_key private_key.pem private.key"
    " secrets.yml secrets.yaml secrets.json secrets.toml"
)
_COPY = re.compile(r"(~|\.(bak|backup|old|orig|save|swp))+$")  # what editors and people leave beside a file
_TEMPLATES = (".example", ".sample", ".template", ".dist")  # of .env: they are meant to be read


def fold(name: str) -> str:
    """The same for all ways to write a name that a person or a file system could take for one."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    # Trailing dots and spaces do not count on file systems that come from Windows.
    return unicodedata.normalize("NFKC", shown.casefold()).rstrip(". ")


USUAL = frozenset(fold(name) for name in f"{_FOLDERS} {_FILES}".split())


def is_blocked(name: str, more: frozenset[str] = frozenset()) -> bool:
    """Whether a part of a path is a blocked name; `more` are folded."""
    folded = fold(name)
    stem = _COPY.sub("", folded)
    if stem in USUAL or stem in more or folded in more:
        return True
    return folded.startswith(".env.") and not folded.endswith(_TEMPLATES)


def first_blocked(parts: Iterable[str], more: frozenset[str] = frozenset()) -> str:
    """The first part that is a blocked name, or ""."""
    return next((part for part in parts if is_blocked(part, more)), "")
