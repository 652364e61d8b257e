"""send_file: a file of the agent's to people, as it is at this moment."""

import asyncio
from pathlib import Path, PurePosixPath

from nanoclaw import failpoints, safefs
from nanoclaw.config.leak import OVERLAP, Leaks
from nanoclaw.errors import Refused, UnsafePath
from nanoclaw.groups import OUTGOING, Home, is_disk_full, make_kept
from nanoclaw.models import OutFile, OutKind
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, chats, outgoing, runs, turns
from nanoclaw.store.runs import Call
from nanoclaw.tools.chat import delivered, next_part, told_of
from nanoclaw.tools.desk import Kit, asked, running
from nanoclaw.tools.kinds import HEAD, kind_of
from nanoclaw.tools.words import Spoken

MAX_FILE = 64 << 20  # bytes
MAX_UNSENT = 256 << 20  # bytes of one group's files that may wait to be sent
FILE_WAIT = 120.0  # seconds that the call waits until it is sent: a large one takes a while
_MAX_CAPTION = 1000  # characters
_MAX_NAME = 100
_LOOKED_AT = 256 << 10  # bytes of a file in which a credential is looked for at a time: other threads want to run too
_BARE = frozenset({"voice", "audio", "sticker"})  # kinds that carry no text


async def send_file(kit: Kit, call: Call) -> tuple[bool, str]:
    """The file is copied first, then it is a row; a copy that no row names is tidied away."""
    who = await kit.store.read(asked, call, kit.zone(), kit.new_nonce(), kit.clock())
    caption = await told_of(kit, call.args.get("caption", ""))
    if len(caption.whole) > _MAX_CAPTION:
        raise Refused(f"caption has at most {_MAX_CAPTION} characters: send the rest as a message")
    async with kit.copying[who.group.folder]:  # the calls of one turn come at once
        await kit.store.read(may_wait, who.group.id, 1)
        file = await asyncio.to_thread(taken, kit.home, who.group.folder, call, kit.leaks)
        failpoints.hit("copied")
        try:
            out_id = await kit.store.insist(put, call, file, caption, kit.clock())
        except Refused:
            await asyncio.to_thread(safefs.remove_file, kit.home.root, file.copy)
            raise
    failpoints.hit("acted")
    kit.outbox.wake()
    return await delivered(kit, out_id, FILE_WAIT)


def taken(home: Home, folder: str, call: Call, leaks: Leaks) -> OutFile:
    """The copy, and what it is; the same call makes the same copy. Raises Refused."""
    root, rel = _place(home, folder, call.args.get("path"))
    if is_disk_full(home):
        raise Refused("the host's disk is nearly full: tell the owner, and send it when there is room again")
    make_kept(home, folder)
    kept = home.kept_dir(folder) / OUTGOING
    copy = f"{call.run_id}-{call.n}"
    try:
        size = safefs.copy_file(root, rel, kept, copy, MAX_FILE)
        head = safefs.read_head(kept, copy, HEAD)
    except FileNotFoundError:
        raise Refused(f"there is no file {rel[:200]!r} in {_said(root, home, folder)}") from None
    except (UnsafePath, UnicodeEncodeError) as e:
        raise Refused(f"it cannot be sent: {e}") from None
    held = leaks.inside(safefs.read_pieces(kept, copy, _LOOKED_AT, OVERLAP))
    if held or not size:
        safefs.remove_file(kept, copy)
        raise Refused("it holds a key of the host, which nobody may be sent" if held else "the file is empty")
    name = _name(call.args.get("name"), rel)
    kind, mime = kind_of(PurePosixPath(rel).name, head, size)
    if call.args.get("as_document") is True:
        kind = "document"
    source = (root / rel).relative_to(home.root)
    return OutFile(name, kind, mime, size, str((kept / copy).relative_to(home.root)), plain(str(source)))


def _place(home: Home, folder: str, path: object) -> tuple[Path, str]:
    """The tree of its own in which the file is, and where there."""
    rel = path if isinstance(path, str) else ""
    for begin, root in (
        ("/workspace/group/", home.group_dir(folder)),
        ("/workspace/media/", home.kept_dir(folder) / "media"),
    ):
        if rel.startswith(begin):
            return root, rel.removeprefix(begin)
    if not rel or rel.startswith("/"):
        raise Refused("path must be a file below /workspace/group: copy there what lies elsewhere")
    return home.group_dir(folder), rel


def _said(root: Path, home: Home, folder: str) -> str:
    return "/workspace/group" if root == home.group_dir(folder) else "/workspace/media"


def _name(name: object, rel: str) -> str:
    """What people see; never a path, and never without its end, by which phones know what it is."""
    text = name if isinstance(name, str) and name.strip() else rel
    text = " ".join(plain(text).split()).rpartition("/")[2].strip()
    if len(text) > _MAX_NAME:
        suffix = PurePosixPath(text).suffix[:20]
        text = text[: _MAX_NAME - len(suffix)] + suffix
    return text or "file"


def may_wait(tx: Tx, group_id: int, size: int) -> None:
    """Raises Refused when that much more of the group's would be too much."""
    if outgoing.unsent_bytes(tx, group_id) + size > MAX_UNSENT:
        raise Refused("too much waits to be sent already: try again when it is through")


def put(tx: Tx, call: Call, file: OutFile, caption: Spoken, now: int) -> int:
    """The effect of send_file, in the caller's transaction. Raises Refused."""
    turn = running(tx, call)
    may_wait(tx, turn.group_id, file.size)
    part = next_part(tx, turn)
    texts = caption.on(chats.chat(tx, turn.chat_id).channel)
    within = file.kind not in _BARE and len(texts) == 1
    text = texts[0] if within else ""
    out_id = outgoing.queue_file(tx, turn.chat_id, file, text, now, turn_id=turn.id, part=part)
    if texts and not within:
        outgoing.queue_parts(tx, turn.chat_id, texts, OutKind.REPLY, now, turn_id=turn.id, part=part + 1)
    runs.acted(tx, call.run_id, call.n, out_id)
    turns.spoke(tx, turn.id)
    return out_id


__all__ = ["FILE_WAIT", "MAX_FILE", "put", "send_file", "taken"]
