"""How many threads are used, and what an import and a fork do.

Everything that concerns a whole process runs in a fresh interpreter with a time limit,
so that a hang is a failure.
"""

import ctypes
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import calls
import pytest
import threadpoolctl
from pairs import ALL

import fastopt as fo
from fastopt import threads
from fastopt.threads import one_blas_thread

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or sets the CPUs of a process, which is Linux")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
openmp = pytest.mark.skipif(not fo.config()["openmp"], reason="built without OpenMP: every call runs on one thread")
two_cpus = pytest.mark.skipif(threads._available() < 2, reason="this process may use one CPU only")


TESTS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"


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


@pytest.mark.parametrize("n", [2**31, 2**40, 2**64, 10**30])
def test_set_num_threads_takes_any_whole_number(n, restore):
    fo.set_num_threads(n)
    assert 1 <= fo.get_num_threads() <= threads._available()


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "2", None, math.nan])
@pytest.mark.parametrize("call", [fo.set_num_threads, fo.num_threads])
def test_what_is_no_number_of_threads_is_refused_and_changes_nothing(call, n):
    before = fo.get_num_threads()
    with pytest.raises(ValueError, match=r"n: expected a whole number .*, got "):
        call(n)
    assert fo.get_num_threads() == before


@pytest.mark.parametrize("n", [1025, 2**31, 2**40, 2**64])
def test_num_threads_refuses_more_than_a_team_can_have(n):
    with pytest.raises(ValueError, match=f"n: expected a whole number from 1 to 1024, got {n}"):
        fo.num_threads(n)


@openmp
def test_num_threads_decorates_a_function_that_calls_itself_in_other_threads():
    before, seen = fo.get_num_threads(), []

    @fo.num_threads(before + 2)
    def work(depth):
        seen.append(fo.get_num_threads())
        if depth:
            thread = threading.Thread(target=work, args=(depth - 1,))
            thread.start()
            thread.join()
            work(depth - 1)
        seen.append(fo.get_num_threads())

    work(2)
    assert set(seen) == {before + 2}
    assert fo.get_num_threads() == before


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
        (4, math.inf, "-1", 4),
        (4, math.inf, "²", 4),
        (4, math.inf, "٣", 4),
        (4, math.inf, "1e0", 4),
        (4, math.inf, "2.0", 4),
        (4, math.inf, " 2 ", 2),
        (4, math.inf, "+2", 2),
        (4, math.inf, "2 , 1", 2),
        (4, math.inf, "2,abc", 4),
        (4, math.inf, "2,0", 4),
        (4, math.inf, "2,", 4),
        (4, math.inf, "2 3", 4),
        (4, math.inf, str(2**40), 4),
        (4, math.inf, "1" * 5000, 4),
    ],
)
def test_the_smallest_limit_holds_and_a_quota_is_rounded_down(cpus, quota, variable, expected, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    monkeypatch.setattr(threads.core, "places", list)
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
    "a malformed line above": ("what is this\n::\n\n0::/a\n", {"a/cpu.max": "200000 100000"}, 2.0),
    "a malformed line below": ("0::/a\n7:cpu\n", {"a/cpu.max": "200000 100000"}, 2.0),
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


@pytest.mark.parametrize(
    ("mask", "places", "expected"),
    [
        ({0, 1, 2}, [], 3),
        ({0}, [{0}, {1}, {2}], 3),  # bound to its place
        ({0, 1}, [{0, 1}, {2, 3}], 4),
        ({0, 1, 2, 3}, [{1}, {2}], 2),  # free, but the threads of the runtime are not
        ({0, 1}, [{0}, {2}], 1),
        ({5}, [{0}, {2}], 1),
        ({0}, [{0}, {0}], 1),
    ],
)
def test_cpus_are_those_of_the_mask_or_those_that_the_runtime_binds_threads_to(mask, places, expected, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: mask, raising=False)
    monkeypatch.setattr(threads.core, "places", lambda: [frozenset(place) for place in places])
    assert len(threads.cpus()) == expected


@linux
@openmp
@two_cpus
@pytest.mark.parametrize(
    "binding", ["OMP_PROC_BIND=true", "OMP_PLACES=cores", "OMP_PLACES=threads", "GOMP_CPU_AFFINITY"]
)
def test_a_runtime_that_binds_threads_does_not_hide_the_other_cpus(binding, python):
    name, _, value = binding.partition("=")
    cpus = sorted(os.sched_getaffinity(0))
    value = value or ",".join(map(str, cpus))
    program = (
        "import fastopt as fo; from fastopt import threads; print(fo.get_num_threads() == threads._available() > 1)"
    )
    assert python(program, **{name: value}) == "True\n"


@linux
@openmp
@two_cpus
def test_an_affinity_changed_after_the_import_is_seen_by_set_num_threads(python):
    program = """
import os
all_cpus = os.sched_getaffinity(0)
first, *_ = all_cpus
os.sched_setaffinity(0, {first})
import fastopt as fo
seen = [fo.get_num_threads()]
for mask in (all_cpus, {first}, all_cpus):
    os.sched_setaffinity(0, mask)
    fo.set_num_threads(2)
    seen.append(fo.get_num_threads())
print(seen)
"""
    assert python(program) == "[1, 2, 1, 2]\n"


@openmp
@two_cpus
def test_omp_num_threads_changed_after_the_import_is_seen_by_set_num_threads(python):
    program = """
import os
import fastopt as fo
seen = [fo.get_num_threads()]
for value in ("2", "1", "many"):
    os.environ["OMP_NUM_THREADS"] = value
    fo.set_num_threads(2)
    seen.append(fo.get_num_threads())
print(seen)
"""
    assert python(program, OMP_NUM_THREADS="1") == "[1, 2, 1, 2]\n"


@linux
@openmp
@two_cpus
def test_a_limit_set_on_the_runtime_before_the_import_holds(python):
    program = """
import ctypes, sys
runtime = ctypes.CDLL("libgomp.so.1")
runtime.omp_set_num_threads(1)
import fastopt as fo
seen = [fo.get_num_threads()]
runtime.omp_set_num_threads(2)
seen.append(fo.get_num_threads())
print(seen)
"""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("the kernels have another OpenMP runtime than libgomp")
    if not any(Path(pool["filepath"]).name.startswith("libgomp.so") for pool in threadpoolctl.threadpool_info()):
        pytest.skip("the kernels have a copy of libgomp of their own, as those of a repaired wheel do")
    assert python(program) == "[1, 2]\n"


def test_omp_thread_limit_is_a_limit_of_the_count(python):
    assert python("import fastopt as fo; print(fo.get_num_threads())", OMP_THREAD_LIMIT="1") == "1\n"


@pytest.mark.parametrize("value", ["²", "0", "-1", "abc", "1e3", str(2**40), "99999999999999999999999"])
def test_an_import_takes_any_omp_num_threads(value, python):
    program = "import fastopt as fo; from fastopt import threads; print(fo.get_num_threads() == threads._available())"
    assert python(program, OMP_NUM_THREADS=value) == "True\n"


@linux
def test_an_import_honors_the_affinity_mask(python):
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import fastopt as fo; "
    assert python(program + "print(fo.get_num_threads())") == "1\n"


def test_an_import_honors_omp_num_threads(python):
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


@openmp
@pytest.mark.parametrize("variables", [{"OMP_THREAD_LIMIT": "3"}, {"OMP_DYNAMIC": "true"}], ids=str)
def test_a_team_smaller_than_the_one_asked_for_gives_the_same_bits(variables, python):
    program = """
import calls
import fastopt as fo
want = calls.results()
with fo.num_threads(7):
    got = calls.results()
print([name for name in want if got[name] != want[name]])
"""
    assert python(TESTS + program, **variables) == "[]\n"


# ---------------------------------------------------------------- threads that the system refuses

REFUSED = """
import resource, warnings
import numpy as np, fastopt as fo
x = np.ones((512, 512), np.float32)
with fo.num_threads(1):
    want = fo.functional.dense(x, x).tobytes()
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
def limit(stacks):
    resource.setrlimit(resource.RLIMIT_AS, (in_use + stacks * STACK + STACK // 2, most))
STACK = resource.getrlimit(resource.RLIMIT_STACK)[0]
if STACK < 0:
    STACK = 2**21
"""


@linux
@openmp
@pytest.mark.parametrize("stacks", [0, 2])
def test_a_call_does_with_the_threads_that_the_system_grants_and_says_so(stacks, python):
    program = f"""
limit({stacks})
with fo.num_threads(8):
    assert fo.get_num_threads() == 8
    for _ in range(3):
        assert fo.functional.dense(x, x).tobytes() == want
    granted = fo.get_num_threads()
    assert fo.config()["threads"] == fo.config()["refused_above"] == granted, fo.config()
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    assert fo.functional.dense(x, x).tobytes() == want
    assert fo.get_num_threads() == granted
    fo.set_num_threads(1)  # asks again
    assert fo.functional.dense(x, x).tobytes() == want
    assert (fo.get_num_threads(), fo.config()["refused_above"]) == (8, None), fo.config()
print(1 <= granted < 8)
"""
    assert python(REFUSED + program, OPENBLAS_NUM_THREADS="1") == "True\n"


@linux
@openmp
def test_a_refusal_in_one_thread_is_not_another_threads(python):
    program = """
import threading
seen = []
def work():
    with fo.num_threads(8):
        assert fo.functional.dense(x, x).tobytes() == want
        seen.append(fo.get_num_threads())
limit(0)
work()
resource.setrlimit(resource.RLIMIT_AS, (most, most))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(seen[0] < seen[1] == 8, fo.config()["refused_above"] == seen[0])
"""
    assert python(REFUSED + program, OPENBLAS_NUM_THREADS="1") == "True True\n"


# ---------------------------------------------------------------- BLAS on one thread


def blas():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def in_threads(*work):
    """Runs functions in a thread each, all at once; the first error of any is raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.fixture(scope="module")
def want():
    return calls.results()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", calls.CALLS)
def test_bits_do_not_depend_on_the_threads_of_blas(name, n, want):
    with threadpoolctl.threadpool_limits(n, user_api="blas"):
        assert calls.CALLS[name]() == want[name]
        assert blas() == {n}


def test_bits_are_the_same_in_a_worker_while_another_thread_owns_the_count(want):
    limit = threadpoolctl.ThreadpoolController().limit(limits=2, user_api="blas")  # from now on this thread's
    try:
        seen = {}
        in_threads(lambda: seen.update(calls.results()))
        assert seen == want
        assert blas() == {2}
    finally:
        limit.restore_original_limits()


def test_bits_and_counts_outlast_calls_in_many_threads_at_once(want):
    before = calls.counts()
    seen = [{} for _ in range(8)]
    in_threads(*(lambda mine=mine: mine.update(calls.results()) for mine in seen))
    assert all(mine == want for mine in seen)
    assert calls.counts() == before


def test_the_threads_of_blas_come_back_in_whatever_order_blocks_end():
    steps = [threading.Event() for _ in range(4)]

    def first():
        with one_blas_thread:
            steps[0].set()
            steps[1].wait(60)
        assert blas() == {1}
        steps[2].set()

    def second():
        steps[0].wait(60)
        with one_blas_thread:
            steps[1].set()
            steps[2].wait(60)
            assert blas() == {1}

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        in_threads(first, second)
        assert blas() == {2}


def test_limits_of_threadpoolctl_around_and_inside_a_block_come_back():
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        with one_blas_thread:
            with threadpoolctl.threadpool_limits(2, user_api="blas"):
                assert blas() == {2}
            assert blas() == {1}
        assert blas() == {3}


def test_a_count_set_by_somebody_else_during_a_block_stays():
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        limit = threadpoolctl.ThreadpoolController()
        with one_blas_thread:
            limit.limit(limits=2, user_api="blas")
        assert blas() == {2}


FAKE = """
static int count = 7;
static __thread int own = 5;
int bli_thread_get_num_threads(void) { return count; }
void bli_thread_set_num_threads(long n) { count = (int)n; }
const char *bli_info_get_version_str(void) { return "0"; }
int MKL_Get_Max_Threads(void) { return own ? own : count; }
void MKL_Set_Num_Threads(int n) { count = n; }
int MKL_Set_Num_Threads_Local(int n) { int before = own; own = n; return before; }
"""


@pytest.mark.skipif(
    not shutil.which("cc"), reason="needs a C compiler for a library with the functions of another BLAS"
)
@pytest.mark.parametrize(("library", "elsewhere"), [("libblis", 1), ("libmkl_rt", 5)])
def test_other_libraries_are_held_for_the_process_or_for_the_thread_as_they_count(library, elsewhere, python, tmp_path):
    (tmp_path / "fake.c").write_text(FAKE)
    path = tmp_path / f"{library}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, tmp_path / "fake.c"], check=True)
    get = "bli_thread_get_num_threads" if library == "libblis" else "MKL_Get_Max_Threads"
    program = f"""
import ctypes, threading
from fastopt.threads import one_blas_thread
with one_blas_thread:  # libraries that come later are found, too
    get = getattr(ctypes.CDLL({str(path)!r}), {get!r})
    import colorsys
    before, inside, elsewhere = get(), [], []
    with one_blas_thread:
        with one_blas_thread:
            inside.append(get())
        thread = threading.Thread(target=lambda: elsewhere.append(get()))
        thread.start()
        thread.join()
        inside.append(get())
print(before > 1, inside, elsewhere, get() == before)
"""
    assert python(program) == f"True [1, 1] [{elsewhere}] True\n"


# ---------------------------------------------------------------- interrupts

INTERRUPTS = """
import random, signal
import calls
import fastopt as fo
name, times = CALL, TIMES
want, before = calls.CALLS[name](), calls.counts()
random.seed(0)
interrupted = 0
net = calls.network()
optimizer = fo.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov="interim", ema_decay=0.9)
grads = [p * 0 for p in net.parameters()]
armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
while interrupted < times:
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
        with fo.num_threads(3):
            with optimizer.averaged():
                pass
            optimizer.step(grads)
            got = calls.CALLS[name]()
        armed = False
    except KeyboardInterrupt:
        armed, interrupted = False, interrupted + 1
    optimizer.step(grads)  # is at nobody's work
    if interrupted % 10 == 0:
        assert calls.counts() == before, (calls.counts(), before)
assert calls.counts() == before, (calls.counts(), before)
assert calls.CALLS[name]() == want
print("survived")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no interval timers")
@pytest.mark.parametrize("name", ["newton_step", "glm", "minimize", "newton_cg", "whiten", "fit"])
def test_an_interrupt_at_any_moment_leaves_no_count_and_no_flag_behind(name, python):
    program = INTERRUPTS.replace("CALL", repr(name), 1).replace("TIMES", "1000" if ALL else "100", 1)
    assert python(TESTS + program) == "survived\n"


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
