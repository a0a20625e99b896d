"""The border of the command line: whatever happens inside becomes an exit code and at most one sentence.

0: done. 1: something unexpected. 2: bad input, the sentence says what is allowed. 130 and 143: cancelled.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import typer

from moe_pipeline.cli.interrupts import remember_interrupts
from moe_pipeline.schema.errors import MoEverseError

PROGRAM = "python -m moe_pipeline"
TRACEBACK = "--traceback"
BAD_INPUT, UNEXPECTED, INTERRUPTED = 2, 1, 130
_SEE_WHERE = f"Run it again with {TRACEBACK} to see where."


class Interrupted(Exception):
    """A run that ended early because the person asked for it, after it had put everything away."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        self.exit_code = 128 + signum
        super().__init__("Cancelled; nothing was written.")


def run(command: Any, arguments: Sequence[str] | None = None) -> int:
    """Run a command group and return the exit code; never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with_traceback = TRACEBACK in words
    words = [word for word in words if word != TRACEBACK]
    silence_libraries()
    _open_log(with_traceback)
    try:
        with remember_interrupts():
            code = command.main(args=words, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except MoEverseError as error:
        if error.code == "unexpected":  # a run that ended by a defect: its traceback went to the log
            return _end(UNEXPECTED, f"{error.sentence()} {_SEE_WHERE}", False)
        return _end(BAD_INPUT, error.sentence(), with_traceback)
    except Interrupted as stop:
        return _end(stop.exit_code, str(stop), False)
    except (KeyboardInterrupt, typer.Abort):
        return _end(INTERRUPTED, "Cancelled.", False)
    except typer.TyperException as error:
        return _end(BAD_INPUT, _usage(error), False)
    except Exception as error:
        return _end(UNEXPECTED, _unexpected(error), with_traceback)
    if code == INTERRUPTED:  # the command group turns a Ctrl-C into this code
        return _end(INTERRUPTED, "Cancelled.", False)
    return code if isinstance(code, int) else 0


def _end(code: int, sentence: str, with_traceback: bool) -> int:
    if with_traceback:
        import traceback

        traceback.print_exc(file=sys.stderr)
    print(printable(sentence), file=sys.stderr)
    return code


def printable(text: str) -> str:
    """One line without control characters: a file name or a prompt cannot steer the terminal."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split())
    )


def _usage(error: typer.TyperException) -> str:
    """The parser's complaint, with the command whose help lists what is allowed."""
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", PROGRAM)
    message = error.format_message().rstrip(".")
    return f"{message}. See `{path} --help`."


def _unexpected(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return f"Unexpected {type(error).__name__}: {text.rstrip('.')}. {_SEE_WHERE}"


def _open_log(with_traceback: bool) -> None:
    """The log of the package goes to standard error when it is asked for, and nowhere otherwise."""
    log = logging.getLogger("moe_pipeline")
    log.handlers = [logging.StreamHandler() if with_traceback else logging.NullHandler()]


def silence_libraries() -> None:
    """Warnings and progress bars of libraries stay off the terminal; set before any of them is imported."""
    import warnings

    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextmanager
def results_only() -> Iterator[TextIO]:
    """Yields the real standard output; whatever else is printed meanwhile, by C libraries too, goes to stderr."""
    real = sys.stdout
    try:
        on_descriptor = real.fileno() == 1
    except (OSError, ValueError):  # replaced by a caller, such as a test
        on_descriptor = False
    if not on_descriptor:
        with redirect_stdout(sys.stderr):
            yield real
        real.flush()
        return
    real.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(saved), "w", encoding="utf-8") as results, redirect_stdout(sys.stderr):
            yield results
    except BrokenPipeError as gone:  # the reader has what it wanted (| head)
        raise typer.Exit(0) from gone
    finally:
        os.dup2(saved, 1)
        os.close(saved)
