"""`fastopt evaluate`: how well a saved network predicts the targets of a data file."""

import numpy as np

import fastopt as fo
from fastopt._tables.columns import CLASSIFY, COUNT, REGRESS, table_of
from fastopt._tables.survey import no_counts, target_numbers, target_words
from fastopt.cli._options import DATA, add_json, add_reading, opened, print_json
from fastopt.cli._scores import scores, shown
from fastopt.cli.predict import encoder_of, mention_unseen, numbered, predicted

HELP = "measure a saved network on a data file with targets"


def add_options(parser) -> None:
    """The options of the command."""
    parser.usage = "%(prog)s MODEL DATA [options]"  # files first: lists of names have no end of their own
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file")
    parser.add_argument("data", metavar="DATA", help=f"{DATA}; by name, if the model knows names")
    add_target(parser)
    add_reading(parser)
    add_json(parser)


def run(args) -> None:
    """Read, predict, compare and print."""
    net, table = loaded(args)
    parts = [(predicted(net, table, X, args.data, first), y) for first, X, y in labeled("evaluate", args, net, table)]
    found, y = map(np.concatenate, zip(*parts, strict=True))
    measured = scores(table, found, y)
    if args.json:
        print_json({"task": table.task, "rows": len(y), **measured, **_confusion(table, found, y)})
    else:
        print(f"{len(y)} rows: {shown(measured)}")


def _confusion(table, outputs, y) -> dict:
    """Rows by class, and by class predicted."""
    if table.task != CLASSIFY:
        return {}
    k = outputs.shape[1]
    counts = np.bincount(y * k + outputs.argmax(axis=1), minlength=k * k).reshape(k, k)
    return {"classes": table.target.classes or list(range(k)), "confusion": counts.tolist()}


# ---------------------------------------------------------------- shared with compress


def add_target(parser) -> None:
    """The option that names the target."""
    text = "the column of the target: its name, or its number in a file without names (default: as in training)"
    parser.add_argument("--target", metavar="NAME", help=text)


def loaded(args):
    """The network of the model file, and the table that it knows, with its task."""
    net = fo.nn.load(args.model)
    table = table_of(args.model, net)
    if table.task is None:
        table.task = CLASSIFY if net.out_features > 1 else REGRESS
    if (table.task == CLASSIFY) != (net.out_features > 1):
        expected = "an output for each class" if table.task == CLASSIFY else "one output"
        raise ValueError(f"{args.model}: expected {expected} of task {table.task}, got {net.out_features}")
    return net, table


def labeled(command, args, net, table):
    """(number of its first row from 0, features, targets) of every block of the data file."""
    source = opened(args, table.missing, with_target=True)
    name = args.target or table.target.name
    y_place = source.width - 1 if name is None else source.place("--target", name)
    encoder = encoder_of(command, args, net, table, source, y_place)
    for first, X, block in numbered(encoder, [y_place]):
        yield first, X, _targets(block, source, y_place, table, net)
    mention_unseen(command, args, encoder)


def _targets(block, source, place, table, net) -> np.ndarray:
    """The targets of a block: classes as numbers, or values."""
    if table.task != CLASSIFY:
        numbers = target_numbers(source, block, place)
        bad = no_counts(numbers)
        if table.task == COUNT and bad.any():
            row = int(bad.argmax())
            found = f"expected a count, a whole number of at least 0, got {block.words[-1][row]}"
            raise ValueError(f"{block.where(row, place)}: {found}")
        return numbers
    labels = table.target.classes or list(range(net.out_features))
    by_text = isinstance(labels[0], str)
    values = target_words(block, place) if by_text else target_numbers(source, block, place).tolist()
    number = {label: i for i, label in enumerate(labels)}
    unknown = next((row for row, value in enumerate(values) if value not in number), None)
    if unknown is not None:
        expected = f"expected a class of the model, such as {', '.join(map(str, labels[:5]))}"
        raise ValueError(f"{block.where(unknown, place)}: {expected}, got {block.words[-1][unknown]}")
    return np.array([number[value] for value in values])
