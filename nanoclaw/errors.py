"""Every failure that a person can act on: its message says what happened and what to do."""

from enum import StrEnum


class Cause(StrEnum):
    """Why a turn or a lane could not go on. The word is stored; what people read is made from it."""

    CREDENTIAL = "credential"  # the provider refused the key or token
    BILLING = "billing"  # the provider's account has no money
    QUOTA = "quota"  # the provider's limit for this account is used up
    BUDGET = "budget"  # our own limit of the day or the month is used up
    COST = "cost"  # the turn has cost as much as one may
    OVERLOAD = "overload"  # the provider is overloaded (the CLI has given up)
    NETWORK = "network"  # the provider cannot be reached
    IMAGE = "image"  # no agent image, or one that speaks another protocol
    ENGINE = "engine"  # the container engine does not answer
    SANDBOX = "sandbox"  # the container could not start, or died
    DISK = "disk"  # not enough room
    TIMEOUT = "timeout"  # the turn made no progress, or took too long
    POLICY = "policy"  # a rule of ours ended it (a letter that broke the protocol, say)
    MODEL = "model"  # the model's API refused the request itself
    RESTART = "restart"  # the host was stopped while the turn ran
    SCRIPT = "script"  # the script before a task's turn failed
    LOOP = "loop"  # many messages in a row without a person of authority: two bots talk


# What no retry mends: the lane waits for a person, a setting or another lane's success.
PARKING = frozenset(
    {Cause.CREDENTIAL, Cause.BILLING, Cause.QUOTA, Cause.BUDGET, Cause.IMAGE, Cause.ENGINE, Cause.DISK, Cause.LOOP}
)


class NanoClawError(Exception):
    """A refusal or failure whose message a person can act on."""


class ConfigError(NanoClawError):
    """A setting is missing, unknown or out of range. `public` says so without what is somebody's number or name."""

    def __init__(self, told: str, public: str = "") -> None:
        super().__init__(told)
        self.public = public or told


class HomeError(NanoClawError):
    """The home cannot be used: not writable, on a too long path, or already in use."""


class NotRunning(NanoClawError):
    """No host lives in this home."""


class StoreError(NanoClawError):
    """The database cannot be opened, is newer than this program, or cannot commit."""


class BackupError(NanoClawError):
    """A backup cannot be written, or is none that can be put back."""


class UpgradeError(NanoClawError):
    """Another version cannot be had, or was tried and taken back."""


class UnsafePath(NanoClawError):
    """A path in an agent-writable tree is not what it should be (a link, a device, too large)."""


class SandboxError(NanoClawError):
    """The engine, the image or the container failed. `cause` says which."""

    def __init__(self, message: str, cause: Cause = Cause.SANDBOX) -> None:
        super().__init__(message)
        self.cause = cause


class GatewayError(NanoClawError):
    """The sandbox's way out could not be opened."""


class NotConnected(NanoClawError):
    """The channel cannot send now: the row stays queued and costs no attempt."""


class Busy(NotConnected):
    """The channel has no room for this row now, though for others: tried again in a while, and costs no attempt."""


class SendRefused(NanoClawError):
    """The other side said no: tried again a few times, then dead."""


class OutcomeUnknown(NanoClawError):
    """Nobody knows whether the message was taken."""


class MediaRefused(NanoClawError):
    """A file that will never come: too large, gone, or not what it should be."""


class Refused(NanoClawError):
    """A person or an agent asked for something that it may not have; the message is told to the asker."""
