"""Class labels: what becomes a class, and what is refused, by name."""

import numpy as np
import pytest

from fastopt._labels import class_labels

N = 6
LABELS = {
    "numbers": ([3, 1, 2, 1, 3, 2], [1, 2, 3]),
    "two": ([0.5, 0.5, 7, 7, 7, 0.5], [0.5, 7]),
    "bool": ([True, False] * 3, [False, True]),
    "text": (["b", "a"] * 3, ["a", "b"]),
    "the text nan": (["nan", "a"] * 3, ["a", "nan"]),
    "bytes": (np.array([b"b", b"a"] * 3), [b"a", b"b"]),
    "objects": (np.array(["b", "a"] * 3, object), ["a", "b"]),
    "times": (np.array(["2021", "2020"] * 3, "datetime64[Y]"), np.array(["2020", "2021"], "datetime64[Y]")),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind_become_classes_in_order(kind):
    labels, want = LABELS[kind]
    classes, codes = class_labels("y", labels, N)
    np.testing.assert_array_equal(classes, want)
    np.testing.assert_array_equal(classes[codes.astype(int)], labels)
    assert classes.dtype == np.asarray(labels).dtype


MISSING = {
    "NaN": [1.0, np.nan],
    "infinity": [1.0, np.inf],
    "NaN among objects": np.array([1, np.nan], object),
    "float32 among objects": np.array([1, np.float32("nan")], object),
    "NaN beside text": ["a", np.nan],
    "NaN beside text, as objects": np.array(["a", np.nan], object),
    "None": ["a", None],
    "no time": np.array(["2020", "NaT"], "datetime64[Y]"),
    "complex": [1 + 0j, complex("nan")],
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_label_is_no_class(kind):
    labels = np.repeat(np.asarray(MISSING[kind]), 3)
    if isinstance(MISSING[kind], list):
        labels = [MISSING[kind][i // 3] for i in range(N)]
    with pytest.raises(ValueError, match=r"y: expected class labels, got \S+ in row 3; drop rows without a label"):
        class_labels("y", labels, N)


def test_a_missing_label_of_pandas_is_no_class():
    pd = pytest.importorskip("pandas")
    for dtype in ("string", "Int64", "category", object):
        labels = pd.Series(["1", "2", "1", None, "2", "1"], dtype="string").astype(dtype)
        with pytest.raises(ValueError, match=r"y: expected class labels, got \S+ in row 3"):
            class_labels("y", labels, N)


@pytest.mark.parametrize("labels", [["a", 1] * 3, np.array(["a", 1] * 3, object)], ids=["list", "objects"])
def test_labels_of_several_types_are_refused(labels):
    with pytest.raises(TypeError, match="y: expected labels of one type"):
        class_labels("y", labels, N)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((N, 1)), r"y: expected shape \(6,\) for 6 rows, got \(6, 1\); pass y.ravel\(\)"),
        (np.zeros((N, 3)), r"y: expected shape \(6,\) for 6 rows, got \(6, 3\)$"),
        (np.ma.masked_equal([1, 2] * 3, 1), "y: expected class labels, got a masked array"),
    ],
    ids=["column", "matrix", "masked"],
)
def test_labels_of_another_shape_and_masked_ones_are_refused(labels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        class_labels("y", labels, N)
