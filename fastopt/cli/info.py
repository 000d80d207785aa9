"""`fastopt info`: instruction set, threads and runtimes of this build and process."""

import fastopt as fo
from fastopt.cli._options import add_json, print_json

HELP = "print instruction set, threads and runtimes of this build and process"


def add_options(parser) -> None:
    """The options of the command."""
    add_json(parser)


def run(args) -> None:
    """Print `config`."""
    if args.json:
        print_json(fo.config())
    else:
        fo.show_config()
