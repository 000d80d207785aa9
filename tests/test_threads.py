"""How many threads are used, and what an import and a fork do.

Everything that concerns a whole process runs in a fresh interpreter with a time limit,
so that a hang is a failure.
"""

import math
import os
import sys
import threading

import pytest
import threadpoolctl

import fastopt as fo
from fastopt import threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or sets the CPUs of a process, which is Linux")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
openmp = pytest.mark.skipif(not fo.config()["openmp"], reason="built without OpenMP: every call runs on one thread")
two_cpus = pytest.mark.skipif(threads._available() < 2, reason="this process may use one CPU only")


@pytest.fixture
def restore():
    before = fo.get_num_threads()
    yield
    fo.set_num_threads(before)


# ---------------------------------------------------------------- the count


@openmp
@two_cpus
def test_set_num_threads_sets_the_count_of_the_process(restore):
    for n in (1, 2):
        fo.set_num_threads(n)
        assert fo.get_num_threads() == n
        seen = []
        thread = threading.Thread(target=lambda: seen.append(fo.get_num_threads()))  # noqa: B023
        thread.start()
        thread.join()
        assert seen == [n]


def test_set_num_threads_is_cut_to_what_is_available(restore):
    fo.set_num_threads(10**6)
    assert fo.get_num_threads() <= threads._available()


@openmp
def test_num_threads_overrides_inside_its_block_only():
    before = fo.get_num_threads()
    with fo.num_threads(3):
        assert fo.get_num_threads() == 3
        with fo.num_threads(1):
            assert fo.get_num_threads() == 1
        assert fo.get_num_threads() == 3
    assert fo.get_num_threads() == before


@openmp
def test_num_threads_ends_with_an_exception():
    before = fo.get_num_threads()
    with pytest.raises(KeyError), fo.num_threads(5):
        raise KeyError
    assert fo.get_num_threads() == before


@openmp
def test_num_threads_is_the_calling_threads_own():
    before, seen = fo.get_num_threads(), []
    inside, leave = threading.Event(), threading.Event()

    def work():
        with fo.num_threads(before + 3):
            seen.append(fo.get_num_threads())
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(60)
    assert fo.get_num_threads() == before
    leave.set()
    thread.join()
    assert seen == [before + 3]


@openmp
@two_cpus
def test_a_limit_of_threadpoolctl_holds_for_overrides_too():
    with threadpoolctl.threadpool_limits(1):
        assert fo.get_num_threads() == 1
        with fo.num_threads(4):
            assert fo.get_num_threads() == 1
    assert fo.get_num_threads() > 1


@openmp
def test_threadpoolctl_sees_the_runtime():
    assert any(pool["user_api"] == "openmp" for pool in threadpoolctl.threadpool_info())


def test_config_tells_what_is_in_use():
    config = fo.config()
    assert config["isa"] in config["isas"]
    assert config["threads"] == fo.get_num_threads()


def test_show_config_prints_every_item_and_the_runtimes(capsys):
    fo.show_config()
    text = capsys.readouterr().out
    assert all(f"  {name}: " in text for name in fo.config())
    assert not fo.config()["openmp"] or "runtime openmp" in text


# ---------------------------------------------------------------- affinity, OMP_NUM_THREADS, quota


@pytest.mark.parametrize(
    ("cpus", "quota", "variable", "expected"),
    [
        (8, math.inf, None, 8),
        (8, 3.7, None, 3),
        (8, 1.5, None, 1),
        (8, 0.5, None, 1),
        (2, 6.0, None, 2),
        (8, math.inf, "3", 3),
        (8, 2.0, "3", 2),
        (8, math.inf, "5,2", 5),
        (4, math.inf, "64", 4),
        (4, math.inf, "", 4),
        (4, math.inf, "many", 4),
        (4, math.inf, "0", 4),
    ],
)
def test_the_smallest_limit_holds_and_a_quota_is_rounded_down(cpus, quota, variable, expected, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads._available() == expected


V1 = "cpu,cpuacct"


def v1(folder, quota, period=100_000):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


GROUPS = {  # name: (membership, {file: content}, CPUs granted)
    "none": ("0::/\n", {}, math.inf),
    "v2": ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
    "v2 of another period": ("0::/a\n", {"a/cpu.max": "100000 50000\n"}, 2.0),
    "v2 without a limit": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, math.inf),
    "v2 limited above": ("0::/a/b/c\n", {"a/cpu.max": "250000 100000", "a/b/c/cpu.max": "max 100000"}, 2.5),
    "v2 limited twice": ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1.0),
    "v2 seen from a container": ("0::/../x\n", {"cpu.max": "200000 100000"}, 2.0),
    "v1": (f"4:{V1}:/a\n", v1(f"{V1}/a", 250_000), 2.5),
    "v1 under its short name": ("4:cpu:/a\n", v1("cpu/a", 50_000), 0.5),
    "v1 under a link's name": (f"4:{V1}:/a\n", v1("cpu/a", 50_000, 10_000), 5.0),
    "v1 without a limit": (f"4:{V1}:/a\n", v1(f"{V1}/a", -1), math.inf),
    "v1 limited above": (f"4:{V1}:/a/b\n", v1(f"{V1}/a", 1000, 1000), 1.0),
    "v1 seen from a container": (f"4:{V1}:/docker/1234\n", v1(V1, 300_000), 3.0),
    "both": (
        f"4:{V1}:/a\n1:name=systemd:/\n0::/a\n",
        {**v1(f"{V1}/a", 200_000), "a/cpu.max": "400000 100000"},
        2.0,
    ),
    "of another controller": ("3:cpuset:/a\n", v1("cpuset/a", 1, 1), math.inf),
    "unreadable numbers": ("0::/a\n", {"a/cpu.max": "lots of it"}, math.inf),
    "one number": ("0::/a\n", {"a/cpu.max": "300000\n"}, math.inf),
    "an empty file": ("0::/a\n", {"a/cpu.max": ""}, math.inf),
    "a membership of another form": ("what is this\n", {"cpu.max": "1 1"}, math.inf),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_quota_of_every_kind_of_control_group_is_read(case, tmp_path):
    membership, files, expected = GROUPS[case]
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (tmp_path / "membership").write_text(membership)
    assert threads._quota(root, tmp_path / "membership") == expected


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert threads._quota(tmp_path / "none", tmp_path / "nothing") == math.inf


@linux
def test_an_import_honours_the_affinity_mask(python):
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import fastopt as fo; "
    assert python(program + "print(fo.get_num_threads())") == "1\n"


def test_an_import_honours_omp_num_threads(python):
    assert python("import fastopt; print(fastopt.get_num_threads())", OMP_NUM_THREADS="1") == "1\n"


# ---------------------------------------------------------------- imports and teams


def test_an_import_loads_nothing_heavier_than_numpy(python):
    program = "import sys, fastopt; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(python(program).split())
    assert "numpy" in loaded
    assert not loaded & {"scipy", "sklearn", "tqdm", "matplotlib", "torch", "pandas"}


TASKS = """
import os, numpy as np
tasks = lambda: len(os.listdir("/proc/self/task"))
before = tasks()
import fastopt as fo
"""


@linux
def test_an_import_starts_no_thread(python):
    assert python(TASKS + "print(tasks() - before)") == "0\n"


@linux
@openmp
def test_small_calls_start_no_thread_and_large_ones_a_team(python):
    program = """
x, w = np.ones((32, 64), np.float32), np.ones((64, 64), np.float32)
with fo.num_threads(4):
    fo.functional.dense(x, w)
    fo.functional.activation(x, "gelu")
    small = tasks() - before
    fo.functional.dense(np.ones((512, 512), np.float32), np.ones((512, 512), np.float32))
print(small, tasks() - before)
"""
    assert python(TASKS + program) == "0 3\n"


# ---------------------------------------------------------------- fork

FORK = """
import os, threading, warnings
warnings.simplefilter("ignore")
import numpy as np, fastopt as fo
rng = np.random.default_rng(0)
x, w = rng.normal(size=(2, 256, 256)).astype(np.float32)
net = fo.nn.Sequential([fo.nn.Dense(256, 256, activation="relu"), fo.nn.Dense(256, 10)], rng=0)
fo.set_num_threads(2)

def compute():
    with fo.num_threads(2):
        return fo.functional.dense(x, w).tobytes() + net.predict(x).tobytes()

want = compute()

def fork(times=100):
    for i in range(times):
        child = os.fork()
        if child == 0:
            os._exit(0 if compute() == want and compute() == want else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        if i % 10 == 0:
            assert compute() == want
    print("survived", flush=True)

"""
FORKERS = {
    "from the main thread": "fork()",
    "from another thread": """
thread = threading.Thread(target=fork)
thread.start()
thread.join()
assert compute() == want
""",
    "while other threads compute": """
stop, wrong = threading.Event(), []
def work():
    while not stop.is_set():
        if compute() != want:
            wrong.append(1)
others = [threading.Thread(target=work) for _ in range(2)]
for thread in others:
    thread.start()
try:
    fork()
finally:
    stop.set()
for thread in others:
    thread.join()
assert not wrong
""",
    "in a child of a child": """
child = os.fork()
if child == 0:
    fork(20)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
}


@forks
@pytest.mark.parametrize("how", FORKERS)
def test_a_hundred_forked_children_compute_without_a_hang(how, python):
    assert python(FORK + FORKERS[how]) == "survived\n"
