"""`fastopt summary`: what a model file holds, layers and columns."""

import fastopt as fo
from fastopt._tables.columns import table_of
from fastopt._tables.source import some
from fastopt.cli._options import add_json, print_json

HELP = "print the layers, columns and target of a saved network"


def add_options(parser) -> None:
    """The options of the command."""
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file")
    add_json(parser)


def run(args) -> None:
    """Print what the file says."""
    net = fo.nn.load(args.model)
    table = table_of(args.model, net)
    if args.json:
        parameters = sum(a.size for a in net.parameters())
        shapes = {"inputs": net.in_features, "outputs": net.out_features, "parameters": parameters}
        print_json({"layers": net.describe()["layers"], **shapes, "table": table.described()})
        return
    print(fo.nn.summary(net))
    print(f"\ntask: {table.task or 'not said'}; written by fastopt {table.version or '(not said)'}")
    target = table.target
    if target.name is not None or target.classes is not None:
        print(f"target: {target.name or '(no name)'}{_of(table, net)}")
    if not table.named:
        print(f"columns: {len(table.columns)} without names")
    labels = [str(number) if column.name is None else column.name for number, column in enumerate(table.columns, 1)]
    width = max(map(len, labels))
    for label, column in zip(labels, table.columns, strict=True):
        if table.named or not column.is_number:
            print(f"  {label.ljust(width)}  {_column(column)}")
    if table.missing:
        print(f"missing values: also {some(table.missing)}")


def _of(table, net) -> str:
    target = table.target
    if target.classes is not None or net.out_features > 1:
        return f": classes {some(target.classes or list(range(net.out_features)))}"
    if target.link == "log":
        return ": counts, the exponential of the output"
    return f": values of mean {target.mean:.6g} and deviation {target.deviation:.6g}"


def _column(column) -> str:
    if column.categories is None:
        return "number" if column.median is None else f"number, {column.median:.6g} where it is missing"
    more = [word for word, there in (("all others", column.other), ("missing", column.missing)) if there]
    return f"{len(column.categories)} categories: {some(column.categories)}" + "".join(f", {word}" for word in more)
