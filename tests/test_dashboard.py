"""The dashboard of speed over commits: what is measured in turns, what its pages show in a browser, offline.

Pages are published from results of five commits of a repository made here, with the names and parameters of the real
benchmarks, and opened in headless Chromium, whose every request goes to a server of the test.
"""

import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import fastopt as fo
from fastopt.bench.kernels import KERNELS

ASV = Path(__file__).parents[1] / "asv_benchmarks"
HOST = "dashboard.test"
# the pages that must have a curve for each thread count
PAGES = [
    *(f"{topic}.Cases.track_ours" for topic in ("dense", "conv2d", "optim", "batch_norm", "newton", "train")),
    *(f"kernels.{kernel}.track_seconds" for kernel in ("dense", "conv2d", "Adam", "batch_norm", "glm")),
]
# asv's first colors
COLORS = ("#247AAD", "#E24A33", "#988ED5", "#777777")


def script(name):
    """A module of asv_benchmarks."""
    sys.path.insert(0, str(ASV))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ASV))


dashboard, compare = script("dashboard"), script("compare")


# ---------------------------------------------------------------- what is measured


BENCHMARKS = {
    "kernels.dense.track_seconds": {"params": [["1", "2"], ["'float32'", "'float64'"]]},
    "kernels.exp.track_seconds": {"params": [["1", "2"], ["'float32'", "'float64'"]]},
    "overhead.Memory.peakmem_import": {"params": []},
    "version": 2,
}


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        (None, {"kernels.dense.track_seconds": 4, "kernels.exp.track_seconds": 4, "overhead.Memory.peakmem_import": 1}),
        ("^kernels.*float32", {"kernels.dense.track_seconds": 2, "kernels.exp.track_seconds": 2}),
        (r"dense.*\(1,", {"kernels.dense.track_seconds": 2}),
        ("peakmem", {"overhead.Memory.peakmem_import": 1}),
        ("^dense", {}),
    ],
)
def test_a_regular_expression_chooses_combinations_and_a_turn_asks_for_no_others(pattern, chosen):
    found = dashboard.selected(BENCHMARKS, pattern)
    assert {name: len(rows) for name, rows in found.items()} == chosen
    for turn in dashboard.turns(found):
        if turn:
            again = dashboard.selected(BENCHMARKS, dashboard.only(turn, pattern))
            assert again == {name: found[name] for name in turn}


@pytest.mark.parametrize("sizes", [[10], [40, 40, 40], [300, 1], [99, 1, 1]], ids=str)
def test_turns_hold_some_hundred_measurements_and_every_benchmark_once(sizes):
    combinations = {f"b{i}": list(range(n)) for i, n in enumerate(sizes)}
    groups = dashboard.turns(combinations)
    assert list(itertools.chain(*groups)) == list(combinations)
    assert all(len(group) == 1 or sum(len(combinations[n]) for n in group) <= dashboard.TURN for group in groups)


@pytest.fixture
def fake_asv(monkeypatch, tmp_path):
    """Runs of asv that end as `statuses` says; the turns that were asked for, as (commit, benchmarks)."""
    asked, statuses = [], {}
    listed = {f"b{i}.track": {"params": [list(map(str, range(60)))]} for i in range(3)}
    (tmp_path / "benchmarks.json").write_text(json.dumps(listed))

    def asv(command, *words, folder=None, **_):
        if "--set-commit-hash" not in words:
            return 0
        commit, pattern = words[1], words[3]
        (name,) = (name for name in listed if re.search(pattern, f"{name}(1)"))
        asked.append((commit, folder, name))
        found = statuses.get((commit, name), 0)
        if isinstance(found, type):
            raise found
        return found

    monkeypatch.setattr(dashboard, "asv", asv)
    monkeypatch.setattr(dashboard, "results", lambda: tmp_path)
    monkeypatch.setattr(dashboard, "missing", lambda commit, combinations, machine: list(combinations))
    return asked, statuses


FOLDERS = {"new": "folder of new", "old": "folder of old"}
TURNS = [(commit, folder, f"b{i}.track") for i in range(3) for commit, folder in FOLDERS.items()]


def test_a_turn_goes_over_all_commits_before_the_next_and_failures_lose_only_themselves(fake_asv, capsys):
    asked, statuses = fake_asv
    statuses[("old", "b0.track")] = dashboard.FAILED
    assert dashboard.measure(FOLDERS) == ["old"]
    assert asked == TURNS
    assert "180 measurements at 2 commits" in capsys.readouterr().out


def test_what_asv_cannot_run_is_an_error_and_an_interruption_ends_the_turns(fake_asv):
    asked, statuses = fake_asv
    statuses[("new", "b1.track")] = 1
    with pytest.raises(ValueError, match=r"^asv: expected it to run b1.track at new, see above"):
        dashboard.measure(FOLDERS)
    statuses[("new", "b1.track")] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        dashboard.measure(FOLDERS)
    assert asked == 2 * TURNS[:3]


def test_a_regular_expression_that_matches_no_benchmark_is_an_error(fake_asv):
    with pytest.raises(
        ValueError, match=r"^--bench: expected a regular expression that matches a benchmark, got 'tea'"
    ):
        dashboard.measure(FOLDERS, "tea")


def test_commits_are_the_last_ones_or_evenly_taken_of_a_range(monkeypatch):
    monkeypatch.setattr(dashboard, "git", lambda *words: "\n".join("abcdefghi"))
    assert dashboard.commits(3) == ["a", "b", "c"]
    assert dashboard.commits(3, "x..y") == ["a", "e", "i"]
    assert dashboard.commits(50, "x..y") == list("abcdefghi")
    assert dashboard.commits(1, "x..y") == ["a"]
    monkeypatch.setattr(dashboard, "git", lambda *words: "")
    with pytest.raises(ValueError, match=r"^--range: expected revisions with a commit among them, got 'x..x'"):
        dashboard.commits(5, "x..x")


def test_a_revision_that_is_none_is_an_error():
    if not (ASV.parent / ".git").exists():
        pytest.skip("no repository")
    with pytest.raises(ValueError, match=r"^no-such: expected a revision of "):
        dashboard.commit_of("no-such")


# ---------------------------------------------------------------- comparing commits


def ratios(*found):
    made = compare.Ratios()
    made.found = list(found)
    return made


@pytest.mark.parametrize(
    ("found", "still_open", "lost", "said"),
    [
        ([1.2] * 4, True, False, "within noise"),
        ([1.2] * 5, False, True, "LOSS"),
        ([1.0] * 5, False, False, ""),
        ([1.2, 9.0, *[1.0] * 7], False, False, ""),
        ([1.0, 0.1, *[1.2] * 7], False, True, "LOSS"),
        ([1.0, 1.2] * 12, True, False, "within noise"),
        ([1.0, *[1.0, 1.2] * 12], False, False, "within noise"),
    ],
)
def test_a_loss_is_found_when_its_votes_lead_by_five_however_wrong_single_rounds_are(found, still_open, lost, said):
    made = ratios(*found)
    assert (made.open, made.lost) == (still_open, lost)
    assert (said in str(made)) if said else str(made).split()[-1] == str(len(found))


def test_open_cases_are_measured_again_in_new_processes_and_decided_ones_are_not(monkeypatch, tmp_path):
    asked = compare.questions(r"^kernels (exp|dense), .*(1000 elements|32 features), float32", [1])
    slow, calls = next(str(question) for question in asked if "dense" in str(question)), []
    monkeypatch.setattr(compare._earlier, "started", lambda folder, **_: nullcontext(calls.append(folder.name)))
    noise = np.random.default_rng(0)

    def run_round(question, sides, found):
        found.found.append((1.2 if str(question) == slow else 1.0) * noise.lognormal(0, 0.06))

    monkeypatch.setattr(compare, "run_round", run_round)
    answers = compare.compare(tmp_path, tmp_path, asked)
    assert [name for name, found in answers.items() if found.lost] == [slow]
    assert calls == ["base", "tree"] * max(len(found.found) for found in answers.values())


def test_both_builds_answer_and_what_the_base_lacks_is_no_loss(monkeypatch, capsys):
    for name in ("TURNS", "ROUNDS"):
        monkeypatch.setattr(compare, name, 1)
    monkeypatch.setattr(compare, "SECONDS", 1e-9)
    build = Path(fo.__file__).parents[1]
    (known,) = compare.questions("^kernels exp, 1000 elements, float32", [1])
    unknown = known._replace(case=known.case._replace(what="in no topic"))
    answers = compare.compare(build, build, [known])
    assert answers[str(known)].found[0] > 0
    sides = [Refusing(), None]
    compare.run_round(unknown, sides, missing := compare.Ratios())
    assert not missing.open
    assert compare.report({"in no topic": missing}) == []
    assert "not in base (no such case)" in capsys.readouterr().out


class Refusing:
    def ask(self, **question):
        raise ImportError("no such case")


def test_a_comparison_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"^--bench: expected a regular expression that matches a case, got 'no such'"):
        compare.questions("no such", [1])


def test_the_default_comparison_has_every_kernel_at_one_size():
    asked = [question for question in compare.questions(compare.DEFAULT, [1]) if question.topic == "kernels"]
    assert [question.case.what.split(",")[0] for question in asked] == list(KERNELS)


# ---------------------------------------------------------------- pages


def test_scripts_that_no_package_brings_are_an_error(tmp_path):
    page = tmp_path / "index.html"
    page.write_text('<script src="https://cdn.test/new.min.js" integrity="sha256-x"></script>')
    with pytest.raises(ValueError, match=r"index.html: expected asv's scripts as of .*, got new.min.js"):
        dashboard.take_offline(tmp_path)
    page.write_text('<script src="https://cdn.test/md5.min.js"></script>')
    with pytest.raises(ValueError, match=r"none: expected the scripts of asv's pages; `npm ci` in"):
        dashboard.take_offline(tmp_path, tmp_path / "none")


def test_packages_stand_in_for_scripts_of_other_servers(tmp_path):
    packages, html = tmp_path / "packages", tmp_path / "html"
    for name in ("blueimp-md5/js/md5.min.js", "blueimp-md5/LICENSE.txt", "bootstrap/dist/css/bootstrap.min.css"):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(name)
    html.mkdir()
    (html / "index.html").write_text(
        '<script src="asv.js"></script><a href="https://a.test/b">c</a>\n'
        '<script src="https://a.test/b/md5.min.js" integrity="sha512-x" crossorigin="anonymous"\n'
        ' referrerpolicy="no-referrer" onerror="js_load_failure()"></script>\n'
        '<link rel="stylesheet" href="//a.test/bootstrap.min.css" integrity="sha256-y" crossorigin="anonymous">\n'
    )
    dashboard.take_offline(html, packages)
    assert (html / "index.html").read_text() == (
        '<script src="asv.js"></script><a href="https://a.test/b">c</a>\n'
        '<script src="vendor/blueimp-md5/js/md5.min.js" onerror="js_load_failure()"></script>\n'
        '<link rel="stylesheet" href="vendor/bootstrap/dist/css/bootstrap.min.css">\n'
    )
    assert (html / "vendor/blueimp-md5/LICENSE.txt").exists()


@pytest.fixture(scope="module")
def chromium():
    """The browser; skips without one, without asv or without its scripts."""
    pytest.importorskip("asv", reason="asv is not installed: `make test-dashboard` brings it")
    if not dashboard.PACKAGES.is_dir():
        pytest.skip("the scripts of asv's pages are not installed: `make test-dashboard` brings them")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None or shutil.which("git") is None:
        pytest.skip("no Chromium or no git on the PATH")
    return found


@pytest.fixture(scope="module")
def published(chromium, tmp_path_factory):
    """Pages of five commits."""
    root = tmp_path_factory.mktemp("repository")
    config = json.loads((ASV / "asv.conf.json").read_text()) | {"repo": str(root), "plugins": []}
    (root / "asv.conf.json").write_text(json.dumps(config | {"environment_type": "existing"}))
    benchmarks = dict(map(described, PAGES))
    hashes = commits_of(root, 5)
    save_results(root / ".asv" / "results", benchmarks, hashes)
    return dashboard.publish(root / "asv.conf.json")


def described(name):
    """A benchmark as asv has it in benchmarks.json."""
    module, cls, method = name.split(".")
    for known in [known for known in sys.modules if known.partition(".")[0] == "benchmarks"]:
        del sys.modules[known]
    sys.path.insert(0, str(ASV))
    try:
        made = getattr(importlib.import_module(f"benchmarks.{module}"), cls)
    finally:
        sys.path.remove(str(ASV))
    params = [list(map(repr, values)) for values in made.params]
    shared = {"code": "", "type": "track", "timeout": 60, "number": 0, "pretty_name": None}
    assert callable(getattr(made, method))
    return name, shared | {
        "name": name,
        "params": params,
        "param_names": made.param_names,
        "unit": made.unit,
        "version": made.version,
    }


def commits_of(root, count):
    """So many commits in a new repository; their hashes."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b.test", "-c", "commit.gpgsign=false"]

    def git(*words):
        return subprocess.run(["git", *author, *words], cwd=root, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    for k in range(count):
        git("commit", "-q", "--allow-empty", "-m", f"commit {k}", "--date", f"2024-01-0{k + 1}T00:00:00+0000")
    return git("rev-list", "HEAD").split()


def save_results(folder, benchmarks, hashes):
    """Times that fall with threads, so that no curve hides another."""
    from asv import util
    from asv.results import Results
    from asv.runner import BenchmarkResult

    folder.mkdir(parents=True)
    util.write_json(str(folder / "benchmarks.json"), benchmarks, 2)
    machine = {"machine": "quiet", "arch": "", "cpu": "", "num_cpu": "2", "os": "", "ram": "", "version": 1}
    (folder / "quiet").mkdir()
    (folder / "quiet" / "machine.json").write_text(json.dumps(machine))
    of = {key: machine[key] for key in ("machine", "arch", "cpu", "num_cpu", "os", "ram")} | {"python": "3"}
    for k, commit in enumerate(hashes):
        results = Results(of, {}, commit, 1_700_000_000_000 + 86_400_000 * k, "3", "this", {})
        for benchmark in benchmarks.values():
            rows = list(itertools.product(*benchmark["params"]))
            seconds = [1e-3 * (1 + i + 0.1 * k) / int(row[0]) for i, row in enumerate(rows)]
            none = [None] * len(rows)
            results.add_result(benchmark, BenchmarkResult(seconds, none, none, 0, "", None))
        results.save(str(folder))


POLICY = "default-src 'self' 'unsafe-inline' data:; report-uri /blocked"


class Proxy(BaseHTTPRequestHandler):
    """Serves a folder as HOST under a policy that no request leaves it, and keeps the browser's reports of those that
    would have. What the browser asks for on its own account gets nothing."""

    folder: Path
    blocked: list

    def do_GET(self):
        address = urlsplit(self.path)
        file = self.folder / address.path.lstrip("/")
        if address.hostname != HOST or not file.is_file():
            self.answer(404)
            return
        types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".json": "application/json"}
        self.answer(200, types.get(file.suffix, "application/octet-stream"), file.read_bytes())

    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if urlsplit(self.path).hostname == HOST:
            self.blocked.append(json.loads(said)["csp-report"]["blocked-uri"])
        self.answer(204)

    def do_CONNECT(self):
        self.answer(404)

    def answer(self, status, kind="text/plain", content=b""):
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def browse(chromium, tmp_path):
    """Opens an address of pages in a folder; returns the document, and the addresses elsewhere that it asked for."""

    def open_page(folder, page, *options):
        handler = type("Handler", (Proxy,), {"folder": folder, "blocked": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        quiet = ["background-networking", "component-update", "sync", "default-apps", "extensions", "gpu"]
        command = [
            chromium,
            "--headless",
            "--no-sandbox",
            *(f"--disable-{what}" for what in quiet),
            "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--proxy-server=http://127.0.0.1:{server.server_port}",
            "--window-size=1280,800",
            "--virtual-time-budget=20000",
            *(options or ["--dump-dom"]),
            f"http://{HOST}/index.html#{page}",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        finally:
            server.shutdown()
            server.server_close()
        return done.stdout, handler.blocked

    return open_page


def test_a_page_as_asv_publishes_it_asks_other_servers_and_the_test_sees_it(published, browse, tmp_path):
    import asv

    pages = tmp_path / "pages"
    shutil.copytree(published, pages)
    shutil.copyfile(Path(asv.__file__).parent / "www" / "index.html", pages / "index.html")
    _, others = browse(pages, PAGES[0])
    assert {urlsplit(address).hostname for address in others} >= {"code.jquery.com"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_a_curve_for_each_thread_count_and_no_request_leaves(page, published, browse):
    document, others = browse(published, page)
    assert others == []
    labels = [unescape(label) for label in re.findall(r'class="legendLabel">(.*?)</td>', document)]
    counts = {int(n) for label in labels for n in re.findall(r"\bthreads-(\d+)", label)}
    granted = fo.get_num_threads()
    powers = {1 << k for k in range(granted.bit_length())}
    assert counts == (set(sorted({*powers, granted})[:8]) if granted > 1 else set())  # asv draws eight curves at first
    assert 1 <= len(labels) <= 8


def test_the_curves_are_drawn_in_colors_of_their_own(published, browse, tmp_path):
    from matplotlib import colors, image

    picture = tmp_path / "page.png"
    browse(published, "kernels.dense.track_seconds?show-legend=false", f"--screenshot={picture}")
    pixels = (255 * image.imread(picture)[..., :3]).round().astype(int)
    for color in COLORS:
        rgb = (255 * np.array(colors.to_rgb(color))).round().astype(int)
        assert (abs(pixels - rgb).max(axis=-1) < 40).sum() > 100, color


@pytest.mark.parametrize("page", ["/", "/summarylist", "/regressions"])
def test_the_other_pages_open_offline(page, published, browse):
    document, others = browse(published, page)
    assert others == []
    assert "kernels.dense.track_seconds" in document or page == "/regressions"
