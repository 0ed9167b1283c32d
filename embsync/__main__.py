"""``embsync`` and ``python -m embsync``; loads nothing before Ctrl-C and requests to services are handled."""

import signal
import sys

#: Signals that a service handles once it is loaded; until then, they would end it.
_REQUESTS = {
    "deliver": (signal.SIGHUP, signal.SIGUSR1),
    "pull": (signal.SIGHUP, signal.SIGUSR1),
    "run": (signal.SIGHUP, signal.SIGUSR1),
    "serve": (signal.SIGHUP,),
}


def main() -> None:
    """Run the command line and exit with its code; Ctrl-C ends it without a traceback, also while modules load."""
    _defer_requests(sys.argv[1:])
    try:
        from embsync.cli import main as command_line  # noqa: PLC0415

        command_line.main()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    except RuntimeError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        print(file=sys.stderr)  # Ctrl-C in the body of a class, as Python 3.11 reports it
        sys.exit(130)


def _defer_requests(arguments: list[str]) -> None:
    """Keep requests to a service pending until it unblocks them: see :func:`embsync.signals.recorded_signals`."""
    command = arguments[0] if arguments else ""
    if not ((command == "deliver" and "--once" in arguments) or (command == "pull" and "--follow" not in arguments)):
        signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS.get(command, ()))


if __name__ == "__main__":
    main()
