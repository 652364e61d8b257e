"""The system calls that an agent may make: seccomp.json beside this file, and how the engine is asked for it.

It is an allowlist. It began as the set that the engine's own default profile (moby's profiles/seccomp/default.json)
leaves to a container without any capability, for programs of amd64 and arm64, and is smaller by:

- ptrace, process_vm_readv and process_vm_writev: one process of an agent has no business in another's memory. (No
  filter sees /proc/PID/mem: the runner closes its own by not being dumpable. The CLI's stays open to what it starts,
  which are the agent's own hands.)
- io_uring_* and memfd_secret, modify_ldt, name_to_handle_at, the clock's adjustment, fanotify: nothing of ours uses
  them, and kernels were broken through several of them;
- programs of 32 bits (x86, x32, arm): their `socketcall` and `ipc` carry what a filter of arguments cannot see;
- sockets of all families but unix, TCP and UDP over IPv4 and IPv6, and netlink's NETLINK_ROUTE: so no vsock (which
  leads to a virtual machine's host), no AF_ALG, no AF_PACKET, and no protocol whose module would be loaded for it;
- personalities but the usual one.

What is missing there and in the engine's own: namespaces (unshare, setns, clone with CLONE_NEW*), the mount family,
bpf, perf_event_open, userfaultfd, keys (keyctl, add_key, request_key), modules, kexec, open_by_handle_at.
A refused call fails with EPERM and nothing is killed; a call of a 32-bit program kills that program.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

OPTION = "seccomp="  # how the engine's security options name a profile
FILE = Path(__file__).with_name("seccomp.json")


@cache
def profile() -> dict[str, Any]:
    """The profile, in the engine's format."""
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


@cache
def option(*, by_path: bool = False) -> str:
    """The security option that asks for it: the profile itself, as Docker's API takes it, or its path, as Podman's."""
    return OPTION + (str(FILE) if by_path else json.dumps(profile(), separators=(",", ":")))


def is_ours(options: list[str]) -> bool:
    """Whether exactly our profile is among a container's security options; engines may write it out anew."""
    asked = [o.removeprefix(OPTION) for o in options if o.startswith(OPTION)]
    if asked == [str(FILE)]:
        return True
    try:
        return [json.loads(text) for text in asked] == [profile()]
    except ValueError:  # a word such as unconfined, or the path of another file
        return False
