"""Second order: newton.glm, what it is made of, and (`_curvature.py`) products with the curvature of networks."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from fastopt import newton
from fastopt._kernels import core
from fastopt.bench import _curvature
from fastopt.bench._cases import Case, random

GRADIENT = 1e-8  # no component of the gradient of the mean objective exceeds it, on any side
FAMILIES = ("gaussian", "binomial", "poisson", "multinomial", "gamma", "tweedie", "negative_binomial")
LEVELS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50)  # of the categorical columns


def cases() -> Iterator[Case]:
    for n, d in ((100_000, 50), (20_000, 300)):
        yield glm_case(f"logistic {n}x{d}", partial(logistic_data, n, d), ("newton-cholesky", "lbfgs", "glum"))
    yield glm_case("softmax digits 1797x64, 10 classes", digits_data, ("newton-cholesky", "lbfgs"))
    yield glm_case("softmax 100x1000, 10 classes", wide_data, ("newton-cg", "lbfgs"))
    yield codes_case(500_000)
    for dtype in ("float32", "float64"):
        yield hessian_case(20_000, 300, dtype)
    yield from _curvature.cases()
    for shape in ((20_000, 20), (4_000, 200)):
        for family in FAMILIES:
            for far in (False, True):
                yield family_case(family, shape, far)
    for n, d in ((100_000, 50), (20_000, 300)):
        yield from pass_cases(n, d)


# ---------------------------------------------------------------- data


def logistic_data(n, d) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X, coef = rng.standard_normal((n, d)), rng.standard_normal(d) / np.sqrt(d)
    return X, (rng.uniform(size=n) < 1 / (1 + np.exp(-X @ coef))).astype(int)


def digits_data() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X / 16, y


def wide_data() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).standard_normal((100, 1000)), np.arange(100) % 10


def targets(family, n) -> np.ndarray:
    """Numbers that a family takes, of nothing to learn."""
    counts = np.random.default_rng(1).poisson(1.0, n).astype(float)
    others = {"binomial": np.minimum(counts, 1), "multinomial": np.arange(n) % 5, "gamma": counts + 0.5}
    return others.get(family, counts)


def codes_data(n) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Categorical columns as codes, counts that depend on them, and the logarithm of an exposure."""
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(0, m, n) for m in LEVELS])
    effects = sum(rng.normal(0, 0.3, m)[codes[:, j]] for j, m in enumerate(LEVELS))
    offset = np.log(rng.uniform(0.1, 1, n))
    return codes, rng.poisson(np.exp(effects + offset - 1)).astype(float), offset


# ---------------------------------------------------------------- fits


def glm_case(what, setup, peers) -> Case:
    """A fit with l2 = 1, from nothing to a gradient of GRADIENT."""

    def ours(X, y):
        family = "multinomial" if len(np.unique(y)) > 2 else "binomial"
        return checked(lambda: newton.glm(X, y, family, tol=GRADIENT), partial(mean_gradient, X, y))

    def sklearn(solver, X, y):
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(solver=solver, tol=GRADIENT, max_iter=10_000)
        return checked(lambda: model.fit(X, y), partial(mean_gradient, X, y))

    def glum(X, y):
        from glum import GeneralizedLinearRegressor

        how = {"family": "binomial", "alpha": 1 / len(X), "l1_ratio": 0, "solver": "irls-ls", "gradient_tol": GRADIENT}
        model, target = GeneralizedLinearRegressor(**how, max_iter=1000), y.astype(float)
        return checked(lambda: model.fit(X, target), partial(mean_gradient, X, y))

    sides = {name: glum if name == "glum" else partial(sklearn, name) for name in peers}
    return Case(what, setup, ours, sides, dtype="float64", family="newton.glm, float64")


def codes_case(n) -> Case:
    """Poisson with an offset and l2 = 1, from categorical codes, which no side makes zeros and ones of."""

    def gradient(codes, y, offset, coef, intercept):
        parts = np.split(coef, np.cumsum(LEVELS)[:-1])
        residual = np.exp(sum(part[code] for part, code in zip(parts, codes.T, strict=True)) + intercept + offset) - y
        levels = (np.bincount(code, residual, len(part)) for part, code in zip(parts, codes.T, strict=True))
        return np.abs([*(np.concatenate([*levels]) + coef), residual.sum()]).max() / len(y)

    def ours(codes, y, offset):
        design = newton.Design(codes=codes, levels=LEVELS)
        fit = partial(newton.glm, design, y, "poisson", tol=GRADIENT, offset=offset)
        return checked(fit, partial(gradient, codes, y, offset))

    def glum(codes, y, offset):
        from glum import GeneralizedLinearRegressor
        from pandas import Categorical
        from tabmat import CategoricalMatrix, SplitMatrix

        columns = [Categorical.from_codes(code, range(m)) for code, m in zip(codes.T, LEVELS, strict=True)]
        X, how = SplitMatrix([CategoricalMatrix(column) for column in columns]), {"l1_ratio": 0, "solver": "irls-ls"}
        model = GeneralizedLinearRegressor(family="poisson", alpha=1 / n, gradient_tol=GRADIENT, max_iter=1000, **how)
        return checked(partial(model.fit, X, y, offset=offset), partial(gradient, codes, y, offset))

    what = f"poisson with offset {n}x{len(LEVELS)} categorical columns"
    return Case(what, partial(codes_data, n), ours, {"glum": glum}, dtype="float64", family="newton.glm, float64")


def checked(fit, gradient) -> Callable:
    """The call `fit`, once what it finds has as small a gradient as everybody's."""
    model = fit()
    coef, intercept = (model.coef, model.intercept) if hasattr(model, "coef") else (model.coef_, model.intercept_)
    norm = gradient(coef, np.ravel(intercept))
    if norm > GRADIENT:
        raise RuntimeError(f"bench newton: expected a gradient of at most {GRADIENT}, got {norm} from {model}")
    return fit


def mean_gradient(X, y, coef, intercept) -> float:
    """Largest component of the gradient of mean loss + ||coef||^2 / (2 n), computed by NumPy."""
    coef, classes = np.atleast_2d(coef), np.unique(y)
    z = X @ coef.T + intercept
    z = np.hstack([0 * z, z]) if len(coef) == 1 else z
    p = np.exp(z - z.max(axis=1, keepdims=True))
    residual = p / p.sum(axis=1, keepdims=True) - (y[:, None] == classes)
    residual = residual[:, 1:] if len(coef) == 1 else residual
    return max(np.abs(residual.T @ X + coef).max(), np.abs(residual.sum(axis=0)).max()) / len(X)


def family_case(family, shape, far) -> Case:
    """A fit of a family, of columns around 0 or far from it."""

    def setup():
        return random(*shape, dtype="float64") / 10 + (100 if far else 0), targets(family, shape[0])

    def ours(X, y):
        return lambda: newton.glm(X, y, family)

    what = f"{family} {shape[0]}x{shape[1]}{' of far columns' if far else ''}"
    return Case(what, setup, ours, dtype="float64")


# ---------------------------------------------------------------- passes over the data


def hessian_case(n, d, dtype) -> Case:
    """One weighted Hessian X^T D X of float64 data, added up in `dtype`."""

    def setup():
        return np.random.default_rng(0).standard_normal((n, d)), np.random.default_rng(1).uniform(0.1, 1, n)

    def ours(X, weight):
        data, out = core.GlmData("gaussian", X, np.zeros(n), weight, 1, False), np.empty((d, d), dtype)
        data.value(np.zeros((1, d)), np.empty((1, d)))
        return lambda: data.hessian(out)

    def numpy(X, weight):
        return lambda: (X * weight[:, None]).T @ X

    flops = n * d * (d + 1) / (2 if dtype == "float32" else 1)  # float32 sums take half the time of float64 ones
    what, family = f"Hessian {n}x{d}, sums in {dtype}", "Hessian of newton.glm, float64"
    return Case(what, setup, ours, {"numpy": numpy}, flops, n * d, "float64", family)


def pass_cases(n, d) -> Iterator[Case]:
    """Passes over float64 data that add up the gradient, the Hessian (in either dtype), both, or a product with it."""
    yield pass_case(n, d, "gradient", lambda data, theta, grad, hessian: data.value(theta, grad))
    yield pass_case(n, d, "product", lambda data, theta, grad, hessian: data.product(theta, grad))
    for dtype in ("float32", "float64"):
        both, alone = f"gradient and Hessian, sums in {dtype}", f"Hessian, sums in {dtype}"
        yield pass_case(n, d, both, lambda data, theta, grad, hessian: data.value(theta, grad, hessian), dtype)
        yield pass_case(n, d, alone, lambda data, theta, grad, hessian: data.hessian(hessian), dtype)


def pass_case(n, d, what, call, dtype="float64") -> Case:
    def setup():
        return random(n, d, dtype="float64"), targets("binomial", n)

    def ours(X, y):
        data = core.GlmData("binomial", X, y, None, 1, False)
        theta, grad, hessian = np.zeros((1, d)), np.zeros((1, d)), np.zeros((d, d), dtype)
        data.value(theta, grad)
        return partial(call, data, theta, grad, hessian)

    return Case(f"binomial {n}x{d}, {what}", setup, ours, dtype="float64")
