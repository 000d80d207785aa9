"""The curvature of a network's loss: its whole Hessian, or the ends of its spectrum.

Both are made of Hessian-vector products of the compiled program; on one batch forward runs once, for the first.
Vectors are flat, the parameters end to end in their order, and float64 whatever the network's dtype.
"""

from dataclasses import dataclass

import numpy as np

from fastopt._forks import importing
from fastopt._numbers import finite_number, whole_number
from fastopt.threads import one_blas_thread

LARGEST = 5000  # parameters of a dense Hessian: 200 MB
DENSE = 200  # parameters up to which a spectrum comes from it: its eigenvalues cost less than Lanczos's products


@dataclass(frozen=True)
class Spectrum:
    """The ends of a Hessian's spectrum.

    Attributes
    ----------
    eigenvalues : ndarray, shape (k,)
        In ascending order: the smallest, then the largest.
    condition_number : float
        The largest magnitude over the smallest. Infinite if the smallest is 0 to within `tol`. NaN where eigenvalues
        of either sign were found but not all were: the smallest magnitude then lies inside the spectrum, where
        Lanczos does not look.
    products : int
        Hessian-vector products it took.
    """

    eigenvalues: np.ndarray
    condition_number: float
    products: int


class Products:
    """The Hessian of a network's mean loss on a batch, or its Gauss-Newton part, times flat vectors."""

    def __init__(self, net, x, y, loss, sample_weight, gauss_newton):
        self.training = net.derivatives(loss)
        self.shapes = [p.shape for p in net.parameters()]
        self.ends = np.cumsum([p.size for p in net.parameters()], dtype=np.intp)
        self.size = int(self.ends[-1]) if self.ends.size else 0
        if not self.size:
            raise ValueError("net: expected parameters, got a network without any")
        self.x, self.y, self.sample_weight = self.training.check(x, y, sample_weight)
        self.gauss_newton, self.count = gauss_newton, 0

    def __call__(self, vector) -> np.ndarray:
        parts = np.split(np.ravel(vector), self.ends[:-1])
        v = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        options = {"gauss_newton": self.gauss_newton, "again": self.count > 0}
        product = self.training.hvp(self.x, self.y, v, self.sample_weight, **options)
        self.count += 1
        return np.concatenate([a.ravel() for a in product], dtype=np.float64)

    def dense(self) -> np.ndarray:
        """The matrix, symmetric in every bit."""
        unit, rows = np.zeros(self.size), np.empty((self.size, self.size))
        for i, row in enumerate(rows):
            unit[i] = 1.0
            row[...] = self(unit)
            unit[i] = 0.0
        if not np.isfinite(rows).all():
            raise FloatingPointError("hessian: expected finite second derivatives, got NaN or infinity")
        return 0.5 * (rows + rows.T)


def hessian(net, x, y, loss="cross_entropy", *, sample_weight=None, gauss_newton=False) -> np.ndarray:
    """The Hessian of the mean loss of rows x, as a matrix, for small networks.

    Parameters
    ----------
    net : Sequential
        Of at most 5000 parameters.
    x, y, loss, sample_weight, gauss_newton
        As for `Sequential.hvp`; in training mode, as there.

    Returns
    -------
    ndarray, shape (p, p), float64
        Symmetric. Rows and columns are the elements of ``net.parameters()``, end to end.

    Raises
    ------
    TypeError, ValueError
        Data that does not fit, or more parameters.
    FloatingPointError
        A second derivative is not finite.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1, bias=False)], dtype=np.float64)
    >>> x = np.array([[1.0, 2.0], [0.0, 1.0]])
    >>> fo.newton.hessian(net, x, np.zeros((2, 1)), "mse")  # x.T @ x
    array([[1., 2.],
           [2., 5.]])
    """
    products = Products(net, x, y, loss, sample_weight, gauss_newton)
    if products.size > LARGEST:
        size = f"{products.size}, a matrix of {8 * products.size**2 / 1e9:.1f} GB"
        raise ValueError(f"net: expected at most {LARGEST} parameters, got {size}; use newton.spectrum or net.hvp")
    return products.dense()


def spectrum(
    net, x, y, loss="cross_entropy", k=6, *, sample_weight=None, gauss_newton=False, tol=1e-5, max_iter=None
) -> Spectrum:
    """The extreme eigenvalues of the Hessian of the mean loss of rows x, and its condition number.

    By SciPy's implicitly restarted Lanczos method on Hessian-vector products, from a fixed start vector; of a
    network of at most 200 parameters by all eigenvalues of the matrix.

    Parameters
    ----------
    net : Sequential
    x, y, loss, sample_weight, gauss_newton
        As for `Sequential.hvp`; in training mode, as there.
    k : int
        Eigenvalues to return, half of them from each end, one more from the upper end if odd.
    tol : float
        Bound on the errors of eigenvalues, relative to the largest magnitude; they are mostly far smaller. The
        flat directions of a network lie close together, and a smaller bound may take thousands of products.
    max_iter : int, optional
        Restarts of Lanczos's method; by default ten times the number of parameters.

    Returns
    -------
    Spectrum

    Raises
    ------
    TypeError, ValueError
        Data that does not fit, or a k below 1 or above the number of parameters.
    FloatingPointError
        A second derivative is not finite.
    RuntimeError
        No convergence within `max_iter` restarts.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1, bias=False)], dtype=np.float64)
    >>> found = fo.newton.spectrum(net, np.diag([10.0, 1.0]), np.zeros((2, 1)), "mse", k=2)
    >>> found.eigenvalues, round(found.condition_number)
    (array([  1., 100.]), 100)
    """
    products = Products(net, x, y, loss, sample_weight, gauss_newton)
    k, tol = whole_number("k", k, most=products.size), finite_number("tol", tol, above=0, below=1)
    if max_iter is not None:
        max_iter = whole_number("max_iter", max_iter)
    whole = products.size <= max(DENSE, k + 1)
    with one_blas_thread:
        values = np.linalg.eigvalsh(products.dense()) if whole else _lanczos(products, max(k, 2), tol, max_iter)
    ends = np.concatenate([values[: k // 2], values[len(values) - (k - k // 2) :]])
    return Spectrum(ends, _condition(values, whole, tol), products.count)


def _lanczos(products, k, tol, max_iter) -> np.ndarray:
    """k extreme eigenvalues, ascending, half of them from each end."""
    with importing:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size = products.size

    def operator(shift):
        def product(vector):
            result = products(vector) + shift * np.ravel(vector)
            if not np.isfinite(result).all():
                raise FloatingPointError("spectrum: expected finite second derivatives, got NaN or infinity")
            return result

        return LinearOperator((size, size), matvec=product, dtype=np.float64)

    start = np.random.default_rng(0).standard_normal(size)
    if not products(start).any():
        return np.zeros(k)
    options = {"v0": start, "return_eigenvectors": False, "maxiter": max_iter}
    try:
        # ARPACK takes a tolerance relative to each eigenvalue: moved away from 0, all have that of the largest
        largest = abs(float(eigsh(operator(0.0), 1, which="LM", tol=1e-2, **options)[0]))
        shift = 2 * largest
        values = eigsh(operator(shift), k, which="BE", ncv=min(size, max(4 * k, 40)), tol=tol / 3, **options)
    except ArpackNoConvergence as error:
        found = f"{len(error.eigenvalues)} of {k} eigenvalues after {products.count} products"
        raise RuntimeError(
            f"spectrum: expected convergence to tol={tol:g}, got {found}; raise tol or max_iter"
        ) from None
    return np.sort(values) - shift


def _condition(values, whole, tol) -> float:
    """Largest over smallest magnitude; `whole`: these are all eigenvalues."""
    size = np.abs(values)
    least = 0.0 if whole else tol * size.max()
    if not whole and values[0] < -least and values[-1] > least:
        return float("nan")
    return float(size.max() / size.min()) if size.min() > least else float("inf")
