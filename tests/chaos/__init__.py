"""The proof by killing: a real host, killed again and again, and a judge who compares what was said with what came.

plan.py     what people say and what goes wrong, from a seed
host.py     the process that is killed: `app.serve` with a sandbox and a clock that the storm can disturb
phones.py   the loopback WhatsApp, which here also writes down what was acknowledged and what was read
house.py    a home, its hosts one after the other, its containers, its disk
storm.py    one run: people talk, things break, hosts die; then calm
evidence.py what is left: the phones' log and the rows
judge.py    the verdict on it (pure)
__main__.py ./nanoclaw.sh chaos
"""
