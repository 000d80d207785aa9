# The data of a generalized linear model, bound once.

cdef int check_entries(columns, starts, Py_ssize_t n, Py_ssize_t m) except -1:
    # nothing that is read through them lies outside
    if not (is_plain(columns, cnp.NPY_INT32, 1) and (starts is None or is_plain(starts, cnp.NPY_INT64, 1))):
        raise TypeError("entries: expected contiguous arrays, columns of int32 and starts of int64")
    if columns.size and not (0 <= columns.min() and columns.max() <= m + 1):
        raise ValueError(f"entries: expected columns from 0 to {m + 1}, got {columns.min()} to {columns.max()}")
    if starts is None and (columns.size % n if n else columns.size):
        raise ValueError(f"entries: expected as many in each of {n} rows, got {columns.size}")
    if starts is not None and not (len(starts) == n + 1 and starts[0] == 0 and starts[n] == columns.size
                                   and (np.diff(starts) >= 0).all()):
        raise ValueError(f"entries: expected {n + 1} starts that ascend from 0 to {columns.size}")
    return 0


cdef class GlmData:
    """The data of a generalized linear model, bound once: loss, gradient, Hessian and products of it.

    The Hessian is that of the sum of the losses, without a penalty; its lower triangle is written.

    Parameters
    ----------
    family : str
        One of FAMILIES.
    X : ndarray, shape (n, d), float32 or float64, C-contiguous
        The dense columns; there may be none.
    y : ndarray, shape (n,), float64
        Values, 0 and 1, or classes from 0 to k - 1.
    weights : ndarray, shape (n,), float64, or None
    k : int
        Linear predictors: the classes of "multinomial", else 1.
    intercept : bool
        Whether theta (k, q) ends with a column of intercepts; before it come the dense columns, then those of entries.
    center : ndarray, shape (d,), float64, or None
        Subtracted from every row as it is read.
    offset : ndarray, shape (n, k), float64, or None
        Added to the linear predictors.
    parameter : float
        The power of "tweedie", between 1 and 2, or alpha, above 0, of "negative_binomial".
    entries : tuple (columns, values, starts, m), or None
        More columns, m of them, by their entries: columns (e,) int32, in ascending order in a row, m + 1 for none;
        values (e,) float64, or None: ones; starts (n + 1,) int64, where a row starts, or None: all have as many.
    """
    cdef GlmPlan plan
    cdef object holders     # of everything the plan points to
    cdef Py_ssize_t work, hessian_work      # multiply-adds of a pass, and of a Hessian

    def __cinit__(self, str family, X, y, weights, Py_ssize_t k, bint intercept, center=None, offset=None,
                  double parameter=0, entries=None):
        cdef GlmPlan* g = &self.plan
        cdef Py_ssize_t m = 0, each = 0, least
        g.family, g.typenum = FAMILIES.index(family), float_type("X", X)
        X = as_input("X", X, g.typenum, (None, None))
        g.n, g.d, g.k = cnp.PyArray_DIM(<cnp.ndarray>X, 0), cnp.PyArray_DIM(<cnp.ndarray>X, 1), k
        columns, values, starts, m = (None, None, None, 0) if entries is None else entries
        g.q, g.intercept = g.d + m + intercept, intercept
        g.wide = g.q if entries is None else g.d + m + 2
        g.panel_cols = g.q if entries is None else g.d
        g.parameter = 1 / parameter if g.family == NEGATIVE_BINOMIAL else parameter
        g.shift = math.log(g.parameter) if g.family == NEGATIVE_BINOMIAL else 0
        y = as_input("y", y, cnp.NPY_FLOAT64, (g.n,))
        weights = optional_input("weights", weights, cnp.NPY_FLOAT64, (g.n,))
        center = optional_input("center", center, cnp.NPY_FLOAT64, (g.d,))
        offset = optional_input("offset", offset, cnp.NPY_FLOAT64, (g.n, k))
        if entries is not None:
            check_entries(columns, starts, g.n, m)
            values = optional_input("values", values, cnp.NPY_FLOAT64, (columns.size,))
            g.columns, g.values, g.starts = <int32_t*>data(columns), <double*>data_or_null(values), <int64_t*>data_or_null(starts)
            g.entries = columns.size // max(1, g.n)
            each = g.entries + 1    # of a row, with the intercept
        self.holders = X, y, weights, center, offset, columns, values, starts
        g.x, g.y, g.weights = data(X), <double*>data(y), <double*>data_or_null(weights)
        g.center, g.offset = <double*>data_or_null(center), <double*>data_or_null(offset)
        g.hessian_type = g.buffer_type = -1
        self.work = 2 * g.n * (g.d + 16 + GLM_ENTRY * each) * k
        self.hessian_work = g.n * (g.panel_cols * g.panel_cols + each * (2 * g.d + GLM_ENTRY_PAIR * each)) * k * (k + 1) // 4
        # rows whose Hessian costs far more than to clear and add the q^2 sums of a chunk: more of them where rows are short
        least = GLM_CHUNK_SQUARES * max(1, g.q)
        if entries is not None:
            least = least * g.q // (g.d + each) + 1
        g.chunks = max(1, min(GLM_CHUNKS, g.n // LANES, max(GLM_FEW_CHUNKS, g.n // least)))
        g.curvature = <double*>aligned_block(round_up(g.n, LANES) * g.k * sizeof(double))
        g.chunk_grad = <double*>aligned_block(g.chunks * (g.k * g.wide + 1 + LANES) * sizeof(double))
        g.chunk_loss = g.chunk_grad + g.chunks * g.k * g.wide
        g.chunk_lane = g.chunk_loss + g.chunks
        g.theta = <double*>aligned_block(g.k * g.wide * sizeof(double)) if entries is not None else NULL
        g.rows = <double*>aligned_block(g.chunks * LANES * (g.d + 2 * g.k) * sizeof(double))

    def __dealloc__(self):
        free(self.plan.curvature)
        free(self.plan.chunk_grad)
        free(self.plan.rows)
        if self.plan.columns != NULL:
            free(self.plan.theta)
        free(self.plan.panel)
        free(self.plan.chunk_hessian)

    cdef int run(self, int kind, theta, grad, hessian, Py_ssize_t step=1) except -1:
        cdef GlmPlan* g = &self.plan
        cdef Py_ssize_t pairs = g.k * (g.k + 1) // 2, width, lines, part, a, work = 0, slices = 0
        g.kind, g.step = kind, step
        if kind != GLM_HESSIAN:
            theta = as_input("theta", theta, cnp.NPY_FLOAT64, (g.k, g.q))
            grad = as_output("grad", grad, cnp.NPY_FLOAT64, (g.k, g.q))
            g.grad = <double*>data(grad)
            if g.columns == NULL:
                g.theta = <double*>data(theta)
            else:
                for a in range(g.k):
                    memcpy(g.theta + a * g.wide, <double*>data(theta) + a * g.q, g.q * sizeof(double))
            work = self.work
            slices = work // SLICE_WORK
        if hessian is None:
            g.hessian_type = -1
        else:
            typenum = float_type("hessian", hessian)
            hessian = as_output("hessian", hessian, typenum, (g.k * g.q, g.k * g.q))
            width = sizeof(float) if typenum == cnp.NPY_FLOAT32 else sizeof(double)
            lines = (g.wide * width + 63) // 64
            g.ld = (lines | 1 if lines > 8 else lines) * 64 // width     # an odd number of lines: rows share no set of L1
            if g.buffer_type != typenum:
                free(g.panel)
                free(g.chunk_hessian)
                g.panel, g.chunk_hessian, g.buffer_type = NULL, NULL, -1
                g.panel = aligned_block(g.chunks * 2 * HESSIAN_ROWS * g.ld * width)
                g.chunk_hessian = aligned_block(g.chunks * pairs * g.wide * g.ld * width, False)    # passes clear it
                g.buffer_type = typenum
            g.hessian_type, g.hessian = typenum, data(hessian)
            work += self.hessian_work
            slices += self.hessian_work // SLICE_HESSIAN_WORK
        g.parts = max(1, min(slices, g.n // (g.chunks * HESSIAN_ROWS)))
        for part in range(g.parts):
            PyErr_CheckSignals()
            g.part = part
            with nogil:
                run_typed(g.hessian_type, glm_pass[float], glm_pass[double], g, min(g.chunks, threads_for(work // g.parts)))
        return 0

    def value(self, theta, grad, hessian=None, step=1):
        """The loss at theta (k, q); grad (k, q) and, if given, hessian (k q, k q) are overwritten.

        `step` above 1: the Hessian of a part of the rows, one in `step`, times the rows over those taken.
        """
        self.run(GLM_VALUE, theta, grad, hessian, step)
        return self.plan.loss

    def product(self, v, out):
        """The Hessian of the point of the last `value`, times v (k, q); out (k, q) is overwritten."""
        self.run(GLM_PRODUCT, v, out, None)
        return out

    def hessian(self, out):
        """The Hessian of the point of the last `value`; out (k q, k q) is overwritten."""
        self.run(GLM_HESSIAN, None, None, out)
        return out
