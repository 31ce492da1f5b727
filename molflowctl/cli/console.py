"""What commands say on standard error, and how they fail."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer
from rich.console import Console

from molflowctl.errors import UserError
from molflowctl.io.escaping import shown

__all__ = [
    "FAILED",
    "FEWER",
    "INTERRUPTED",
    "NOTES",
    "console",
    "guarded",
    "print_lines",
    "print_table",
    "print_warning",
]

FAILED, FEWER, INTERRUPTED = 1, 3, 130  # 2, wrong usage, is Typer's

# How PyTorch says it: on a processor, on a device.
NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
LESS = (
    "ask for fewer molecules at once (batch), smaller ones, a smaller network or fewer processes "
    "(-j)"
)

NOTES = 40  # lines about single entries of an input that are printed
LONGEST = 2000  # characters of a line on the terminal

console = Console(stderr=True, soft_wrap=True)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what users can mend into a message and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        if sys.stdout is None and "-" in (str(kwargs.get("out")), str(kwargs.get("html"))):
            _print_error("standard output is closed: -o - has nowhere to write; name a file")
            raise typer.Exit(FAILED)
        try:
            with stopped_by_signals():
                return command(*args, **kwargs)
        except UserError as error:
            _print_error(str(error))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt as error:
            by, status = "", INTERRUPTED
            if isinstance(error, Stopped):
                by, status = f" by {error.signal.name}", 128 + error.signal
            said = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
            with contextlib.suppress(OSError):  # of a terminal that is gone
                console.print(f"interrupted{by}{said}", highlight=False, markup=False)
            raise typer.Exit(status) from None
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):  # closed by whoever started this
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except MemoryError as error:
            _print_error(f"out of memory{f': {error}' if str(error) else ''}; {LESS}")
            raise typer.Exit(FAILED) from None
        except RuntimeError as error:
            if not any(words in str(error) for words in NO_MEMORY):
                raise
            _print_error(f"out of memory: {str(error).splitlines()[0]}; {LESS}")
            raise typer.Exit(FAILED) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _print_error(f"{where}{error.strerror or error}")
            raise typer.Exit(FAILED) from None

    return run


class Stopped(KeyboardInterrupt):
    """What a batch queue or a lost connection ends a run by; handled as Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Signals raise `Stopped`, Ctrl-C KeyboardInterrupt, where nobody chose to ignore them.

    A library in another language can make an error of its own of what was raised within it. So
    whatever is raised after a signal is the interruption.
    """
    came: list[BaseException] = []

    def stop(number: int, frame: object) -> None:
        came.append(KeyboardInterrupt() if number == signal.SIGINT else Stopped(number))
        raise came[-1]

    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Others are there under `nohup`, and in a notebook.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                earlier[number] = signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if came:
            raise came[-1] from error
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def print_warning(text: str) -> None:
    """A line of something that did not end the command."""
    console.print(f"warning: {text}", highlight=False, markup=False)


def _print_error(text: str) -> None:
    from rich.text import Text

    lines = "\n".join(shown(line, longest=LONGEST) for line in text.splitlines())
    console.print(Text.assemble(("error:", "bold red"), " ", lines), highlight=False)


def print_lines(lines: Iterable[str]) -> None:
    """Print each as it is, save what would be a command to the terminal."""
    for line in lines:
        console.print(shown(line, longest=LONGEST), highlight=False, markup=False)


def print_table(title: str, lines: list[tuple[str, str]]) -> None:
    """Print labels and figures, a row each."""
    from molflowctl.cli.tables import labelled

    print_lines([title, *labelled(lines, console.width)])
