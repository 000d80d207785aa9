"""`fastopt predict`: what a saved network makes of a data file, one line a row."""

import math
import sys
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import numpy as np

import fastopt as fo
from fastopt._tables.columns import CLASSIFY, Encoder, table_of
from fastopt._tables.source import some
from fastopt.cli._options import DATA, add_json, add_reading, check_out, mention, opened, print_json
from fastopt.cli._scores import predictions

HELP = "predict with a saved network, one line a row"


def add_options(parser) -> None:
    """The options of the command."""
    parser.usage = "%(prog)s MODEL DATA [options]"  # files first: lists of names have no end of their own
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file")
    parser.add_argument("data", metavar="DATA", help=f"{DATA}; by name, if the model knows names")
    text = "a column to leave out: its name, or its number in a file without names"
    parser.add_argument("--target", metavar="NAME", help=text)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--proba", action="store_true", help="print the probability of each class")
    what.add_argument(
        "--values", action="store_true", help="print all outputs of the last layer, not the class of the largest"
    )
    add_reading(parser)
    parser.add_argument("--out", metavar="FILE", help="a .npy file, or text under any other name (default: print)")
    add_json(parser)


def run(args) -> None:
    """Read, predict and print."""
    check_out("--out", args.out, args.model, args.data)
    if args.json and args.out is not None:
        raise ValueError(f"--json: expected to be printed, without --out, got --out {args.out}")
    net = fo.nn.load(args.model)
    table = table_of(args.model, net)
    decides = net.out_features > 1 and table.task in (None, CLASSIFY)
    if args.proba and not decides:
        got = "one with a single output" if net.out_features == 1 else f"one of task {table.task}"
        raise ValueError(f"--proba: expected a network with an output for each class, got {got}")
    source = opened(args, table.missing, with_target=False)
    left_out = None if args.target is None else source.place("--target", args.target)
    encoder = encoder_of("predict", args, net, table, source, left_out)
    parts = [predicted(net, table, X, args.data, first, args.proba) for first, X, _ in numbered(encoder)]
    mention_unseen("predict", args, encoder)
    result = np.concatenate(parts)
    if not args.proba:
        result = predictions(table, result)
    names = table.target.classes or list(range(net.out_features))
    labels = None  # of each row, where classes are asked for
    if decides and not args.proba and not args.values:
        labels = [names[code] for code in result.argmax(axis=1)]
    if args.json:
        found = labels or (result[:, 0] if result.shape[1] == 1 else result).tolist()
        key = "probabilities" if args.proba else "predictions"
        print_json({"task": table.task, "classes": names if decides else None, key: found})
    elif args.out and Path(args.out).suffix == ".npy":
        np.save(args.out, result if labels is None else np.array(labels))
    else:
        far = abs(table.target.mean) / table.target.deviation  # digits that all values share
        digits = min(9 + math.ceil(math.log10(max(far, 1))), 17)
        rows = ([f"{value:.{digits}g}" for value in row.tolist()] for row in result)
        header = [map(str, names)] if args.proba and names != list(range(len(names))) else []
        _write(args.out, chain(header, rows if labels is None else ([str(label)] for label in labels)))


def _write(out, rows):
    """Rows of text as lines, to a file or to stdout."""
    with open(out, "w", encoding="utf-8") if out else nullcontext(sys.stdout) as stream:
        for row in rows:
            print(",".join(map(_quoted, row)), file=stream)


def _quoted(text) -> str:
    """A field of a .csv file."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


# ---------------------------------------------------------------- shared with evaluate


def encoder_of(command, args, net, table, source, left_out) -> Encoder:
    """The rows of a file as the network reads them; columns that it ignores are mentioned on stderr."""
    places = table.places(source, left_out)
    if source.names is not None:
        known = {*(column.name for column in table.columns), table.target.name}
        if left_out is not None:
            known.add(source.names[left_out])
        ignored = [name for name in source.names if name not in known]
        if not table.named:
            note = f"the first line of {args.data} is taken for names, {some(source.names)}"
            mention(command, f"{note}; {args.model} knows none, so columns go by place")
        elif ignored:
            mention(command, f"ignored what {args.model} does not know: {some(ignored)}")
    return Encoder(table, source, places, net.dtype)


def numbered(encoder, words=()):
    """(number of its first row from 0, features, block) of every block."""
    first = 0
    for X, block in encoder.blocks(words):
        yield first, X, block
        first += block.rows


def predicted(net, table, X, path, first, proba=False) -> np.ndarray:
    """Outputs of rows, the number of whose first is `first`; ValueError if one, or what it says, is not finite."""
    outputs = net.predict_proba(X) if proba else net.predict(X)
    said = outputs if proba else predictions(table, outputs)
    finite = np.isfinite(said).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        where = f"{path}: row {first + row + 1}"
        raise ValueError(f"{where}: expected finite outputs, got {said[row]}; scale its numbers")
    return outputs


def mention_unseen(command, args, encoder) -> None:
    """Say on stderr which texts the network has no feature for."""
    for name, counts in encoder.unseen.items():
        words = some([repr(word) for word, _ in counts.most_common()])
        rows = counts.total()
        text = f"column {name} of {args.data}: {words} in {rows} row{'s' * (rows > 1)}"
        mention(command, f"{text}, which {args.model} has not learned, count as none of its categories")
