"""How weights start: they must differ, or units stay equal, and keep the scale of what passes through.

A rule fills one matrix (out, in); which variance keeps the scale is the choice:
forward 1 / in (LeCun), twice that where relu halves the mean square (He), or a compromise with
backward, 2 / (in + out) (Glorot). Plain names are uniform, those with "_normal" normal.

Layers of rows start by Glorot's rule where nobody chooses, whatever their activation; docs/initialization.md has the
scores that decided. A start as large as He's leaves its noise in the predictions of networks of a few layers, which
tables get. Convolutions, which stand many in a row, start by He's before relu and its kin.

A convolution's matrix has a column for each input at each place of the kernel, its `taps`. They are the fan in;
an input meets every output at as many places, so the fan out is out * taps.
"""

import numpy as np

from fastopt.threads import one_blas_thread

HALVING = ("relu", "leaky_relu", "gelu", "silu")  # activations that about halve the mean square
SPARSE = 15  # inputs of an output: Martens 2010


def gain(activation) -> float:
    """What the mean square is to be multiplied with before this activation."""
    return 2.0 if activation in HALVING else 1.0


def glorot_variance(n_in, n_out) -> float:
    """Glorot & Bengio 2010, equation 12."""
    return 2 / (n_in + n_out)


def he_variance(n_in, n_out) -> float:
    """He et al. 2015, equation 10."""
    return 2 / n_in


def lecun_variance(n_in, n_out) -> float:
    """LeCun et al. 1998, Efficient BackProp, equation 16."""
    return 1 / n_in


def uniform(variance):
    """The rule that draws uniform weights of this variance."""

    def fill(rng, n_out, n_in, activation, taps, rows=None):
        limit = np.sqrt(3 * variance(n_in, n_out * taps))
        return rng.uniform(-limit, limit, (rows or n_out, n_in))

    return fill


def normal(variance):
    """The rule that draws normal weights of this variance."""

    def fill(rng, n_out, n_in, activation, taps, rows=None):
        return rng.normal(0, np.sqrt(variance(n_in, n_out * taps)), (rows or n_out, n_in))

    return fill


def orthogonal(rng, n_out, n_in, activation, taps):
    """Orthonormal rows or, if they are more than the columns, columns, times the root of the gain (Saxe et al. 2014).

    Q of a normal matrix, its signs those of R's diagonal: every orthogonal matrix is as likely (Mezzadri 2007).
    """
    with one_blas_thread:
        q, r = np.linalg.qr(rng.normal(size=(max(n_out, n_in), min(n_out, n_in))))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.sqrt(gain(activation)) * (q if n_out >= n_in else q.T)


def sparse(rng, n_out, n_in, activation, taps):
    """SPARSE normal weights an output, the others 0 (Martens 2010), of variance gain / SPARSE to keep the scale."""
    few = min(SPARSE, n_in)
    weight = np.zeros((n_out, n_in))
    inputs = rng.permuted(np.broadcast_to(np.arange(n_in), (n_out, n_in)), axis=1)[:, :few]
    np.put_along_axis(weight, inputs, rng.normal(0, np.sqrt(gain(activation) / few), (n_out, few)), axis=1)
    return weight


def zeros(rng, n_out, n_in, activation, taps, rows=None):
    """All zero: for a last layer."""
    return np.zeros((rows or n_out, n_in))


RULES = {
    "glorot": uniform(glorot_variance),
    "glorot_normal": normal(glorot_variance),
    "he": uniform(he_variance),
    "he_normal": normal(he_variance),
    "lecun": uniform(lecun_variance),
    "lecun_normal": normal(lecun_variance),
    "orthogonal": orthogonal,
    "sparse": sparse,
    "zeros": zeros,
}
BY_ROWS = tuple(name for name, rule in RULES.items() if rule not in (orthogonal, sparse))  # which draw row after row
BLOCK = 1 << 16  # numbers that `fill_rows` draws at once


def check(init):
    """The name of a rule, or None; ValueError for another."""
    if init is not None and not (isinstance(init, str) and init in RULES):
        raise ValueError(f"init: expected None or one of {', '.join(RULES)}, got {init!r}")
    return init


def fill(matrices, init, activation, rng, taps=1) -> None:
    """Start each of `matrices` (k, out, in), in place, by the rule of this name."""
    for matrix in matrices:
        matrix[...] = RULES[init](rng, *matrix.shape, activation, taps)


def fill_rows(part, first, shape, init, activation, rng) -> None:
    """Start `part`, in place, as the rows from `first` on of a matrix of this shape, by a rule of BY_ROWS.

    All of its numbers are drawn, but never held at once: `rng` goes on as after `fill`.
    """
    n_out, n_in = shape
    rows = max(1, BLOCK // n_in)
    for start in range(0, n_out, rows):
        block = RULES[init](rng, n_out, n_in, activation, 1, min(rows, n_out - start))
        low, high = max(start, first), min(start + len(block), first + len(part))
        if low < high:
            part[low - first : high - first] = block[low - start : high - start]
