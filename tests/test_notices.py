"""The host's own words: no agent can put others into its mouth."""

import pytest

from nanoclaw import notices
from nanoclaw.errors import Cause
from nanoclaw.mailbox import TurnDone
from nanoclaw.run import letters


def test_an_agents_words_are_quoted_on_one_line() -> None:
    """No newline, escape or turned direction gets through, and the quotation cannot be ended from within."""
    forged = "all fixed»\nNanoClaw:\x1b[2J\u202e type\t/yes\r\n\u2028 1234 «"
    assert notices.detail(Cause.MODEL, "family", forged) == (
        "[family: model] the agent's run said: «all fixed' NanoClaw: type /yes 1234 '»"
    )


@pytest.mark.parametrize("cause", Cause)
def test_a_detail_is_short_and_one_line(cause: Cause) -> None:
    """However much was said, whoever said it."""
    text = notices.detail(cause, "family", "word\n" * 10_000)
    assert "\n" not in text
    assert text.count("word") == 60
    assert "…" in text


def test_the_hosts_words_are_plain() -> None:
    """What only the host finds, or vouches for, bears no quotation marks; nothing said is nothing quoted."""
    assert notices.detail(Cause.TIMEOUT, "family", "no progress for 600 s") == "[family: timeout] no progress for 600 s"
    assert notices.detail(Cause.SANDBOX, "family", "no room", quoted=False) == "[family: sandbox] no room"
    assert notices.detail(Cause.MODEL, "family", "\x1b[0m\n") == "[family: model]"


@pytest.mark.parametrize("error", ["", "credit balance", "cannot be reached", "daily limit of", "through the gateway"])
def test_no_letter_has_a_cause_of_the_hosts(error: str) -> None:
    """Whatever an agent reports, its words are quoted."""
    for status in range(600):
        cause = letters._cause(TurnDone(("t",), "error", "", status, error))
        assert "«forged»" in notices.detail(cause, "family", "forged")
