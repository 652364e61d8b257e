"""The engine-guard: stands between NanoClaw's container and the engine's socket, and passes on only what agents need.

Whoever may talk to the engine freely is root on the machine. The host in its container talks to this process instead,
which passes on a handful of calls, each made anew from what was asked: `policy` decides (pure), `proxy` carries.
"""
