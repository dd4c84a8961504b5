"""The command line: ``fastnet train``, ``python -m fastnet``. A file for each command.

Exit codes: 0 done; 1 the job failed (training diverged, a self-test failed); 2 wrong usage or bad
input; 130 ended by Ctrl-C; 141 whoever read the output went away. Errors are one line on stderr;
``--debug`` or ``FASTNET_DEBUG=1`` shows where they come from.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from .. import __version__
from ..errors import DivergenceError
from . import bench, cluster, doctor, evaluate, info, predict, show, train
from .common import Parser, UsageError

__all__ = ["main"]

_COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "show": show,
    "cluster": cluster,
    "info": info,
    "doctor": doctor,
    "bench": bench,
}
_EXAMPLES = """\
examples:
  fastnet train                                        learn handwritten digits in a second
  fastnet predict digits.safetensors digits --count 5  try what was learned
  fastnet show digits                                  look at the images
  fastnet cluster digits --k 10                        group them without their labels
  fastnet COMMAND --help                               options and examples of a command
"""
_FAILED, _USAGE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code: 0, 1, 2, 130 or 141.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv or os.environ.get("FASTNET_DEBUG", "0") not in ("", "0")
    try:
        with contextlib.suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # a class name that the terminal cannot show
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        print("fastnet: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)


def _run(argv: list[str]) -> int:
    parser = _parser()
    try:
        args, rest = parser.parse_known_args(argv)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    if args.command is None:
        parser.print_help()
        return 0
    command = _COMMANDS[args.command]
    if command is bench:
        args.arguments = rest
    elif rest:
        options = [a for a in rest if a.startswith("-") and predict.typed_row(a) is None]
        unknown = options if hasattr(args, "inputs") else rest
        if unknown:
            raise UsageError(f"unknown argument {unknown[0]!r} (see fastnet {args.command} --help)")
        args.inputs += rest  # argparse takes no names behind an option, and no row as -1,2
    return command.run(args)


def _parser() -> Parser:
    parser = Parser(
        prog="fastnet",
        description="Neural networks and k-means on ordinary CPUs, fast.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastnet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=module is not bench,
            allow_abbrev=module is not bench,
        )
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        module.add_arguments(sub)
    return parser


def _report(error: Exception) -> int:
    """Say in one line what went wrong; the exit code that it means."""
    code = _USAGE
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, DivergenceError):
        code = _FAILED
        text = (
            f"training diverged in epoch {error.epoch + 1}, step {error.step + 1}: values of layer "
            f"{error.layer!r} are not finite; nothing was saved. A smaller --lr usually helps"
        )
    elif isinstance(error, MemoryError):
        code = _FAILED
    elif not isinstance(error, UsageError | ValueError | TypeError | OSError | ImportError):
        code = _FAILED
        text = f"{type(error).__name__}: {text} (this should not happen; --debug shows where)"
    with contextlib.suppress(OSError):
        print(f"fastnet: error: {text}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Nobody reads stdout any more: what is still in its buffer must not fail at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
