"""The table of processors: which row is chosen, what a file may override, what `tune --machine` measures and writes.

Pass criterion of bits: every result is the same with every entry at its least, at its most, and as the table has it.
"""

import json

import numpy as np
import pytest

from fastopt._kernels import _cpu, core, processor, processors
from fastopt._kernels.processors import LIMITS, PROCESSORS, Tuning
from fastopt.bench import _processor
from fastopt.cli import main

# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("vendor", "levels", "name"),
    [
        ("Intel", ("v4", "v3", "v2"), "AVX-512 Intel"),
        ("AMD", ("v4", "v3", "v2"), "Zen 4/5"),
        ("", ("v4", "v3", "v2"), "AVX2"),
        ("Intel", ("v3", "v2"), "AVX2"),
        ("AMD", ("v3", "v2"), "AVX2"),
        ("Intel", ("v2",), "baseline"),
        ("", ("baseline",), "baseline"),
        ("AMD", (), "baseline"),
    ],
)
def test_a_row_is_chosen_by_vendor_and_instruction_set(vendor, levels, name):
    assert processors.row_of(vendor, levels, 0).name == name


def test_the_cache_is_what_the_system_states_and_else_the_tables():
    row = next(row for row in PROCESSORS if row.name == "Zen 4/5")
    assert processors.row_of("AMD", ("v4", "v3", "v2"), 0) == row
    assert processors.row_of("AMD", ("v4", "v3", "v2"), 12345) == row._replace(
        tuning=row.tuning._replace(l2_bytes=12345)
    )


def test_rows_kernels_limits_and_measurements_have_the_same_entries():
    assert list(Tuning._fields) == list(LIMITS) == list(core.get_tuning()) == list(_processor.ENTRIES)


def test_rows_and_candidates_are_within_the_limits():
    for row in PROCESSORS:
        assert processors.checked(row.tuning._asdict()) == row.tuning._asdict()
    for name, (_, candidates) in _processor.ENTRIES.items():
        assert all(processors.checked({name: value}) for value in candidates)


def test_the_processor_says_its_vendor_and_cache():
    assert _cpu.vendor() in ("Intel", "AMD", "")
    assert _cpu.l2_bytes() == 0 or 1 << 15 <= _cpu.l2_bytes() <= 1 << 30


def test_config_tells_the_row_and_the_numbers_that_kernels_read(python):
    program = "import fastopt as fo; c = fo.config(); print(c['processor'], c['tuning'], c['overridden'], sep=';')"
    assert python(program, FASTOPT_TUNING="") == f"{processor.name};{processor.tuning._asdict()};()\n"


# ---------------------------------------------------------------- FASTOPT_TUNING


def test_a_file_overrides_entries_and_config_says_which(python, tmp_path):
    (tmp_path / "tuning.json").write_text('{"l2_bytes": 65536, "update_prefetch": 7}')
    program = "import fastopt as fo; c = fo.config(); print(c['tuning'], c['overridden']); fo.show_config()"
    first, *shown = python(program, FASTOPT_TUNING=str(tmp_path / "tuning.json")).splitlines()
    expected = processor.tuning._asdict() | {"l2_bytes": 65536, "update_prefetch": 7}
    assert first == f"{expected} ('l2_bytes', 'update_prefetch')"
    assert "  overridden: l2_bytes, update_prefetch" in shown
    assert any("update_prefetch 7," in line for line in shown)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1]", r"expected an object of entries and numbers, got \[1\]"),
        ("[" * 60_000, "nested too deeply"),
        ('{"l2_bytes": 4096, "l3_bytes": 1}', "expected some of update_prefetch, .*, l2_bytes, got 'l3_bytes'"),
        ('{"l2_bytes": 4095}', "l2_bytes: expected a whole number from 4096 to 1073741824, got 4095"),
        ('{"update_prefetch": -1}', "update_prefetch: expected a whole number from 0 to 65536, got -1"),
        ('{"update_prefetch": 64.0}', "update_prefetch: expected a whole number from 0 to 65536, got 64.0"),
        ('{"l2_bytes": true}', "l2_bytes: expected a whole number from 4096 to 1073741824, got True"),
        ('{"dot_prefetch_bytes": "8 MiB"}', "dot_prefetch_bytes: expected a whole number from 0 to .*, got '8 MiB'"),
        ('{"update_prefetch": NaN}', "update_prefetch: expected a whole number from 0 to 65536, got nan"),
        (b"\xff\xfe{", "can't decode"),
    ],
)
def test_what_a_file_may_not_say_is_an_import_error_with_the_way_out(content, message, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("FASTOPT_TUNING", str(path))
    with pytest.raises(
        ImportError, match=f"^FASTOPT_TUNING='.*tuning.json': .*{message}.*; .*tune --machine.* unset it"
    ):
        processors.read_overrides()


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_an_import_error(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTOPT_TUNING", str(tmp_path / name))
    with pytest.raises(ImportError, match=r"^FASTOPT_TUNING=.*Errno"):
        processors.read_overrides()


def test_a_wrong_file_stops_the_import(python, tmp_path):
    program = "try:\n    import fastopt\nexcept ImportError as error:\n    print(error)"
    assert python(program, FASTOPT_TUNING=str(tmp_path / "none")).startswith("FASTOPT_TUNING=")


# ---------------------------------------------------------------- bits

BITS = """
import hashlib
import numpy as np
import fastopt as fo

F, rng, seen = fo.functional, np.random.default_rng(0), hashlib.sha256()

def see(*arrays):
    for a in arrays:
        seen.update(np.ascontiguousarray(a).tobytes())

for threads in (1, 2):
    fo.set_num_threads(threads)
    for dtype in (np.float32, np.float64):
        def random(*shape):
            return rng.standard_normal(shape).astype(dtype)
        rng = np.random.default_rng(0)
        # products of few rows and of many, whole and in blocks of the depth
        weight, bias = random(150, 1300), random(150)
        see(*(F.dense(random(n, 1300), weight, bias, activation="relu") for n in (1, 2, 4, 7, 24, 40)))
        # predictions and training steps of dense layers, batch norm between them
        net = fo.nn.Sequential(
            [fo.nn.Dense(70, 90, activation="relu"), fo.nn.BatchNorm(90), fo.nn.Dense(90, 5)], rng=0, dtype=dtype
        )
        for n in (1, 8, 64):
            see(net.predict(random(n, 70)), net.fold().predict(random(n, 70)))
        see(*F.batch_norm(random(90, 70), random(70), random(70)))
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=0.01), max_batch=64)
        for n in (8, 64, 64):
            see(trainer.step(random(n, 70), rng.integers(0, 5, n)))
        see(*net.parameters())
        # images
        layers = [fo.nn.Conv2d(3, 70, 3, padding=1, activation="relu"), fo.nn.Conv2d(70, 200, 3, padding=1)]
        net = fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=(6, 5, 3))
        see(net.predict(random(9, 6, 5, 3)), net.fold().predict(random(9, 6, 5, 3)))
        loss, grads = net.value_and_grad(random(4, 6, 5, 3), random(4, 6, 5, 200), loss="mse")
        see(loss, *grads)
        # steps of optimizers alone
        for rule in ("SGD", "Adam", "Lion", "Adadelta"):
            params = [random(n) for n in (3, 16, 5000)]
            optimizer = getattr(fo.optim, rule)(params)
            for _ in range(3):
                optimizer.step([random(p.size) for p in params])
            see(*params)
print(seen.hexdigest())
"""
EXTREMES = [{name: limit} for name, limits in LIMITS.items() for limit in limits]


@pytest.fixture(scope="module")
def bits_of_the_table():
    """Filled by the first test that needs it."""
    return []


@pytest.mark.parametrize("entries", EXTREMES, ids=str)
def test_no_entry_changes_a_bit_of_any_result(entries, bits_of_the_table, python, tmp_path):
    if not bits_of_the_table:
        bits_of_the_table.append(python(BITS, FASTOPT_TUNING=""))
    (tmp_path / "tuning.json").write_text(json.dumps(entries))
    assert [python(BITS, FASTOPT_TUNING=str(tmp_path / "tuning.json"))] == bits_of_the_table


# ---------------------------------------------------------------- tune --machine


def measured(*gains, rounds=12):
    """Of one work, with these gains beside the table's 1 in the middle of (10, 20, 30)."""
    return _processor.Measured("entry", 20, (10, 20, 30), ("work",), np.tile(gains, (rounds, 1, 1)))


@pytest.mark.parametrize(
    ("gains", "best"),
    [((1, 1, 1), 20), ((1.01, 1, 0.9), 20), ((1.1, 1, 0.9), 10), ((1.1, 1, 1.2), 30), ((0.5, 1, 1.03), 30)],
)
def test_the_number_that_gains_most_is_taken_if_it_gains_enough(gains, best):
    assert measured(*gains).best == best


def test_what_gains_in_half_of_the_rounds_only_is_noise():
    noisy = measured(1.5, 1, 1)
    noisy.gains[::2, 0, 0] = 0.9
    assert noisy.best == 20


def test_a_gain_counts_over_all_works():
    one = measured(1.1, 1, 1)
    gains = np.concatenate([one.gains, one.gains], axis=1)
    gains[:, 1, 0] = 0.8
    both = one._replace(works=("work", "other"), gains=gains)
    assert (one.best, both.best) == (10, 20)


def test_the_table_has_a_line_for_each_work_and_what_came_of_it():
    lines = [line.split() for line in measured(1.1, 1, 0.9).table().splitlines()]
    speeds = ["1.10", "1.00", "0.90"]
    assert lines[1:] == [["10", "20*", "30"], ["work", *speeds], ["all", *speeds], ["10", "is", "better"]]
    assert measured(1, 1, 1).table().endswith("20 stays")
    shown = measured(1, 1, 1)._replace(name="some_bytes").shown
    assert [shown(n) for n in (0, 100, 5000, 4096, 3 << 20)] == ["0", "100", "5000", "4 KiB", "3 MiB"]


@pytest.mark.parametrize("name", LIMITS)
def test_the_work_that_an_entry_is_measured_on_runs(name):
    for call in _processor.ENTRIES[name][0]().values():
        call()


@pytest.fixture
def quick(monkeypatch):
    """Two entries, measured for a moment on work that notes what kernels read."""
    seen = []
    works = {"work": lambda: seen.append(core.get_tuning())}
    entries = {"update_prefetch": (lambda: works, (3, 5)), "l2_bytes": (lambda: works, (4096,))}
    for name, value in (("ENTRIES", entries), ("ROUNDS", 2), ("SECONDS", 1e-5)):
        monkeypatch.setattr(_processor, name, value)
    return seen


def test_candidates_reach_the_kernels_and_are_put_back(quick):
    before = core.get_tuning()
    first, second = _processor.tune_processor()
    table = processor.tuning._asdict()
    assert {n["update_prefetch"] for n in quick} == {3, 5, table["update_prefetch"]} == set(first.values)
    assert {n["l2_bytes"] for n in quick} == {4096, table["l2_bytes"]} == set(second.values)
    assert first.gains.shape == (2, 1, 3)
    assert second.gains.shape == (2, 1, 2)
    assert core.get_tuning() == before


def test_tune_machine_prints_what_it_measured_and_writes_a_file_that_is_taken(quick, tmp_path, capsys, python):
    path = tmp_path / "tuning.json"
    assert main(["tune", "--machine", "--out", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"processor: {processor.name}, ")
    assert all(f"\n{name}: speed" in out for name in ("update_prefetch", "l2_bytes"))
    entries = json.loads(path.read_text())
    found = ", ".join(entries) or "nothing, for the table's numbers suit this machine"
    assert out.endswith(f"\nwrote {path}: {found}; FASTOPT_TUNING={path} uses it\n")
    program = "import fastopt as fo; print(*fo.config()['overridden'])"
    assert python(program, FASTOPT_TUNING=str(path)).split() == list(entries)


def test_it_writes_the_numbers_that_are_better_and_no_others(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(
        _processor, "measure", lambda name, *_: measured(1.1, 1, 1)._replace(name=name, own=20 + len(name))
    )
    monkeypatch.setattr(_processor.Measured, "best", property(lambda m: 28 if m.name == "l2_bytes" else 10))
    assert main(["tune", "--machine", "--out", str(tmp_path / "tuning.json")]) == 0
    assert json.loads((tmp_path / "tuning.json").read_text()) == {"update_prefetch": 10}


def test_ctrl_c_leaves_no_file_and_the_numbers_as_they_were(quick, tmp_path, monkeypatch, capsys):
    def interrupted():
        if core.get_tuning()["l2_bytes"] == 4096:
            raise KeyboardInterrupt

    monkeypatch.setitem(_processor.ENTRIES, "l2_bytes", (lambda: {"work": interrupted}, (4096,)))
    before = core.get_tuning()
    assert main(["tune", "--machine", "--out", str(tmp_path / "tuning.json")]) == 130
    assert capsys.readouterr().err == "fastopt tune: interrupted\n"
    assert list(tmp_path.iterdir()) == []
    assert core.get_tuning() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--machine", "m.safetensors"], "MODEL: expected none with --machine"),
        (["--machine", "--train"], "--train: expected none with --machine"),
        (["--machine", "--threads", "1"], "--threads: expected none with --machine"),
        (["--machine", "--batch-sizes", "1"], "--batch-sizes: expected none with --machine"),
        (["--machine", "--out", "missing/tuning.json"], "--out: expected an existing folder"),
        ([], "MODEL: expected a file, or --machine"),
    ],
)
def test_options_that_do_not_go_together_end_in_one_line(argv, message, capsys, quick):
    assert main(["tune", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"fastopt tune: {message}")
    assert not quick


def test_the_file_is_whole_or_not_there(tmp_path, quick, monkeypatch):
    path = tmp_path / "tuning.json"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    assert main(["tune", "--machine", "--out", str(path)]) == 2
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
