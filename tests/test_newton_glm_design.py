"""Categorical codes and sparse matrices in generalized linear models.

Pass criterion: whatever is found by entries equals what the dense matrix of the same rows gives: loss, gradient,
Hessian within RTOL of the largest entry, coefficients of a fit within 1e-8 of the largest.
"""

import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import pairwise
from reference import DTYPES, FAMILIES, GLM_PARAMETERS, glm
from test_newton_glm import as_theta, some_of_each

import fastopt as fo
from fastopt._kernels import core
from fastopt.newton import Design
from fastopt.newton import glm as fit_glm
from fastopt.newton.glm_data import Data
from fastopt.newton.glm_objective import Objective

RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
LEVELS = (3, 1, 6, 2)
every = pytest.mark.parametrize("family", FAMILIES)


def one_hot(codes, levels):
    return np.hstack([codes[:, [j]] == np.arange(m) for j, m in enumerate(levels)]).astype(float)


def drawn(n, d=3, kind="codes", levels=LEVELS, seed=0, dtype=np.float64):
    """A design, and its rows as a dense matrix."""
    rng = np.random.default_rng((n, d, seed))
    dense = rng.normal(size=(n, d)).astype(dtype)
    codes = np.column_stack([rng.integers(-1, m, n) for m in levels])
    rows = one_hot(codes, levels)
    if kind == "codes":
        return Design(dense, codes, levels), np.hstack([dense, rows])
    rows = rng.normal(size=(n, 9)) * (rng.uniform(size=(n, 9)) < 0.3)
    return Design(dense, sparse=scipy.sparse.csr_array(rows)), np.hstack([dense, rows])


def dense_rows(design, i, j):
    rows = design.rows(i, j)
    return rows if isinstance(rows, np.ndarray) else rows.toarray()


def target(family, rows, seed=1):
    """What the family could have drawn, and the number of its predictors."""
    rng = np.random.default_rng((len(rows), seed))
    z = 0.3 + rows @ rng.normal(size=rows.shape[1]) / np.sqrt(rows.shape[1])
    y = {
        "gaussian": lambda: z + rng.normal(size=len(z)),
        "binomial": lambda: (z + rng.logistic(size=len(z)) > 0).astype(float),
        "multinomial": lambda: rng.integers(0, 3, len(z)).astype(float),
        "gamma": lambda: rng.gamma(2, np.exp(z)),
    }.get(family, lambda: rng.poisson(np.exp(z)).astype(float))()
    some_of_each(family, y)
    return y, 3 if family == "multinomial" else 1


# ---------------------------------------------------------------- the kernel


@given(
    st.sampled_from(FAMILIES),
    st.integers(1, 200),
    st.sampled_from([0, 1, 5, 24, 50]),
    st.sampled_from(["codes", "sparse"]),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from(DTYPES),
)
@example("binomial", 1, 0, "codes", False, np.float64, False, np.float64)
@example("multinomial", 65, 24, "sparse", True, np.float32, True, np.float32)
@example("multinomial", 130, 0, "codes", True, np.float32, True, np.float64)
@example("poisson", 64, 5, "codes", True, np.float32, True, np.float32)
def test_loss_gradient_hessian_and_products_equal_those_of_the_dense_matrix(
    family, n, d, kind, intercept, dtype, weighted, hessian_dtype
):
    design, rows = drawn(n, d, kind, dtype=dtype)
    y, k = target(family, rows)
    rng = np.random.default_rng(n)
    weight = rng.uniform(0, 2, n) if weighted else None
    center = np.append(rng.normal(size=d), np.zeros(design.d - d))
    theta, v = rng.normal(size=(2, k, design.d + intercept)) / np.sqrt(design.d)
    data = Data(family, design, y, weight, k, intercept, None, GLM_PARAMETERS.get(family, 0.0)).bound(center)
    grad, out, hessian = np.empty_like(theta), np.empty_like(theta), np.zeros((theta.size,) * 2, hessian_dtype)
    got = data.value(theta, grad, hessian)
    loss, want_grad, want = glm(family, theta, rows - center, y, np.ones(n) if weight is None else weight)
    assert got == pytest.approx(loss, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(grad, want_grad, rtol=0, atol=1e-13 * max(n, np.abs(want_grad).max()))
    rtol = RTOL[np.dtype(hessian_dtype)]
    np.testing.assert_allclose(np.tril(hessian), np.tril(want), rtol=0, atol=rtol * max(1, np.abs(want).max()))
    product = want @ v.reshape(-1)
    data.product(v, out)
    np.testing.assert_allclose(out.reshape(-1), product, rtol=0, atol=1e-13 * max(n, np.abs(product).max()))
    again = np.zeros_like(hessian)
    data.hessian(again)
    np.testing.assert_array_equal(np.tril(again), np.tril(hessian))


def test_many_rows_and_levels_equal_the_dense_matrix():
    design, rows = drawn(5001, 7, levels=(150, 90, 40))
    y, _ = target("poisson", rows)
    theta = np.random.default_rng(0).normal(size=(1, design.d + 1)) / 3
    grad, hessian = np.empty_like(theta), np.empty((design.d + 1,) * 2)
    loss = Data("poisson", design, y, None, 1, True, None).bound(None).value(theta, grad, hessian)
    want = glm("poisson", theta, rows, y, np.ones(len(y)))
    assert loss == pytest.approx(want[0], rel=1e-13)
    np.testing.assert_allclose(grad, want[1], rtol=0, atol=1e-12 * np.abs(want[1]).max())
    np.testing.assert_allclose(np.tril(hessian), np.tril(want[2]), rtol=0, atol=1e-12 * want[2].max())


def test_weighted_squares_of_a_design_come_from_a_gaussian():
    """What standard errors are made of: X^T diag(v) X, without the dense matrix."""
    design, rows = drawn(300)
    v = np.random.default_rng(0).uniform(0, 2, 300)
    data = Data("gaussian", design, np.zeros(300), v, 1, False, None).bound(None)
    theta, out = np.zeros((1, design.d)), np.empty((design.d,) * 2)
    data.value(theta, np.empty_like(theta))
    np.testing.assert_allclose(np.tril(data.hessian(out)), np.tril((rows.T * v) @ rows), rtol=0, atol=1e-11)


def test_entries_that_lie_outside_are_refused_by_the_kernel():
    columns, starts = np.arange(4, dtype=np.int32), np.array([0, 2, 4])
    args = "gaussian", np.empty((2, 0)), np.zeros(2), None, 1, True, None, None, 0.0
    for bad in (
        (columns, None, starts, 1),
        (columns - 1, None, starts, 4),
        (columns, None, starts + 1, 4),
        (columns, None, starts[::-1].copy(), 4),
        (columns, None, starts[:2], 4),
        (columns[:3], None, None, 4),
    ):
        with pytest.raises(ValueError, match="entries: expected"):
            core.GlmData(*args, bad)
    for bad in ((columns.astype(np.int64), None, starts, 4), (columns, None, starts.astype(np.int32), 4)):
        with pytest.raises(TypeError, match="entries: expected"):
            core.GlmData(*args, bad)
    core.GlmData(*args, (columns, None, starts, 4))


@every
@pytest.mark.parametrize("kind", ["codes", "sparse"])
@pytest.mark.parametrize("d", [0, 9])
def test_bits_do_not_depend_on_the_team(family, kind, d):
    design, rows = drawn(9001, d, kind)
    y, _ = target(family, rows)
    found = []
    for n in (1, 2, 3, 8):
        with fo.num_threads(n):
            fit = fit_glm(design, y, family)
            found.append([a.tobytes() for a in (np.asarray(fit.coef), np.asarray(fit.intercept), fit.hessian)])
    assert all(f == found[0] for f in found)


# ---------------------------------------------------------------- fits


@pairwise(
    family=FAMILIES,
    kind=["codes", "sparse"],
    d=[0, 3],
    way=["as it is", "conjugate gradients"],
    intercept=[True, False],
    l2=[0.0, 0.7],
    far=[False, True],
)
def test_a_fit_equals_that_of_the_dense_matrix(family, kind, d, way, intercept, l2, far, monkeypatch):
    if way == "conjugate gradients":
        monkeypatch.setattr(fo.newton.glm_solver, "MOST_PASSES", 0)
    design, rows = drawn(900, d, kind)
    y, _ = target(family, rows)
    if far and intercept:
        rows[:, :d] += 1e4
        design = Design(rows[:, :d], sparse=scipy.sparse.csr_array(rows[:, d:]))
    weight, offset = np.random.default_rng(2).uniform(0, 2, (2, 900))
    offset = np.outer(offset, np.arange(3)) if family == "multinomial" else offset
    got, want = (fit_glm(X, y, family, l2, intercept, weight, tol=1e-11, offset=offset) for X in (design, rows))
    assert got.converged
    np.testing.assert_allclose(got.coef, want.coef, rtol=0, atol=1e-8 * max(1, np.abs(want.coef).max()))
    z = want.decision_function(rows, offset)
    np.testing.assert_allclose(got.decision_function(design, offset), z, rtol=0, atol=1e-7)
    np.testing.assert_allclose(got.decision_function(rows, offset), z, rtol=0, atol=1e-7)
    np.testing.assert_allclose(got.hessian, want.hessian, rtol=0, atol=1e-7 * np.abs(want.hessian).max())


def test_the_inverse_link_without_an_intercept_starts_in_its_domain_from_codes():
    codes = np.arange(60).reshape(-1, 1) % 4
    y = 1 + codes[:, 0] + np.random.default_rng(0).uniform(size=60)
    fit = fit_glm(Design(codes=codes), y, "gamma", 0.0, False, link="inverse", tol=1e-12)
    np.testing.assert_allclose(1 / fit.coef, [y[codes[:, 0] == level].mean() for level in range(4)], rtol=1e-9)


def test_levels_of_a_poisson_without_a_penalty_are_their_means():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 40, (5000, 1))
    y = rng.poisson(1 + codes[:, 0] % 5).astype(float)
    fit = fit_glm(Design(codes=codes), y, "poisson", 0.0, tol=1e-12)
    means = [y[codes[:, 0] == level].mean() for level in range(-1, 40)]
    np.testing.assert_allclose(np.exp(fit.intercept), means[0], rtol=1e-9)
    np.testing.assert_allclose(np.exp(fit.intercept + fit.coef), means[1:], rtol=1e-9)


@pytest.mark.parametrize("l2", [0.0, 1e-6, 1.0])
def test_a_level_that_the_first_hessian_does_not_see_costs_no_steps(l2, monkeypatch):
    passes, value = [], Objective.value
    monkeypatch.setattr(Objective, "value", lambda self, *given: passes.append(1) or value(self, *given))
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(-1, 19, 12_800), np.full(12_800, -1)])
    codes[100:120, 1] = 0  # in the second panel of rows, and the first Hessian is of every eighth
    y = rng.poisson(np.where(codes[:, 1] == 0, 60, 1)).astype(float)
    fit = fit_glm(Design(codes=codes), y, "poisson", l2)
    assert fit.converged
    assert fit.coef[-1] == pytest.approx(np.log(60), abs=0.1)
    assert len(passes) <= 15  # 34 by a step of the penalty alone


def test_thousands_of_columns_are_solved_by_products():
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 20_000, (3000, 5))
    X = scipy.sparse.csr_array(
        (rng.normal(size=15_000), columns.reshape(-1), np.arange(0, 15_001, 5)), shape=(3000, 20_000)
    )
    X.sum_duplicates()
    coef = rng.normal(size=20_000)
    y = X @ coef + rng.logistic(size=3000) > 0
    fit = fit_glm(X, y, tol=1e-10)
    assert fit.converged
    p = 1 / (1 + np.exp(-(X @ fit.coef + fit.intercept)))
    gradient = np.append(X.T @ (p - y) + fit.coef, (p - y).sum())
    assert np.abs(gradient).max() <= 1e-10 * 3000


@every
def test_dependent_levels_are_an_error_without_a_penalty_and_solved_with_one(family):
    codes = np.column_stack([np.arange(300) % 3, np.arange(300) // 3 % 4])
    y, _ = target(family, one_hot(codes, (3, 4)))
    design = Design(codes=codes)
    with pytest.raises(ValueError, match=r"linearly independent columns for l2=0, got column(s that add up| 6, that)"):
        fit_glm(design, y, family, 0.0)
    with pytest.raises(ValueError, match=r"got column 6, that depends"):
        fit_glm(design, y, family, 0.0, fit_intercept=False)
    fit = fit_glm(design, y, family, 1e-6)
    assert fit.converged
    reference = Design(codes=codes - 1, levels=[2, 3])
    free = fit_glm(reference, y, family, 0.0, tol=1e-11)
    np.testing.assert_allclose(
        fit.decision_function(design).T if family != "multinomial" else fit.predict_proba(design),
        free.decision_function(reference).T if family != "multinomial" else free.predict_proba(reference),
        atol=1e-5,
    )


def test_a_constant_column_among_entries_is_named():
    codes = np.column_stack([np.arange(90) % 3 - 1, np.zeros(90, int)])
    y, _ = target("binomial", one_hot(codes, (2, 1)))
    with pytest.raises(ValueError, match="columns that add up to a constant, as the intercept"):
        fit_glm(Design(np.arange(90.0)[:, None] + 1e4, codes), y, l2=0.0)
    with pytest.raises(ValueError, match="got column 2, that depends"):  # no row has it
        fit_glm(Design(codes=codes[:, :1], levels=[5]), y, l2=0.0, fit_intercept=False)


def test_rows_without_entries_and_designs_without_columns():
    empty = scipy.sparse.csr_array((40, 3))
    y, _ = target("gaussian", np.zeros((40, 3)))
    fit = fit_glm(empty, y, "gaussian")
    np.testing.assert_array_equal(fit.coef, 0)
    assert fit.intercept == pytest.approx(y.mean())
    with pytest.raises(ValueError, match=r"X: expected shape \(n, d\), n and d at least 1, got \(40, 0\)"):
        fit_glm(Design(codes=np.zeros((40, 0), int)), y, "gaussian")
    np.testing.assert_allclose(fit.predict(Design(codes=np.zeros((0, 1), int), levels=[3])), [])


# ---------------------------------------------------------------- what comes in


def untidy(rows):
    """The matrix with its entries out of order, some in two parts, and zeros among them; int64 indices."""
    matrix = scipy.sparse.coo_array(rows)
    at = np.random.default_rng(0).permutation(matrix.nnz)
    row, column = (np.concatenate([a[at], a[:50], [0, 1]]) for a in matrix.coords)
    parts = np.concatenate([matrix.data[at], matrix.data[:50], [0, 0]])
    parts[:50] += 0
    parts[np.argsort(at)[:50]] -= matrix.data[:50]
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(rows) + 1))
    return scipy.sparse.csr_array((parts[order], column[order].astype(np.int64), starts), shape=rows.shape)


def test_a_sparse_matrix_may_be_of_any_form():
    _, rows = drawn(300, 0, "sparse")
    y, _ = target("binomial", rows)
    want = fit_glm(rows, y, tol=1e-11)
    messy = untidy(rows)
    assert not messy.has_canonical_format
    np.testing.assert_allclose(messy.toarray(), rows, atol=1e-15)
    kept = messy.data.copy(), messy.indices.copy()
    forms = [
        getattr(scipy.sparse, f"{form}_{kind}")(rows)
        for form in ("csr", "csc", "coo", "lil")
        for kind in ("array", "matrix")
    ]
    for X in (*forms, messy):
        fit = fit_glm(X, y, tol=1e-11)
        np.testing.assert_allclose(as_theta(fit), as_theta(want), rtol=0, atol=1e-9)
        np.testing.assert_allclose(fit.predict_proba(X), want.predict_proba(rows), rtol=1e-7)
    np.testing.assert_array_equal(messy.data, kept[0])
    np.testing.assert_array_equal(messy.indices, kept[1])
    for dtype in (np.float32, np.int8, bool):
        whole = np.sign(rows).astype(dtype)
        np.testing.assert_allclose(
            fit_glm(scipy.sparse.csr_array(whole), y).coef, fit_glm(whole.astype(float), y).coef, rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_codes_may_be_of_any_integer_type(dtype):
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(0, 120, 500), rng.integers(0, 100, 500), rng.integers(0, 90, 500)])
    codes[:3] = [119, 99, 89]
    y, _ = target("gaussian", codes / 50)
    want = fit_glm(one_hot(codes, (120, 100, 90)), y, "gaussian", tol=1e-11)
    for given_codes in (codes.astype(dtype), np.asfortranarray(codes.astype(dtype))):
        np.testing.assert_allclose(fit_glm(Design(codes=given_codes), y, "gaussian").coef, want.coef, atol=1e-7)


def test_blocks_columns_and_predictors_are_those_of_the_dense_matrix():
    for kind in ("codes", "sparse"):
        design, rows = drawn(70, 2, kind)
        assert design.shape == rows.shape
        np.testing.assert_array_equal(dense_rows(design, 0, 70), rows)
        np.testing.assert_array_equal(dense_rows(design, 13, 31), rows[13:31])
        for j in range(design.d):
            np.testing.assert_array_equal(design.column(j), rows[:, j])
        for k in (1, 3):
            coef = np.random.default_rng(0).normal(size=(k, design.d))
            np.testing.assert_allclose(design.predictors(coef), rows @ coef.T, rtol=0, atol=1e-13)
        np.testing.assert_allclose(design.mean_squares(), (rows**2).mean(axis=0), rtol=1e-13)
        twin = pickle.loads(pickle.dumps(design))
        np.testing.assert_array_equal(dense_rows(twin, 0, 70), rows)


def test_many_rows_are_predicted_piece_by_piece(monkeypatch):
    design, rows = drawn(300)
    y, _ = target("multinomial", rows)
    fit = fit_glm(design, y, "multinomial")
    want = fit.predict_proba(design)
    monkeypatch.setattr(fo.newton.glm_design, "SLICE", 64)
    np.testing.assert_allclose(fit.predict_proba(design), want, rtol=1e-13)


def test_a_design_is_what_it_was_whatever_happens_to_its_arrays():
    codes = np.arange(20).reshape(10, 2) % 3
    matrix = scipy.sparse.csr_array(one_hot(codes, (3, 3)))
    designs = Design(codes=codes), Design(sparse=matrix)
    want = dense_rows(designs[0], 0, 10)
    codes[:], matrix.indices[:], matrix.indptr[1:-1] = 7, 9, 30
    for design in designs:
        np.testing.assert_array_equal(dense_rows(design, 0, 10), want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_that_names_the_column_or_the_row(bad):
    design, rows = drawn(80, 2, "sparse")
    y, _ = target("binomial", rows)
    fit = fit_glm(design, y)
    i = int(np.flatnonzero(rows[:, 5])[3])
    rows[i, 5] = bad
    broken = Design(rows[:, :2], sparse=scipy.sparse.csr_array(rows[:, 2:]))
    with pytest.raises(ValueError, match="X: expected finite values, got NaN or infinity in column 5"):
        fit_glm(broken, y)
    with pytest.raises(ValueError, match=f"X: expected finite values, got NaN or infinity in row {i}"):
        fit.predict(broken)


def corrupt():
    matrix = scipy.sparse.csr_array(np.eye(4))
    matrix.indices[2] = 7
    return matrix


CODES = np.arange(8).reshape(4, 2) % 3
WRONG = {
    "nothing": ({}, "dense, codes, sparse: expected at least one of them"),
    "both": ({"codes": CODES, "sparse": scipy.sparse.eye_array(4)}, "sparse: expected None beside codes, got both"),
    "levels alone": ({"dense": np.eye(4), "levels": [2]}, "levels: expected None without codes"),
    "rows": ({"dense": np.eye(3), "codes": CODES}, "codes: expected 3 rows, as dense has, got 4"),
    "rows of sparse": ({"dense": np.eye(3), "sparse": scipy.sparse.eye_array(4)}, "sparse: expected 3 rows"),
    "vector": ({"dense": np.ones(3)}, r"dense: expected shape \(n, d\), got \(3,\); pass dense.reshape\(-1, 1\)"),
    "vector of codes": ({"codes": CODES[:, 0]}, r"codes: expected shape \(n, c\), got \(4,\); pass codes.reshape"),
    "fractions": ({"codes": CODES / 2}, "codes: expected integers, got float64; number labels by"),
    "text": ({"codes": CODES.astype(str)}, "codes: expected integer codes, got dtype <U"),
    "below": ({"codes": CODES - 2}, "codes: expected codes from -1, for no coefficient, to 0 in column 0, got -2"),
    "beyond": ({"codes": CODES, "levels": [3, 2]}, "codes: expected codes from -1, .*, to 1 in column 1, got 2"),
    "far beyond": ({"codes": CODES.astype(np.uint64) + 2**40}, r"levels\[0\]: expected a whole number"),
    "too few levels": ({"codes": CODES, "levels": [3]}, "levels: expected one for each of 2 columns of codes, got 1"),
    "levels of text": ({"codes": CODES, "levels": ["3", 3]}, r"levels\[0\]: expected a whole number"),
    "no sparse matrix": ({"sparse": np.eye(4)}, "sparse: expected a SciPy sparse matrix or array, got ndarray"),
    "complex": ({"sparse": scipy.sparse.eye_array(4) * 1j}, "sparse: expected real numbers, got dtype complex128"),
    "corrupt": ({"sparse": corrupt()}, "sparse: expected indices that lie in the matrix, got others"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named_with_what_was_expected(case):
    change, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        Design(**change)


def test_columns_that_differ_from_those_of_the_fit_are_refused():
    design, rows = drawn(50)
    fit = fit_glm(design, target("binomial", rows)[0])
    for other in (Design(codes=CODES), scipy.sparse.eye_array(5), np.ones((2, 4))):
        with pytest.raises(ValueError, match=rf"X: expected shape \(n, {design.d}\), got"):
            fit.predict(other)
    with pytest.raises(ValueError, match=r"y: expected shape \(50,\) for 50 rows"):
        fit_glm(design, np.ones(49), "poisson")


def test_a_design_says_what_it_is():
    assert repr(drawn(50)[0]) == "Design(50 rows, 3 dense and 12 sparse columns)"


@every
@pytest.mark.parametrize("kind", ["codes", "sparse"])
def test_robust_covariances_and_intervals_are_those_of_the_dense_matrix(family, kind):
    design, rows = drawn(200, 3, kind)
    y, k = target(family, rows)
    rows[:, 0] += 1e4  # about a center
    design.dense[:, 0] += 1e4
    weight = np.random.default_rng(1).uniform(0.5, 2, 200)
    weight[:5] = 0
    one, other = (fit_glm(X, y, family, 0.1, sample_weight=weight, tol=1e-11) for X in (design, rows))
    groups = np.arange(200) // 7
    for cov_type in ("HC0", "HC1", "cluster") if k > 1 else ("HC0", "HC1", "HC2", "HC3", "cluster"):
        got, want = (fit.summary(cov_type, groups if cov_type == "cluster" else None) for fit in (one, other))
        np.testing.assert_allclose(got.standard_errors, want.standard_errors, rtol=1e-6)
    if k == 1:
        np.testing.assert_allclose(one.predict_interval(design), other.predict_interval(rows), rtol=1e-6)
