"""``python -m embsync``."""

from embsync.cli.main import main

if __name__ == "__main__":
    main()
