"""The entry point of `stpp` and of `python -m stpp`.

Pipelines call `python -m stpp`, so that they run the code beside dvc.yaml.
"""

import os
import sys

_interrupted = False


def main() -> None:
    """Run the command line; Ctrl-C prints one line and no traceback, also before and after a command runs."""
    try:
        _main()
    except KeyboardInterrupt:
        _leave()
    except Exception:
        if not _interrupted:
            raise
        _leave()  # while third-party modules load, they may turn an interrupt into another error


def _main() -> None:
    import signal

    # A background job ignores Ctrl-C. It must go on ignoring it, so its signal handler stays as it is.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from stpp.cli import main as command_line

    if ours:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable
    try:
        command_line()
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)


def _interrupt(*_: object) -> None:
    global _interrupted  # noqa: PLW0603 - Ctrl-C concerns the whole process
    _interrupted = True
    raise KeyboardInterrupt


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """End the process if a destructor raised KeyboardInterrupt, because Python ignores what destructors raise."""
    if issubclass(error.exc_type, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(error)


def _leave(*_: object) -> None:
    """Print one line and end the process at once, with exit code 130."""
    os.write(2, b"\ninterrupted; run the same command again\n")
    os._exit(130)


if __name__ == "__main__":
    main()
