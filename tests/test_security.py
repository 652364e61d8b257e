"""What SECURITY.md and the README promise is held by tests that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = list((ROOT / "tests").rglob("test_*.py"))
NAMES = {
    node.name
    for path in FILES
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
}
_PROMISES = {"SECURITY.md": ("## What stands between", "## What is not"), "README.md": ("## Promises", "## Decisions")}


def promises(page: str) -> str:
    begin, end = _PROMISES[page]
    return (ROOT / page).read_text("utf-8").partition(begin)[2].partition(end)[0]


@pytest.mark.parametrize("page", _PROMISES)
def test_every_named_test_is_there(page: str) -> None:
    """By function, by file or by folder."""
    text = promises(page)
    named = set(re.findall(r"`(test_\w+)`", text))
    places = set(re.findall(r"`(tests/[\w./]+)`", text))
    assert len(named) > 10
    assert named - NAMES == set()
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("page", _PROMISES)
def test_no_promise_is_without_a_test(page: str) -> None:
    """Each line of the table names one."""
    rows = [line for line in promises(page).splitlines() if line.startswith("|") and not line.startswith(("| |", "|-"))]
    assert len(rows) > 10
    for row in rows[1:] if page == "SECURITY.md" else rows:
        assert re.search(r"`(?:test_\w+|tests/[\w./]+)`", row.split("|")[-2]), row
