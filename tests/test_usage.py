"""What an answer cost, also when the agent does what it can to have it not known."""

import json

import pytest

from nanoclaw.gateway import Ask
from nanoclaw.gateway.usage import UsageTap

ASK = Ask("m", 70, 64_000)
START = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 10, "output_tokens": 1}}}


def stream(*events: object) -> UsageTap:
    tap = UsageTap(ASK, sse=True)
    for event in events:
        tap.feed(f"data: {json.dumps(event)}\n\n".encode())
    return tap


def delta(text: str) -> object:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def test_a_stop_sequence_hides_nothing() -> None:
    """The agent chooses it, and it stands in the line that tells the usage."""
    stop = {"stop_reason": "stop_sequence", "stop_sequence": "content_block_delta"}
    end = {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 60_000}}
    assert stream(START, end).usage(1).output == 60_000


@pytest.mark.parametrize("said", ['"usage"', '{"usage": {"output_tokens": 1}}', "content_block_delta"])
def test_what_the_model_says_is_no_usage(said: str) -> None:
    """Its words stand in quotes; the answer was broken off and is guessed."""
    assert stream(START, delta(said), delta("x" * 2000)).usage(0).output > 1000


@pytest.mark.parametrize(("piece", "tokens"), [(" word", 1), (" 1 2 3 4 5 6 7 8 9 0" * 2, 20), ("я" * 10, 8)])
def test_a_broken_answer_is_not_counted_too_low(piece: str, tokens: int) -> None:
    """Whatever it was made of."""
    assert stream(START, *[delta(piece)] * 500).usage(0).output >= 500 * tokens


def test_thinking_that_nobody_is_shown_is_paid() -> None:
    """By the time that it took, at most what the request allows; an answer that ended says it itself."""
    assert stream(START, delta("42")).usage(30).output == 3000
    assert stream(START, delta("42")).usage(9999).output == ASK.output
    assert stream(START, {"type": "message_delta", "usage": {"output_tokens": 7}}).usage(30).output == 7


def test_an_answer_that_cannot_be_read_is_guessed() -> None:
    """Deeper than anybody reads: it is no error, and not free."""
    deep = b"[" * 5000 + b"]" * 5000
    tap = UsageTap(ASK, sse=False)
    tap.feed(b'{"type": "message", "content": [{"input": %s}], "usage": {"output_tokens": 5000}}' % deep)
    used = tap.usage(20)
    assert (used.input, used.output) == (70, 2000)
    line = stream(START)
    line.feed(b'data: {"type": "content_block_delta", "delta": %s}\n' % deep)
    assert line.usage(0).output > 1000


def test_an_answer_that_is_broken_off_pays_for_the_cache_too() -> None:
    """What was read from it and written to it is known from the first line on; a repeated one counts once."""
    cache = {"cache_read_input_tokens": 30_000, "cache_creation_input_tokens": 5_000}
    parts = {"cache_creation": {"ephemeral_5m_input_tokens": 1_000, "ephemeral_1h_input_tokens": 4_000}}
    start = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, **cache, **parts}}}
    used = stream(start, start, delta("half of an answer")).usage(2)
    assert (used.input, used.cache_read, used.cache_write, used.cache_write_1h) == (3, 30_000, 5_000, 4_000)
    assert used.output >= 200
