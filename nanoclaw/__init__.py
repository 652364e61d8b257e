"""NanoClaw: one asyncio process between WhatsApp and Claude Code.

A message comes in through a channel (`channels/`), is stored with the router's verdict (`store/`,
`router.py`), wakes its group's lane (`dispatcher.py`), and becomes a turn that a run (`runner.py`) gives
to Claude Code in a locked-down container (`sandbox/`, `container/`), whose only way out is `gateway/`.
What it says comes back as letters (`mailbox.py`), becomes rows, and leaves by the outbox (`outbox.py`).
"""

__version__ = "0.1.0"
