"""What a request tells of itself: its size without pictures, and whether an agent runs in a circle."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.gateway.asked import MAX_REPEATS, look


def call(name: str = "Bash", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t", "name": name, "input": given}


def says(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(*more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}, *more]}


PERSON = {"role": "user", "content": "hi"}
REMINDER = {"type": "text", "text": "<system-reminder>x</system-reminder>"}
SAME = [says(call(command="ls")), result()]


def circle(*messages: Any) -> str:
    return look({"messages": list(messages)}, b"").circle


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([PERSON], ""),
        ([PERSON, *SAME * (MAX_REPEATS - 1)], ""),
        ([PERSON, *SAME * MAX_REPEATS], "Bash"),
        ([PERSON, *[says({"type": "text", "text": "again"}, call(command="ls")), result(REMINDER)] * 20], "Bash"),
        ([PERSON, says(*[call(command="ls")] * MAX_REPEATS), result()], "Bash"),
        ([PERSON, *SAME * 10, says(call(command="pwd")), result(), *SAME * 10], ""),
        ([PERSON, *SAME * 10, says(call("Read", command="ls")), result(), *SAME * 10], ""),
        ([PERSON, *SAME * 15, PERSON, *SAME * 15], ""),
        ([PERSON, *[m for n in range(30) for m in (says(call(command=f"sleep {n}")), result())]], ""),
        ([PERSON, *SAME * MAX_REPEATS, says(call(command="pwd")), result()], ""),
        ([PERSON, *SAME * MAX_REPEATS, PERSON], ""),
    ],
)  # fmt: skip
def test_the_same_call_again_and_again_is_a_circle(messages: list[Any], found: str) -> None:
    """In a row, with the same input, since a person spoke; the CLI's reminders are no person."""
    assert circle(*messages) == found


def test_size_is_guessed_without_pictures() -> None:
    """A picture is shown as a few tokens, however many bytes it has; a document by its length; text by its own."""
    for kind, most in (("image", 1700), ("document", 60_000)):
        block = {"type": kind, "source": {"type": "base64", "media_type": "x", "data": "A" * 1_000_000}}
        for content in ([block], [{"type": "tool_result", "tool_use_id": "t", "content": [block]}]):
            body = {"model": "m", "max_tokens": 7, "messages": [{"role": "user", "content": content}]}
            ask = look(body, json.dumps(body).encode()).ask
            assert 50 < ask.input < most
            assert (ask.model, ask.output) == ("m", 7)
    assert look({"messages": [PERSON]}, b"x" * 4000).ask.input == 1000


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system"])},
            optional={"content": st.text() | st.lists(st.fixed_dictionaries({"type": st.text()}))},
        )
    )
)
def test_any_conversation_is_looked_at(messages: list[Any]) -> None:
    """Whatever passed the check of the request, looking at it ends."""
    assert look({"messages": messages}, b"").circle == ""
