# Losses of arrays: checks of targets and weights, and a function a loss.

LOSSES = ("cross_entropy", "mse", "mae", "huber", "binary_cross_entropy")
cdef enum:
    NO_CLASS = -100         # torch's ignore_index
IGNORE_INDEX = NO_CLASS
cdef object NOT_SAID = IGNORE_INDEX

cdef struct LossCall:
    Loss rule
    Py_ssize_t n, k
    void *prediction
    void *targets
    void *weights
    double *row_loss
    void *grad


cdef void loss_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef LossCall* c = <LossCall*>args
    loss_rows(&c.rule, <floating*>c.prediction, c.targets, <floating*>c.weights, c.row_loss, <floating*>c.grad, c.n, c.k,
              thread, n_threads)


cdef int check_loss(object loss) except -1:
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
    return 0


cdef object fill_loss(Loss* rule, object delta, object label_smoothing, object class_weight, object ignore_index,
                      int typenum, Py_ssize_t k):
    # Sets all of the rule but its kind, which the targets decide; returns the class weights, which the rule points to.
    rule.ignore = NO_CLASS if ignore_index is NOT_SAID else _numbers.whole_number(
        "ignore_index", ignore_index, -2**63, 2**63 - 1)
    rule.delta = positive_number("delta", delta)
    rule.uniform, rule.confidence = label_smoothing / k, 1 - label_smoothing
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), got {label_smoothing!r}")
    class_weight = as_weights("class_weight", class_weight, typenum, k)
    rule.class_weight = data_or_null(class_weight)
    return class_weight


cdef int kind_of(str loss, object targets) noexcept:
    if loss == "cross_entropy":
        return SOFT_CROSS_ENTROPY if targets.ndim == 2 else CROSS_ENTROPY
    return MSE if loss == "mse" else MAE if loss == "mae" else HUBER if loss == "huber" else BINARY_CROSS_ENTROPY


cdef object as_targets(str loss, object targets, int typenum, Py_ssize_t n, Py_ssize_t k, int64_t ignore, object weights):
    # Targets of n rows and k outputs, checked, and converted where they must be; weights: those of the rows, checked.
    if loss != "cross_entropy":
        if not is_array(targets):
            targets = _arrays.as_numbers("targets", targets)
        if targets.ndim == 1 and k == 1:
            targets = targets.reshape(-1, 1)
        if targets.ndim == 1:
            check_shape("targets", targets, (n, k), f"; pass a column for each of the {k} outputs; classes take the loss "
                                                    f"cross_entropy, one value a row a network of one output")
        targets = as_numbers("targets", targets, typenum, (n, k))
        return targets if loss != "binary_cross_entropy" else as_probabilities(targets, typenum)
    if not is_plain(targets, cnp.NPY_INT64, 1):
        if not is_plain(targets, typenum, 2):
            targets = _arrays.as_classes("targets", targets, k)
        if targets.ndim == 2:
            if 0 <= ignore < k:
                raise ValueError(f"ignore_index: expected no class where targets are probabilities, got {ignore}; "
                                 f"pass a sample_weight of 0 for rows that do not count")
            return as_probabilities(as_numbers("targets", targets, typenum, (n, k)), typenum)
    check_shape("targets", targets, (n,))
    if not classes_fit(<int64_t*>data(targets), n, k):
        require_classes(targets, k, ignore, weights)
    return targets


cdef int require_classes(object targets, Py_ssize_t k, int64_t ignore, object weights) except -1:
    # Raises for labels that are no class, except `ignore` and those of rows without weight.
    bad = ((targets < 0) | (targets >= k)) & (targets != ignore)
    if weights is not None:
        bad &= weights != 0
    if bad.any():
        place, found = int(bad.argmax()), targets[targets != ignore]
        raise ValueError(f"targets: expected classes from 0 to {k - 1} for {k} outputs, got {found.min()} to {found.max()}, "
                         f"first {targets[place]} at ({place},); give rows without a class the label {ignore} (ignore_index) "
                         f"or the weight 0")
    return 0


cdef object as_probabilities(object a, int typenum):
    cdef Py_ssize_t n = cnp.PyArray_SIZE(<cnp.ndarray>a)
    if not (probabilities_fit(<float*>data(a), n) if typenum == cnp.NPY_FLOAT32 else probabilities_fit(<double*>data(a), n)):
        raise ValueError(f"targets: expected probabilities from 0 to 1, got {a.min()} to {a.max()}")
    return a


cdef object as_weights(str name, object weights, int typenum, Py_ssize_t n):
    if weights is None:
        return None
    weights = as_numbers(name, weights, typenum, (n,))
    if not (weights_fit(<float*>data(weights), n) if typenum == cnp.NPY_FLOAT32 else weights_fit(<double*>data(weights), n)):
        raise ValueError(f"{name}: expected finite weights of at least 0")
    return weights


cdef int raise_undefined(str name, object prediction, object targets, object row_loss, int kind) except -1:
    # Names the first NaN or infinity of the first row, or stretch of rows, without a loss.
    cdef Py_ssize_t first = np.isnan(row_loss).argmax(), rows = 1 if kind in (CROSS_ENTROPY, SOFT_CROSS_ENTROPY) else LANES
    for what, a in ((name, prediction), ("targets", targets)):
        found = np.argwhere(~np.isfinite(a[first:first + rows]))
        if len(found):
            place = (int(found[0][0]) + first, *map(int, found[0][1:]))
            raise ValueError(f"{what}: expected values whose loss is defined, got {a[place]} at {place}")
    raise ValueError(f"sample_weight: expected weights whose loss is defined, got some too small or too large in {prediction.dtype}")


cdef tuple loss_and_grad(str loss, object prediction, object targets, object sample_weight, object grad,
                         object delta=1.0, object label_smoothing=0.0, object class_weight=None,
                         object ignore_index=NOT_SAID):
    cdef LossCall c
    cdef int typenum
    cdef double value
    cdef str name = "logits" if loss == "cross_entropy" or loss == "binary_cross_entropy" else "prediction"
    typenum = float_type(name, prediction)
    prediction = as_input(name, prediction, typenum, (None, None))
    c.n, c.k = cnp.PyArray_DIM(<cnp.ndarray>prediction, 0), cnp.PyArray_DIM(<cnp.ndarray>prediction, 1)
    if c.k == 0:
        raise ValueError(f"{name}: expected at least one column, got none")
    class_weight = fill_loss(&c.rule, delta, label_smoothing, class_weight, ignore_index, typenum, c.k)
    weights = as_weights("sample_weight", sample_weight, typenum, c.n)
    targets = as_targets(loss, targets, typenum, c.n, c.k, c.rule.ignore, weights)
    grad = as_output("grad", grad, typenum, (c.n, c.k))
    check_no_overlap(("grad",), (grad,), (name, "targets", "sample_weight", "class_weight"), (prediction, targets, weights, class_weight))
    row_loss = np.empty(c.n)
    c.rule.kind = kind_of(loss, targets)
    c.prediction, c.targets, c.row_loss, c.grad = data(prediction), data(targets), <double*>data(row_loss), data(grad)
    c.weights = data_or_null(weights)
    with nogil:
        run_typed(typenum, loss_job[float], loss_job[double], &c, threads_for(16 * c.n * c.k))
    value = sum_in_order(c.row_loss, c.n)
    if value != value:
        raise_undefined(name, prediction, targets, row_loss, c.rule.kind)
    return value, grad


def cross_entropy(logits, targets, grad=None, *, sample_weight=None, class_weight=None, label_smoothing=0.0,
                  ignore_index=IGNORE_INDEX):
    """Mean cross-entropy of softmax(logits), and its gradient, by log-sum-exp.

    Parameters
    ----------
    logits : ndarray, shape (n, k), float32 or float64
    targets : array_like
        Integer classes (n,), or probabilities (n, k): one-hot or soft.
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `logits`.
    sample_weight : array_like, shape (n,), optional
        The loss is then ``sum(w * l) / sum(w)``.
    class_weight : array_like, shape (k,), optional
        Weight of each class in the loss of a row. For integer classes the mean divides by the sum of the
        weights of the rows' classes, for probabilities by the number of rows, as torch does.
    label_smoothing : float in [0, 1)
        The part of every target that is spread evenly over the classes.
    ignore_index : int
        Rows with this label do not count: no loss, no gradient, no part in what the mean divides by.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, a class out of range in a row that counts, a probability or an
        option outside its interval; nothing has been written then.
    ValueError
        NaN or infinity that leave the loss undefined, in a row whose weight is not 0; `grad` has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> loss, grad = fo.functional.cross_entropy(np.zeros((1, 2)), [1])
    >>> round(loss, 6), grad
    (0.693147, array([[ 0.5, -0.5]]))
    """
    return loss_and_grad("cross_entropy", logits, targets, sample_weight, grad, 1.0, label_smoothing, class_weight, ignore_index)


def binary_cross_entropy(logits, targets, grad=None, *, sample_weight=None):
    """Mean cross-entropy of sigmoid(logits) over all elements, and its gradient, in one pass.

    Parameters
    ----------
    logits : ndarray, shape (n, k), float32 or float64
    targets : array_like, shape (n, k)
        Probabilities, or 0 and 1. (n,) is taken for (n, 1).
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `logits`.
    sample_weight : array_like, shape (n,), optional
        The loss is then ``sum(w * l) / sum(w)``, l being a row's mean.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or a probability outside [0, 1]; nothing has been written then.
    ValueError
        NaN or infinity that leave the loss undefined, in a row whose weight is not 0; `grad` has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> loss, grad = fo.functional.binary_cross_entropy(np.array([[0.0], [1e4]]), [1, 1])
    >>> round(loss, 6), grad.tolist()
    (0.346574, [[-0.25], [0.0]])
    """
    return loss_and_grad("binary_cross_entropy", logits, targets, sample_weight, grad)


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
    ValueError
        NaN or infinity that leave the loss undefined, in a row whose weight is not 0; `grad` has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.mse(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    (2.0, array([[0., 2.]]))
    """
    return loss_and_grad("mse", prediction, targets, sample_weight, grad)


def mae(prediction, targets, grad=None, *, sample_weight=None):
    """Mean absolute error over all elements, and its gradient, in one pass.

    Parameters
    ----------
    prediction, targets, sample_weight
        As for `mse`.
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `prediction`, 0 where an error is 0.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        As for `mse`.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.mae(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    (1.0, array([[0. , 0.5]]))
    """
    return loss_and_grad("mae", prediction, targets, sample_weight, grad)


def huber(prediction, targets, grad=None, *, delta=1.0, sample_weight=None):
    """Mean over all elements of e^2 / 2 for abs(e) <= delta, else delta (abs(e) - delta / 2), and its gradient.

    Parameters
    ----------
    prediction, targets, grad, sample_weight
        As for `mse`.
    delta : float
        Above 0: the error from which the loss grows linearly.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        As for `mse`, or a `delta` that is not above 0; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.huber(np.array([[1.5, 4.0]]), np.array([[1.0, 1.0]]))
    (1.3125, array([[0.25, 0.5 ]]))
    """
    return loss_and_grad("huber", prediction, targets, sample_weight, grad, delta)
