"""Arrays that a caller hands over: what is taken for real numbers or class labels, and what is refused, by name."""

import numpy as np
import pytest

from fastopt._inputs import as_real, class_labels

N = 6
TAKEN = {
    "lists": lambda pd, torch: [[1, 2.5], [True, 4]],
    "objects": lambda pd, torch: np.array([[1, 2.5], [True, np.float32(4)]], object),
    "nothing masked": lambda pd, torch: np.ma.array([[1, 2.5], [1, 4]]),
    "mixed frame": lambda pd, torch: pd.DataFrame({"a": [1, True], "b": [2.5, 4]}),
    "bool and float": lambda pd, torch: pd.DataFrame({"a": [True, True], "b": [2.5, 4]}),
    "nullable frame": lambda pd, torch: pd.DataFrame(
        {"a": pd.array([1, 1], "Int64"), "b": pd.array([2.5, 4.0], "Float64")}
    ),
    "tensor": lambda pd, torch: torch.tensor([[1, 2.5], [1, 4]]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_holds_real_numbers_is_taken(kind):
    pd, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    found = as_real("X", TAKEN[kind](pd, torch))
    assert type(found) is np.ndarray or kind == "nothing masked"
    assert found.dtype.kind in "biuf"
    np.testing.assert_array_equal(found, [[1, 2.5], [1, 4]])


def test_an_array_of_numbers_is_handed_on_as_it_is(dtype):
    array = np.ones((3, 2), dtype)
    assert as_real("X", array) is array


def refused():
    pd, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    from scipy import sparse

    ones = torch.ones(2, 2)
    return {
        "sparse": (
            sparse.csr_matrix((2, 2)),
            r"X: expected a dense array, got a sparse csr_matrix; pass X.toarray\(\)",
        ),
        "masked": (np.ma.masked_equal([1, 2, 2], 2), "X: expected an array without masked elements, got 2 of them"),
        "complex": (np.ones(2) * 1j, "X: expected real numbers, got dtype complex128; pass X.real"),
        "text": (["1", "2"], "X: expected real numbers, got dtype <U1"),
        "times": (np.array(["2020"], "datetime64[Y]"), r"X: expected real numbers, got dtype datetime64\[Y\]"),
        "None": ([1.0, None], r"X: expected real numbers, got None at \(1,\)"),
        "a number as text": (np.array([[1.0, "3"]], object), r"X: expected real numbers, got '3' at \(0, 1\)"),
        "ragged": ([[1, 2], [3]], "X: expected an array, got list .*inhomogeneous"),
        "column of text": (pd.DataFrame({"a": [1.0], "b": ["x"]}), "X: .* in column 'b'; encode or drop it"),
        "categories": (pd.DataFrame({"a": [1.0], "b": pd.Categorical(["x"])}), "X: .*category in column 'b'"),
        "requires grad": (ones.clone().requires_grad_(), r"X: .* dtype torch.float32; pass X.detach\(\)$"),
        "bfloat16": (ones.bfloat16(), r"X: .* dtype torch.bfloat16; pass X.float\(\)$"),
        "both": (ones.bfloat16().requires_grad_(), r"X: .* pass X.detach\(\).float\(\)$"),
        "a type of others": (np.zeros(2, "V2"), r"X: .* got dtype \|V2; pass X.astype\(np.float32\)"),
    }


def test_what_would_lose_something_is_refused_with_a_way_out():
    for value, message in refused().values():
        with pytest.raises((TypeError, ValueError), match=message):
            as_real("X", value)


def test_values_that_a_frame_lacks_are_nan():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [True, False]})
    np.testing.assert_array_equal(as_real("X", frame), [[1, 1], [np.nan, 0]])


# ---------------------------------------------------------------- class labels

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
        (np.ma.masked_equal([1, 2] * 3, 1), "y: expected an array without masked elements, got 3"),
    ],
    ids=["column", "matrix", "masked"],
)
def test_labels_of_another_shape_and_masked_ones_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_labels("y", labels, N)
