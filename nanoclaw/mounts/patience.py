"""A disk may never answer: who asks it does so in a thread of its own, which holds up neither others nor our end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_asked: dict[str, tuple["Future[Any]", float]] = {}  # the latest question about each thing, and when it was asked


def ask(about: str, job: Callable[[], T], patience: float) -> "Future[T]":
    """Its answer, some time. Raises TimeoutError: the last question about it has waited for `patience` seconds."""
    last = _asked.get(about)
    if last is not None and not last[0].done() and time.monotonic() - last[1] >= patience:
        raise TimeoutError(about)
    answer: Future[T] = Future()
    answer.set_running_or_notify_cancel()  # from here on nobody can take it back
    _asked[about] = answer, time.monotonic()
    threading.Thread(target=_fill, args=(answer, job), name=f"ask {about}"[:60], daemon=True).start()
    return answer


def _fill(answer: "Future[T]", job: Callable[[], T]) -> None:
    try:
        answer.set_result(job())
    except Exception as e:  # it belongs to whoever asked
        answer.set_exception(e)
