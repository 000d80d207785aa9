# What a loss is, and the losses of single elements: mse, mae, huber, binary_cross_entropy.
#
# - The formula is a function of one element, element_loss, with its second derivative, element_curvature; the
#   loop is written once.
# - Up to NARROW columns, LANES rows are walked as one stretch; wider rows go one by one.

cdef enum:
    CROSS_ENTROPY           # targets: int64 class of each row (n,)
    SOFT_CROSS_ENTROPY      # targets: probabilities (n, k)
    MSE                     # targets: values (n, k)
    MAE
    HUBER
    BINARY_CROSS_ENTROPY    # targets: probabilities (n, k)

cdef struct Loss:
    int kind
    double delta                # huber
    double uniform, confidence  # label smoothing s: a target t counts as s / k + (1 - s) t
    int64_t ignore              # the label of rows that do not count
    void* class_weight          # (k,) of the predictions' dtype, or NULL


# ---------------------------------------------------------------- formulas

ctypedef struct SquaredError:
    char _
ctypedef struct AbsoluteError:
    char _
ctypedef struct HuberError:
    char _
ctypedef struct LogisticError:
    char _

ctypedef fused ElementLoss:
    SquaredError
    AbsoluteError
    HuberError
    LogisticError


cdef inline double element_loss(ElementLoss* tag, floating p, floating t, floating delta, floating* derivative) noexcept nogil:
    # The loss of prediction p with target t; slope becomes its derivative by p.
    cdef floating e = p - t, a, u, miss, tail = 0
    if ElementLoss is SquaredError:         # e^2
        derivative[0] = e + e
        return <double>e * <double>e
    elif ElementLoss is AbsoluteError:      # |e|
        a = absolute(e)
        derivative[0] = <floating>1 if e > <floating>0 else (<floating>-1 if e < <floating>0 else e)
        return <double>a
    elif ElementLoss is HuberError:         # e^2 / 2, from delta on delta (|e| - delta / 2)
        a = absolute(e)
        u = copy_sign(delta, e)
        u = u if a > delta else e
        derivative[0] = u
        return <double>u * (<double>e - 0.5 * <double>u)
    else:                                   # log(1 + exp(-|p|)) + |p| miss, miss: t, or 1 - t where p >= 0
        a = absolute(p)
        u = softplus_of(exp_below(-a), &tail)
        miss = t if p < <floating>0 else <floating>1 - t
        tail = miss - tail                  # sigmoid(p) - t = (1 - t) - tail, or tail - t where p < 0
        derivative[0] = -tail if p < <floating>0 else tail
        miss = a * miss if miss != <floating>0 else <floating>0
        u = u + miss
        return <double>u


cdef inline floating element_curvature(ElementLoss* tag, floating p, floating t, floating delta) noexcept nogil:
    # The second derivative of element_loss by p; at a kink 0, for huber that of the inside.
    cdef floating e = p - t, a, tail = 0
    if ElementLoss is SquaredError:
        return <floating>2
    elif ElementLoss is AbsoluteError:
        return <floating>0
    elif ElementLoss is HuberError:
        a = absolute(e)
        return <floating>0 if a > delta else <floating>1
    else:                                   # sigmoid(p) sigmoid(-p)
        a = absolute(p)
        softplus_of(exp_below(-a), &tail)
        return tail * (<floating>1 - tail)


# ---------------------------------------------------------------- loops

cdef noinline_void element_blocks(ElementLoss* tag, const floating* p, const floating* t, const floating* weight,
                                  Py_ssize_t weight_step, floating delta, floating inverse, double* lane,
                                  floating* grad, Py_ssize_t blocks) noexcept nogil:
    # lane[j] grows by the weighted losses of elements j, j + LANES, ...; grad = derivative weight inverse. A weight of 0
    # leaves its element out, NaN or not.
    cdef double partial[LANES]
    cdef double losses[LANES]
    cdef floating out[LANES]
    cdef floating w, derivative = 0
    cdef double value, times
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        for j in range(LANES):
            value = element_loss(tag, p[j], t[j], delta, &derivative)
            w = weight[j]
            times = w
            losses[j] = value * times if times != 0.0 else 0.0
            w = w * inverse
            out[j] = derivative * w if w != <floating>0 else <floating>0
        for j in range(LANES):
            partial[j] += losses[j]
        for j in range(LANES):
            grad[j] = out[j]
        p += LANES
        t += LANES
        weight += weight_step
        grad += LANES
    for j in range(LANES):
        lane[j] = partial[j]


cdef void element_rows(ElementLoss* tag, const Loss* rule, const floating* p, const floating* t, const floating* weights,
                       double inverse, double* row_loss, floating* grad, Py_ssize_t rows, Py_ssize_t k) noexcept nogil:
    # Up to LANES narrow rows, or a wide one, as one stretch: p, t (rows, k), weights (rows,) or NULL -> grad (rows, k),
    # row_loss (rows,), whose first number is the sum of all.
    cdef floating weight[NARROW * LANES]
    cdef double lane[LANES]
    cdef floating p_block[LANES]
    cdef floating t_block[LANES]
    cdef floating w_block[LANES]
    cdef floating delta = <floating>rule.delta, inverse_size = <floating>(inverse / <double>k)
    cdef Py_ssize_t n = rows * k, blocks = n // LANES, main = blocks * LANES, step = 0, i, j
    for j in range(LANES):
        lane[j] = 0
        weight[j] = <floating>1 if weights == NULL else weights[0]
    # one weight serves all elements of a row, or, where rows differ, each element has its own
    if weights != NULL and rows > 1:
        step = LANES
        for i in range(rows):
            for j in range(k):
                weight[i * k + j] = weights[i]
    element_blocks(tag, p, t, <const floating*>weight, step, delta, inverse_size, lane, grad, blocks)
    # the tail, in padded blocks whose padding weighs nothing
    if main < n:
        load_padded(p_block, p + main, n - main, <floating>0)
        load_padded(t_block, t + main, n - main, <floating>0)
        load_padded(w_block, weight + step * blocks, n - main, <floating>0)
        element_blocks(tag, <const floating*>p_block, <const floating*>t_block, <const floating*>w_block, 0, delta,
                       inverse_size, lane, p_block, 1)
        store_partial(grad + main, p_block, n - main)
    row_loss[0] = sum_in_order(lane, LANES) * inverse / <double>k
    for i in range(1, rows):
        row_loss[i] = 0


cdef inline void element_tangent(ElementLoss* tag, const floating* p, const floating* t, const floating* tp, floating delta,
                                 floating factor, floating* tgrad, Py_ssize_t k) noexcept nogil:
    # tgrad = curvature tp factor, a row (k,)
    cdef Py_ssize_t j
    for j in range(k):
        tgrad[j] = element_curvature(tag, p[j], t[j], delta) * tp[j] * factor if factor != <floating>0 else <floating>0
