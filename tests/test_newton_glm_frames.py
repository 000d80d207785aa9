"""Data frames and names in generalized linear models.

Pass criterion: a frame's columns of categories give what one-hot columns without the reference level give, within RTOL.
"""

import pickle

import numpy as np
import pytest

from fastopt.newton import glm

pandas = pytest.importorskip("pandas", reason="needs pandas")

RTOL = 1e-7
N = 240
RNG = np.random.default_rng(5)
COLORS = RNG.choice(["red", "green", "blue"], N)
SIZES = RNG.choice(["small", "large", "medium"], N)
AGE, OWNS = RNG.normal(40, 10, N), RNG.uniform(size=N) < 0.4
Z = -1 + 0.02 * AGE + 0.5 * (COLORS == "red") - 0.3 * (SIZES == "large") + 0.2 * OWNS
Y = RNG.poisson(np.exp(Z))
NAMES = ["color[T.green]", "color[T.red]", "age", "size[T.medium]", "size[T.large]", "owns"]
HOT = [COLORS == "green", COLORS == "red", AGE, SIZES == "medium", SIZES == "large", OWNS]
ONE_HOT = np.column_stack(HOT).astype(np.float64)
GROUPS = RNG.integers(0, 10, N)


def pandas_frame(text="str"):
    sizes = pandas.Categorical(SIZES, ["small", "medium", "large", "none"])
    frame = pandas.DataFrame({"color": COLORS, "age": AGE, "size": sizes, "owns": OWNS})
    return frame if text == "str" else frame.astype({"color": text})


def polars_frame():
    polars = pytest.importorskip("polars", reason="needs polars")
    sizes = polars.Series(SIZES).cast(polars.Enum(["small", "medium", "large", "none"]))
    return polars.DataFrame({"color": COLORS.tolist(), "age": AGE, "size": sizes, "owns": OWNS})


FRAMES = {
    "pandas": pandas_frame,
    "pandas objects": lambda: pandas_frame("object"),
    "pandas categories": lambda: pandas_frame("category"),
    "polars": polars_frame,
}
every_frame = pytest.mark.parametrize("kind", FRAMES)


def fitted(X, y=Y, family="poisson", **given):
    return glm(X, y, family, **{"l2": 0.0, "tol": 1e-12, **given})


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * np.abs(want).max())


@every_frame
@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_columns_of_categories_give_what_one_hot_columns_without_the_reference_give(kind, l2):
    frame = FRAMES[kind]()
    one, other = fitted(frame, l2=l2), fitted(ONE_HOT, l2=l2)
    assert one.names == NAMES
    for name in ("coef", "intercept", "hessian", "covariance", "condition_number", "deviance", "aic", "null_deviance"):
        close(getattr(one, name), getattr(other, name))
    for cov_type in ("HC0", "HC3", "cluster"):
        groups = GROUPS if cov_type == "cluster" else None
        close(one.summary(cov_type, groups).covariance, other.summary(cov_type, groups).covariance)
    close(one.predict(frame), other.predict(ONE_HOT))
    for kind_of_interval in ("confidence", "prediction"):
        close(one.predict_interval(frame, kind_of_interval), other.predict_interval(ONE_HOT, kind_of_interval))
    assert one.summary().names == [*NAMES, "intercept"]
    assert "Reference levels: color = blue, size = small." in str(one.summary()).replace("\n   ", "")


@pytest.mark.parametrize("family", ["gaussian", "binomial", "multinomial", "gamma", "tweedie", "negative_binomial"])
def test_every_family_takes_columns_of_categories(family):
    y = Y + 0.5 if family == "gamma" else Y % 3 if family == "multinomial" else Y > 0 if family == "binomial" else Y
    one, other = fitted(pandas_frame(), y, family), fitted(ONE_HOT, y, family)
    close(one.coef, other.coef)
    close(one.covariance, other.covariance)
    close(one.summary("HC0").covariance, other.summary("HC0").covariance)
    assert one.names == NAMES


@every_frame
def test_a_model_is_fitted_to_columns_of_categories_alone_and_without_an_intercept(kind):
    one = fitted(FRAMES[kind]()[["size", "color"]], fit_intercept=False)
    other = fitted(ONE_HOT[:, [3, 4, 0, 1]], fit_intercept=False)
    close(one.coef, other.coef)
    close(one.covariance, other.covariance)
    assert one.summary().names == ["size[T.medium]", "size[T.large]", "color[T.green]", "color[T.red]"]


@every_frame
def test_predictions_find_columns_by_name_in_any_order_and_ignore_others(kind):
    frame = FRAMES[kind]()
    fit = fitted(frame)
    want = fit.predict(frame)
    other = frame[["owns", "size", "age", "color"]]
    np.testing.assert_array_equal(fit.predict(other), want)
    np.testing.assert_array_equal(fit.predict(pandas_frame().assign(other="x")), want)
    few = pandas_frame().iloc[[3]]
    np.testing.assert_allclose(fit.predict(few), want[[3]], rtol=1e-14)
    assert fit.predict(frame[:0]).shape == (0,)


def test_a_pickled_model_keeps_names_and_levels():
    fit = fitted(pandas_frame())
    twin = pickle.loads(pickle.dumps(fit))
    assert twin.names == NAMES
    np.testing.assert_array_equal(twin.predict(pandas_frame()), fit.predict(pandas_frame()))


def test_a_frame_of_numbers_gives_the_bits_of_its_array():
    frame = pandas.DataFrame({"a": AGE, "b": AGE**2, "c": RNG.normal(size=N)})
    one, other = fitted(frame), fitted(frame.to_numpy())
    np.testing.assert_array_equal(one.coef, other.coef)
    assert one.names == ["a", "b", "c"]
    np.testing.assert_array_equal(one.predict(frame.to_numpy()), one.predict(frame))
    np.testing.assert_array_equal(other.predict(frame), one.predict(frame))


def test_what_goes_by_rows_may_be_series():
    weight, offset = RNG.uniform(0.5, 1, N), RNG.normal(size=N)
    series = pandas.Series
    one = fitted(pandas_frame(), series(Y), sample_weight=series(weight), offset=series(offset))
    other = fitted(pandas_frame(), Y, sample_weight=weight, offset=offset)
    np.testing.assert_array_equal(one.coef, other.coef)
    groups = series(GROUPS).map("g{}".format)
    close(one.summary("cluster", groups).covariance, other.summary("cluster", GROUPS).covariance)
    np.testing.assert_array_equal(
        one.predict(pandas_frame(), offset=series(offset)), other.predict(pandas_frame(), offset=offset)
    )
    labels = fitted(pandas_frame(), series(np.where(Y > 0, "yes", "no"), dtype="category"), "binomial")
    assert labels.classes.tolist() == ["no", "yes"]


def test_names_are_given_to_the_columns_of_an_array():
    fit = fitted(ONE_HOT[:, 2:], names=["age", "medium", "large", "owns"])
    table = fit.summary()
    assert table.names == ["age", "medium", "large", "owns", "intercept"]
    frame = pandas.DataFrame(ONE_HOT[:, :1:-1], columns=["owns", "large", "medium", "age"])
    np.testing.assert_array_equal(fit.predict(frame), fit.predict(ONE_HOT[:, 2:]))
    assert fitted(ONE_HOT).names == ["x0", "x1", "x2", "x3", "x4", "x5"]
    for names in (["a"], ["a", "a", "b", "c"], [1, 2, 3, 4], "abcd"):
        with pytest.raises(ValueError, match="names: expected 4 different strings"):
            fitted(ONE_HOT[:, 2:], names=names)
    with pytest.raises(ValueError, match="names: expected none for a data frame"):
        fitted(pandas_frame(), names=["a"])


def test_bounds_follow_the_order_of_the_names():
    low = np.array([0.1, -np.inf, 0.05, -np.inf, -0.1, -np.inf])
    one, other = fitted(pandas_frame(), bounds=(low, np.inf)), fitted(ONE_HOT, bounds=(low, np.inf))
    assert one.active.any()
    np.testing.assert_array_equal(one.active, other.active)
    close(one.coef, other.coef)
    close(one.covariance, other.covariance)


def test_a_summary_becomes_a_frame():
    table = fitted(pandas_frame()).summary(level=0.9)
    frame = table.to_frame()
    assert frame.index.tolist() == [*NAMES, "intercept"]
    assert frame.columns.tolist() == ["coef", "std err", "z", "P>|z|", "lower", "upper"]
    np.testing.assert_array_equal(frame["std err"], table.standard_errors)
    np.testing.assert_array_equal(frame[["lower", "upper"]], table.confidence_intervals)


def with_column(**columns):
    return pandas_frame().assign(**columns)


def test_a_column_that_depends_on_others_is_called_by_its_name():
    frame = pandas_frame().assign(again=AGE * 2)[["color", "again", "size", "age"]]
    with pytest.raises(ValueError, match="got column 'age', that depends on those before it"):
        fitted(frame)
    with pytest.raises(ValueError, match="as the intercept: column 'one'"):
        fitted(pandas_frame().assign(one=1.0))
    with pytest.raises(ValueError, match=r"got column 'size\[T.large\]', that depends"):
        fitted(pandas_frame().assign(large=SIZES == "large"))
    with pytest.raises(ValueError, match="got column 'b', that depends"):
        fitted(ONE_HOT[:, [2, 2]], names=["a", "b"])


MISSING = [None, *COLORS[1:]]
WRONG_FITS = {
    "missing text": (
        with_column(color=MISSING),
        r"X\['color'\]: expected a value in every row, got a missing one in row 0",
    ),
    "missing category": (
        with_column(size=pandas.Categorical([*SIZES[:7], None, *SIZES[8:]])),
        r"X\['size'\]: expected a value in every row, got a missing one in row 7",
    ),
    "missing number": (
        with_column(age=[*AGE[:4], np.nan, *AGE[5:]]),
        r"X\['age'\]: expected finite values, got nan in row 4; fill or drop",
    ),
    "missing integer": (
        with_column(owns=pandas.array([None] + [1, 0] * 119 + [1], dtype="Int64")),
        r"X\['owns'\]: expected finite values, got nan in row 0",
    ),
    "dates": (
        with_column(age=pandas.date_range("2020-01-01", periods=N)),
        r"X\['age'\]: expected numbers, text or categories, got datetime64.*such as the days since a date",
    ),
    "intervals": (
        with_column(age=pandas.interval_range(0, N)),
        r"X\['age'\]: expected numbers, text or categories, got interval.*; pass numbers",
    ),
    "one level": (
        with_column(color="red"),
        r"X\['color'\]: expected at least two levels, got \['red'\]; drop the column",
    ),
    "several types": (with_column(color=["a", 1] * 120), r"X\['color'\]: expected labels of one type"),
    "no column": (pandas.DataFrame(index=range(N)), "X: expected at least one column, got a data frame without any"),
    "twice": (
        pandas.concat([pandas_frame(), pandas_frame()[["age"]]], axis=1),
        "X: expected columns of different names, got 'age' twice; rename one",
    ),
}


@pytest.mark.parametrize("case", WRONG_FITS)
def test_a_column_that_cannot_be_fitted_is_named(case):
    frame, message = WRONG_FITS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        fitted(frame)


WRONG_ROWS = {
    "level": (
        with_column(color=["pink", *COLORS[1:]]),
        r"X\['color'\]: expected one of the 3 levels that the model was fitted to, got 'pink' in row 0; drop such rows",
    ),
    "level without rows": (
        with_column(size=pandas.Categorical(["none", *SIZES[1:]], ["small", "medium", "large", "none"])),
        r"X\['size'\]: expected one of the 3 levels.* got 'none' in row 0",
    ),
    "column": (pandas_frame().drop(columns="size"), "X: expected the columns that .* got none named 'size'"),
    "missing": (with_column(color=MISSING), r"X\['color'\]: expected a value in every row"),
    "text": (with_column(age="old"), r"X\['age'\]: expected real numbers"),
    "array": (ONE_HOT, "X: expected a data frame of color, age, size, owns, for columns have levels, got ndarray"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_rows_that_cannot_be_predicted_are_an_error_that_names_the_column(case):
    rows, message = WRONG_ROWS[case]
    fit = fitted(pandas_frame())
    for predict in (fit.predict, fit.predict_interval):
        with pytest.raises((ValueError, TypeError), match=message):
            predict(rows)


def test_frames_that_were_not_computed_yet_are_refused_with_the_way_out():
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X: expected a data frame, got a LazyFrame; pass X.collect\(\)"):
        fitted(polars.LazyFrame({"age": AGE}))


def test_decimals_of_arrow_are_no_categories():
    pyarrow = pytest.importorskip("pyarrow")
    decimals = pandas.Series(np.arange(N)).astype(pandas.ArrowDtype(pyarrow.decimal128(25, 2)))
    with pytest.raises(TypeError, match=r"X\['age'\]: expected numbers.*decimal128.*\.astype\(float\) of decimals"):
        fitted(with_column(age=decimals))
