# Gradients clipped in place, apart from any optimizer.

cdef class Gradients:
    """Gradient arrays that are changed in place, laid end to end for the kernels of optim/update.pxi."""
    cdef Plan plan
    cdef list arrays

    def __cinit__(self, grads):
        cdef Py_ssize_t i
        cdef Tensor* t
        grads = [grads] if isinstance(grads, np.ndarray) else list(grads)
        self.arrays = [(f"grads[{k}]", a) for k, a in enumerate(grads) if a is not None]
        for name, a in self.arrays:
            as_output(name, a, float_type(name, a), a.shape)
        check_disjoint(self.arrays)
        self.plan.n_tensors, self.plan.scale, self.plan.clip = len(self.arrays), 1, HUGE_VAL
        self.plan.tensors = <Tensor*>aligned_block(self.plan.n_tensors * sizeof(Tensor))
        for i, (name, a) in enumerate(self.arrays):
            t = &self.plan.tensors[i]
            t.typenum, t.size, t.grad = float_type(name, a), a.size, data(a)
            self.plan.n_bytes += padded_bytes(t)
            self.plan.n_elements += t.size
            self.plan.n_partials += (t.size + NORM_BLOCK - 1) // NORM_BLOCK
        self.plan.partials = <double*>aligned_block(self.plan.n_partials * sizeof(double))

    def __dealloc__(self):
        free(self.plan.tensors)
        free(self.plan.partials)

    cdef double measured(self):
        with nogil:
            team_run(measure_job, &self.plan, threads_for(4 * self.plan.n_elements))
        return sqrt(sum_in_order(self.plan.partials, self.plan.n_partials))

    cdef void clip(self, double scale, double value):
        self.plan.scale, self.plan.clip = scale, value
        with nogil:
            team_run(clip_job, &self.plan, threads_for(4 * self.plan.n_elements))


def clip_grad_norm_(grads, double max_norm, *, bint error_if_nonfinite=False):
    """Scale gradients in place so that the norm of all of them together is at most `max_norm`.

    Parameters
    ----------
    grads : iterable of ndarray or None
        float32 or float64, C-contiguous; multiplied by ``min(1, max_norm / (norm + 1e-6))``.
    max_norm : float
    error_if_nonfinite : bool
        Raise if the norm is NaN or infinite.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    ValueError
        An array that cannot be changed in place, or a negative `max_norm`; nothing has been changed then.
    FloatingPointError
        The norm is not finite, with `error_if_nonfinite`; nothing has been changed then.

    Notes
    -----
    The formula of ``torch.nn.utils.clip_grad_norm_``. An optimizer made with ``max_norm`` does the same
    inside its update, without writing the gradients.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> grad = np.array([3.0, 4.0])
    >>> fo.functional.clip_grad_norm_([grad], 1.0)
    5.0
    >>> grad.round(3)
    array([0.6, 0.8])
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm: expected a number of at least 0, got {max_norm}")
    cdef Gradients given = Gradients(grads)
    cdef double norm = given.measured()
    if error_if_nonfinite and norm - norm != 0:
        raise FloatingPointError(f"grads: expected a finite norm, got {norm}; nothing has been changed")
    if not max_norm >= norm + 1e-6:
        given.clip(max_norm / (norm + 1e-6), HUGE_VAL)
    return norm


def clip_grad_value_(grads, double value):
    """Bring every element of the gradients into ``[-value, value]``, in place.

    Parameters
    ----------
    grads : iterable of ndarray or None
        float32 or float64, C-contiguous.
    value : float

    Returns
    -------
    None

    Raises
    ------
    ValueError
        An array that cannot be changed in place, or a negative `value`; nothing has been changed then.

    Notes
    -----
    As ``torch.nn.utils.clip_grad_value_``; NaN stays.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> grad = np.array([-3.0, 0.5])
    >>> fo.functional.clip_grad_value_([grad], 1.0)
    >>> grad
    array([-1. ,  0.5])
    """
    if not value >= 0:
        raise ValueError(f"value: expected a number of at least 0, got {value}")
    (<Gradients>Gradients(grads)).clip(1, value)
