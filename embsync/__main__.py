"""``embsync`` and ``python -m embsync``; loads nothing before Ctrl-C is handled."""

import sys


def main() -> None:
    """Run the command line and exit with its code; Ctrl-C ends it without a traceback, also while modules load."""
    try:
        from embsync.cli import main as command_line  # noqa: PLC0415

        command_line.main()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT


if __name__ == "__main__":
    main()
