"""`fastopt bench`: times against the peers that are installed."""

from pathlib import Path

from fastopt import bench
from fastopt._numbers import whole_number
from fastopt.cli._options import check_out

HELP = "print times against the peers that are installed, side by side in this process"


def add_options(parser) -> None:
    """The options of the command."""
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(bench.TOPICS)}; all by default")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="thread counts (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file too")
    text = "another build of fastopt, in a process of its own, as one more column"
    parser.add_argument("--earlier", metavar="FOLDER", help=text)
    text = "measure nothing: put the rows of such a file into these pages, between their marks"
    parser.add_argument("--markdown", nargs="+", metavar=("FILE", "PAGE"), help=text)


def run(args) -> None:
    """Measure and print, or write pages."""
    if args.markdown:
        if args.topics or args.json or args.earlier is not None or len(args.markdown) < 2:
            raise ValueError("--markdown: expected a file of rows and pages, and neither topics nor other options")
        rows, *pages = args.markdown
        bench.update(rows, pages)
        return
    unknown = [topic for topic in args.topics if topic not in bench.TOPICS]
    if unknown:
        raise ValueError(f"topic: expected some of {', '.join(bench.TOPICS)}, got {unknown[0]!r}")
    for n in args.threads:
        whole_number("--threads", n)
    check_out("--json", args.json)
    if args.earlier is not None and not Path(args.earlier, "fastopt", "__init__.py").is_file():
        raise ValueError(f"--earlier: expected a folder with a build of fastopt, got {args.earlier}")
    bench.main(args.topics or bench.TOPICS, args.threads, args.json, args.earlier)
