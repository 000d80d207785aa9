"""`fastopt predict`: what a saved network makes of a data file, one line a row."""

import sys
from pathlib import Path

import numpy as np

import fastopt as fo
from fastopt._tables.columns import Encoder, table_of
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
    if args.proba and net.out_features == 1:
        raise ValueError("--proba: expected a network with an output for each class, got one with a single output")
    table = table_of(args.model, net)
    source = opened(args, table.missing, with_target=False)
    left_out = None if args.target is None else source.place("--target", args.target)
    encoder = encoder_of("predict", args, net, table, source, left_out)
    parts = [predicted(net, table, X, args.data, first, args.proba) for first, X, _ in numbered(encoder)]
    mention_unseen("predict", args, encoder)
    result = np.concatenate(parts)
    labels = table.target.classes
    names = labels or list(range(net.out_features))
    if net.out_features > 1 and not args.proba and not args.values:
        classes = result.argmax(axis=1)
        result = classes if labels is None else np.array(labels)[classes]
    elif not args.proba:
        result = predictions(table, result)
    if args.json:
        found = result[:, 0] if result.ndim == 2 and result.shape[1] == 1 else result
        key = "probabilities" if args.proba else "predictions"
        print_json({"task": table.task, "classes": names if net.out_features > 1 else None, key: found.tolist()})
    elif args.out and Path(args.out).suffix == ".npy":
        np.save(args.out, result)
    else:
        header = names if args.proba and names != list(range(len(names))) else None
        _write(args.out, result, header, labels is not None and not (args.proba or args.values))


def _write(out, result, header, labels):
    """Rows as text, to a file or to stdout; `labels` says whether they are those of classes."""
    if result.dtype.kind == "U":
        result, kind = np.array([_quoted(label) for label in result.tolist()]), "%s"
    else:
        kind = "%d" if result.dtype.kind == "i" else "%s" if labels else "%.9g"  # labels are numbers to the last digit
    first = "" if header is None else ",".join(map(_quoted, header))
    np.savetxt(out or sys.stdout, result, kind, delimiter=",", header=first, comments="", encoding="utf-8")


def _quoted(label) -> str:
    """A field of a .csv file."""
    text = str(label)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text


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
    """Outputs of rows, the number of whose first is `first`; ValueError if one, or its value, is not finite."""
    outputs = net.predict_proba(X) if proba else net.predict(X)
    values = outputs if proba else predictions(table, outputs)
    finite = np.isfinite(values).all(axis=tuple(range(1, outputs.ndim)))
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(
            f"{path}: row {first + row + 1}: expected finite outputs, got {values[row]}; scale its numbers"
        )
    return outputs


def mention_unseen(command, args, encoder) -> None:
    """Say on stderr which texts the network has no feature for."""
    for name, counts in encoder.unseen.items():
        words = some([repr(word) for word, _ in counts.most_common()])
        rows = counts.total()
        text = f"column {name} of {args.data}: {words} in {rows} row{'s' * (rows > 1)}"
        mention(command, f"{text}, which {args.model} has not learned, count as none of its categories")
