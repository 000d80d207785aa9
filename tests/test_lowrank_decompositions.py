"""Decompositions of weights: truncated SVD, two-factor, Tucker-2, CP, and images at a rank.

Pass criterion: relative errors to 1e-12 of what numpy.linalg.svd leaves (of the randomized solver, within 1 part in
100 for a flat spectrum, 1 in 10 000 for one that falls); tensors of a known rank to 1e-8; the same bits for the same
seed at any thread count; errors that name the argument.
"""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import fastopt as fo
from fastopt.lowrank import cp, image, truncated_svd, tucker2, two_factor

CALLS = {
    "svd of a dense layer": lambda W: truncated_svd(W.reshape(len(W), -1), 4),
    "svd of a convolution": lambda W: truncated_svd(W, 4),
    "randomized svd": lambda W: truncated_svd(W, 4, solver="randomized"),
    "two_factor": lambda W: two_factor(W, 4),
    "tucker2": lambda W: tucker2(W, (4, 3)),
    "cp": lambda W: cp(W, 4, max_sweeps=30, tol=0),
}
LARGEST = {
    "truncated_svd": (lambda W, rank: truncated_svd(W, rank), 10),
    "two_factor": (lambda W, rank: two_factor(W, rank), 18),
    "tucker2": (lambda W, rank: tucker2(W, (rank, 6)), 10),
    "cp": (lambda W, rank: cp(W, rank), 72),
}


def relative(W, approximation):
    return np.linalg.norm(W - approximation) / np.linalg.norm(W)


def tail(matrix, rank):
    """The least relative error at a rank."""
    S = np.linalg.svd(matrix, compute_uv=False)
    return np.linalg.norm(S[rank:]) / np.linalg.norm(S)


def with_spectrum(rng, shape, S):
    U, V = (np.linalg.qr(rng.standard_normal((n, len(S))))[0] for n in shape)
    return (U * S) @ V.T


def terms(rng, shape, rank):
    factors = [rng.standard_normal((n, rank)) for n in shape]
    letters = "abcd"[: len(shape)]
    return np.einsum(",".join(f"{letter}r" for letter in letters) + "->" + letters, *factors)


@pytest.fixture
def W(rng):
    return rng.standard_normal((10, 3, 4, 6))


# ---------------------------------------------------------------- what all have


@pytest.mark.parametrize("name", CALLS)
def test_the_error_is_that_of_the_reconstruction_and_factors_are_contiguous_float64(name, W):
    found = CALLS[name](W)
    whole = W.reshape(found.reconstruct().shape)
    assert found.relative_error == pytest.approx(relative(whole, found.reconstruct()), rel=1e-12)
    for factor in found:
        assert factor.dtype == np.float64
        assert factor.flags.c_contiguous
    assert pickle.loads(pickle.dumps(found)).relative_error == found.relative_error


@pytest.mark.parametrize("name", CALLS)
def test_the_same_seed_gives_the_same_bits_at_any_thread_count(name, rng):
    W = rng.standard_normal((70, 3, 3, 64))
    expected = CALLS[name](W)
    for ours, blas in ((1, 1), (2, 2), (3, 1), (1, 3)):
        with fo.num_threads(ours), threadpool_limits(blas):
            for one, other in zip(expected, CALLS[name](W), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "decompose",
    [
        lambda rng: truncated_svd(rng.standard_normal((600, 400)), 40),
        lambda rng: two_factor(rng.standard_normal((140, 3, 3, 96)), 60),
        lambda rng: cp(rng.standard_normal((256, 3, 3, 256)), 32, max_sweeps=3, restarts=1, tol=0),
    ],
    ids=["truncated_svd", "two_factor", "cp"],
)
def test_large_weights_too_whose_products_all_threads_share(decompose):
    expected = decompose(np.random.default_rng(0))
    for n in (1, 2, 3):
        with fo.num_threads(n), threadpool_limits(n):
            for one, other in zip(expected, decompose(np.random.default_rng(0)), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("power", [-1000, -500, 500, 1000])
def test_weights_of_any_size_are_decomposed_alike(name, W, power):
    plain, found = CALLS[name](W), CALLS[name](np.ldexp(W, power))
    assert found.relative_error == pytest.approx(plain.relative_error, rel=1e-9)
    np.testing.assert_allclose(np.ldexp(found.reconstruct(), -power), plain.reconstruct(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("call", [lambda W: truncated_svd(W, 1), lambda W: tucker2(W, 1)])
def test_factors_that_float64_does_not_hold_are_an_error(call):
    with pytest.raises(ValueError, match="W: expected values whose sums of squares have a root in float64"):
        call(np.full((9, 3, 3, 9), 1.7e308))


@pytest.mark.parametrize("name", CALLS)
def test_subnormal_weights_are_decomposed_alike(name, W):
    tiny = np.ldexp(W, -1060)
    found = CALLS[name](tiny)
    assert found.relative_error == pytest.approx(CALLS[name](np.ldexp(tiny, 1060)).relative_error, rel=1e-9)
    assert all(np.isfinite(factor).all() for factor in found)


@pytest.mark.parametrize("name", CALLS)
def test_integers_float32_lists_and_any_layout_are_taken(name, W):
    W = np.rint(W * 50)
    expected = list(CALLS[name](W))
    wide = np.zeros((10, 3, 4, 12))
    wide[..., ::2] = W
    for same in (W.astype(np.int16), W.astype(np.float32), np.asfortranarray(W), wide[..., ::2]):
        for one, other in zip(expected, CALLS[name](same), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CALLS)
def test_weights_of_zeros_are_zeros_of_error_0(name):
    found = CALLS[name](np.zeros((10, 3, 4, 6)))
    assert found.relative_error == 0
    assert not found.reconstruct().any()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_with_their_place(name, W, bad):
    W[2, 1, 0, 5] = bad
    with pytest.raises(ValueError, match=r"[WT]: expected finite values, got -?(nan|inf) at \("):
        CALLS[name](W)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "svd of a dense layer"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3, 3, 4), (2, 2, 2, 2, 2)])
def test_weights_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"[WT]: expected shape .*got \("):
        CALLS[name](np.ones(shape))


@pytest.mark.parametrize("name", LARGEST)
def test_a_rank_out_of_range_is_refused_with_the_largest(name, W):
    call, largest = LARGEST[name]
    for rank in (0, -1, largest + 1, 2.0, True, "3"):
        with pytest.raises(ValueError, match=rf"ranks?(\[0\])?: expected a whole number from 1 to {largest}, got"):
            call(W, rank)


def test_the_largest_rank_is_exact(rng):
    W = rng.standard_normal((5, 2, 3, 4))
    for found in (truncated_svd(W, 5), two_factor(W, 8), tucker2(W, (5, 4)), cp(W, 24, restarts=1)):
        assert found.relative_error < 1e-8
        np.testing.assert_allclose(found.reconstruct(), W, atol=1e-7)


def test_parameters_are_those_of_the_layers_that_the_factors_make(W):
    assert truncated_svd(W, 4).parameters == 4 * (10 + 3 * 4 * 6)
    assert two_factor(W, 4).parameters == 4 * (3 * 6 + 4 * 10)
    assert tucker2(W, (4, 3)).parameters == 3 * 6 + 4 * 3 * 4 * 3 + 10 * 4
    found = cp(W, 4, max_sweeps=1, tol=0)
    assert found.parameters == found.multiply_adds == 4 * (10 + 3 + 4 + 6)


# ---------------------------------------------------------------- truncated SVD


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1, 9), (9, 1), (1, 1)])
def test_factors_are_those_of_numpy_but_for_signs_and_the_largest_of_each_left_vector_is_positive(shape, rng):
    W = rng.standard_normal(shape)
    U, S, Vh = np.linalg.svd(W, full_matrices=False)
    rank = max(1, min(shape) // 2)
    found = truncated_svd(W, rank)
    sign = np.sign(U[np.abs(U).argmax(axis=0), np.arange(len(S))])[:rank]
    np.testing.assert_allclose(found.U, U[:, :rank] * sign, atol=1e-12)
    np.testing.assert_allclose(found.S, S[:rank], rtol=1e-12)
    np.testing.assert_allclose(found.Vh, Vh[:rank] * sign[:, None], atol=1e-12)
    assert found.relative_error == pytest.approx(tail(W, rank), abs=1e-12)


SPECTRA = {
    "flat": (np.ones(300), 1e-2),
    "slow": (1 / np.sqrt(np.arange(1, 301)), 1e-4),
    "fast": (np.exp(-np.arange(300) / 5), 1e-4),
    "rank 20": (np.where(np.arange(300) < 20, 1.0, 0.0), None),
    "rank 24, uneven": (np.where(np.arange(300) < 24, 10.0 ** -np.arange(300.0), 0.0), None),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(500, 300), (300, 500)])
def test_the_randomized_solver_comes_near_the_least_error_whatever_the_spectrum(name, shape, rng):
    S, excess = SPECTRA[name]
    W = with_spectrum(rng, shape, S)
    found = truncated_svd(W, 24, solver="randomized")
    if excess is None:
        assert found.relative_error < 1e-14
    else:
        assert tail(W, 24) * (1 - 1e-12) <= found.relative_error < tail(W, 24) * (1 + excess)
    np.testing.assert_allclose(found.U.T @ found.U, np.eye(24), atol=1e-12)
    np.testing.assert_allclose(found.Vh @ found.Vh.T, np.eye(24), atol=1e-12)
    assert found.relative_error == pytest.approx(relative(W, found.reconstruct()), rel=1e-9)


def test_gaussian_weights_are_near_the_least_error_and_another_seed_finds_others(rng):
    W = rng.standard_normal((600, 400))
    found, other = (truncated_svd(W, 20, seed=seed) for seed in (0, 1))
    assert found.relative_error < tail(W, 20) * 1.01
    assert (found.U != other.U).any()


@pytest.mark.parametrize("W", [np.eye(300), np.outer(np.arange(300.0), np.arange(280.0)), np.diag(np.arange(300) < 3)])
@pytest.mark.parametrize("rank", [8, 80])
def test_the_randomized_solver_finds_bases_of_spaces_that_end(W, rank):
    found = truncated_svd(W, rank, solver="randomized")
    assert found.relative_error == pytest.approx(tail(W, rank), abs=1e-13)
    np.testing.assert_allclose(found.U.T @ found.U, np.eye(rank), atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.999), st.integers(1, 12), st.integers(1, 12))
def test_a_bound_gives_the_smallest_rank_that_keeps_to_it(seed, error, m, n):
    W = np.random.default_rng(seed).standard_normal((m, n))
    found = truncated_svd(W, error=error)
    rounding = 1e-13
    assert found.relative_error <= max(error, rounding)
    assert relative(W, found.reconstruct()) <= max(error, rounding) * (1 + 1e-12)
    assert found.rank == 1 or tail(W, found.rank - 1) > error * (1 - 1e-12)
    kept = truncated_svd(W, energy=1 - error**2 or 1.0)
    assert np.square(kept.S).sum() >= (1 - error**2) * np.square(W).sum() * (1 - 1e-12)
    assert abs(kept.rank - found.rank) <= 1


def test_bounds_far_below_what_squares_resolve_are_kept(rng):
    W = with_spectrum(rng, (40, 30), 10.0 ** -np.arange(30.0) * (np.arange(30) < 14))
    for rank in range(1, 14):
        assert truncated_svd(W, error=tail(W, rank) * 1.01).rank == rank
    assert truncated_svd(W, error=0).rank == truncated_svd(W, energy=1).rank == 14
    assert truncated_svd(np.zeros((4, 3)), error=0).rank == 1


def test_exactly_one_of_rank_energy_and_error_is_taken(W):
    for options in ({}, {"rank": 2, "error": 0.1}, {"energy": 0.5, "error": 0.5}):
        with pytest.raises(ValueError, match="rank, energy, error: expected one of them, got"):
            truncated_svd(W, **options)
    for name, value in (("energy", 0), ("energy", 1.1), ("error", 1), ("error", -0.1), ("error", np.nan)):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
            truncated_svd(W, **{name: value})
    with pytest.raises(ValueError, match="solver: expected one of auto, full, randomized, got 'arpack'"):
        truncated_svd(W, 3, solver="arpack")
    with pytest.raises(ValueError, match='solver: expected "auto" or "full" without rank'):
        truncated_svd(W, error=0.5, solver="randomized")


# ---------------------------------------------------------------- two-factor and Tucker-2


@pytest.mark.parametrize("shape", [(10, 3, 4, 6), (4, 1, 5, 3), (5, 5, 1, 7), (1, 3, 3, 1)])
def test_two_factors_are_the_best_of_their_structure(shape, rng):
    W = rng.standard_normal(shape)
    n_out, height, width, n_in = shape
    matrix = np.empty((n_in * height, width * n_out))
    for n, i, j, c in np.ndindex(shape):
        matrix[c * height + i, j * n_out + n] = W[n, i, j, c]
    for rank in {1, min(matrix.shape) // 2 or 1, min(matrix.shape)}:
        vertical, horizontal = found = two_factor(W, rank)
        assert vertical.shape == (rank, height, 1, n_in)
        assert horizontal.shape == (n_out, 1, width, rank)
        assert found.relative_error == pytest.approx(tail(matrix, rank), abs=1e-12)
        np.testing.assert_allclose(
            found.reconstruct(), np.einsum("kic,njk->nijc", vertical[:, :, 0], horizontal[:, 0]), atol=1e-12
        )
        norms = np.linalg.norm(vertical.reshape(rank, -1), axis=1), np.linalg.norm(horizontal[:, 0], axis=(0, 1))
        np.testing.assert_allclose(*norms, rtol=1e-9)  # the root of a singular value each


def test_two_factors_run_as_two_convolutions(W, rng):
    vertical, horizontal = two_factor(W, 12)
    x = rng.standard_normal((2, 8, 9, 6))
    between = fo.functional.conv2d(x, vertical, padding=(1, 0))
    y = fo.functional.conv2d(between, horizontal, padding=(0, 2))
    approximation = two_factor(W, 12).reconstruct()
    np.testing.assert_allclose(y, fo.functional.conv2d(x, approximation, padding=(1, 2)), atol=1e-12)


def test_tucker_factors_run_as_three_convolutions_and_are_orthonormal(W, rng):
    first, core, last = found = tucker2(W, (5, 4))
    x = rng.standard_normal((2, 8, 9, 6))
    y = x
    for weight in (first[:, None, None], core, last[:, None, None]):
        y = fo.functional.conv2d(y, np.ascontiguousarray(weight))
    np.testing.assert_allclose(y, fo.functional.conv2d(x, found.reconstruct()), atol=1e-12)
    np.testing.assert_allclose(first @ first.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(last.T @ last, np.eye(5), atol=1e-12)


@pytest.mark.parametrize("ranks", [(1, 1), (5, 3), (10, 6), (3, 6), 4])
def test_tucker_is_no_worse_than_truncated_unfoldings(ranks, W):
    found = tucker2(W, ranks)
    n_out, n_in = found.rank
    last = np.linalg.svd(W.reshape(10, -1))[0][:, :n_out]
    first = np.linalg.svd(W.reshape(-1, 6))[2][:n_in].T
    hosvd = np.einsum("nijc,nm,cd->mijd", W, last @ last.T, first @ first.T)
    assert found.relative_error <= relative(W, hosvd) * (1 + 1e-12)
    assert found.relative_error >= max(tail(W.reshape(10, -1), n_out), tail(W.reshape(-1, 6), n_in)) - 1e-12


def test_a_tensor_of_a_tucker_rank_is_found(rng):
    W = np.einsum("mijd,nm,dc->nijc", *map(rng.standard_normal, [(3, 3, 3, 2), (10, 3), (2, 8)]))
    assert tucker2(W, (3, 2)).relative_error < 1e-14


# ---------------------------------------------------------------- CP


@pytest.mark.parametrize(
    ("shape", "rank"), [((9, 8, 7), 4), ((16, 3, 3, 12), 10), ((3, 20, 3, 5), 5), ((64, 64, 3, 3), 32), ((6, 1, 5), 3)]
)
def test_a_tensor_of_known_rank_is_found(shape, rank, rng):
    T = terms(rng, shape, rank)
    found = cp(T, rank)
    assert found.relative_error < 1e-8
    assert found.converged
    np.testing.assert_allclose(found.reconstruct(), T, atol=1e-7 * np.abs(T).max())


def test_terms_that_are_unique_are_those_of_the_tensor(rng):
    factors = [rng.standard_normal((n, 4)) for n in (9, 8, 7)]
    found = cp(np.einsum("ir,jr,kr->ijk", *factors), 4)
    sizes = np.prod([np.linalg.norm(factor, axis=0) for factor in factors], axis=0)
    order = np.argsort(-sizes)
    for ours, theirs in zip(found, factors, strict=True):
        unit = theirs[:, order] / np.linalg.norm(theirs[:, order], axis=0)
        np.testing.assert_allclose(np.abs(ours), np.abs(unit) * np.cbrt(sizes[order]), atol=1e-7)


def test_more_terms_than_the_long_modes_have_rows_are_found(rng):
    found = cp(terms(rng, (9, 9, 9), 11), 11)
    assert found.relative_error < 1e-8


def test_terms_stand_largest_first_with_columns_of_equal_norms_and_positive_largest_elements(W):
    found = cp(W, 6, max_sweeps=20, tol=0)
    norms = np.array([np.linalg.norm(factor, axis=0) for factor in found])
    np.testing.assert_allclose(norms, np.broadcast_to(norms[0], norms.shape), rtol=1e-12)
    assert (np.diff(norms[0]) <= 0).all()
    for factor in found.factors[:-1]:
        assert (factor[np.abs(factor).argmax(axis=0), range(6)] > 0).all()
    assert found.degeneracy == pytest.approx((norms.prod(axis=0) ** 2).sum() / np.linalg.norm(W) ** 2, rel=1e-12)


def test_every_sweep_lowers_the_error_and_no_more_are_made_than_asked_for(rng):
    W = rng.standard_normal((20, 3, 3, 16))
    found = [cp(W, 8, max_sweeps=n, tol=0, restarts=1, max_degeneracy=np.inf) for n in (1, 2, 5, 20, 80)]
    assert [one.sweeps for one in found] == [1, 2, 5, 20, 80]
    assert (np.diff([one.relative_error for one in found]) < 0).all()
    more = cp(W, 8, max_sweeps=20, tol=0, restarts=4, max_degeneracy=np.inf)
    assert more.relative_error <= found[3].relative_error


def test_a_swamp_is_a_warning_and_a_field(rng):
    W = rng.standard_normal((20, 3, 3, 16))
    with pytest.warns(RuntimeWarning, match=r"cp: the relative error, 0\.\d+, still falls after 5 sweeps"):
        assert not cp(W, 8, max_sweeps=5).converged


def without_best_approximation(rng):
    """A tensor of rank 3, of which rank 2 has approximations as near as one likes, and none that is nearest."""
    a, b = np.linalg.qr(rng.standard_normal((8, 2)))[0].T
    return sum(np.einsum("i,j,k", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))


def test_terms_that_would_grow_without_end_stay_within_the_limit_at_nearly_the_same_error(rng):
    T = without_best_approximation(rng)
    free = cp(T, 2, max_degeneracy=np.inf)
    assert free.degeneracy > 100
    for limit, error in ((10, 0.02), (50, 0.003)):
        found = cp(T, 2, max_degeneracy=limit)
        assert found.degeneracy <= limit
        assert free.relative_error < found.relative_error < error


def test_terms_are_made_smaller_at_the_same_error_where_that_is_possible(rng):
    W = rng.standard_normal((24, 3, 3, 20))
    free = cp(W, 16, max_degeneracy=np.inf, tol=1e-7)
    assert free.degeneracy > 4
    found = cp(W, 16, max_degeneracy=free.degeneracy / 2, tol=1e-7)
    assert found.degeneracy <= free.degeneracy / 2
    assert found.relative_error <= free.relative_error * 1.00011


def test_a_ridge_keeps_terms_small(rng):
    T = without_best_approximation(rng)
    degeneracies = [cp(T, 2, ridge=ridge).degeneracy for ridge in (1e-3, 1e-2)]
    assert 0 < degeneracies[1] < degeneracies[0] < 10


def test_more_terms_than_the_tensor_has_are_no_difficulty(rng):
    assert cp(terms(rng, (6, 5, 4), 1), 3).relative_error < 1e-8


def test_the_axes_may_stand_in_any_order(rng):
    T = terms(rng, (8, 3, 4, 6), 3)
    for axes in ((0, 1, 2, 3), (3, 0, 1, 2), (1, 2, 0, 3)):
        found = cp(T.transpose(axes), 3)
        assert [len(factor) for factor in found] == [T.shape[axis] for axis in axes]
        assert found.relative_error < 1e-8


@pytest.mark.parametrize(
    ("name", "value"),
    [("ridge", -1), ("tol", np.nan), ("max_sweeps", 0), ("restarts", 0), ("max_degeneracy", 0), ("seed", -1)],
)
def test_options_out_of_range_are_refused(name, value, W):
    with pytest.raises(ValueError, match=f"{name}: expected a"):
        cp(W, 2, **{name: value})


# ---------------------------------------------------------------- images


def test_an_image_at_a_rank_is_the_best_of_that_rank(rng):
    picture = rng.uniform(size=(20, 30))
    U, S, Vh = np.linalg.svd(picture, full_matrices=False)
    expected = np.clip((U[:, :5] * S[:5]) @ Vh[:5], picture.min(), picture.max())
    np.testing.assert_allclose(image(picture, 5), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_an_image_keeps_its_dtype_shape_and_range_and_at_full_rank_its_values(dtype, shape, rng):
    picture = (rng.uniform(0, 2, shape) * (1 if dtype is bool else 100)).astype(dtype)
    low, full = image(picture, 3), image(picture, 20)
    assert low.dtype == dtype
    assert low.shape == shape
    assert picture.min() <= low.min() <= low.max() <= picture.max()
    np.testing.assert_allclose(full.astype(float), picture.astype(float), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_an_image_of_the_largest_whole_numbers_stays_in_their_range(dtype):
    ends = np.iinfo(dtype)
    picture = np.array([[ends.max, ends.min], [ends.min, ends.max]], dtype)
    np.testing.assert_allclose(image(picture, 2).astype(float), picture.astype(float), rtol=1e-12, atol=1e5)
    np.testing.assert_array_equal(image(picture[:1, :1], 1), picture[:1, :1])


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"array: expected shape \(height, width\)"):
        image(np.zeros(5), 1)
    with pytest.raises(ValueError, match="rank: expected a whole number from 1 to 4, got 5"):
        image(np.zeros((4, 6, 3)), 5)
    with pytest.raises(ValueError, match="array: expected finite values, got nan at"):
        image(np.full((4, 6), np.nan), 1)
