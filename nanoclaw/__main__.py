"""python -m nanoclaw."""

import sys


def main() -> None:
    """The console script, for which Ctrl-C is no fault from its first moment on."""
    try:
        from nanoclaw.cli import main as begin
    except KeyboardInterrupt:
        sys.exit(130)
    begin()


if __name__ == "__main__":
    main()
