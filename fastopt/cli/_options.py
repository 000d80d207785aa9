"""What commands share: how data files are read, checks of files that are written, and what is printed for programs."""

import json
import sys
from pathlib import Path

from fastopt._forks import importing
from fastopt._tables import open_table
from fastopt._tables.text import Reading

EXAMPLES = """examples:
  fastopt train digits.csv --hidden 128 64 --epochs 20 --progress --out digits.safetensors
  fastopt train houses.csv --target price --task regress --impute median --drop id --test 0.2
  fastopt evaluate digits.safetensors test.csv
  fastopt predict digits.safetensors new.csv --proba --out probabilities.csv
  fastopt compress digits.safetensors digits.csv --budget 0.5x --batch 64 --test 0.2 --out faster.safetensors
  fastopt summary digits.safetensors
  fastopt info
  fastopt bench limits dense --threads 1 2
  fastopt tune digits.safetensors --threads 1 2 --out tune.png
  fastopt tune --machine --out tuning.json
"""
DATA = "a .csv, .tsv, .parquet or .feather file, or a .npz file with arrays X and y"


def add_reading(parser) -> None:
    """The options that say how a data file is read."""
    group = parser.add_argument_group("how a .csv or .tsv file is read (by itself, where nothing is said)")
    text = "between fields: a comma, ;, | or tab (default: the one that parts the first rows evenly)"
    group.add_argument("--delimiter", metavar="CHARACTER", help=text)
    group.add_argument("--decimal", choices=(".", ","), default=".", help="the decimal sign (default: a point)")
    header = group.add_mutually_exclusive_group()
    text = "the first line holds names (default: if none of its fields is a number)"
    header.add_argument("--header", action="store_true", default=None, help=text)
    header.add_argument("--no-header", dest="header", action="store_false", help="the first line is a row")
    text = "words for a missing value besides the usual ones; numbers, such as -999, stand for all that are equal"
    parser.add_argument("--missing", nargs="+", metavar="WORD", default=[], help=text)


def opened(args, missing=(), *, with_target):
    """The data file of a command, by its options; `missing` are words that a model knows besides."""
    delimiter = {"tab": "\t", "\\t": "\t"}.get(args.delimiter, args.delimiter)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n' or delimiter.isalnum()):
        raise ValueError(f"--delimiter: expected one character, such as ; or tab, got {args.delimiter!r}")
    if delimiter == args.decimal:
        raise ValueError(f"--delimiter: expected another character than --decimal, got {delimiter!r} for both")
    reading = Reading(delimiter, args.decimal, args.header, tuple(word.strip() for word in (*missing, *args.missing)))
    return open_table(args.data, reading, with_target=with_target)


def add_json(parser) -> None:
    """The option to print for programs."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def print_json(values) -> None:
    """One JSON object on a line of its own; what is not finite is null."""
    print(json.dumps(_plain(values), allow_nan=False))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not abs(value) <= sys.float_info.max else value


def check_out(option, out, *inputs) -> None:
    """Refuse a file that cannot be written, or that is one of the inputs, before the work."""
    if out is None:
        return
    out = Path(out)
    if not out.resolve().parent.is_dir():
        raise ValueError(f"{option}: expected an existing folder, got {out.parent}")
    if out.is_dir():
        raise ValueError(f"{option}: expected a file, got the folder {out}")
    for path in inputs:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"{option}: expected another file than {path}, which is read")


def check_apart(plot, out) -> None:
    """Refuse a picture that would be written over the model, before the work."""
    if plot is not None and Path(plot).resolve() == Path(out).resolve():
        raise ValueError(f"--plot: expected another file than --out, got {plot} for both")


def check_plot(option, path) -> None:
    """Refuse a picture that matplotlib cannot write, before the work."""
    try:
        with importing:
            import matplotlib.backend_bases
    except ImportError:
        raise ImportError(f"{option} needs matplotlib; pip install matplotlib, or leave {option} out") from None
    kinds = sorted(matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix.lower() not in ("", *(f".{kind}" for kind in kinds)):
        raise ValueError(f"{option}: expected a name that ends in one of .{', .'.join(kinds)}, got {path}")


def mention(command, text) -> None:
    """A line on stderr that is no error."""
    print(f"fastopt {command}: {' '.join(text.split())}", file=sys.stderr)


def flush() -> None:
    """Write out what has been printed."""
    if sys.stdout is not None:  # it is None where the shell has closed it
        sys.stdout.flush()
