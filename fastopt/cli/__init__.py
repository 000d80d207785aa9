"""The command line: `train`, `predict`, `evaluate`, `compress`, `summary`, `info`, `bench` and `tune`, a file for each.

Reads data files (`_tables`), calls the library and prints; it adds nothing that the library does not do. Whatever a
user can get wrong ends in one line on stderr and exit status 2, before the data are read where that is possible.

`train` writes what the others have to know into the model's metadata, under "table": see `_tables/columns.py`.
"""

import argparse
import os
import sys

import numpy as np

import fastopt as fo
from fastopt.cli import bench, compress, evaluate, info, predict, summary, train, tune
from fastopt.cli._options import EXAMPLES, flush

FAULTS = (OSError, ValueError, TypeError, ImportError, ArithmeticError, MemoryError, RecursionError)


def main(argv=None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        with np.errstate(over="ignore"):  # what does not fit into the network's dtype is refused, not warned about
            args.run(args)
        flush()
    except BrokenPipeError:  # the reader has seen enough: the status of a program that SIGPIPE ends
        _discard_output()
        return 141
    except FAULTS as error:
        print(f"fastopt {args.command}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        _discard_output()
        return 2
    except KeyboardInterrupt:
        print(f"fastopt {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _discard_output():
    """Let the interpreter's last flush of stdout succeed where stdout cannot be written any more."""
    try:
        flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser("fastopt", description=fo.__doc__, epilog=EXAMPLES, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"fastopt {fo.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    for module in (train, predict, evaluate, compress, summary, info, bench, tune):
        text = module.HELP
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EXAMPLES,
            formatter_class=form,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser
