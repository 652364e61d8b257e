"""What travels between the modules: frozen dataclasses, and status words that explain themselves.

Times are integer milliseconds since 1970 (UTC); durations are seconds, named so.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a person may do. Compare with `Authority`, which is what a turn may do."""

    OWNER = "owner"
    ALLOWED = "allowed"
    GUEST = "guest"


@dataclass(frozen=True)
class By:
    """Who asks for a verb: for the record, and because a widening of rights must have been typed by the owner."""

    who: str  # "owner", "terminal", "agent of family": never a name that somebody chose
    typed: bool = True  # by the owner, in chat or at the terminal


def is_of_task(lane: str) -> bool:
    """Whether the lane is one task's: its state and its container are gone when the turn has ended."""
    return "#task-" in lane


class Authority(StrEnum):
    """What a turn may do: the lowest role among its senders, fixed when its row is made."""

    OWNER = "owner"
    ALLOWED = "allowed"
    GUEST = "guest"
    TASK = "task"  # a scheduled prompt: own chat, own tasks, never admin

    @property
    def rank(self) -> int:
        """Higher is more; a task stands below every person, so nobody's follow-up is run as one."""
        return {"owner": 3, "allowed": 2, "guest": 1, "task": 0}[self]


class Verdict(StrEnum):
    """What the router said of a message."""

    DROPPED = "dropped"  # of a chat that nobody added: only the chat's row is kept
    CONTEXT = "context"  # not for us, shown with the next turn
    COMMAND = "command"  # a /word, answered by the host
    ANSWER = "answer"  # to a question that the agent asked
    WORK = "work"  # to be answered by the agent


class MessageState(StrEnum):
    """Where a stored message is."""

    OPEN = "open"  # work that no turn has claimed; context that no turn has shown
    TAKEN = "taken"  # in a turn that has not ended
    HANDLED = "handled"  # answered, its failure told, or nothing to do
    WITHDRAWN = "withdrawn"  # deleted by its sender before a turn took it


class TurnState(StrEnum):
    """Where a turn is."""

    OPEN = "open"  # to be given to a run
    GIVEN = "given"  # in a run's inbox
    DONE = "done"
    FAILED = "failed"  # and the chat was told
    STOPPED = "stopped"  # by a person; never reopened
    PARKED = "parked"  # waits with its lane for a person or a setting


class RunState(StrEnum):
    """Where a run (one container's life) is."""

    STARTING = "starting"  # row made, container not yet heard of
    ALIVE = "alive"  # Hello has come
    CLOSING = "closing"  # takes no more turns
    ENDED = "ended"


class RequestState(StrEnum):
    """Where an agent's tool call is."""

    OPEN = "open"  # read, nothing done yet
    ACTED = "acted"  # the effect is a row; its outcome is awaited
    ANSWERED = "answered"  # the answer is a letter


class OutState(StrEnum):
    """Where a row to be sent is."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"  # the other side acknowledged it
    UNKNOWN = "unknown"  # nobody knows; it will be sent again, counted
    DEAD = "dead"  # refused for good
    DUPLICATE = "duplicate"  # sent again after an unknown outcome, and that one turned out to be sent


class OutKind(StrEnum):
    """What a row to be sent is; the outbox serves them in this order."""

    COMMAND = "command"  # the host's answer to a /word
    NOTICE = "notice"  # the host's own words: a failure, a parked lane
    REPLY = "reply"  # the agent's words
    REACTION = "reaction"  # a sign on the message `quote`
    EDIT = "edit"  # a new text for our own message `quote`
    FILE = "file"  # of the agent's; its text is the caption. Last: it takes longest


class Origin(StrEnum):
    """Why a turn exists."""

    MESSAGE = "message"
    TASK = "task"
    UNSOLICITED = "unsolicited"


class GroupState(StrEnum):
    """Whether a group is served."""

    ACTIVE = "active"
    PAUSED = "paused"  # messages are kept as context, nothing is answered
    REMOVED = "removed"  # the folder is kept


class TriggerMode(StrEnum):
    """What makes a message work for the agent."""

    ALWAYS = "always"
    WORD = "word"  # the group's word at the start
    MENTION = "mention"


class Who(StrEnum):
    """Whose messages are work for the agent, if they are meant for it; the owner's always are."""

    OWNER = "owner"
    ALLOWED = "allowed"  # and the owner
    EVERYONE = "everyone"  # but who was denied, and who came later, until allowed


@dataclass(frozen=True)
class Sender:
    """Who wrote a message, as the channel knows it: every jid of one person, LID first."""

    jids: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class Account:
    """Who we are on a channel."""

    channel: str
    jids: tuple[str, ...]
    shared: bool  # the owner's own number: what comes from it was typed by the owner


@dataclass(frozen=True)
class Media:
    """A file that came with a message, or with the one that it quotes. All but `ref` is as the sender says."""

    kind: str  # image, video, voice, audio, document, sticker
    mime: str
    name: str = ""
    size: int = 0  # bytes
    ref: str = ""  # what the channel needs to fetch it
    quoted: bool = False
    path: str = ""  # its name in the group's media folder, once it is here
    fault: str = ""  # why it will not come


@dataclass(frozen=True)
class Key:
    """A message as its channel knows it: what is needed to quote it, to react to it, to mark it as read."""

    wa_id: str
    sender: str = ""  # jid, as it was received; "" for our own
    from_me: bool = False
    text: str = ""


UNREADABLE = "[unsupported: could not be read]"  # the text of a message of which only the head is known


@dataclass(frozen=True)
class Incoming:
    """A message as a channel heard it, before anything was decided.

    `wa_id` is the channel's id of the message, unique with its chat and `from_me`.
    `kind`: text, image, video, voice, audio, document, sticker, location, contact, poll, unsupported; and of
    another message, `target`: reaction (`text` is the sign, "" takes it back), edit (`text` is the new one), delete.
    """

    channel: str
    chat: tuple[str, ...]  # every jid of the chat
    wa_id: str
    text: str
    sender: Sender
    at: int
    chat_name: str = ""
    is_group: bool = False
    from_me: bool = False
    kind: str = "text"
    quoted: str = ""  # wa_id of the quoted message
    quoted_text: str = ""  # as the sender says: only a row of ours vouches for it
    mentions_us: bool = False
    forwarded: bool = False  # the words are not the sender's own
    media: tuple[Media, ...] = ()
    target: str = ""  # wa_id of the message that is edited, deleted or reacted to
    by_admin: bool = False  # a delete by an admin of the group
    expires: int | None = None  # seconds after which messages vanish in this chat; None: not said


@dataclass(frozen=True)
class Quoted:
    """The message that another one answers: as we stored it, else (`known` is False) as that one's sender says."""

    text: str
    known: bool = False
    ours: bool = False
    id: int = 0  # of the stored message
    sender: str = ""  # display name
    role: Role = Role.GUEST
    forwarded: bool = False


@dataclass(frozen=True)
class Message:
    """A stored message, with what the prompt needs to know of its sender."""

    id: int
    chat_id: int
    wa_id: str
    text: str
    sender: str  # display name
    role: Role
    at: int
    kind: str = "text"
    quoted: str = ""
    quote: Quoted | None = None
    media: tuple[Media, ...] = ()
    forwarded: bool = False


@dataclass(frozen=True)
class Said:
    """A text of ours in a chat."""

    text: str
    at: int
    after: int  # the id of the message that it follows


@dataclass(frozen=True)
class Chat:
    """Where people are: one row with all its jids."""

    id: int
    channel: str
    jid: str  # the one to send to
    name: str
    is_group: bool
    group_id: int | None
    expires: int = 0  # seconds after which messages vanish there; 0 = they stay
    prefix: str = ""  # its group's name for us on a shared number; "" = the configuration's
    reaction: str = ""  # its group's sign on what was taken up; "" = the configuration's


@dataclass(frozen=True)
class SeenChat:
    """A chat in which something was said at some time, served or not."""

    number: int  # its own for good: what comes meanwhile cannot make it mean another one
    channel: str
    jids: tuple[str, ...]  # the one to send to first
    name: str  # foreign
    is_group: bool
    seen: int  # 0 = nothing was said there yet
    members: int  # people in it, as the channel says; 0 = not known
    messages: int  # that came
    folder: str  # of the group that serves it, or ""


@dataclass(frozen=True)
class Members:
    """News of who is in a group: everybody, each with all their jids; or who came and who went, by jid."""

    everybody: tuple[tuple[str, ...], ...] | None = None
    came: tuple[str, ...] = ()
    went: tuple[str, ...] = ()
    new: bool = False  # we were added to it just now


@dataclass(frozen=True)
class Person:
    """Somebody with all their jids."""

    number: int
    name: str  # foreign
    role: Role
    denied: bool  # a guest whose words are context everywhere, until allowed
    jids: tuple[str, ...]  # LID first


@dataclass(frozen=True)
class Limits:
    """What one run of a group may use. Defaults from measurements: an idle agent takes 160 MiB."""

    memory_mb: int = 1536
    cpus: float = 2.0
    pids: int = 256
    tokens_per_day: int = 0  # 0 = the configuration's
    turn_timeout: int = 0  # seconds that one turn may take; 0 = the configuration's
    run_timeout: int = 0  # seconds after which a container takes no more turns; 0 = no limit
    turns_per_hour: int = 0  # of one person who is not an owner; 0 = no limit
    open_messages: int = 0  # of such a person that may wait for their answer; 0 = no limit


@dataclass(frozen=True)
class Mount:
    """An extra folder for one group, already validated."""

    source: str  # on the host, resolved
    target: str  # its name below /workspace/extra
    read_write: bool = False


@dataclass(frozen=True)
class Group:
    """A chat (or several, for main) that we serve, with a folder and an agent. Main's name is the assistant's."""

    id: int
    folder: str
    name: str
    is_main: bool = False
    mode: TriggerMode = TriggerMode.ALWAYS
    word: str = ""  # "" = @ and the assistant's name
    who: Who = Who.EVERYONE
    model: str = ""  # "" = the configuration's
    fallback_model: str = ""
    network: str = "none"  # none, allowlist, public
    hosts: tuple[str, ...] = ()  # of the allowlist
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[Mount, ...] = ()
    skills: tuple[str, ...] = ()  # names; () = all
    zone: str = ""
    prefix: str = ""  # what stands before its texts on a shared number; "" = the assistant's name
    reaction: str = ""  # the sign on what was taken up; "" = the configuration's, "none" = no sign
    state: GroupState = GroupState.ACTIVE

    @property
    def lane(self) -> str:
        """The key of the lane that serves its chats."""
        return self.folder


@dataclass(frozen=True)
class Turn:
    """One prompt and its reply: the unit of work."""

    id: str
    lane: str
    group_id: int
    chat_id: int
    authority: Authority
    state: TurnState
    prompt: str
    images: tuple[str, ...] = ()  # names in the group's media folder, shown to the model with it
    origin: Origin = Origin.MESSAGE
    attempts: int = 0  # times it was given to a run
    kills: int = 0  # containers that died under it
    retries: int = 0  # overloads waited for
    not_before: int = 0
    run_id: str = ""
    spoke: bool = False  # a chat has heard of it, or a tool acted
    error: str = ""
    given_at: int = 0
    firing: int | None = None  # of a task
    silent: bool = False  # its reply is for nobody
    script: str = ""  # run in the sandbox first: the model is asked only if it says so


@dataclass(frozen=True)
class RunRow:
    """One container's life, as stored."""

    id: str
    lane: str
    group_id: int
    state: RunState
    fingerprint: str
    container: str = ""
    sockets: str = ""  # the run's folder below run_dir: 8 hex digits
    offset: int = 0  # bytes of out.ndjson that are applied
    session: str = ""
    started_at: int = 0
    writes: tuple[str, ...] = ()  # folders beside its group's own that it may write


@dataclass(frozen=True)
class OutFile:
    """A file to be sent, as it was when the agent asked for it."""

    name: str  # for people
    kind: str  # image, video, voice, audio, sticker, document
    mime: str
    size: int  # bytes
    copy: str  # below home: ours, until the row is sent or dead
    source: str  # below home: the agent's own, which may have changed since


@dataclass(frozen=True)
class Outgoing:
    """A row to be sent."""

    id: int
    chat: Chat
    turn_id: str
    kind: OutKind
    text: str
    quote: Key | None = None  # the message that it answers, or is about
    attempts: int = 0
    file: OutFile | None = None


@dataclass(frozen=True)
class Sent:
    """The other side's acknowledgement."""

    wa_id: str
    at: int


class Show(StrEnum):
    """What a Progress tells."""

    TAKEN = "taken"  # the turn was given to an agent
    TEXT = "text"  # a piece of the answer, to be added to the pieces before
    THINKING = "thinking"
    TOOL = "tool"  # a tool began: its name and what it is about
    TOOL_DONE = "tool_done"
    TODO = "todo"
    RETRY = "retry"  # the model's API is asked again
    LATER = "later"  # the turn waits, to be given to an agent again
    RESET = "reset"  # forget the pieces: they come again
    ENDED = "ended"


@dataclass(frozen=True)
class Progress:
    """Provisional output: never stored, never retried, replaced by the row that follows."""

    turn: str
    show: Show
    text: str = ""
    messages: tuple[Key, ...] = ()  # with TAKEN: what the turn answers, oldest first


@dataclass(frozen=True)
class Usage:
    """Tokens of one model request, from the API's own usage fields."""

    model: str
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0  # of those: what is kept for an hour
    searches: int = 0  # of the web, by the provider

    @property
    def tokens(self) -> int:
        """What counts against the daily cap: everything but cache reads, which cost a tenth."""
        return self.input + self.output + self.cache_write + self.cache_read // 10
