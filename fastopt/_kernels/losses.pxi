# Losses: value and gradient of each row in one pass.
#
# - A row's loss goes to a float64 of its own; they are added in row order by one
#   member, so the sum does not depend on the team.
# - Weighted means divide by the sum of the weights, as torch's class weights do.
#   A batch whose weights are all zero has loss 0 and gradient 0.

cdef enum:
    CROSS_ENTROPY           # targets: int64 class of each row (n,)
    SOFT_CROSS_ENTROPY      # targets: probabilities (n, k)
    MSE                     # targets: values (n, k)

LOSSES = ("cross_entropy", "mse")


cdef double cross_entropy_row(const floating* z, int64_t label, const floating* target, floating* grad,
                              Py_ssize_t k) noexcept nogil:
    # z (k,) logits; target (k,) probabilities, or NULL and a label
    # loss = log sum exp(z) sum(t) - sum(t z); grad = softmax(z) sum(t) - t
    cdef floating top = row_max(z, k), total, mass = 1
    cdef double loss
    cdef Py_ssize_t j
    total = exp_sum_row(z, top, grad, k)
    if target == NULL:
        loss = log(<double>total) + (<double>top - <double>z[label])
    else:
        mass = 0
        loss = 0
        for j in range(k):
            mass += target[j]
            if target[j] != <floating>0:
                loss -= <double>target[j] * (<double>z[j] - <double>top)
        loss += log(<double>total) * <double>mass
    total = mass / total
    for j in range(k):
        grad[j] *= total
    if target == NULL:
        grad[label] -= <floating>1
    else:
        for j in range(k):
            grad[j] -= target[j]
    return loss


cdef double mse_row(const floating* prediction, const floating* target, floating* grad, Py_ssize_t k) noexcept nogil:
    # loss = 1/k sum e^2; grad = 2/k e, e = prediction - target
    cdef floating e, slope = <floating>2 / <floating>k
    cdef double loss = 0
    cdef Py_ssize_t j
    for j in range(k):
        e = prediction[j] - target[j]
        grad[j] = slope * e
        loss += <double>e * <double>e
    return loss / <double>k


cdef void loss_rows(int kind, const floating* prediction, const void* targets, const floating* weights,
                    double* row_loss, floating* grad, Py_ssize_t n, Py_ssize_t k,
                    Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # prediction (n, k); weights (n,) or NULL -> row_loss (n,), grad (n, k) of the (weighted) mean
    cdef Py_ssize_t i, j
    cdef double total = weight_sum(weights, n), weight
    cdef floating scale
    for i in range(share(n, 1, member, team), share(n, 1, member + 1, team)):
        weight = 1 if weights == NULL else <double>weights[i]
        weight = weight / total if total > 0 else 0
        if kind == CROSS_ENTROPY:
            row_loss[i] = cross_entropy_row(prediction + i * k, (<const int64_t*>targets)[i], <floating*>NULL, grad + i * k, k)
        elif kind == SOFT_CROSS_ENTROPY:
            row_loss[i] = cross_entropy_row(prediction + i * k, 0, <const floating*>targets + i * k, grad + i * k, k)
        else:
            row_loss[i] = mse_row(prediction + i * k, <const floating*>targets + i * k, grad + i * k, k)
        row_loss[i] = row_loss[i] * weight if weight != 0 else 0
        scale = <floating>weight
        for j in range(k):
            grad[i * k + j] = grad[i * k + j] * scale if scale != <floating>0 else <floating>0


cdef double weight_sum(const floating* weights, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    if weights == NULL:
        return <double>n
    for i in range(n):
        total += <double>weights[i]
    return total


cdef double add_up(const double* row_loss, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += row_loss[i]
    return total


# ---------------------------------------------------------------- entry points

cdef struct LossCall:
    int typenum, kind
    Py_ssize_t n, k
    void *prediction
    void *targets
    void *weights
    void *row_loss
    void *grad


cdef void loss_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef LossCall* c = <LossCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        loss_rows[float](c.kind, <float*>c.prediction, c.targets, <float*>c.weights, <double*>c.row_loss,
                         <float*>c.grad, c.n, c.k, member, team)
    else:
        loss_rows[double](c.kind, <double*>c.prediction, c.targets, <double*>c.weights, <double*>c.row_loss,
                          <double*>c.grad, c.n, c.k, member, team)


cdef tuple as_targets(str loss, object targets, int typenum, Py_ssize_t n, Py_ssize_t k):
    # (kind, array) for a loss of n rows and k outputs: classes checked, converted only if need be
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
    if not cnp.PyArray_Check(targets):
        targets = np.asarray(targets)
    if loss == "mse":
        if targets.ndim == 1 and k == 1:
            targets = targets.reshape(-1, 1)
        return MSE, as_numbers("targets", targets, typenum, (n, k))
    if targets.ndim == 2:
        return SOFT_CROSS_ENTROPY, as_numbers("targets", targets, typenum, (n, k))
    if not is_plain(targets, cnp.NPY_INT64, 1):
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets: expected integer classes (n,) or probabilities (n, {k}), "
                            f"got {targets.dtype} of shape {targets.shape}; pass targets.astype(np.int64)")
        targets = np.require(targets, np.int64, ["C", "A"])
    check_shape("targets", targets, (n,))
    if not classes_fit(<int64_t*>data(targets), n, k):
        raise ValueError(f"targets: expected classes from 0 to {k - 1} for {k} outputs, got {targets.min()} to {targets.max()}")
    return CROSS_ENTROPY, targets


cdef bint classes_fit(const int64_t* classes, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint fit = True
    for i in range(n):
        fit &= <size_t>classes[i] < <size_t>k
    return fit


cdef object as_numbers(str name, object a, int typenum, tuple shape):
    # any real numbers, converted to the dtype of a network if need be
    if not is_plain(a, typenum, <int>len(shape)):
        a = np.asarray(a)
        if a.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected real numbers, got dtype {a.dtype}")
        check_shape(name, a, shape)
        a = np.require(a, dtype_of(typenum), ["C", "A"])
    check_shape(name, a, shape)
    return a


cdef object as_weights(object weights, int typenum, Py_ssize_t n):
    if weights is None:
        return None
    weights = as_numbers("sample_weight", weights, typenum, (n,))
    if not (weights_fit(<float*>data(weights), n) if typenum == cnp.NPY_FLOAT32 else weights_fit(<double*>data(weights), n)):
        raise ValueError("sample_weight: expected finite weights of at least 0")
    return weights


cdef bint weights_fit(const floating* weights, Py_ssize_t n) noexcept nogil:
    # all finite, none below 0
    cdef Py_ssize_t i
    cdef floating w, zero = 0
    cdef bint fit = True
    for i in range(n):
        w = weights[i]
        fit &= w >= zero and w - w == zero
    return fit


cdef tuple loss_and_grad(str loss, object prediction, object targets, object sample_weight, object grad):
    cdef LossCall c
    c.typenum = float_type("prediction", prediction)
    prediction = as_input("prediction", prediction, c.typenum, (None, None))
    c.n, c.k = prediction.shape[0], prediction.shape[1]
    if c.k == 0:
        raise ValueError("prediction: expected at least one column, got none")
    kind, targets = as_targets(loss, targets, c.typenum, c.n, c.k)
    weights = as_weights(sample_weight, c.typenum, c.n)
    grad = as_output("grad", grad, c.typenum, (c.n, c.k))
    check_apart(("grad",), (grad,), ("prediction", "targets", "sample_weight"), (prediction, targets, weights))
    row_loss = np.empty(c.n)
    c.kind, c.prediction, c.targets, c.row_loss, c.grad = kind, data(prediction), data(targets), data(row_loss), data(grad)
    c.weights = NULL if weights is None else data(weights)
    with nogil:
        team_run(loss_job, &c, team_for(16 * c.n * c.k))
    return add_up(<double*>c.row_loss, c.n), grad


def cross_entropy(logits, targets, grad=None, *, sample_weight=None):
    """Mean cross-entropy of softmax(logits), and its gradient, in one pass by log-sum-exp.

    Parameters
    ----------
    logits : ndarray, shape (n, k), float32 or float64
    targets : array_like
        Integer classes (n,), or probabilities (n, k): one-hot or soft.
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `logits`.
    sample_weight : array_like, shape (n,), optional
        The loss is then ``sum(w * l) / sum(w)``.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or a class out of range; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> loss, grad = fo.functional.cross_entropy(np.zeros((1, 2)), [1])
    >>> round(loss, 6), grad
    (0.693147, array([[ 0.5, -0.5]]))
    """
    return loss_and_grad("cross_entropy", logits, targets, sample_weight, grad)


def mse(prediction, targets, grad=None, *, sample_weight=None):
    """Mean squared error over all elements, and its gradient, in one pass.

    Parameters
    ----------
    prediction : ndarray, shape (n, k), float32 or float64
    targets : array_like, shape (n, k)
        (n,) is taken for (n, 1).
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `prediction`.
    sample_weight : array_like, shape (n,), optional
        The loss is then ``sum(w * l) / sum(w)``, l being a row's mean.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.mse(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    (2.0, array([[0., 2.]]))
    """
    return loss_and_grad("mse", prediction, targets, sample_weight, grad)
