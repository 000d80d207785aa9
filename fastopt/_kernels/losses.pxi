# All losses: a batch's value and gradient in one pass, and the Hessian of a loss times a tangent.
#
# - Losses are added in float64, each stretch of rows into a number of its own; these are added in row order by
#   one thread, so the sum does not depend on the team.
# - Weighted means divide by the sum of the weights, as torch's class weights do. A batch whose weights are all
#   zero has loss 0 and gradient 0.
# - Targets and weights are checked before the first write. Predictions are not: that would be one more read.
#   Where they leave a loss undefined it is NaN, and the caller raises.

cdef void loss_rows(const Loss* rule, const floating* prediction, const void* targets, const floating* weights,
                    double* row_loss, floating* grad, Py_ssize_t n, Py_ssize_t k,
                    Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # prediction (n, k); weights (n,) or NULL -> row_loss (n,), grad (n, k) of the (weighted) mean
    cdef double total = loss_weight(rule, targets, weights, n, k), inverse = 1 / total if total > 0 else 0
    cdef Py_ssize_t grain = LANES if k <= NARROW else 1, rows
    cdef Py_ssize_t max_rows = LANES if rule.kind in (CROSS_ENTROPY, SOFT_CROSS_ENTROPY) else grain
    cdef Py_ssize_t i = chunk_start(n, grain, thread, n_threads), stop = chunk_start(n, grain, thread + 1, n_threads)
    cdef const floating* z
    cdef const floating* t
    cdef const floating* w
    while i < stop:
        rows = min(max_rows, stop - i)
        z, t, w = prediction + i * k, <const floating*>targets + i * k, NULL if weights == NULL else weights + i
        if rule.kind == CROSS_ENTROPY:
            cross_entropy_rows(rule, z, <const int64_t*>targets + i, w, inverse, row_loss + i, grad + i * k, rows, k)
        elif rule.kind == SOFT_CROSS_ENTROPY:
            cross_entropy_rows(rule, z, t, w, inverse, row_loss + i, grad + i * k, rows, k)
        elif rule.kind == MSE:
            element_rows(<SquaredError*>NULL, rule, z, t, w, inverse, row_loss + i, grad + i * k, rows, k)
        elif rule.kind == MAE:
            element_rows(<AbsoluteError*>NULL, rule, z, t, w, inverse, row_loss + i, grad + i * k, rows, k)
        elif rule.kind == HUBER:
            element_rows(<HuberError*>NULL, rule, z, t, w, inverse, row_loss + i, grad + i * k, rows, k)
        else:
            element_rows(<LogisticError*>NULL, rule, z, t, w, inverse, row_loss + i, grad + i * k, rows, k)
        i += rows


cdef void loss_tangent_rows(const Loss* rule, const floating* prediction, const void* targets, const floating* weights,
                            const floating* tangent, floating* tgrad, Py_ssize_t n, Py_ssize_t k,
                            Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tangent (n, k) of prediction -> tgrad (n, k), the tangent of loss_rows' gradient: the loss's own Hessian times
    # tangent.
    cdef double total = loss_weight(rule, targets, weights, n, k), inverse = 1 / total if total > 0 else 0, weight
    cdef Py_ssize_t grain = max(1, GRAIN // max(k, 1)), i
    cdef floating delta = <floating>rule.delta, factor
    cdef const floating* z
    cdef const floating* t
    for i in range(chunk_start(n, grain, thread, n_threads), chunk_start(n, grain, thread + 1, n_threads)):
        z, t, weight = prediction + i * k, <const floating*>targets + i * k, inverse if weights == NULL else inverse * <double>weights[i]
        factor = <floating>(weight / <double>k)
        if rule.kind == CROSS_ENTROPY or rule.kind == SOFT_CROSS_ENTROPY:
            cross_entropy_tangent(rule, z, targets, i, tangent + i * k, weight, tgrad + i * k, k)
        elif rule.kind == MSE:
            element_tangent(<SquaredError*>NULL, z, t, tangent + i * k, delta, factor, tgrad + i * k, k)
        elif rule.kind == MAE:
            element_tangent(<AbsoluteError*>NULL, z, t, tangent + i * k, delta, factor, tgrad + i * k, k)
        elif rule.kind == HUBER:
            element_tangent(<HuberError*>NULL, z, t, tangent + i * k, delta, factor, tgrad + i * k, k)
        else:
            element_tangent(<LogisticError*>NULL, z, t, tangent + i * k, delta, factor, tgrad + i * k, k)


cdef double loss_weight(const Loss* rule, const void* targets, const floating* weights, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    # What a mean divides by: the weights of the rows that count, times those of their classes, summed.
    cdef Py_ssize_t i
    cdef int64_t label = 0
    cdef double total = 0, weight
    if weights == NULL and rule.kind != CROSS_ENTROPY:
        return <double>n
    if weights == NULL and rule.class_weight == NULL:
        return <double>count_labels(rule, <const int64_t*>targets, n, k)
    for i in range(n):
        weight = 1 if weights == NULL else <double>weights[i]
        if rule.kind == CROSS_ENTROPY:
            label = label_of(rule, targets, i, k, &weight)
            weight *= class_weight_of(rule, label, weights)
        total += weight
    return total


cdef int64_t count_labels(const Loss* rule, const int64_t* labels, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    # The number of rows that count.
    cdef int64_t count = 0, ignore = rule.ignore
    cdef Py_ssize_t i
    for i in range(n):
        count += (<size_t>labels[i] < <size_t>k) & (labels[i] != ignore)
    return count


cdef double sum_in_order(const double* row_loss, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += row_loss[i]
    return total


# ---------------------------------------------------------------- checks

cdef bint classes_fit(const int64_t* classes, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint fit = True
    for i in range(n):
        fit &= <size_t>classes[i] < <size_t>k
    return fit


cdef bint probabilities_fit(const floating* p, Py_ssize_t n) noexcept nogil:
    # Whether all are within [0, 1].
    cdef Py_ssize_t i
    cdef bint fit = True
    for i in range(n):
        fit &= (p[i] >= <floating>0) & (p[i] <= <floating>1)
    return fit


cdef bint weights_fit(const floating* weights, Py_ssize_t n) noexcept nogil:
    # Whether all are finite and none is below 0.
    cdef Py_ssize_t i
    cdef floating w, zero = 0
    cdef bint fit = True
    for i in range(n):
        w = weights[i]
        fit &= w >= zero and w - w == zero
    return fit
