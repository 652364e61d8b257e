"""Markdown -> WhatsApp's marks, and long texts -> parts that stand for themselves. Pure."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.tree import SyntaxTreeNode

LIMIT = 4000  # characters of a part: WhatsApp itself folds and cuts beyond
# What is parsed, so that it takes less than a second at the worst. More is no letter to a person, and goes as it is.
LARGEST = 64_000  # characters
SIGNS = 4_000  # of them with a meaning in Markdown, line ends among them
_NESTING = 20  # the parser drops what lies deeper
_TABLE = 40  # columns of a telephone's line in a fence
_KEY = 60  # characters of a table's head that are repeated in each row

# While a text is put together, our own marks are noncharacters: what people wrote cannot be mistaken for one.
_BOLD, _ITALIC, _STRIKE, _CODE, _FENCE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
_MARKS = _BOLD + _ITALIC + _STRIKE
_SHOWN = str.maketrans({_BOLD: "*", _ITALIC: "_", _STRIKE: "~", _CODE: "`", _FENCE: "```"})
_BARE = str.maketrans(dict.fromkeys(_MARKS + _CODE + _FENCE, ""))
_OF = {"strong": _BOLD, "em": _ITALIC, "s": _STRIKE}
_WRITTEN = {_BOLD: "**", _ITALIC: "*", _STRIKE: "~~"}
_JOINER = "\u2060"  # invisible; a mark that stands behind it is not at a word's border
_LITERAL = "*_~`"
# At a word's border, and with something to mark behind or before it.
_OPENS = {m: re.compile(rf"(?<![^\W_])(?<!\{m})\{m}+(?=[^\s{m}{_JOINER}])") for m in _LITERAL}
_CLOSES = {m: re.compile(rf"(?<=[^\s{m}{_JOINER}])\{m}+(?![^\W_]|\{m})") for m in _LITERAL}
_UNTOUCHED = re.compile(rf"{_CODE}[^{_CODE}\n]*{_CODE}|https?://\S+")
_URL = re.compile(r"://[^\s<>\[\]]+")
_STOPS = "?!.,:;*_~'\""
_TICK = re.compile(r"`(?=`|\Z)")  # of code: the mark that a cut puts behind it makes no third one
_TICKS = re.compile(rf"[`{_CODE}]{{2}}(?=[`{_CODE}])")
_EMPTY = re.compile(rf"([{_MARKS}{_CODE}])\1")
_QUOTE = re.compile(r"(?:> ){1,4}")


def for_whatsapp(text: str, limit: int = LIMIT) -> list[str]:
    """An agent's Markdown as texts of at most `limit` (at least 64) characters, in WhatsApp's own marks."""
    text = text.translate(_BARE)
    modest = len(text) <= LARGEST and sum(map(text.count, "\n*_[]|`~<>&-")) <= SIGNS
    flat = _rendered(text) if modest else ""
    return [part.translate(_SHOWN) for part in _split(flat or _unfenced(text), limit)]


def _unfenced(text: str) -> str:
    """Three backticks in a row are always ours."""
    return text.replace("``", f"`{_JOINER}`") if "```" in text else text


# --- the parser ----------------------------------------------------------------------------------


def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False, "maxNesting": _NESTING})
    md.enable(["table", "strikethrough"]).disable("reference")  # a definition would vanish
    md.inline.ruler.before("escape", "url", _url)
    md.normalizeLink = lambda url: url  # type: ignore[method-assign] # people read it
    return md


def _url(state: StateInline, silent: bool) -> bool:
    """An address in the text is one word, whatever marks it contains."""
    found = _URL.match(state.src, state.pos) if state.src[state.pos] == ":" else None
    if found is None or not state.pending.endswith(("http", "https")):
        return False
    url = found[0][: _url_end(found[0])]
    if not silent:
        state.pending += url
    state.pos += len(url)
    return bool(url)


def _url_end(url: str) -> int:
    """Where it ends: the stops of its sentence are not part of it, nor brackets that were open before."""
    end, alone = len(url), url.count(")") - url.count("(")
    while end and (url[end - 1] in _STOPS or (url[end - 1] == ")" and alone > 0)):
        alone -= url[end - 1] == ")"
        end -= 1
    return end


_MD = _parser()


# --- Markdown -> one flat text -------------------------------------------------------------------


def _rendered(text: str) -> str:
    """The whole in our marks; "" when it is nested too deeply to be parsed, or when nothing is left of it."""
    tokens = _MD.parse(text)
    if any(token.level >= _NESTING - 2 for token in tokens):
        return ""
    return _blocks(SyntaxTreeNode(tokens).children, "\n\n")


def _blocks(nodes: list[SyntaxTreeNode], gap: str) -> str:
    return gap.join(block for node in nodes if (block := _block(node)))


def _block(node: SyntaxTreeNode) -> str:
    match node.type:
        case "paragraph":
            return _lines(node.children)
        case "heading":
            return _lines(node.children, _BOLD)
        case "fence" | "code_block":
            return _fenced(node.content)
        case "bullet_list" | "ordered_list":
            return _list(node)
        case "blockquote":
            return _led(_blocks(node.children, "\n\n"), "> ", "> ")
        case "table":
            return _table(node)
        case "hr":
            return "———"
    return _harmless(_unfenced(node.content))


def _fenced(code: str) -> str:
    code = code.removesuffix("\n")
    return f"{_FENCE}\n{_unfenced(code)}\n{_FENCE}" if code.strip() else ""


def _list(node: SyntaxTreeNode) -> str:
    number = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
    items = []
    for n, item in enumerate(node.children):
        lead = "- " if number is None else f"{number + n}. "
        tight = all(child.hidden for child in item.children if child.type == "paragraph")
        text = _led(_ticked(_blocks(item.children, "\n" if tight else "\n\n")), lead, " " * len(lead))
        items.append((text, tight))
    gap = "\n" if all(tight for _, tight in items) else "\n\n"
    return gap.join(text for text, _ in items)


def _ticked(item: str) -> str:
    for box, sign in {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}.items():
        if item.startswith(box):
            return sign + item.removeprefix(box)
    return item


def _led(text: str, first: str, rest: str) -> str:
    """`first` before the first line, `rest` before the others; code stays as it is."""
    out, fenced = [first.rstrip()] if text.startswith(_FENCE) else [], False
    for line in text.split("\n"):
        if line == _FENCE:
            fenced = not fenced
        elif not fenced:
            lead = rest if out else first
            line = lead + line if line or lead == "> " else ""
        out.append(line)
    return "\n".join(out)


def _table(node: SyntaxTreeNode) -> str:
    """Aligned in a fence; one that is too wide for a telephone as lines of "head: cell"."""
    rows = [[cell.children for cell in row.children] for part in node.children for row in part.children]
    plain = [[_lines(cell).translate(_BARE).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(_width(cell) for cell in column) for column in zip(*plain, strict=True)]
    if sum(widths) + 3 * (len(widths) - 1) > _TABLE and len(rows) > 1:
        return "\n\n".join(_keyed(plain[0], row) for row in rows[1:])
    aligned = [" | ".join(c + " " * (w - _width(c)) for c, w in zip(row, widths, strict=True)) for row in plain]
    rule = "-|-".join("-" * w for w in widths)
    return _fenced("\n".join(line.rstrip() for line in (aligned[0], rule, *aligned[1:])))


def _keyed(head: list[str], row: list[list[SyntaxTreeNode]]) -> str:
    cells = ((key[:_KEY].strip(), _lines(cell).replace("\n", " ")) for key, cell in zip(head, row, strict=True))
    return "\n".join(f"{_BOLD}{_harmless(key)}:{_BOLD} {cell}" if key else cell for key, cell in cells if cell)


def _width(text: str) -> int:
    """Columns in a fixed-width font: CJK and emoji take two, what combines takes none."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# --- what stands in a line -----------------------------------------------------------------------


def _lines(nodes: list[SyntaxTreeNode], around: str = "") -> str:
    """The inline nodes with their marks. WhatsApp's end with the line, so each line has its own."""
    text = "".join(_inline(nodes, [around] if around else []))
    whole = around + text + around
    text = "\n".join(_harmless(_sound(line.strip())) for line in whole.split("\n")).strip()
    return _TICKS.sub(rf"\g<0>{_JOINER}", text)


def _inline(nodes: list[SyntaxTreeNode], open_marks: list[str]) -> Iterator[str]:
    for node in nodes:
        if node.type == "strong" and node.markup == "__" and (name := _name(node)):
            yield f"__{name}__"
        elif node.type in _OF and _OF[node.type] not in open_marks:
            mark = _OF[node.type]
            yield mark
            yield from _inline(node.children, [*open_marks, mark])
            yield mark
        elif node.type in ("softbreak", "hardbreak"):
            yield "".join(reversed(open_marks)) + "\n" + "".join(open_marks)
        elif node.type == "code_inline":
            yield f"{_CODE}{_TICK.sub(f'`{_JOINER}', node.content)}{_CODE}"
        elif node.type == "link":
            yield _linked("".join(_inline(node.children, open_marks)), str(node.attrs.get("href", "")))
        elif node.type == "image":
            yield _linked(_unfenced(node.content), str(node.attrs.get("src", "")))
        elif node.type == "text":
            yield _unfenced(node.content)
        else:
            yield from _inline(node.children, open_marks)


def _name(node: SyntaxTreeNode) -> str:
    """The word alone in a node: two underscores around it are a programmer's, no marks."""
    text = node.children[0].content if len(node.children) == 1 else ""
    return text if text.isidentifier() else ""


def _linked(text: str, url: str) -> str:
    url = _unfenced(url.translate(_BARE).removeprefix("mailto:"))
    if not text or not url or text.translate(_BARE) == url:
        return text or url
    return text if url.startswith("#") else f"{text} ({url})"


def _sound(line: str) -> str:
    """Marks that WhatsApp would show instead of obeying (inside a word, around a blank) are left out."""
    line = _EMPTY.sub("", line)
    for mark in _MARKS:
        pieces = [*line.split(mark), ""]
        out = pieces[:1]
        for before, inside, after in zip(pieces[::2], pieces[1::2], pieces[2::2], strict=False):
            keep = _kept(mark, before.rstrip(_MARKS)[-1:], inside, after.lstrip(_MARKS)[:1])
            out += [keep, inside, keep, after]
        line = "".join(out)
    return line


def _kept(mark: str, before: str, inside: str, after: str) -> str:
    if border := [c for c in before + after if c.isalnum()]:
        # 2*3*4 is no emphasis; in scripts without blanks the emphasis is lost, and no word.
        return _WRITTEN[mark] if all(c.isascii() for c in border) else ""
    return "" if not inside or inside != inside.strip() else mark


def _harmless(line: str) -> str:
    """Characters that WhatsApp would take for a pair of marks are kept apart from it; code and addresses stay."""
    if not any(m in line for m in _LITERAL):
        return line
    masked = _UNTOUCHED.sub(lambda found: "\0" * len(found[0]), line)
    hidden = []
    for mark in _LITERAL:
        last = max((found.start() for found in _CLOSES[mark].finditer(masked)), default=0)
        hidden += [at.start() for at in _OPENS[mark].finditer(masked) if at.start() < last]
    cuts = [0, *sorted(hidden), len(line)]
    return _JOINER.join(line[a:b] for a, b in pairwise(cuts))


# --- one flat text -> parts ----------------------------------------------------------------------


def _split(text: str, limit: int) -> list[str]:
    """Cut at the best place; what is open there is closed, and opened again in the next part."""
    parts, text, carried = [], text.strip(), ""
    while _length(carried + text) > limit:
        room = limit - _length(carried) - 8  # to close what is open: a fence, or three marks around code
        window = text[:room]
        window = window[: room - 2 * window.count(_FENCE)]
        cut = _best_cut(text, window, fenced=carried.startswith(_FENCE))
        part, text, carried = _parted(carried, text[:cut], text[cut:])
        parts.append(part)
    return [part for part in (*parts, _tidy(carried + text)) if part.translate(_BARE).strip()]


def _length(text: str) -> int:
    return len(text) + 2 * text.count(_FENCE)


def _tidy(part: str) -> str:
    return _EMPTY.sub("", _EMPTY.sub("", part)).strip()


def _parted(carried: str, head: str, tail: str) -> tuple[str, str, str]:
    """The part that ends here, the rest, and what opens the next part."""
    head = carried + head
    if head.count(_FENCE) % 2:
        if found := re.match(rf"\n?{_FENCE}", tail):  # it ends here anyway
            return (head + found[0]).strip(), tail[found.end() :].lstrip(), ""
        before, _, code = head.rpartition(_FENCE)
        if not code.strip("\n") and before:  # nothing of it is here yet
            return before.strip(), _FENCE + code + tail, ""
        return (head if head.endswith("\n") else head + "\n") + _FENCE, tail.removeprefix("\n"), _FENCE + "\n"
    line = head[head.rfind("\n") + 1 :]
    open_marks = _open(line)
    quote = _QUOTE.match(line) if not tail.startswith("\n") and not head.endswith("\n") else None
    opened = (quote[0] if quote else "") + open_marks
    if _CODE in open_marks:  # its blanks are code
        return _tidy(head + open_marks[::-1]), tail, opened
    return _tidy(head.rstrip() + open_marks[::-1]), tail.lstrip(), opened


def _open(line: str) -> str:
    """The marks that are open at the end of the line, in their order."""
    marks = ""
    for c in line:
        if c in _MARKS or c == _CODE:
            marks = marks.replace(c, "") if c in marks else marks + c
    return marks


def _best_cut(text: str, window: str, *, fenced: bool) -> int:
    half = len(window) // 2  # a cut before it would make many small parts; the next kind of place is better then
    if (at := _paragraph(window, fenced)) >= half:
        return at
    if (at := window.rfind("\n") + 1) >= half:
        return at
    ends = max(window.rfind(end) + len(end) for end in (". ", "! ", "? ", "… ", "\u3002", "\uff01", "\uff1f"))
    if ends - 1 >= half and not fenced:
        return ends
    if (at := window.rfind(" ") + 1) >= half:
        return at
    return _whole(text, len(window))


def _paragraph(window: str, fenced: bool) -> int:
    """Behind the last blank line that is not code."""
    pieces, end = window.split(_FENCE), len(window)
    for n in range(len(pieces) - 1, -1, -1):
        start = end - len(pieces[n])
        if (n + fenced) % 2 == 0 and (at := window.rfind("\n\n", start, end)) >= 0:
            return at + 2
        end = start - 1
    return 0


def _whole(text: str, at: int) -> int:
    """The nearest place at or before `at` that is not inside what people see as one sign."""
    for cut in range(at, max(at - 64, at // 2), -1):
        if not _joined(text, cut):
            return cut
    return at


def _joined(text: str, at: int) -> bool:
    last, following = text[at - 1], text[at]
    if _flag(last) and _flag(following):
        run = len(text[:at]) - len(text[:at].rstrip("".join(map(chr, range(0x1F1E6, 0x1F200)))))
        return run % 2 == 1
    if last == "\u200d" or following in "\u200d\u2060" or "\U0001f3fb" <= following <= "\U0001f3ff":
        return True
    return unicodedata.category(following) in ("Mn", "Mc", "Me") or "\U000e0020" <= following <= "\U000e007f"


def _flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
