"""Tables to train on and to predict: parts, categories, missing values, digits, and what the model file says."""

import decimal
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt as fo
from fastopt._tables import open_table
from fastopt._tables.columns import Column, Encoder, Table, Target, table_of
from fastopt._tables.text import Reading
from fastopt._tables.training import TEST, TRAIN, VALIDATION, Options, parted, read_training


def csv(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def train(path, reading=None, **options):
    return read_training(open_table(path, reading, with_target=True), Options(**options), "0")


def described(data):
    return data.table.described()["columns"]


# ---------------------------------------------------------------- parts


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=200),
    st.sampled_from([0, 0.1, 0.25, 0.5]),
    st.sampled_from([0, 0.1, 0.3]),
)
def test_parts_have_their_shares_of_all_rows_and_of_each_stratum(strata, validation, test):
    strata = np.array(strata)
    part = parted(strata, validation, test, np.random.default_rng(0))
    lone = np.bincount(strata)[strata] == 1
    assert (part[lone] == TRAIN).all()
    for which, share in ((TEST, test), (VALIDATION, validation)):
        rest = int((~lone).sum()) - (int((part == TEST).sum()) if which == VALIDATION else 0)
        assert (part == which).sum() == min(round(share * len(strata)), rest)
        of_stratum = np.bincount(strata[part == which], minlength=4)
        there = np.bincount(strata[~lone & ((part != TEST) | (which == TEST))], minlength=4)
        share_of_rest = (part == which).sum() / max(there.sum(), 1)
        assert np.abs(of_stratum - share_of_rest * there).max() <= 2


def test_rows_stand_in_the_parts_in_the_order_of_the_file(tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i},{2.5 * i}" for i in range(50)))
    data = train(path, validation=0.2, test=0.1)
    assert data.sizes == [35, 10, 5]
    units = (data.X / data.scale + data.mean)[:, 0]
    np.testing.assert_allclose(units * 2.5, data.y, rtol=1e-5, atol=1e-5)
    for part in (TRAIN, VALIDATION, TEST):
        assert (np.diff(data.part(part)[1]) > 0).all()
    assert sorted(data.y) == [2.5 * i for i in range(50)]
    again, other = train(path, validation=0.2, test=0.1), train(path, validation=0.2, test=0.1, seed=1)
    np.testing.assert_array_equal(again.y, data.y)
    assert (other.y != data.y).any()


def test_a_share_that_holds_no_row_out_is_refused(tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", "1,0.5", "2,1.5", "3,2.5")
    for name in ("validation", "test"):
        with pytest.raises(ValueError, match=f"--{name}: expected a share that holds a row out, got 0.1 of 3 rows"):
            train(path, **{name: 0.1})


def test_thousands_separators_are_refused_where_the_decimal_sign_is_a_comma(tmp_path):
    reading = Reading(decimal=",")
    path = csv(tmp_path / "t.csv", "a;y", "2,5;1,5", "1.500;2,5")
    with pytest.raises(ValueError, match=r"line 3, column 1 .a.: expected a number, got a number with points"):
        train(path, reading)
    path = csv(tmp_path / "t.csv", "a;y", "1.500,25;1,5", "1.600,5;2,5")
    with pytest.raises(ValueError, match=r"column 1 .a.: expected a number or text, got a number with points"):
        train(path, reading)
    path = csv(tmp_path / "t.csv", "a.y", "2,5.1,5", "3,5.2,5")
    assert train(path, Reading(delimiter=".", decimal=",")).table.target.mean == 2.0


def test_labels_that_float64_cannot_tell_apart_are_refused(tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i},{2**53 + i % 2}" for i in range(30)))
    with pytest.raises(ValueError, match=r"column y: expected labels below 2\*\*53, got larger ones; --categories y"):
        train(path, task="classify")
    assert train(path, categories=("y",)).table.target.classes == [str(2**53), str(2**53 + 1)]


def test_a_target_that_a_number_says_is_missing_is_refused_as_missing(tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", "1,0.5", "2,-9.0")
    with pytest.raises(ValueError, match=r"line 3, column 2 .y.: expected a value, got a missing one"):
        train(path, Reading(missing=("-9",)))


def test_shares_that_leave_a_class_without_a_row_are_refused(tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i},{i % 2}" for i in range(4)))
    with pytest.raises(ValueError, match=r"--validation: expected a share that leaves a row of class [01], got 0\.75"):
        train(path, validation=0.75)


# ---------------------------------------------------------------- columns


def test_categories_are_the_most_frequent_texts_of_the_rows_to_train_on(tmp_path):
    colors = ["red"] * 5 + ["blue"] * 4 + ["green"] * 3 + ["gray"]
    path = csv(tmp_path / "t.csv", "x,color,y", *(f"{i},{c},{i / 2}" for i, c in enumerate(colors)))
    data = train(path, max_categories=2)
    assert described(data) == [{"name": "x"}, {"name": "color", "categories": ["red", "blue"], "other": True}]
    np.testing.assert_array_equal(data.X[:, 1:].sum(axis=0), [5, 4, 4])
    np.testing.assert_array_equal(data.X[:, 1:], [[c == "red", c == "blue", c in ("green", "gray")] for c in colors])
    assert described(train(path, max_categories=4))[1]["categories"] == ["red", "blue", "green", "gray"]


def test_a_category_of_rows_held_out_only_is_none(tmp_path):
    path = csv(tmp_path / "t.csv", "color,y", *(f"c{i},{i}.5" for i in range(20)))
    data = train(path, validation=0.5)
    known = described(data)[0]["categories"]
    assert len(known) == 10
    np.testing.assert_array_equal(data.part(TRAIN)[0].sum(axis=1), np.ones(10))
    np.testing.assert_array_equal(data.part(VALIDATION)[0], np.zeros((10, 10)))


def test_columns_are_chosen_and_left_out_by_name_or_number(tmp_path):
    path = csv(tmp_path / "t.csv", "id,a,b,y", "A7,1,2,0.5", "A8,3,5,1.5")
    assert described(train(path, drop=("id",))) == [{"name": "a"}, {"name": "b"}]
    assert described(train(path, columns=("b",))) == [{"name": "b"}]
    assert described(train(path, target="a", columns=("y", "a", "b"))) == [{"name": "b"}, {"name": "y"}]
    path = csv(tmp_path / "u.csv", "7,1,2,0.5", "8,3,5,1.5")
    data = train(path, drop=("1", "3"))
    assert described(data) == [{"name": None}]
    np.testing.assert_allclose(data.X / data.scale + data.mean, [[1], [3]])
    for options, message in (
        ({"drop": ("z",)}, "--drop: expected one of the columns 1, 2, 3, 4 of .*, got z"),
        ({"columns": ("9",)}, "--columns: expected one of the columns"),
        ({"categories": ("9",)}, "--categories: expected one of the columns"),
        ({"drop": ("4",)}, "--drop: expected columns other than the target, got 4"),
        ({"columns": ("4",)}, "expected columns of features and one of targets, got the target only"),
    ):
        with pytest.raises(ValueError, match=message):
            train(path, **options)


def test_numbers_are_codes_where_the_caller_says_so(tmp_path):
    path = csv(tmp_path / "t.csv", "code,y", "3,0.5", "A1,1.5", "3,2.5")
    with pytest.raises(ValueError, match=r"column 1 \(code\): expected a number, got 'A1'"):
        train(path)
    assert described(train(path, categories=("code",))) == [{"name": "code", "categories": ["3", "A1"]}]


MIXED = {
    "text, then a number": (
        ["x", "7"],
        "line 3, column 1 .a.: expected text, as in rows before, got both: 'x' and '7'",
    ),
    "a month": (["2024-01", "2024-02"], "got a date or time, '2024-01'"),
    "a day of the week": (["Thu 29 Feb 2024 10:30", "Fri 1 Mar 2024 10:30"], "got a date or time, 'Thu 29 Feb"),
    "dates of a log": (["29/Feb/2024:10:00:00 +0000"] * 2, "got a date or time, '29/Feb"),
    "spans of time": (["1 days 00:30:00", "2 days 01:00:00"], "got a date or time, '1 days"),
    "amounts of money": (["$5", "$6"], r"got a number with its unit, '\$5'; leave the unit out"),
    "percentages": (["5 %", "6 %"], "got a number with its unit, '5 %'; leave the unit out"),
    "another text in each row": ([f"id{i}" for i in range(30)], "column a: expected categories, got another text in"),
}


@pytest.mark.parametrize("name", MIXED)
def test_columns_that_are_no_categories_are_refused(name, tmp_path):
    fields, message = MIXED[name]
    path = csv(tmp_path / "t.csv", "a,y", *(f"{field},{i}.5" for i, field in enumerate(fields)))
    with pytest.raises(ValueError, match=message):
        train(path)
    assert train(path, categories=("a",)).X.any()
    with pytest.raises(ValueError, match="got the target only"):
        train(path, drop=("a",))


def test_a_column_of_too_many_texts_is_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("fastopt._tables.survey.MOST_TEXTS", 25)
    path = csv(tmp_path / "t.csv", "a,y", *(f"t{i % 30},{i}.5" for i in range(90)))
    with pytest.raises(
        ValueError, match="column a: expected categories, got more than 25 different texts; leave it out"
    ):
        train(path)


# ---------------------------------------------------------------- missing values


def test_missing_values_are_refused_by_row_and_column_or_filled_in(tmp_path):
    path = csv(tmp_path / "t.csv", "a,b,y", "1,u,0.5", ",v,1.5", "3,NA,2.5", "8,v,3.5")
    with pytest.raises(
        ValueError, match=r"line 4, column 2 \(b\): expected a value, got a missing one; --impute median"
    ):
        train(path)
    with pytest.raises(
        ValueError, match=r"line 3, column 1 \(a\): expected a value, got a missing one; --impute median"
    ):
        train(path, drop=("b",))
    data = train(path, impute="median")
    assert described(data) == [
        {"name": "a", "median": 3.0},
        {"name": "b", "categories": ["v", "u"], "missing": True},
    ]
    np.testing.assert_allclose(data.X[:, 0] / data.scale[0] + data.mean[0], [1, 3, 3, 8], rtol=1e-6)
    np.testing.assert_array_equal(data.X[:, 1:], [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])


def test_medians_are_those_of_the_rows_to_train_on(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(101) * 1e3 + 1e6
    path = csv(tmp_path / "t.csv", "a,y", *(f"{a!r},{i}.5" for i, a in enumerate(numbers.tolist())), ",0.25")
    data = train(path, impute="median", validation=0.3)
    kept = [numbers[int(y)] for y in data.part(TRAIN)[1] if y != 0.25]
    np.testing.assert_allclose(described(data)[0]["median"], np.median(kept), rtol=1e-9)


def test_a_target_that_is_missing_is_refused_and_a_column_without_values(tmp_path):
    path = csv(tmp_path / "t.csv", "a,b,y", "1,,0.5", "2,NA,")
    for options, message in (
        (
            {"drop": ("b",)},
            r"line 3, column 3 \(y\): expected a value, got a missing one; leave out rows without a target",
        ),
        ({"target": "a"}, "column b: expected values, got missing ones only; leave it out with --drop"),
    ):
        with pytest.raises(ValueError, match=message):
            train(path, impute="median", **options)


# ---------------------------------------------------------------- digits and memory


@pytest.mark.parametrize(("size", "step"), [(1.7e9, 1.0), (1e15, 8.0), (-3e38, 1e30), (1e-300, 1e-302), (5.0, 1e-6)])
def test_columns_far_from_zero_keep_the_digits_of_their_differences(size, step, tmp_path):
    numbers = (size + step * np.arange(100)).tolist()
    path = csv(tmp_path / "t.csv", "a,y", *(f"{a!r},{i}.5" for i, a in enumerate(numbers)))
    data = train(path)
    want = (np.arange(100) - 49.5) / np.arange(100).std()
    if step < 1e-300:
        assert np.isfinite(data.X).all()
        return
    np.testing.assert_allclose(data.X[:, 0], want, atol=1e-5)
    np.testing.assert_allclose((np.array(numbers) - data.mean[0]) * data.scale[0], want, atol=1e-5)


def test_a_number_of_another_order_than_the_first_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fastopt._tables.text.CHARACTERS", 20)
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i % 3}e-20,0.5" for i in range(30)), "1e30,0.5")
    with pytest.raises(ValueError, match=r"line 32, column 1 \(a\): expected a number of the size of others, within"):
        train(path)


PEAK = """
import pathlib, resource, sys
{run}
status = pathlib.Path("/proc/self/status")
if status.exists():  # ru_maxrss would count the parent's memory, too
    print(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
READ = """
from fastopt._tables import open_table
from fastopt._tables.training import Options, read_training
if sys.argv[1:]:
    read_training(open_table(sys.argv[1], with_target=True), Options(validation=0.1), "0")
"""
TRAIN_COMMAND = """
from fastopt.cli import main
out, *options = "m.safetensors", "--epochs", "1", "--hidden", "8", "--batch-size", "256", "--test", "0.1", "--json"
assert main(["train", sys.argv[1], *options, "--out", sys.argv[1] + out]) == 0
"""


def peak(run, *argv):
    """Bytes of memory that a program needs at most."""
    command = [sys.executable, "-c", PEAK.format(run=run), *map(str, argv)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def large(path, repeats):
    """A file of 4000 rows of 50 numbers, many times."""
    rows = np.random.default_rng(0).standard_normal((4000, 50)) * 1000
    lines = "".join(",".join(f"{v:.4f}" for v in row) + "\n" for row in rows)
    with open(path, "w") as stream:
        stream.writelines([lines] * repeats)
    return path


def test_reading_takes_the_memory_of_the_rows_of_float32_and_of_a_few_blocks(tmp_path):
    path = large(tmp_path / "t.csv", 25)
    assert peak(READ, path) - peak(READ) < 4 * 49 * 100_000 + 32 * 2**20


@pytest.mark.slow
def test_train_takes_at_most_2_2_times_the_memory_of_the_rows_of_float32(tmp_path):
    path = large(tmp_path / "t.csv", 150)
    assert peak(TRAIN_COMMAND, path) < 2.2 * (4 * 49 * 600_000)


# ---------------------------------------------------------------- the target


@pytest.mark.parametrize(
    ("fields", "task", "classes"),
    [
        (["0", "1", "2"], "classify", [0, 1, 2]),
        (["3", "1", "2"], "classify", [1, 2, 3]),
        (["-1", "+1", "-1"], "classify", [-1, 1]),
        (["yes", "no", "no"], "classify", ["no", "yes"]),
        (["True", "False", "True"], "classify", ["False", "True"]),
        (["0", "1.0", "2"], "regress", None),
        (["0.0", "1.0", "1.0"], "regress", None),
        (["1e0", "2", "3"], "regress", None),
    ],
)
def test_the_task_follows_how_targets_are_written(fields, task, classes, tmp_path):
    data = train(csv(tmp_path / "t.csv", "a,y", *(f"{i / 4},{field}" for i, field in enumerate(fields))))
    assert (data.table.task, data.table.target.classes, data.guessed) == (task, classes, True)


@pytest.mark.parametrize(("fields", "got"), [(["1", "5", "9"], "1, 5, 9"), (["2", "3", "4"], "2, 3, 4")])
def test_whole_numbers_that_may_be_anything_need_a_task(fields, got, tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i / 4},{field}" for i, field in enumerate(fields)))
    with pytest.raises(
        ValueError, match=f"column y: expected --task classify, regress or count, .* got none and {got}"
    ):
        train(path)
    assert train(path, task="classify").table.target.classes == [int(field) for field in fields]
    assert train(path, task="regress").table.target.mean == np.mean([int(field) for field in fields])
    assert train(path, task="count").table.target.link == "log"


@pytest.mark.parametrize(
    ("fields", "task", "message"),
    [
        (["a", "b"], "regress", "--task regress: expected numbers in column y, got text; --task classify"),
        (["a", "b"], "count", "--task count: expected numbers in column y, got text"),
        (["1", "-1"], "count", "column y: expected counts, whole numbers of at least 0, got -1"),
        (["1", "0.5"], "count", "column y: expected counts, whole numbers of at least 0, got 0.5"),
        (["1", "1"], "classify", "column y: expected two classes or more, got 1 only; predict values with"),
        (["a", "a"], "classify", "column y: expected two classes or more, got a only$"),
        (
            [str(i * i) for i in range(30)],
            "classify",
            "column y: expected classes of several rows, got another in each",
        ),
        (["2024-01-01", "2024-01-02"], None, "line 2, column 2 .y.: expected a number or text, got a date or time"),
    ],
)
def test_targets_that_a_task_does_not_have_are_refused(fields, task, message, tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i / 4},{field}" for i, field in enumerate(fields)))
    with pytest.raises(ValueError, match=message):
        train(path, task=task)


def test_values_are_standardized_by_the_rows_to_train_on(tmp_path):
    path = csv(tmp_path / "t.csv", "a,y", *(f"{i},{i * i}.5" for i in range(20)))
    data = train(path, validation=0.2)
    kept = data.part(TRAIN)[1]
    assert (data.table.target.mean, data.table.target.deviation) == (kept.mean(), kept.std())
    constant = train(csv(tmp_path / "c.csv", "a,y", "1,2.5", "2,2.5"))
    assert (constant.table.target.mean, constant.table.target.deviation) == (2.5, 1.0)


# ---------------------------------------------------------------- predicting


@pytest.fixture
def table():
    columns = [
        Column("a", median=2.0),
        Column("c", ["u", "v"], other=True, missing=True),
        Column("b"),
        Column("d", ["x"]),
    ]
    return Table("0", "regress", columns, Target("y"), impute=True)


def features(table, path, left_out=None, reading=None):
    source = open_table(path, reading, with_target=False)
    place = None if left_out is None else source.place("--target", left_out)
    encoder = Encoder(table, source, table.places(source, place), np.float32)
    return np.concatenate([X for X, _ in encoder.blocks()]), encoder.unseen


def test_rows_are_encoded_as_in_training(table, tmp_path):
    path = csv(tmp_path / "t.csv", "d,b,c,a", "x,5,u,1", "x,6,w,", "z,7,,3")
    X, unseen = features(table, path)
    np.testing.assert_array_equal(X, [[1, 1, 0, 0, 0, 5, 1], [2, 0, 0, 1, 0, 6, 1], [3, 0, 0, 0, 1, 7, 0]])
    assert unseen == {"d": {"z": 1}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["a,c,b,d", "1,u,,x"],
            r"line 2, column 3 \(b\): expected a value, got a missing one; the model was trained with",
        ),
        (["a,c,b,d", "1,u,q,x"], r"line 2, column 3 \(b\): expected a number, got 'q'"),
        (["a,c,b,d", "1,u,1e39,x"], r"line 2, column 3 \(b\): expected a finite number within ±3.4e\+38, got 1e\+39"),
        (["a,c,b", "1,u,2"], "expected columns named d, got a, c, b"),
    ],
)
def test_rows_that_the_model_cannot_read_are_refused(lines, message, table, tmp_path):
    with pytest.raises(ValueError, match=message):
        features(table, csv(tmp_path / "t.csv", *lines))


def test_missing_text_is_refused_by_a_model_that_has_learned_none(table, tmp_path):
    table.impute = False
    with pytest.raises(ValueError, match=r"line 2, column 2 \(c\): expected a value, got a missing one; the model was"):
        features(table, csv(tmp_path / "t.csv", "a,c,b,d", "1,,2,x"))


def test_columns_go_by_name_in_any_order_and_others_are_not_read(tmp_path):
    path = csv(tmp_path / "t.csv", "id,b,a,y", "A17,2,1,7", '"B, 3",5,4,8')
    want = {"a": [1, 4], "b": [2, 5], "y": [7, 8]}
    for names in (["a", "b"], ["b", "a"], ["y", "a"]):
        X, _ = features(Table("0", None, [Column(name) for name in names], Target(None)), path)
        np.testing.assert_array_equal(X, np.column_stack([want[name] for name in names]))


@pytest.mark.parametrize(
    ("names", "left_out", "message"),
    [
        (["a", "b"], "b", r"expected columns named b, got id, a, y$"),
        (["a", "c", "d"], None, "expected columns named c, d, got id, b, a, y"),
        (["A", "b"], None, "expected columns named A, got"),
        (["a", "b"], "z", "--target: expected one of the columns id, b, a, y of .*, got z"),
        ([None] * 2, None, "expected 2 columns, as in training, got 4$"),
        ([None] * 3, None, "expected 3 columns, as in training, got 4; leave the target out with --target"),
        ([None] * 5, None, "expected 5 columns, as in training, got 4$"),
        ([None] * 4, None, "line 2, column 1 \\(id\\): expected a number, got 'A17'"),
        (["a", "id"], None, "line 2, column 1 \\(id\\): expected a number, got 'A17'"),
    ],
)
def test_columns_that_do_not_fit_are_refused(names, left_out, message, tmp_path):
    path = csv(tmp_path / "t.csv", "id,b,a,y", "A17,2,1,7", "B 3,5,4,8")
    with pytest.raises(ValueError, match=message):
        features(Table("0", None, [Column(name) for name in names], Target(None)), path, left_out)


def test_a_file_without_names_is_refused_where_the_network_knows_names(tmp_path):
    known = Table("0", None, [Column("a"), Column("b")], Target(None))
    path = csv(tmp_path / "t.csv", "1,2")
    with pytest.raises(ValueError, match="expected columns named a, b, got some without names; add a first line"):
        features(known, path)
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"expected columns named a, b, got some without names$"):
        features(known, tmp_path / "t.npz")


@pytest.mark.parametrize("place", ["0", "4", "-1", "1.0", "", "a", "9" * 5000])
def test_a_column_number_that_the_file_does_not_have_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match="--target: expected one of the columns 1, 2, 3 of"):
        train(csv(tmp_path / "t.csv", "1,2,3"), target=place)


def test_what_is_said_of_text_files_is_refused_of_others(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)), y=[0.5, 1.5])
    for reading, message in (
        (Reading(delimiter=";"), r"--delimiter: expected a \.csv or \.tsv file"),
        (Reading(decimal=","), r"--decimal: expected a \.csv or \.tsv file"),
        (Reading(header=True), r"--header: expected a \.csv or \.tsv file"),
    ):
        with pytest.raises(ValueError, match=message):
            open_table(tmp_path / "t.npz", reading, with_target=True)
    with pytest.raises(ValueError, match=r"--target: expected a file of columns, got .*, whose target is the array y"):
        train(tmp_path / "t.npz", target="1")


# ---------------------------------------------------------------- what the model file says


def net_with(table, n_in=3, n_out=1):
    net = fo.nn.Sequential([fo.nn.Dense(n_in, n_out)], rng=0)
    net.metadata = {"table": table}
    return net


def test_a_table_comes_back_from_a_model_file_as_it_was(table, tmp_path):
    net = net_with(table.described(), 7)
    net.save(tmp_path / "m.safetensors")
    assert table_of("m", fo.nn.load(tmp_path / "m.safetensors")) == table
    assert table_of("m", net_with(None)) == Table(None, None, [Column(None)] * 3, Target(None))


GOOD = {
    "version": "0",
    "task": "regress",
    "columns": [{"name": "a", "median": 1.0}, {"name": "c", "categories": ["u"], "missing": True}],
    "target": {"name": "y", "mean": 1.0, "deviation": 2.0},
    "impute": True,
    "missing": ["-"],
}


def with_value(path, value):
    """GOOD with one value, found by a path of keys, replaced."""
    copy = json.loads(json.dumps(GOOD))
    *way, last = path
    inner = copy
    for key in way:
        inner = inner[key]
    inner[last] = value
    return copy


LIES = [
    (("columns", 0, "median"), "1"),
    (("columns", 0, "median"), [1]),
    (("columns", 0, "name"), "c"),
    (("columns", 0, "name"), None),
    (("columns", 0, "name"), 3),
    (("columns", 0, "unit"), "cm"),
    (("columns", 1, "categories"), "u"),
    (("columns", 1, "categories"), ["u", "u"]),
    (("columns", 1, "categories"), ["u", "v"]),
    (("columns", 1, "categories"), [3]),
    (("columns", 1, "missing"), "yes"),
    (("columns", 1, "other"), True),
    (("columns",), []),
    (("columns",), None),
    (("task",), "guess"),
    (("version",), 3),
    (("impute",), "median"),
    (("missing",), "x"),
    (("target",), None),
    (("target", "mean"), "1"),
    (("target", "deviation"), 0),
    (("target", "deviation"), -1),
    (("target", "link"), "logit"),
    (("target", "classes"), ["a", "b"]),
    (("target", "classes"), ["a"]),
    (("target", "name"), 3),
]


def test_the_table_that_the_lies_start_from_is_believed():
    assert table_of("m", net_with(GOOD)).described() == GOOD


@pytest.mark.parametrize(("path", "value"), LIES, ids=repr)
def test_a_table_that_lies_is_one_error(path, value):
    with pytest.raises(ValueError, match=r"^m: expected a description of its 3 columns, got one that does not fit"):
        table_of("m", net_with(with_value(path, value)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.sampled_from(["a", "c", "log"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "categories", "median", "classes", "mean"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.sampled_from([path for path, _ in LIES]), json_values)
def test_a_table_is_believed_whole_or_refused_whatever_it_says(path, value):
    try:
        table = table_of("m", net_with(with_value(path, value)))
    except ValueError as error:
        assert str(error).startswith("m: expected a description")  # noqa: PT017
    else:
        assert table.width == 3


# ---------------------------------------------------------------- Parquet and Feather


def frame_library(name, *others):
    for other in others:
        pytest.importorskip(other, reason=f"{other} is not installed")
    return pytest.importorskip(name, reason=f"{name} is not installed")


CONTENT = {
    "n": [1, 2, 3],
    "x": [0.5, None, 2.5],
    "who": ["u", " v ", None],
    "ok": [True, False, True],
    "y": [1.5, 2.5, 3.5],
}


@pytest.fixture(params=["pandas", "polars"])
def frame(request):
    library = frame_library(request.param, *(["pyarrow"] if request.param == "pandas" else []))
    return library.DataFrame(CONTENT), library


def write(frame, library, path):
    if library.__name__ == "pandas":
        getattr(frame, f"to_{path.suffix[1:]}")(path)
    else:
        getattr(frame, {".parquet": "write_parquet", ".feather": "write_ipc"}[path.suffix])(path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize("reader", ["pandas", "polars"])
def test_typed_files_are_read_as_the_same_table_as_text(suffix, reader, frame, tmp_path, monkeypatch):
    path = write(*frame, tmp_path / f"t{suffix}")
    other = frame_library("polars" if reader == "pandas" else "pandas")
    frame_library(reader, *(["pyarrow"] if reader == "pandas" else []))
    monkeypatch.setitem(sys.modules, other.__name__, None)
    text = csv(tmp_path / "t.csv", "n,x,who,ok,y", "1,0.5,u,True,1.5", "2,,v,False,2.5", "3,2.5,,True,3.5")
    typed, plain = train(path, impute="median"), train(text, impute="median")
    assert typed.table == plain.table
    np.testing.assert_array_equal(typed.X, plain.X)
    np.testing.assert_array_equal(typed.y, plain.y)
    whole = train(path, target="n", impute="median")
    assert whole.table.target.classes == [1, 2, 3]
    with pytest.raises(ValueError, match="row 2, column x: expected a value, got a missing one"):
        train(path, drop=("who",))


def test_typed_files_that_do_not_fit_are_refused(tmp_path):
    pandas = frame_library("pandas", "pyarrow")
    dates = pandas.DataFrame({"day": pandas.to_datetime(["2024-01-01", "2024-01-02"]), "y": [1.5, 2.5]})
    dates.to_parquet(tmp_path / "dates.parquet")
    with pytest.raises(
        ValueError, match="column day: expected numbers or text, got dates or times; write it as numbers"
    ):
        train(tmp_path / "dates.parquet")
    dates[["y"]].iloc[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="expected rows of numbers or text, got none"):
        train(tmp_path / "empty.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"expected a \.parquet file, got one that is damaged or of another kind"):
        train(tmp_path / "damaged.parquet")


def test_typed_columns_keep_their_values_and_say_what_is_missing(tmp_path):
    pandas = frame_library("pandas", "pyarrow")
    columns = {
        "big": np.array([2**63, 2**63 + 2**12, 2**63 + 2**13], np.uint64),
        "exact": [decimal.Decimal("1.5"), decimal.Decimal("2.5"), None],
        "flag": pandas.array([True, None, False], "boolean"),
        "text": pandas.array(["u", None, "v"], "string"),
        "lists": [[1, 2], [3], []],
        "y": [1.5, 2.5, 3.5],
    }
    pandas.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="column lists: expected numbers or text, got ndarray; leave it out"):
        train(tmp_path / "t.parquet", impute="median")
    data = train(tmp_path / "t.parquet", impute="median", drop=("lists",))
    big, exact, flag, text = data.table.columns
    assert np.all(np.diff(data.X[:, 0]) > 0)
    assert (big.median, exact.median) == (2.0**63 + 2**12, 2.0)
    assert (flag.categories, flag.missing) == (["True", "False"], True)
    assert (text.categories, text.missing) == (["u", "v"], True)


@pytest.mark.parametrize("reader", ["pandas", "polars"])
def test_the_index_of_a_frame_is_no_column(reader, tmp_path, monkeypatch):
    pandas, polars = frame_library("pandas", "pyarrow"), frame_library("polars")
    frame = pandas.DataFrame({"id": [7, 8, 9], "a": [1.0, 2.0, 4.0], "y": [1.5, 2.5, 3.5]})
    frame.set_index("id").to_parquet(tmp_path / "named.parquet")
    frame[["a", "y"]].set_index(pandas.Index([4, 1, 2])).to_parquet(tmp_path / "plain.parquet")
    monkeypatch.setitem(sys.modules, (polars if reader == "pandas" else pandas).__name__, None)
    for name in ("named", "plain"):
        table = train(tmp_path / f"{name}.parquet").table
        assert ([column.name for column in table.columns], table.target.name) == (["a"], "y")


def test_typed_files_need_a_library_that_reads_them(tmp_path, monkeypatch):
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r"expected pandas with pyarrow, or polars, to read a \.parquet file"):
        train(tmp_path / "t.parquet")
