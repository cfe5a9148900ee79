"""`stpp` and `python -m stpp`, which pipelines call, so that the code beside dvc.yaml is what runs."""

import os
import sys

_interrupted = False


def main() -> None:
    """The command line; Ctrl-C is one line, also before a command runs and after it."""
    try:
        _main()
    except KeyboardInterrupt:
        _leave()
    except Exception:
        if not _interrupted:
            raise
        _leave()  # modules of others make errors of their own of an interrupt, while they load


def _main() -> None:
    import signal

    # Jobs of the background ignore Ctrl-C, and go on to do so.
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
    global _interrupted  # noqa: PLW0603 - there is one Ctrl-C a process
    _interrupted = True
    raise KeyboardInterrupt


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Python passes over what a destructor raises, an interrupt too."""
    if issubclass(error.exc_type, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(error)


def _leave(*_: object) -> None:
    os.write(2, b"\ninterrupted; run the same command again\n")
    os._exit(130)


if __name__ == "__main__":
    main()
