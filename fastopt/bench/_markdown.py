"""The rows of a file that `bench --json` wrote, as Markdown in pages.

- A page says what goes where by the lines `<!-- bench: machine -->`, `<!-- bench: families -->` or
  `<!-- bench: rows -->`, and `<!-- end of bench -->` below each. What stands between them is replaced.
- Times, shares and ratios are those on the fewest threads; the last columns are the speedups of more threads.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import geometric_mean

from fastopt import _files
from fastopt.bench._report import families

MARKS = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end of bench -->)", re.DOTALL)


def update(path, pages) -> None:
    """Put a file of rows into pages; no page is written unless all can be."""
    try:
        document = json.loads(Path(path).read_text())
        parts = {name: make(document) for name, make in PARTS.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"--markdown: expected rows that `bench --json` wrote, got {path}") from error
    texts = {page: Path(page).read_bytes().decode() for page in pages}
    for page, text in texts.items():
        marks = [name for _, name, _ in MARKS.findall(text)]
        if len(marks) != max(text.count("<!-- bench:"), 1) or not PARTS.keys() >= set(marks):
            expected = " or ".join(f"<!-- bench: {name} -->" for name in PARTS)
            raise ValueError(f"--markdown: expected {expected}, and <!-- end of bench --> below it, in {page}")
    new = {page: MARKS.sub(lambda m: f"{m[1]}\n{parts[m[2]]}\n\n{m[3]}", text).encode() for page, text in texts.items()}
    for page, content in new.items():
        _files.write_bytes(page, content)


def machine(document) -> str:
    """What ran, and the limits."""
    ran = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version != "-")
    threads = str(fewest_threads(document["rows"]))
    peak, *reads = document["limits"][threads].items()
    read = ", ".join(f"{rate / 1e9:.0f} GB/s of {mib} MiB" for mib, rate in reads)
    return f"{ran}. On {of_threads(int(threads))}: {peak[1] / 1e9:.0f} GFLOP/s, and reading {read}."


def families_table(document) -> str:
    """A line a family: geometric mean, and in brackets the least."""
    rows = document["rows"]
    fewest, more = fewest_threads(rows), more_threads(rows)
    lines = [["work", "rows", "of the limit", "best peer", "nearest peer", *speedup_titles(rows)]]
    for family, members in families(rows).items():
        first = [row for row in members if row["threads"] == fewest]
        beside = [found for found in map(nearest, first) if found]
        shares = spread([row["of_limit"] for row in first if "of_limit" in row], "{:.0%}".format)
        ratios = spread([ratio for _, ratio in beside], times)
        least = min(beside, key=lambda found: found[1])[0] if beside else ""
        speedups = [[row["speedup"] for row in members if row["threads"] == n and "speedup" in row] for n in more]
        lines.append([family, str(len(first)), shares, ratios, least, *(spread(s, times) for s in speedups)])
    return table(lines)


def rows_table(document) -> str:
    """A line a row."""
    rows = document["rows"]
    fewest, more = fewest_threads(rows), more_threads(rows)
    lines = [["work", "fastopt, µs", "of the limit", "best peer", "its time / ours", *speedup_titles(rows)]]
    for members in families(rows).values():
        speedup = {(row["what"], row["threads"]): times(row["speedup"]) for row in members if "speedup" in row}
        for row in members:
            if row["threads"] == fewest:
                share = f"{row['of_limit']:.0%}" if "of_limit" in row else ""
                name, ratio = nearest(row) or ("", None)
                beside = [name, times(ratio) if ratio else ""]
                speedups = [speedup.get((row["what"], n), "") for n in more]
                lines.append([row["what"], microseconds(row["us"]["ours"]), share, *beside, *speedups])
    return table(lines)


PARTS: dict[str, Callable[[dict], str]] = {"machine": machine, "families": families_table, "rows": rows_table}

# ---------------------------------------------------------------- cells


def nearest(row) -> tuple[str, float] | None:
    """The best peer and its ratio, or a yardstick, in brackets, where there is no peer."""
    if "best" in row:
        return row["best"], row["ratio"][row["best"]]
    return next(((f"({name})", ratio) for name, ratio in row["ratio"].items()), None)


def fewest_threads(rows) -> int:
    return min(row["threads"] for row in rows)


def more_threads(rows) -> list[int]:
    return sorted({row["threads"] for row in rows if "speedup" in row})


def speedup_titles(rows) -> Iterator[str]:
    return (f"{of_threads(n)} over 1" for n in more_threads(rows))


def of_threads(n) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def times(ratio) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def microseconds(value) -> str:
    """Three digits, or all before the point."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}".replace(",", " ")


def spread(values, form) -> str:
    """Geometric mean, and the least where there are several."""
    least = f" ({form(min(values))})" if len(values) > 1 else ""
    return form(geometric_mean(values)) + least if values else ""


def table(lines) -> str:
    """Lines of cells, the first of them the titles."""
    title, *body = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([title, "| " + " | ".join(["---"] * len(lines[0])) + " |", *body])
