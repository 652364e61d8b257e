"""The filter of system calls, on the real engine: what agents work with goes on, no call reaches another process.

That the runner's /proc/PID/mem is closed as well, which no filter sees, is tried in attacks/test_kernel.py.
"""

from typing import Any

# Commands of the agents' usual work.
WORK = {
    "git": "git init -q r && cd r && git -c user.name=a -c user.email=a@b.c commit -q --allow-empty -m x && git log",
    "venv": "python3 -m venv --without-pip v && v/bin/python -c 'import sys; assert sys.prefix != sys.base_prefix'",
    "rg": "echo needle > f && rg -n needle . && jq -n 1 && grep -r needle .",
    "shell": "mkfifo p && (echo a > p &) && cat p && timeout 5 sleep 0.01 && nice true && setsid true && date && id",
    "archives": "tar -czf a /etc/hostname && tar -xzf a && cp -a a b && truncate -s 10M c && flock c true",
    "cli": "/opt/agent/bin/claude --version",
}
PYTHON = {
    "database": """
        import sqlite3
        d = sqlite3.connect("d")
        assert d.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        d.execute("CREATE TABLE t(a)"); d.commit()
    """,
    "threads and processes": """
        import asyncio, multiprocessing, subprocess
        from concurrent.futures import ThreadPoolExecutor
        assert sum(ThreadPoolExecutor(8).map(int, range(9))) == 36
        if __name__ == "__main__":
            with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]
            asyncio.run(asyncio.create_subprocess_exec("true"))
            subprocess.run(["true"], close_fds=True, start_new_session=True, check=True)
    """,
    "connections": """
        import os, socket
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname()).send(b"x")
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        socket.socketpair(); assert socket.if_nameindex(); os.memfd_create("a")
    """,
}
NEIGHBOUR = """
    import ctypes, json, os
    libc, runner = ctypes.CDLL(None, use_errno=True), os.getppid()
    class Vec(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
    page = ctypes.create_string_buffer(8)
    vec = ctypes.byref(Vec(ctypes.addressof(page), 8))
    def errno(result): return ctypes.get_errno() if result < 0 else 0
    print(json.dumps([
        errno(libc.ptrace(16, runner, 0, 0)), errno(libc.ptrace(0x4206, runner, 0, 0)),
        errno(libc.process_vm_readv(runner, vec, 1, vec, 1, 0)),
        errno(libc.process_vm_writev(runner, vec, 1, vec, 1, 0)),
    ]))
"""
EPERM = 1


async def test_the_agents_work_goes_on(inside: Any) -> None:
    """Git, virtual environments, searches, databases, threads, sockets and the CLI: none meets the filter."""
    _, said = await inside(f"""
        import textwrap
        work = {WORK!r}
        for name, script in {PYTHON!r}.items():
            Path("/tmp", name + ".py").write_text(textwrap.dedent(script))
            work[name] = f"python3 '/tmp/{{name}}.py'"
        failed = {{}}
        for name, command in work.items():
            folder = Path("/tmp", name)
            folder.mkdir()
            done = subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True, timeout=40)
            if done.returncode: failed[name] = done.stderr[-500:]
        report(failed=failed)
    """)
    assert said["failed"] == {}


async def test_no_call_reaches_another_process(inside: Any) -> None:
    """Of the same user as the one above it, it can neither stop that one nor copy from or to its memory."""
    _, said = await inside(f"""
        import textwrap
        neighbour = [sys.executable, "-c", textwrap.dedent({NEIGHBOUR!r})]
        done = subprocess.run(neighbour, capture_output=True, text=True)
        report(attached=json.loads(done.stdout or "null"), error=done.stderr)
    """)
    assert said["attached"] == [EPERM] * 4, said["error"]
