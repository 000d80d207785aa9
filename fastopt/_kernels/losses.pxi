# Losses: value and gradient of each row in one pass.
#
# - A loss of single elements (mse, mae, huber, binary_cross_entropy) is a formula on one
#   element, element_loss; the loop is written once. Cross-entropy works on rows.
# - Up to NARROW columns, LANES rows are worked on at once: regression walks them as one
#   stretch, cross-entropy turns them so that a lane is a row. Wider rows go one by one.
# - Losses are added in float64, each stretch into a number of its own; these are added in
#   row order by one member, so the sum does not depend on the team.
# - Weighted means divide by the sum of the weights, as torch's class weights do.
#   A batch whose weights are all zero has loss 0 and gradient 0.
# - Targets and weights are checked before the first write. Predictions are not: that would be
#   one more read. Where they leave a loss undefined it is NaN, and the caller raises.
# - A label is an index into a row, and its array may change under a running call: label_of reads
#   it once, and what is no class of this loss becomes class 0 of a row without weight.

cdef extern from "bits.h" nogil:
    double log_parts "fastopt_log_parts"(double x, double* m)

cdef enum:
    CROSS_ENTROPY           # targets: int64 class of each row (n,)
    SOFT_CROSS_ENTROPY      # targets: probabilities (n, k)
    MSE                     # targets: values (n, k)
    MAE
    HUBER
    BINARY_CROSS_ENTROPY    # targets: probabilities (n, k)

LOSSES = ("cross_entropy", "mse", "mae", "huber", "binary_cross_entropy")
cdef enum:
    NO_CLASS = -100         # torch's ignore_index
IGNORE_INDEX = NO_CLASS
cdef object NOT_SAID = IGNORE_INDEX

cdef struct Loss:
    int kind
    double delta            # huber
    double floor, keep      # label smoothing s: a target t counts as s / k + (1 - s) t
    int64_t ignore          # the label of rows that do not count
    void* class_weight      # (k,) of the predictions' dtype, or NULL


# --- formulas on one element -------------------------------------------------------

cdef inline floating atanh_polynomial(floating z) noexcept nogil:
    # (atanh(s) / s - 1) / z with z = s^2, |s| <= 0.1717. Chebyshev in 50 digits, then
    # rounded: atanh is off by at most 1.7e-11 (float), 3.2e-20 (double), relative.
    cdef floating p
    if floating is float:
        p = <floating>0.116668462
        p = p * z + <floating>0.142753511
        p = p * z + <floating>0.200000614
        p = p * z + <floating>0.333333333
    else:
        p = 0.065452932467618061
        p = p * z + 0.066341969565496914
        p = p * z + 0.076931269415028952
        p = p * z + 0.090908976895309732
        p = p * z + 0.11111111197080276
        p = p * z + 0.14285714285396403
        p = p * z + 0.20000000000000448
        p = p * z + 0.33333333333333331
    return p


cdef inline double log_element(double x) noexcept nogil:
    # log(x), x >= 1, to 2 ULP or 1e-16: k log 2 + 2 atanh((m - 1) / (m + 1)), x = m 2^k
    cdef double m = 0, k = log_parts(x, &m), s, z
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    return k * 0.6931471805599453 + (2.0 * s + 2.0 * s * (z * atanh_polynomial(z))) + (x - x)


cdef inline floating softplus_of(floating u, floating* tail) noexcept nogil:
    # log(1 + u) for 0 <= u <= 1, and tail = u / (1 + u), with one division between them:
    # 2 atanh(u / (2 + u)), from u = sqrt(2) - 1 on log(2) + 2 atanh((u - 1) / (u + 3))
    cdef floating far = <floating>1 if u > <floating>0.41421356 else <floating>0
    cdef floating over = u - far, under = u + (<floating>2 + far), one_more = <floating>1 + u, s, z
    cdef floating inverse = <floating>1 / (one_more * under)
    tail[0] = u * under * inverse
    s = over * one_more * inverse
    z = s * s
    s = <floating>2 * s
    return far * <floating>0.6931471805599453 + (s + s * (z * atanh_polynomial(z)))


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


cdef inline double element_loss(ElementLoss* tag, floating p, floating t, floating delta, floating* slope) noexcept nogil:
    # the loss of prediction p with target t, and its derivative by p
    cdef floating e = p - t, a, u, miss, tail = 0
    if ElementLoss is SquaredError:         # e^2
        slope[0] = e + e
        return <double>e * <double>e
    elif ElementLoss is AbsoluteError:      # |e|
        a = absolute(e)
        slope[0] = <floating>1 if e > <floating>0 else (<floating>-1 if e < <floating>0 else e)
        return <double>a
    elif ElementLoss is HuberError:         # e^2 / 2, from delta on delta (|e| - delta / 2)
        a = absolute(e)
        u = copy_sign(delta, e)
        u = u if a > delta else e
        slope[0] = u
        return <double>u * (<double>e - 0.5 * <double>u)
    else:                                   # log(1 + exp(-|p|)) + |p| miss, miss: t, or 1 - t where p >= 0
        a = absolute(p)
        u = softplus_of(exp_below(-a), &tail)
        miss = t if p < <floating>0 else <floating>1 - t
        tail = miss - tail                  # sigmoid(p) - t = (1 - t) - tail, or tail - t where p < 0
        slope[0] = -tail if p < <floating>0 else tail
        miss = a * miss if miss != <floating>0 else <floating>0
        u = u + miss
        return <double>u


# --- losses of single elements -----------------------------------------------------

cdef one_body_void element_blocks(ElementLoss* tag, const floating* p, const floating* t, const floating* weight,
                                  Py_ssize_t weight_step, floating delta, floating inverse, double* lane,
                                  floating* grad, Py_ssize_t blocks) noexcept nogil:
    # lane[j] grows by the weighted losses of elements j, j + LANES, ...; grad = slope weight inverse
    cdef double partial[LANES]
    cdef double lost[LANES]
    cdef floating out[LANES]
    cdef floating w, slope = 0
    cdef double value, times
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        for j in range(LANES):
            value = element_loss(tag, p[j], t[j], delta, &slope)
            w = weight[j]
            times = w
            lost[j] = value * times if times != 0.0 else 0.0
            w = w * inverse
            out[j] = slope * w if w != <floating>0 else <floating>0
        for j in range(LANES):
            partial[j] += lost[j]
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
    # up to LANES narrow rows, or a wide one, as one stretch: p, t, grad (rows, k), weights (rows,) or NULL
    cdef floating weight[NARROW * LANES]
    cdef double lane[LANES]
    cdef floating p_block[LANES]
    cdef floating t_block[LANES]
    cdef floating w_block[LANES]
    cdef floating delta = <floating>rule.delta, share_of_one = <floating>(inverse / <double>k)
    cdef Py_ssize_t n = rows * k, blocks = n // LANES, main = blocks * LANES, step = 0, i, j
    cdef double total = 0
    for j in range(LANES):
        lane[j] = 0
        weight[j] = <floating>1 if weights == NULL else weights[0]
    if weights != NULL and rows > 1:
        step = LANES
        for i in range(rows):
            for j in range(k):
                weight[i * k + j] = weights[i]
    element_blocks(tag, p, t, <const floating*>weight, step, delta, share_of_one, lane, grad, blocks)
    if main < n:
        fill(p_block, p + main, n - main, <floating>0)
        fill(t_block, t + main, n - main, <floating>0)
        fill(w_block, weight + step * blocks, n - main, <floating>0)
        element_blocks(tag, <const floating*>p_block, <const floating*>t_block, <const floating*>w_block, 0, delta,
                       share_of_one, lane, p_block, 1)
        spill(grad + main, p_block, n - main)
    for j in range(LANES):
        total += lane[j]
    row_loss[0] = total * inverse / <double>k
    for i in range(1, rows):
        row_loss[i] = 0


# --- cross-entropy -----------------------------------------------------------------

# A row's targets are a_j = w_j (floor + keep t_j), with class weights w and smoothed t:
#   loss = sum(a) log sum exp(z) - sum(a z);  grad = softmax(z) sum(a) - a
# t of a class is 1 there and 0 elsewhere. Plain classes never see a_j of the others.

cdef inline floating target_share(floating t, floating w, floating floor, floating keep) noexcept nogil:
    return w * (floor + keep * t)


cdef one_body_void target_sum_blocks(const floating* z, const floating* t, Py_ssize_t t_step, const floating* w,
                                     Py_ssize_t w_step, floating floor, floating keep, floating top,
                                     double* mass, double* dot, Py_ssize_t blocks) noexcept nogil:
    # mass and dot grow by a and a (z - top), lane by lane
    cdef double mass_part[LANES]
    cdef double dot_part[LANES]
    cdef floating a[LANES]
    cdef floating z_counted[LANES]          # top where a is 0: 0 times infinity is no loss
    cdef floating share_of
    cdef Py_ssize_t i, j
    for j in range(LANES):
        mass_part[j], dot_part[j] = mass[j], dot[j]
    for i in range(blocks):
        for j in range(LANES):
            share_of = target_share(t[j], w[j], floor, keep)
            a[j] = share_of
            z_counted[j] = z[j] if share_of != <floating>0 else top
        for j in range(LANES):
            mass_part[j] += <double>a[j]
            dot_part[j] += <double>a[j] * (<double>z_counted[j] - <double>top)
        z += LANES
        t += t_step
        w += w_step
    for j in range(LANES):
        mass[j], dot[j] = mass_part[j], dot_part[j]


cdef one_body_void target_subtract_blocks(const floating* t, Py_ssize_t t_step, const floating* w, Py_ssize_t w_step,
                                          floating floor, floating keep, floating scale, floating* grad,
                                          Py_ssize_t blocks) noexcept nogil:
    # grad -= scale a
    cdef floating out[LANES]
    cdef Py_ssize_t i, j
    for i in range(blocks):
        for j in range(LANES):
            out[j] = grad[j] - scale * target_share(t[j], w[j], floor, keep)
        for j in range(LANES):
            grad[j] = out[j]
        grad += LANES
        t += t_step
        w += w_step


cdef void walk_targets(const Loss* rule, const floating* z, const floating* t, floating top, double* mass, double* dot,
                       floating scale, floating* grad, Py_ssize_t k) noexcept nogil:
    # over a row (k,): the sums where there is a z, else the gradient; t NULL is all zeros
    cdef floating zeros[LANES]
    cdef floating ones[LANES]
    cdef floating z_block[LANES]
    cdef floating t_block[LANES]
    cdef floating w_block[LANES]
    cdef const floating* w = <const floating*>rule.class_weight
    cdef Py_ssize_t t_step = LANES, w_step = LANES, blocks = k // LANES, main = blocks * LANES, j
    cdef floating floor = <floating>rule.floor, keep = <floating>rule.keep
    for j in range(LANES):
        zeros[j], ones[j] = <floating>0, <floating>1
    if t == NULL:
        t, t_step = zeros, 0
    if w == NULL:
        w, w_step = ones, 0
    if z != NULL:
        target_sum_blocks(z, t, t_step, w, w_step, floor, keep, top, mass, dot, blocks)
    else:
        target_subtract_blocks(t, t_step, w, w_step, floor, keep, scale, grad, blocks)
    if main == k:
        return
    fill(t_block, t + t_step * blocks, k - main, <floating>0)
    fill(w_block, w + w_step * blocks, k - main, <floating>0)
    fill(z_block, (z if z != NULL else grad) + main, k - main, <floating>0)
    if z != NULL:
        target_sum_blocks(<const floating*>z_block, <const floating*>t_block, 0, <const floating*>w_block, 0, floor, keep,
                          top, mass, dot, 1)
    else:
        target_subtract_blocks(<const floating*>t_block, 0, <const floating*>w_block, 0, floor, keep, scale, z_block, 1)
        spill(grad + main, z_block, k - main)


cdef double sum_targets(const Loss* rule, const floating* z, const floating* t, int64_t label, floating top,
                        double* dot, Py_ssize_t k) noexcept nogil:
    # returns sum(a); dot = sum(a (z - top)), row by row
    cdef double mass_lane[LANES]
    cdef double dot_lane[LANES]
    cdef double mass = 0
    cdef Py_ssize_t j
    dot[0] = 0
    if t == NULL:
        mass = rule.keep * class_weight_of(rule, label, z)
        dot[0] = mass * (<double>z[label] - <double>top) if mass != 0 else 0
    if t != NULL or rule.floor != 0:
        for j in range(LANES):
            mass_lane[j] = dot_lane[j] = 0
        walk_targets(rule, z, t, top, mass_lane, dot_lane, <floating>0, <floating*>NULL, k)
        for j in range(LANES):
            mass += mass_lane[j]
            dot[0] += dot_lane[j]
    return mass


cdef void subtract_targets(const Loss* rule, const floating* t, int64_t label, floating scale, floating* grad,
                           Py_ssize_t k) noexcept nogil:
    # grad -= scale a
    if t == NULL:
        grad[label] -= scale * <floating>(rule.keep * class_weight_of(rule, label, grad))
    if t != NULL or rule.floor != 0:
        walk_targets(rule, <const floating*>NULL, t, <floating>0, <double*>NULL, <double*>NULL, scale, grad, k)


cdef inline double class_weight_of(const Loss* rule, int64_t label, const floating* dtype) noexcept nogil:
    return 1.0 if rule.class_weight == NULL else <double>(<const floating*>rule.class_weight)[label]


cdef inline int64_t label_of(const Loss* rule, const void* targets, Py_ssize_t i, Py_ssize_t k, double* weight) noexcept nogil:
    # the class of row i; if it has none, 0, and its weight 0
    cdef int64_t label = (<const volatile int64_t*>targets)[i]
    if <size_t>label < <size_t>k and label != rule.ignore:
        return label
    weight[0] = 0
    return 0


cdef one_body_void exp_columns(floating* e, floating* top, floating* total, Py_ssize_t k) noexcept nogil:
    # e (k, LANES) -> exp(e - top) in place, with each column's maximum and the sum of its exponentials
    cdef floating most[LANES]
    cdef floating partial[LANES]
    cdef floating out[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        most[j], partial[j] = <floating>-INFINITY, <floating>0
    for i in range(k):
        for j in range(LANES):
            most[j] = at_least(most[j], e[i * LANES + j])
    for i in range(k):
        for j in range(LANES):
            out[j] = exp_below(e[i * LANES + j] - most[j])
        for j in range(LANES):
            partial[j] += out[j]
        for j in range(LANES):
            e[i * LANES + j] = out[j]
    for j in range(LANES):
        top[j], total[j] = most[j], partial[j]


cdef void exp_narrow_rows(const floating* z, floating* e, floating* top, floating* total, Py_ssize_t rows,
                          Py_ssize_t k) noexcept nogil:
    # z (rows, k), up to LANES rows, -> e (k, LANES); lanes without a row are zeros
    cdef Py_ssize_t i, j
    if rows < LANES:
        for j in range(k * LANES):
            e[j] = <floating>0
    for i in range(rows):
        for j in range(k):
            e[j * LANES + i] = z[i * k + j]
    exp_columns(e, top, total, k)


cdef void scale_narrow_rows(const floating* e, const floating* factor, floating* grad, Py_ssize_t rows,
                            Py_ssize_t k) noexcept nogil:
    # grad (rows, k) = e (k, LANES) factor (LANES,)
    cdef floating scaled[NARROW * LANES]
    cdef Py_ssize_t i, j
    for i in range(k):
        for j in range(LANES):
            scaled[i * LANES + j] = e[i * LANES + j] * factor[j] if factor[j] != <floating>0 else <floating>0
    for i in range(rows):
        for j in range(k):
            grad[i * k + j] = scaled[j * LANES + i]


cdef void cross_entropy_rows(const Loss* rule, const floating* z, const void* targets, const floating* weights,
                             double inverse, double* row_loss, floating* grad, Py_ssize_t rows, Py_ssize_t k) noexcept nogil:
    # up to LANES rows; targets (rows,) or (rows, k), weights (rows,) or NULL
    cdef floating e[NARROW * LANES]
    cdef floating top[LANES]
    cdef floating total[LANES]
    cdef floating factor[LANES]
    cdef double mass[LANES]
    cdef double dot[LANES]
    cdef double weight[LANES]
    cdef int64_t label[LANES]
    cdef const floating* t
    cdef Py_ssize_t i, j
    for i in range(LANES):
        mass[i], dot[i], weight[i], total[i] = 0, 0, 0, 1
    if k <= NARROW:
        exp_narrow_rows(z, e, top, total, rows, k)
    for i in range(rows):
        t = NULL if rule.kind == CROSS_ENTROPY else <const floating*>targets + i * k
        weight[i] = inverse if weights == NULL else <double>weights[i] * inverse
        label[i] = label_of(rule, targets, i, k, &weight[i]) if t == NULL else 0
        if k > NARROW:
            top[i] = row_max(z + i * k, k)
            total[i] = exp_sum_row(z + i * k, top[i], grad + i * k, k)
        mass[i] = sum_targets(rule, z + i * k, t, label[i], top[i], &dot[i], k)
        if k > NARROW:
            factor[i] = gradient_factor(weight[i] * mass[i], total[i])
            scale_row(grad + i * k, factor[i], k)
            subtract_targets(rule, t, label[i], <floating>weight[i], grad + i * k, k)
    row_losses(total, mass, dot, weight, row_loss, rows)
    if k > NARROW:
        return
    for i in range(LANES):
        factor[i] = gradient_factor(weight[i] * mass[i], total[i])
    scale_narrow_rows(e, factor, grad, rows, k)
    for i in range(rows):
        t = NULL if rule.kind == CROSS_ENTROPY else <const floating*>targets + i * k
        subtract_targets(rule, t, label[i], <floating>weight[i], grad + i * k, k)


cdef inline floating gradient_factor(double part, floating total) noexcept nogil:
    # what a row's exponentials are multiplied by; part: its weight times its mass
    return <floating>(part / <double>total) if part != 0 else <floating>0


cdef inline void scale_row(floating* grad, floating factor, Py_ssize_t k) noexcept nogil:
    # grad *= factor; NaN times 0 is 0: the row does not count
    cdef Py_ssize_t j
    for j in range(k):
        grad[j] = grad[j] * factor if factor != <floating>0 else <floating>0


cdef void row_losses(const floating* total, const double* mass, const double* dot, const double* weight,
                     double* row_loss, Py_ssize_t rows) noexcept nogil:
    # loss = weight (mass log(total) - dot); lanes past `rows` are spare
    cdef double loss[LANES]
    cdef double part
    cdef Py_ssize_t i
    for i in range(LANES):
        part = weight[i] * mass[i]
        loss[i] = part * log_element(<double>total[i]) - weight[i] * dot[i] if part != 0 else 0.0
    for i in range(rows):
        row_loss[i] = loss[i]


# --- all losses --------------------------------------------------------------------

cdef void loss_rows(const Loss* rule, const floating* prediction, const void* targets, const floating* weights,
                    double* row_loss, floating* grad, Py_ssize_t n, Py_ssize_t k,
                    Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # prediction (n, k); weights (n,) or NULL -> row_loss (n,), grad (n, k) of the (weighted) mean
    cdef double total = loss_weight(rule, targets, weights, n, k), inverse = 1 / total if total > 0 else 0
    cdef Py_ssize_t grain = LANES if k <= NARROW else 1, rows
    cdef Py_ssize_t most = LANES if rule.kind in (CROSS_ENTROPY, SOFT_CROSS_ENTROPY) else grain
    cdef Py_ssize_t i = share(n, grain, member, team), stop = share(n, grain, member + 1, team)
    cdef const floating* z
    cdef const floating* t
    cdef const floating* w
    while i < stop:
        rows = min(most, stop - i)
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


# --- curvature: how the gradient changes with the prediction -----------------------

cdef inline floating element_curvature(ElementLoss* tag, floating p, floating t, floating delta) noexcept nogil:
    # the second derivative of element_loss by p; at a kink 0, for huber that of the inside
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


cdef inline void element_tangent(ElementLoss* tag, const floating* p, const floating* t, const floating* tp, floating delta,
                                 floating factor, floating* tgrad, Py_ssize_t k) noexcept nogil:
    # tgrad = curvature tp factor, a row (k,)
    cdef Py_ssize_t j
    for j in range(k):
        tgrad[j] = element_curvature(tag, p[j], t[j], delta) * tp[j] * factor if factor != <floating>0 else <floating>0


cdef void cross_entropy_tangent(const Loss* rule, const floating* z, const void* targets, Py_ssize_t i, const floating* tz,
                                double weight, floating* tgrad, Py_ssize_t k) noexcept nogil:
    # row i, z, tz, tgrad (k,): grad = weight (softmax(z) sum(a) - a), so tgrad = weight sum(a) y (tz - sum(y tz)), y = softmax(z)
    cdef const floating* t = NULL if rule.kind == CROSS_ENTROPY else <const floating*>targets + i * k
    cdef int64_t label = label_of(rule, targets, i, k, &weight) if t == NULL else 0
    cdef double dot = 0
    cdef floating top = row_max(z, k), total, mean, factor
    cdef double mass = weight * sum_targets(rule, z, t, label, top, &dot, k)
    cdef Py_ssize_t j
    total = exp_sum_row(z, top, tgrad, k)
    mean, factor = product_sum(tgrad, tz, k) / total, gradient_factor(mass, total)
    for j in range(k):
        tgrad[j] = tgrad[j] * (tz[j] - mean) * factor if factor != <floating>0 else <floating>0


cdef void loss_tangent_rows(const Loss* rule, const floating* prediction, const void* targets, const floating* weights,
                            const floating* tangent, floating* tgrad, Py_ssize_t n, Py_ssize_t k,
                            Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # tangent (n, k) of prediction -> tgrad (n, k) of the gradient that loss_rows gives: the loss's own Hessian times tangent
    cdef double total = loss_weight(rule, targets, weights, n, k), inverse = 1 / total if total > 0 else 0, weight
    cdef Py_ssize_t grain = max(1, GRAIN // max(k, 1)), i
    cdef floating delta = <floating>rule.delta, factor
    cdef const floating* z
    cdef const floating* t
    for i in range(share(n, grain, member, team), share(n, grain, member + 1, team)):
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
    # what a mean divides by: the sum over rows that count of their weights times those of their classes
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
    # rows that count
    cdef int64_t count = 0, ignore = rule.ignore
    cdef Py_ssize_t i
    for i in range(n):
        count += (<size_t>labels[i] < <size_t>k) & (labels[i] != ignore)
    return count


cdef double add_up(const double* row_loss, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += row_loss[i]
    return total


# ---------------------------------------------------------------- entry points

cdef struct LossCall:
    int typenum
    Loss rule
    Py_ssize_t n, k
    void *prediction
    void *targets
    void *weights
    void *row_loss
    void *grad


cdef void loss_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef LossCall* c = <LossCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        loss_rows[float](&c.rule, <float*>c.prediction, c.targets, <float*>c.weights, <double*>c.row_loss,
                         <float*>c.grad, c.n, c.k, member, team)
    else:
        loss_rows[double](&c.rule, <double*>c.prediction, c.targets, <double*>c.weights, <double*>c.row_loss,
                          <double*>c.grad, c.n, c.k, member, team)


cdef int check_loss(object loss) except -1:
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
    return 0


cdef object fill_loss(Loss* rule, object delta, object label_smoothing, object class_weight, object ignore_index,
                      int typenum, Py_ssize_t k):
    # everything but the kind, which the targets tell; returns the class weights, to be held while the rule is used
    rule.ignore = NO_CLASS if ignore_index is NOT_SAID else _numbers.whole_number(
        "ignore_index", ignore_index, -2**63, 2**63 - 1)
    rule.delta, rule.floor, rule.keep, rule.class_weight = delta, label_smoothing / k, 1 - label_smoothing, NULL
    if not 0 < rule.delta < HUGE_VAL:
        raise ValueError(f"delta: expected a finite number above 0, got {delta!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), got {label_smoothing!r}")
    class_weight = as_weights("class_weight", class_weight, typenum, k)
    if class_weight is not None:
        rule.class_weight = data(class_weight)
    return class_weight


cdef int kind_of(str loss, object targets) noexcept:
    if loss == "cross_entropy":
        return SOFT_CROSS_ENTROPY if targets.ndim == 2 else CROSS_ENTROPY
    return MSE if loss == "mse" else MAE if loss == "mae" else HUBER if loss == "huber" else BINARY_CROSS_ENTROPY


cdef object as_targets(str loss, object targets, int typenum, Py_ssize_t n, Py_ssize_t k, int64_t ignore, object weights):
    # targets of n rows and k outputs: classes and probabilities checked, converted only if need be; weights as checked
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
    # some label is no class: it may be where it says so, or where its row has no weight
    bad = ((targets < 0) | (targets >= k)) & (targets != ignore)
    if weights is not None:
        bad &= weights != 0
    if bad.any():
        place, found = int(bad.argmax()), targets[targets != ignore]
        raise ValueError(f"targets: expected classes from 0 to {k - 1} for {k} outputs, got {found.min()} to {found.max()}, "
                         f"first {targets[place]} at ({place},); give rows without a class the label {ignore} (ignore_index) "
                         f"or the weight 0")
    return 0


cdef bint classes_fit(const int64_t* classes, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint fit = True
    for i in range(n):
        fit &= <size_t>classes[i] < <size_t>k
    return fit


cdef object as_probabilities(object a, int typenum):
    cdef Py_ssize_t n = cnp.PyArray_SIZE(<cnp.ndarray>a)
    if not (probabilities_fit(<float*>data(a), n) if typenum == cnp.NPY_FLOAT32 else probabilities_fit(<double*>data(a), n)):
        raise ValueError(f"targets: expected probabilities from 0 to 1, got {a.min()} to {a.max()}")
    return a


cdef bint probabilities_fit(const floating* p, Py_ssize_t n) noexcept nogil:
    # all within [0, 1]
    cdef Py_ssize_t i
    cdef bint fit = True
    for i in range(n):
        fit &= (p[i] >= <floating>0) & (p[i] <= <floating>1)
    return fit


cdef object as_weights(str name, object weights, int typenum, Py_ssize_t n):
    if weights is None:
        return None
    weights = as_numbers(name, weights, typenum, (n,))
    if not (weights_fit(<float*>data(weights), n) if typenum == cnp.NPY_FLOAT32 else weights_fit(<double*>data(weights), n)):
        raise ValueError(f"{name}: expected finite weights of at least 0")
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


cdef int raise_undefined(str name, object prediction, object targets, object row_loss, int kind) except -1:
    # says where the first row, or stretch of rows, without a loss holds NaN or infinity
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
    cdef double value
    cdef str name = "logits" if loss == "cross_entropy" or loss == "binary_cross_entropy" else "prediction"
    c.typenum = float_type(name, prediction)
    prediction = as_input(name, prediction, c.typenum, (None, None))
    c.n, c.k = cnp.PyArray_DIM(<cnp.ndarray>prediction, 0), cnp.PyArray_DIM(<cnp.ndarray>prediction, 1)
    if c.k == 0:
        raise ValueError(f"{name}: expected at least one column, got none")
    class_weight = fill_loss(&c.rule, delta, label_smoothing, class_weight, ignore_index, c.typenum, c.k)
    weights = as_weights("sample_weight", sample_weight, c.typenum, c.n)
    targets = as_targets(loss, targets, c.typenum, c.n, c.k, c.rule.ignore, weights)
    grad = as_output("grad", grad, c.typenum, (c.n, c.k))
    check_apart(("grad",), (grad,), (name, "targets", "sample_weight", "class_weight"), (prediction, targets, weights, class_weight))
    row_loss = np.empty(c.n)
    c.rule.kind = kind_of(loss, targets)
    c.prediction, c.targets, c.row_loss, c.grad = data(prediction), data(targets), data(row_loss), data(grad)
    c.weights = NULL if weights is None else data(weights)
    with nogil:
        team_run(loss_job, &c, team_for(16 * c.n * c.k))
    value = add_up(<double*>c.row_loss, c.n)
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
    prediction : ndarray, shape (n, k), float32 or float64
    targets : array_like, shape (n, k)
        (n,) is taken for (n, 1).
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `prediction`, 0 where an error is 0.
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
    >>> fo.functional.mae(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    (1.0, array([[0. , 0.5]]))
    """
    return loss_and_grad("mae", prediction, targets, sample_weight, grad)


def huber(prediction, targets, grad=None, *, delta=1.0, sample_weight=None):
    """Mean over all elements of e^2 / 2 for abs(e) <= delta, else delta (abs(e) - delta / 2), and its gradient.

    Parameters
    ----------
    prediction : ndarray, shape (n, k), float32 or float64
    targets : array_like, shape (n, k)
        (n,) is taken for (n, 1).
    grad : ndarray, shape (n, k), optional
        Overwritten with the gradient with respect to `prediction`.
    delta : float
        Above 0: the error from which the loss grows linearly.
    sample_weight : array_like, shape (n,), optional
        The loss is then ``sum(w * l) / sum(w)``, l being a row's mean.

    Returns
    -------
    loss : float
    grad : ndarray, shape (n, k)

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap, or a `delta` that is not above 0; nothing has been written then.
    ValueError
        NaN or infinity that leave the loss undefined, in a row whose weight is not 0; `grad` has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.huber(np.array([[1.5, 4.0]]), np.array([[1.0, 1.0]]))
    (1.3125, array([[0.25, 0.5 ]]))
    """
    return loss_and_grad("huber", prediction, targets, sample_weight, grad, delta)
