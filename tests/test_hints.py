"""Advice as one types it where NanoClaw lives in a container."""

import pytest

from nanoclaw.errors import Cause
from nanoclaw.hints import UNDER_COMPOSE, typed
from nanoclaw.notices import detail

TEXTS = {
    "missing: nanoclaw setup": "missing: docker compose exec nanoclaw nanoclaw setup",
    "run `nanoclaw image build`": "run `docker compose exec nanoclaw nanoclaw image build`",
    "start it again with: nanoclaw run": "start it again with: docker compose up -d",
    "nanoclaw stop, then nanoclaw run": "docker compose stop, then docker compose up -d",
    "nanoclaw chat, nanoclaw logs -f; or `nanoclaw logs`": "docker compose exec nanoclaw nanoclaw chat, docker compose"
    " logs -f nanoclaw; or `docker compose logs nanoclaw`",
    "nanoclaw 0.1.0 in /data/nanoclaw.toml": "nanoclaw 0.1.0 in /data/nanoclaw.toml",
    "python -m nanoclaw run": "python -m nanoclaw run",
    "the nanoclaw setup-file": "the nanoclaw setup-file",
    "`docker compose exec nanoclaw nanoclaw pair`": "`docker compose exec nanoclaw nanoclaw pair`",
}


@pytest.mark.parametrize("text", TEXTS)
def test_commands_are_named_as_they_are_typed_here(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under compose each command has its way there, once; anywhere else the text stays."""
    assert typed(text) == text
    monkeypatch.setenv(UNDER_COMPOSE, "1")
    assert typed(text) == TEXTS[text]
    assert typed(typed(text)) == TEXTS[text]


def test_an_agent_s_words_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the host's advice is worded anew."""
    monkeypatch.setenv(UNDER_COMPOSE, "1")
    told = detail(Cause.CREDENTIAL, "main", "try nanoclaw pair")
    assert "`docker compose exec nanoclaw nanoclaw setup --replace-key`" in told
    assert told.endswith("«try nanoclaw pair»")
