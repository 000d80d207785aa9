"""Speed over commits: measures what is missing and publishes asv's pages, which then need no network.

    python asv_benchmarks/dashboard.py measure                 # this commit, as it is built
    python asv_benchmarks/dashboard.py measure --commits 5     # the last five, each built once
    python asv_benchmarks/dashboard.py publish

Measuring goes in turns of about TURN measurements, commit after commit in each, so commits that are compared are
measured within minutes of each other. asv writes its results at the end of a turn: what interrupts a later one, or
fails in it, loses none of those before. What is there already is not measured again.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

from builds import ROOT, build_of, commit_of, git

CONFIG = ROOT / "asv_benchmarks" / "asv.conf.json"
PACKAGES = ROOT / "asv_benchmarks" / "node_modules"
TURN = 100  # measurements
EACH = 1.3  # seconds that one takes with its process, on the average
QUICK = r"^kernels\..*'float32'|^train\.|^newton\.Cases.*logistic"
FAILED = 2  # asv's exit status for benchmarks that failed

# ---------------------------------------------------------------- measuring


def asv(*words, config=CONFIG, folder=ROOT, quiet=False) -> int:
    """Run a command of asv; its benchmarks import fastopt from a folder."""
    command = [sys.executable, "-m", "asv", words[0], "--config", config, *words[1:]]
    out = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, env=os.environ | {"ASV_PYTHONPATH": str(folder)}, stdout=out, check=False).returncode


def measure(folders, pattern=None, machine=None, again=False) -> list[str]:
    """Measure the benchmarks that match, at commits whose builds lie in `folders`; returns where some failed."""
    named = ["--machine", machine] if machine else []
    if asv("machine", "--yes", *named, quiet=True) or asv("run", "--bench", "just-discover", *named):
        raise ValueError("asv: expected it to find the benchmarks, see above")
    combinations = selected(json.loads((results() / "benchmarks.json").read_text()), pattern)
    if not combinations:
        raise ValueError(f"--bench: expected a regular expression that matches a benchmark, got {pattern!r}")
    count, failed = sum(map(len, combinations.values())), []
    minutes = count * len(folders) * EACH / 60
    print(
        f"{count} measurements at {len(folders)} commits, less those there are: some {minutes:.0f} minutes", flush=True
    )
    for turn in turns(combinations):
        for commit, folder in folders.items():
            names = turn if again else missing(commit, {name: combinations[name] for name in turn}, machine)
            if names:
                print(f"\n{commit[:10]}: {', '.join(names)}", flush=True)  # asv names the commit that is checked out
                chosen = ["--set-commit-hash", commit, "--bench", only(names, pattern), *named]
                status = asv("run", *chosen, folder=folder)
                failed += [commit[:10]] if status == FAILED else []
                if status not in (0, FAILED):
                    raise ValueError(f"asv: expected it to run {', '.join(names)} at {commit[:10]}, see above")
    return list(dict.fromkeys(failed))


def results() -> Path:
    return CONFIG.parent / ".asv" / "results"


def selected(benchmarks, pattern) -> dict[str, list[int]]:
    """The indices of the combinations of parameters that a regular expression chooses, by benchmark, as asv does."""
    chosen = {}
    for name, benchmark in benchmarks.items():
        if name == "version":
            continue
        rows = list(product(*benchmark["params"]))
        titles = [f"{name}({', '.join(row)})" for row in rows] if benchmark["params"] else [name]
        found = [i for i, title in enumerate(titles) if not pattern or re.search(pattern, title)]
        if found:
            chosen[name] = found
    return chosen


def turns(combinations) -> list[list[str]]:
    """Benchmarks in groups of about TURN measurements."""
    groups, count = [[]], 0
    for name, found in combinations.items():
        if groups[-1] and count + len(found) > TURN:
            groups.append([])
            count = 0
        groups[-1].append(name)
        count += len(found)
    return groups


def only(names, pattern) -> str:
    """A regular expression for these benchmarks, as far as the pattern matches them, too."""
    these = rf"^(?=(?:{'|'.join(map(re.escape, names))})(?:\(|$))"
    return these + (f"(?:{pattern}|.*(?:{pattern}))" if pattern else "")


def missing(commit, combinations, machine=None) -> list[str]:
    """The benchmarks of which a combination has no result at a commit."""
    from asv.machine import Machine
    from asv.results import iter_results_for_machine_and_hash

    benchmarks = json.loads((results() / "benchmarks.json").read_text())
    done: dict[str, list] = {}
    name = machine or Machine.get_unique_machine_name()
    for found in iter_results_for_machine_and_hash(str(results()), name, commit):
        for key in found.get_result_keys(benchmarks) & combinations.keys():
            done[key] = found.get_result_value(key, benchmarks[key]["params"])
    return [
        key for key, indices in combinations.items() if key not in done or any(done[key][i] is None for i in indices)
    ]


def commits(count, revisions="HEAD", since=None) -> list[str]:
    """So many commits of the first parents, evenly spaced if there are more and a range is given; newest first."""
    dated = [f"--since={since}"] if since else []
    found = git("rev-list", "--first-parent", *dated, revisions).split()
    if not found:
        raise ValueError(f"--range: expected revisions with a commit among them, got {revisions!r}")
    if not since and ".." not in revisions:
        return found[:count]
    last = len(found) - 1
    return list(dict.fromkeys(found[round(i * last / max(count - 1, 1))] for i in range(count)))


# ---------------------------------------------------------------- publishing

# where the packages have what asv's page takes from elsewhere, by the name that the file has there
SCRIPTS = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
BESIDE = ("bootstrap/dist/fonts/*", "*/LICENSE*", "*/package.json")  # what these read, and their licenses
LOADED = re.compile(r'<(?:script|link)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]*?/([^"/]+))"[^>]*>')
OTHERS = re.compile(r'\s+(?:integrity|crossorigin|referrerpolicy)="[^"]*"')  # of a file of another server


def publish(config=CONFIG) -> Path:
    """Write the pages; returns their folder."""
    if asv("publish", "--no-pull", config=config):
        raise ValueError("asv: expected it to publish, see above")
    folder = Path(config).parent / json.loads(Path(config).read_text())["html_dir"]
    take_offline(folder)
    return folder


def take_offline(folder, packages=PACKAGES) -> None:
    """Put the scripts of published pages beside them."""
    page = folder / "index.html"
    text = page.read_text()
    names = [name for _, name in LOADED.findall(text)]
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown:
        raise ValueError(f"{page}: expected asv's scripts as of 0.6.6, got {unknown[0]}; give it a line in SCRIPTS")
    if not packages.is_dir():
        raise ValueError(f"{packages}: expected the scripts of asv's pages; `npm ci` in {packages.parent} brings them")
    files = [*(packages / SCRIPTS[name] for name in names), *(file for glob in BESIDE for file in packages.glob(glob))]
    for file in files:
        target = folder / "vendor" / file.relative_to(packages)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    page.write_text(LOADED.sub(lambda m: OTHERS.sub("", m[0].replace(m[1], f"vendor/{SCRIPTS[m[2]]}")), text))


# ---------------------------------------------------------------- the command line


def main() -> None:
    """Measure or publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "publish"))
    parser.add_argument("--bench", metavar="REGEX", help="benchmarks to measure; all by default")
    parser.add_argument("--quick", action="store_true", help="measure kernels in float32 and training only")
    parser.add_argument("--commits", type=int, metavar="N", help="measure so many commits, each in a build of its own")
    parser.add_argument("--range", default="HEAD", metavar="REVISIONS", help="of these; N are taken evenly of A..B")
    parser.add_argument("--since", metavar="DATE", help="of those since a date, evenly")
    parser.add_argument("--machine", metavar="NAME", help="under which results are kept; the host's by default")
    parser.add_argument("--keep-going", action="store_true", help="benchmarks that fail are told of and are no error")
    parser.add_argument("--again", action="store_true", help="measure what has been measured, too")
    args = parser.parse_args()
    if args.what == "publish":
        print(f"published in {publish()}; `python -m http.server -d` shows it")
        return
    if args.commits is None:
        if git("status", "--porcelain", "--untracked-files=no"):
            print("note: what is measured differs from the commit by changes that are not committed", flush=True)
        folders = {commit_of("HEAD"): ROOT}
    else:
        folders = {commit: build_of(commit) for commit in commits(args.commits, args.range, args.since)}
    failed = measure(folders, QUICK if args.quick and not args.bench else args.bench, args.machine, args.again)
    if failed:
        said = f"benchmarks failed at {', '.join(failed)}, see above; what the others gave is kept"
        if not args.keep_going:
            raise ValueError(said)
        print(f"note: {said}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"dashboard: {error}")
    except KeyboardInterrupt:
        sys.exit("dashboard: interrupted; what the turns before have measured is kept")
