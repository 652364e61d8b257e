"""Markdown to WhatsApp's marks: a table of cases, and what holds for every text and every cut."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoclaw.channels.markup import LARGEST, LIMIT, SIGNS, for_whatsapp

J = "\u2060"  # keeps a literal character from being a mark

CASES = [
    # plain text
    ("hello", "hello"),
    ("  hello  ", "hello"),
    ("one\ntwo", "one\ntwo"),
    ("one\n\ntwo", "one\n\ntwo"),
    ("one\n\n\n\ntwo", "one\n\ntwo"),
    ("one  \ntwo", "one\ntwo"),
    ("one\r\ntwo", "one\ntwo"),
    ("", None),
    (" \n ", None),
    # marks
    ("**bold**", "*bold*"),
    ("*it*", "_it_"),
    ("_it_", "_it_"),
    ("~~gone~~", "~gone~"),
    ("***both***", "_*both*_"),
    ("**a *b* c**", "*a _b_ c*"),
    ("**a **b** c**", "*a b c*"),
    ("**one\ntwo**", "*one*\n*two*"),
    ("(**x**), **y**.", "(*x*), *y*."),
    ("**a** **b**", "*a* *b*"),
    ("**`x`**: y", "*`x`*: y"),
    ("**bold", "**bold"),
    ("** no **", "** no **"),
    # not marks
    ("snake_case_name", "snake_case_name"),
    ("2*3*4", "2*3*4"),
    ("2**3**4", "2**3**4"),
    ("5 * 3 * 2", "5 * 3 * 2"),
    ("~/x and ~/y", "~/x and ~/y"),
    ("~45 min, ~6 km", "~45 min, ~6 km"),
    (r"\*no\*", f"{J}*no*"),
    (r"\_no\_ and \~no\~", f"{J}_no_ and {J}~no~"),
    (r"\`no\`", f"{J}`no`"),
    ("*.py or *.txt", "*.py or *.txt"),
    ("**/*.py", f"{J}**/*.py"),
    ("__init__.py", f"{J}__init__.py"),
    ("__two words__", "*two words*"),
    ("a ``` b", "a `⁠`` b"),
    ("这是**重点**内容", "这是重点内容"),
    ("**重点**、内容", "*重点*、内容"),
    # headings, rules
    ("# Head", "*Head*"),
    ("### Head ###", "*Head*"),
    ("Head\n===", "*Head*"),
    ("# A **b** `c`", "*A b `c`*"),
    ("# A\ntext", "*A*\n\ntext"),
    ("#hash", "#hash"),
    ("a\n\n---\n\nb", "a\n\n———\n\nb"),
    # links, pictures
    ("[text](https://x.y)", "text (https://x.y)"),
    ("[https://x.y](https://x.y)", "https://x.y"),
    ("[](https://x.y)", "https://x.y"),
    ("[top](#top)", "top"),
    ("<https://x.y>", "https://x.y"),
    ("<a@b.de>", "a@b.de"),
    ("**[t](https://x.y/_a_)**", "*t (https://x.y/_a_)*"),
    ("https://x.y/_foo_/*a*.", "https://x.y/_foo_/*a*."),
    ("(https://x.y/a_(b)_c)", "(https://x.y/a_(b)_c)"),
    ("**https://x.y/**", "*https://x.y/*"),
    ("https://x.y/Москва?a=1&b=2", "https://x.y/Москва?a=1&b=2"),
    ("![alt](https://x.y/z.png)", "alt (https://x.y/z.png)"),
    ("![](https://x.y/z.png)", "https://x.y/z.png"),
    ("see\n\n[a]: https://x.y", "see\n\n[a]: https://x.y"),
    ("[x](javascript:alert)", "[x](javascript:alert)"),
    # lists
    ("- a\n- b", "- a\n- b"),
    ("* a\n* b", "- a\n- b"),
    ("1. a\n2. b", "1. a\n2. b"),
    ("3. a\n4. b", "3. a\n4. b"),
    ("1. a\n1. b", "1. a\n2. b"),
    ("- a\n  - b\n    - c", "- a\n  - b\n    - c"),
    ("- a\n  more", "- a\n  more"),
    ("- a\n\n  b", "- a\n\n  b"),
    ("- a\n\n- b", "- a\n\n- b"),
    ("- [ ] a\n- [x] b", "- ☐ a\n- ☑ b"),
    ("- **a**: b", "- *a*: b"),
    ("a\n- b", "a\n\n- b"),
    # quotes
    ("> a\n> b", "> a\n> b"),
    ("> a\n>\n> b", "> a\n> \n> b"),
    ("> > a", "> > a"),
    ("> - a", "> - a"),
    ("> **a\n> b**", "> *a*\n> *b*"),
    # code
    ("`x`", "`x`"),
    ("`*a* _b_`", "`*a* _b_`"),
    ("`` a`b ``", "`a`b`"),
    ("```` ```\n` ```", f"`{J}``{J}` ``{J}`"),
    (r"`a`\``b`", f"`a``{J}`b`"),
    ("```\nx\n```", "```\nx\n```"),
    ("```python\nx = *1*\n\n  y\n```", "```\nx = *1*\n\n  y\n```"),
    ("~~~\nx\n~~~", "```\nx\n```"),
    ("```\nnever closed", "```\nnever closed\n```"),
    ("    x = 1", "```\nx = 1\n```"),
    ("- a\n  ```\n  x\n    y\n  ```", "- a\n```\nx\n  y\n```"),
    ("> ```\n> x\n> ```", ">\n```\nx\n```"),
    ("a\n```\nx\n```\nb", "a\n\n```\nx\n```\n\nb"),
    ("````\n```\n````", f"```\n`{J}``\n```"),
    # tables
    ("| a | b |\n|---|---|\n| 1 | 22 |", "```\na | b\n--|---\n1 | 22\n```"),
    ("| 名 | b |\n|---|---|\n| x | y |", "```\n名 | b\n---|--\nx  | y\n```"),
    ("| 😀 | b |\n|---|---|\n| `x` | **y** |", "```\n😀 | b\n---|--\nx  | y\n```"),
    (f"| a | b |\n|---|---|\n| {'x ' * 20}| *y* |", f"*a:* {'x ' * 20}".rstrip() + "\n*b:* _y_"),
    (f"| a |\n|---|\n| {'x' * 50} |\n| z |", f"*a:* {'x' * 50}\n\n*a:* z"),
    # HTML, entities, other scripts
    ("<b>x</b>", "<b>x</b>"),
    ("a &lt; b &amp; c &copy;", "a < b & c ©"),
    ("שלום **עולם**", "שלום *עולם*"),
    ("👨‍👩‍👧 **x** 🇩🇪", "👨‍👩‍👧 *x* 🇩🇪"),
    ("日本語。テスト。", "日本語。テスト。"),
    # what nothing would be left of
    ("#", "#"),
    ("```\n```", f"`{J}``\n`{J}``"),
    ("\ufdd0x\ufdd4", "x"),
]


@pytest.mark.parametrize(("markdown", "shown"), CASES)
def test_the_marks(markdown: str, shown: str | None) -> None:
    """Each construct as people see it."""
    assert for_whatsapp(markdown) == ([] if shown is None else [shown])


WORDS = " ".join(f"w{n}" for n in range(60))

CUTS = [
    ("paragraphs", f"{'a' * 60}\n\n{'b' * 60}", ["a" * 60, "b" * 60]),
    ("a paragraph before a line", f"{'a' * 50}\n\nb\nc{'d' * 60}", ["a" * 50, f"b\nc{'d' * 60}"]),
    ("lines", f"{'a' * 60}\n{'b' * 60}", ["a" * 60, "b" * 60]),
    ("sentences", f"{'a ' * 30}a. {'b ' * 30}", [f"{'a ' * 30}a.", ("b " * 30).strip()]),
    ("sentences of other scripts", f"{'字' * 60}。{'文' * 60}", ["字" * 60 + "。", "文" * 60]),
    ("words", "a " * 60, [("a " * 46).strip(), ("a " * 14).strip()]),
    ("anywhere", "a" * 150, ["a" * 92, "a" * 58]),
    ("bold", f"**{'a ' * 60}b**", ["*" + ("a " * 45).strip() + "*", "*" + "a " * 15 + "b*"]),
    ("a quote", "> " + "a " * 60, ["> " + ("a " * 45).strip(), "> " + ("a " * 15).strip()]),
    ("inline code", f"`{'a' * 120}`", ["`" + "a" * 91 + "`", "`" + "a" * 29 + "`"]),
    (
        "a fence between its lines",
        f"```\n{'a' * 60}\n\n{'b' * 60}\n```",
        [f"```\n{'a' * 60}\n\n```", f"```\n{'b' * 60}\n```"],
    ),
    ("a fence that fits whole", f"{'a' * 60}\n\n```\n{'b' * 60}\n```", ["a" * 60, f"```\n{'b' * 60}\n```"]),
    (
        "a paragraph before a blank line of code",
        f"{'a' * 50}\n\n```\nb\n\n{'c' * 60}\n```",
        ["a" * 50, f"```\nb\n\n{'c' * 60}\n```"],
    ),
    ("after a fence", f"```\n{'b' * 60}\n```\n{'a' * 60}", [f"```\n{'b' * 60}\n```", "a" * 60]),
]


@pytest.mark.parametrize(("text", "parts"), [c[1:] for c in CUTS], ids=[c[0] for c in CUTS])
def test_the_cuts(text: str, parts: list[str]) -> None:
    """At the best place in the second half of what fits; what is open is closed and opened again."""
    assert for_whatsapp(text, 100) == parts


@pytest.mark.parametrize("lead", ["", "- "])
@pytest.mark.parametrize("before", range(20, 140))
def test_wherever_a_fence_is_cut_none_is_empty(before: int, lead: str) -> None:
    """Neither where it had hardly begun nor where it was at its end; and the text around it is no code."""
    code = "\n".join("y" * 10 for _ in range(12))
    indented = f"```\n{code}\n```".replace("\n", "\n" + " " * len(lead))
    parts = for_whatsapp(f"{lead}{'x' * before}\n{' ' * len(lead)}{indented}\n\n{'after ' * 40}", 100)
    assert shown_code(parts) == code.split("\n")
    assert " ".join(parts).split()[-40:] == ["after"] * 40
    assert not any(re.search(r"```\s*```", part) for part in parts)


def test_many_short_fences_are_within_the_limit() -> None:
    """What three backticks take is counted."""
    parts = for_whatsapp("```\nx\n```\n" * 100, 100)
    assert max(map(len, parts)) <= 100
    assert shown_code(parts) == ["x"] * 100


def test_the_last_part_of_a_fence_is_within_the_limit() -> None:
    """The backticks that open it again count as what they are."""
    for length in range(60, 120):
        parts = for_whatsapp(f"```\n{'a' * 80}\n{'b' * length}\n```", 100)
        assert max(map(len, parts)) <= 100


@pytest.mark.parametrize("at", range(80, 100))
def test_a_cut_beside_backticks_of_code_opens_no_fence(at: int) -> None:
    """The mark that closes the code there is not taken for their third."""
    parts = for_whatsapp(f"`{'x' * at}``{'y' * 60}`", 100)
    assert not any("```" in part for part in parts)


def test_blanks_in_a_cut_code_span_stay() -> None:
    """They are code."""
    code = "a  b" * 60
    assert "".join(part[1:-1] for part in for_whatsapp(f"`{code}`", 100)) == code


def test_what_lies_too_deep_for_the_parser_is_not_lost() -> None:
    """It goes as it is."""
    assert "deep" in "".join(for_whatsapp("> " * 60 + "deep"))
    assert "deep" in "".join(for_whatsapp("\n".join(" " * 2 * n + "- x" for n in range(60)) + " deep"))


@pytest.mark.parametrize(
    "sign", ["👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "e\u0301\u0302", "🏴\U000e0067\U000e0062\U000e007f", "❤\ufe0f"]
)
@pytest.mark.parametrize("shift", range(4))
def test_no_cut_is_inside_a_sign(sign: str, shift: int) -> None:
    """Families, flags and accents stay whole."""
    for part in for_whatsapp("x" * shift + sign * 100, 100):
        assert re.fullmatch(f"x*({sign})+", part)


def test_text_that_is_too_much_to_be_parsed_goes_as_it_is() -> None:
    """Nothing of it is lost, and the host does not stand still for it."""
    for text in ("**a** " * 20_000, "[" * 100_000, ">" * 100_000, "a|" * 100_000, "x" * (1 << 20), "- " * 300 + "x"):
        assert "".join("".join(for_whatsapp(text)).split()) == "".join(text.split())


def test_what_is_parsed_at_most_takes_no_time() -> None:
    """The worst texts that are parsed, each within what a very slow machine may need (0.5 s where it was measured)."""
    for sign in ("![", "*a ", "**a", "`", "| a ", "[x](", "<a", "_a_ ", "- a\n", "> " * 30 + "\n", "|a|\n|-|\n"):
        text = (sign * SIGNS)[:LARGEST]
        began = time.process_time()
        for_whatsapp(text[:SIGNS])
        for_whatsapp(text)
        assert time.process_time() - began < 10


@pytest.mark.parametrize("tail", [")", ")?", ").,"])
def test_an_address_with_a_long_tail_takes_no_time(tail: str) -> None:
    """Its end is found in one pass (it took 11 s)."""
    began = time.process_time()
    parts = for_whatsapp("http://x" + tail * (60_000 // len(tail)))
    assert time.process_time() - began < 2
    assert "".join(parts).startswith("http://x" + tail)


def test_what_is_nested_deeper_than_people_nest_goes_as_it_is() -> None:
    """Its parsing would take too long."""
    assert for_whatsapp("> " * 25 + "**deep**") == ["> " * 25 + "**deep**"]


def balanced(part: str) -> bool:
    return part.count("```") % 2 == 0


markdownish = st.text("ab *_~`#>-+1.)(![]|<&;\n\t:/\\é漢😀\u200d\ud800\0\u2060", max_size=300) | st.lists(
    st.sampled_from(
        ["**", "*", "_", "~~", "`", "```", "```py\n", "\n```\n", "\n", "\n\n", "> ", "- ", "1. ", "# ", "| a | b |\n",
         "|---|---|\n",
         "word ", "snake_case", "https://x.y/_a_", "[t](u)", "![i](u)", "。", ". ", "漢字", "👨‍👩‍👧", "    ", "&lt;"]
    ),
    max_size=120,
).map("".join)  # fmt: skip


@given(markdownish, st.integers(64, 400))
@settings(max_examples=300, deadline=None)
def test_no_part_is_too_long_or_torn(text: str, limit: int) -> None:
    """Whatever is written: within the limit, never empty, every fence closed, nothing of our inner signs."""
    for part in for_whatsapp(text, limit):
        assert len(part) <= limit
        assert part.strip()
        assert balanced(part)
        assert not re.search("[\ufdd0-\ufdef]", part)


code_line = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="`\u2028\u2029\x85") | st.just("\t"),
    max_size=90,
)  # fmt: skip


def shown_code(parts: list[str]) -> list[str]:
    """The lines within the fences."""
    return [line for part in parts for code in part.split("```")[1::2] for line in code[1:-1].split("\n")]


@given(st.lists(code_line, min_size=1, max_size=40), st.integers(100, 300), st.sampled_from(["", "before\n\n"]))
@settings(max_examples=200, deadline=None)
def test_no_character_of_code_is_lost(lines: list[str], limit: int, before: str) -> None:
    """All lines of a fence come, in order and untouched, however it is cut; no line that fits a part is torn."""
    if not "".join(lines).strip():
        return
    parts = for_whatsapp(f"{before}```\n" + "\n".join(lines) + "\n```\nafter", limit)
    assert "".join(shown_code(parts)) == "".join(lines)
    if all(len(line) < limit // 2 - 12 for line in lines):
        assert [x for x in shown_code(parts) if x] == [x for x in lines if x]


words = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=30).filter(lambda w: not w.isdigit())


@given(st.lists(st.lists(words, min_size=1, max_size=60).map(" ".join), min_size=1, max_size=8), st.integers(64, 300))
@settings(max_examples=200, deadline=None)
def test_all_words_survive_in_order(paragraphs: list[str], limit: int) -> None:
    """Plain paragraphs are neither changed nor torn within a word that fits."""
    parts = for_whatsapp("\n\n".join(paragraphs), limit)
    assert " ".join(parts).split() == " ".join(paragraphs).split()


@given(st.lists(words, min_size=40, max_size=80), st.sampled_from(["**", "*", "~~"]))
@settings(max_examples=100, deadline=None)
def test_a_cut_mark_is_closed_and_opened_again(said: list[str], mark: str) -> None:
    """Each part of a long emphasised text is emphasised as a whole."""
    shown = {"**": "*", "*": "_", "~~": "~"}[mark]
    parts = for_whatsapp(f"{mark}{' '.join(said)}{mark}", 100)
    assert all(part[0] == part[-1] == shown and part.count(shown) == 2 for part in parts)
    assert " ".join(part[1:-1] for part in parts).split() == said


def test_the_usual_limit() -> None:
    """4,000 characters, as much as WhatsApp shows well."""
    assert LIMIT == 4000
    assert max(map(len, for_whatsapp("word " * 3000))) <= LIMIT
