"""What an agent's shell may ask of the kernel, under the real agent in the container of a real run: nothing of use."""

import pytest

from tests.docker.attacks.conftest import Battle

pytestmark = pytest.mark.timeout(300)

REFUSED = frozenset({"EPERM", "EACCES", "ENOSYS"})
GONE = REFUSED | {"ENOENT", "EROFS"}  # there is no such file, or it cannot be written
NOTHING = GONE | {"empty", "EIO"}
NO_FAMILY = REFUSED | {"EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"}

# What is tried (see inside/kernel.py), and what must be seen.
CASES: dict[str, frozenset[str]] = {
    # the process that writes the letters, and the first one
    "read the runner's memory": REFUSED,
    "write the runner's memory": REFUSED,
    "where the runner's memory is": REFUSED,
    "the runner's environment": REFUSED,
    "the runner's outbox by its descriptor": REFUSED,
    "ptrace the runner": REFUSED,
    "ptrace init": REFUSED,
    "read the runner by process_vm_readv": REFUSED,
    "write the runner by process_vm_writev": REFUSED,
    "take a descriptor of the runner": REFUSED,
    "kcmp": REFUSED,
    # parts of the kernel that were the way out of other sandboxes
    **dict.fromkeys(("io_uring", "io_uring_register", "bpf map", "perf"), REFUSED),
    **dict.fromkeys(("userfaultfd", "userfaultfd of user memory alone"), REFUSED),
    **dict.fromkeys(("keyring of the session", "key is added", "key is asked for"), REFUSED),
    # namespaces
    **dict.fromkeys(("unshare user", "unshare user and net", "unshare mounts", "unshare pids"), REFUSED),
    **dict.fromkeys(("clone into a user namespace", "clone3 into a user namespace"), REFUSED),
    **dict.fromkeys(("setns net", "setns mnt", "setns user"), REFUSED),
    # mounts
    **dict.fromkeys(("mount a tmpfs", "mount proc", "bind the root over"), REFUSED),
    **dict.fromkeys(("make the root writable", "make the inbox writable"), REFUSED),
    **dict.fromkeys(("unmount the outbox", "unmount what hides proc"), REFUSED),
    **dict.fromkeys(("fsopen", "open_tree", "move_mount", "mount_setattr", "pivot_root", "chroot"), REFUSED),
    "file by its number": REFUSED,
    # devices
    **dict.fromkeys(("device of a disk", "device of the memory"), REFUSED),
    "other devices": frozenset({"none"}),
    **dict.fromkeys(("ports of the machine", "a port of the machine"), REFUSED),
    # another user
    **dict.fromkeys(("become root", "become root's group", "a setuid program of one's own"), REFUSED),
    "setuid programs": frozenset({"nothing gained"}),
    **dict.fromkeys(("su", "sudo"), frozenset({"refused"})),
    # sockets
    **dict.fromkeys(("raw socket", "raw socket of IPv6", "packet socket", "vsock", "AF_ALG", "AF_XDP"), NO_FAMILY),
    **dict.fromkeys(("AF_KEY", "AF_CAN", "AF_BLUETOOTH", "AF_TIPC", "AF_RDS"), NO_FAMILY),
    **dict.fromkeys(("audit by netlink", "netfilter by netlink"), NO_FAMILY),
    # the kernel's files
    **dict.fromkeys(("core_pattern", "modprobe's path", "uevent_helper", "binfmt_misc"), GONE),
    **dict.fromkeys(("overcommit", "ip_forward", "sysrq"), GONE),
    **dict.fromkeys(("the kernel's memory", "the kernel's keys", "the kernel's timers", "firmware"), NOTHING),
    "the kernel's log": REFUSED,
    # control groups
    "release_agent and limits": frozenset({"refused"}),
    "control group of one's own": frozenset({"refused 30", "refused 13", "refused 1", "refused ENOENT"}),
    # the machine
    **dict.fromkeys(("load a module", "load a module by file", "unload a module", "kexec", "reboot"), REFUSED),
    **dict.fromkeys(("swapon", "swapoff", "acct", "sethostname", "settimeofday", "quotactl"), REFUSED),
    **dict.fromkeys(("fanotify", "personality without randomness"), REFUSED),
    # limits
    **dict.fromkeys(("realtime", "more processor time", "more files", "core dumps", "larger files"), REFUSED),
    "words into a terminal": frozenset({"ENOTTY"}),
    # what the image and the host brought
    **dict.fromkeys(("overwrite the first process", "overwrite the agent", "overwrite the CLI"), GONE | {"ETXTBSY"}),
    **dict.fromkeys(("add to the skills", "add to the inbox", "touch the host's sign of life"), GONE),
    **dict.fromkeys(("a socket of one's own beside the gateway's", "remove the gateway's socket"), GONE),
}

GREED: dict[str, frozenset[str]] = {
    "processes": frozenset({"EAGAIN"}),
    "threads": frozenset({"refused"}),
    "memory": frozenset({"SIGKILL"}),  # that process alone: its agent went on, see below
    "descriptors": frozenset(f"EMFILE at {n}" for n in range(4000, 4097)),
    "shared memory": frozenset({"ENOSPC"}),
    "the folder for scratch": frozenset({"ENOSPC"}),
    "the home": frozenset({"ENOSPC"}),
    "a file of more than 2 GiB": frozenset({"EFBIG"}),
    "a storm of changes": frozenset({"stormed"}),
    "all processors": frozenset({"spun"}),
    "inotify": frozenset({"refused"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_gives_nothing(battle: Battle, case: str) -> None:
    """Each attempt is refused."""
    assert battle.found["kernel"][case] in CASES[case]


@pytest.mark.parametrize("case", GREED)
def test_greed_has_its_limit(battle: Battle, case: str) -> None:
    """More of everything than there is: refused at the limit, and the container lives."""
    assert battle.found["greed"][case] in GREED[case]


def test_every_attempt_is_in_the_table(battle: Battle) -> None:
    """So that none is tried and not looked at."""
    assert set(battle.found["kernel"]) == set(CASES)
    assert set(battle.found["greed"]) == set(GREED)


def test_the_other_chat_was_answered_all_the_while(battle: Battle) -> None:
    """During each weapon and afterwards; and the attacker's own agent, in one and the same container, too."""
    asked = ("are you there", *(f"and during the {name}" for name in battle.found), "and afterwards")
    assert len(battle.answers) == len(asked)
    assert all(words in answer for words, answer in zip(asked, battle.answers, strict=True))
    assert battle.attacker[0] == "it is over"
    assert "still yourself?" in battle.attacker[1]
    assert sorted(battle.runs) == ["family", "friends"]
