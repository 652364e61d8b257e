"""What is about the whole house: what waits for the owner's word, what was used, the host itself."""

from nanoclaw.commands.base import Answered, Asked, Misused
from nanoclaw.control import house, pending
from nanoclaw.control.usage import usage_text
from nanoclaw.store import Tx


def yes(tx: Tx, asked: Asked) -> Answered:
    """The owner's own word for a change that waits; without a code: what waits."""
    if not asked.args:
        return Answered(pending.listed_text(tx, asked.now))
    return Answered(pending.confirm(tx, _code(asked), asked.by, asked.now).text, changed=True)


def no(tx: Tx, asked: Asked) -> Answered:
    """It is not done, and not asked again today."""
    if not asked.args:
        return Answered(pending.listed_text(tx, asked.now))
    return Answered(pending.refuse(tx, _code(asked), asked.by, asked.now).text)


def usage(tx: Tx, asked: Asked) -> Answered:
    """Today and this month, by group and model, and of which limits."""
    return Answered(usage_text(tx, asked.now, asked.house.zone, asked.house.most))


def restart(tx: Tx, asked: Asked) -> Answered:
    """The host ends in order and begins anew."""
    house.restart(tx, asked.chat.id, asked.by, asked.now, lives_on=asked.house.lives_on)
    return Answered("I restart now, and say so when I am back.", restart=True)


def _code(asked: Asked) -> str:
    if len(asked.args) != 1:
        raise Misused
    return asked.args[0]
