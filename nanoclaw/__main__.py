"""python -m nanoclaw."""

from nanoclaw.cli import main

main()
