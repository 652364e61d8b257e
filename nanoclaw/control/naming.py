"""What the assistant is called: a setting of the whole house, so that no verb of a chat changes it."""

from dataclasses import replace

from nanoclaw.store import Tx, chats


def call_assistant(tx: Tx, name: str) -> None:
    """From now on it is called so: main is named so, and a group whose word was made from the old name gets the new.
    Idempotent."""
    main = chats.main_group(tx)
    if main.name == name:
        return
    chats.save_group(tx, replace(main, name=name))
    for group in chats.groups(tx):
        if group.word == f"@{main.name}":
            chats.save_group(tx, replace(group, word=f"@{name}"))
