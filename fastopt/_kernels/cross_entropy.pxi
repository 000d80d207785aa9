# Cross-entropy of softmax(logits), by log-sum-exp: value, gradient and tangent of the gradient, row by row.
#
# - Up to NARROW columns, LANES rows are turned so that a lane is a row; wider rows go one by one.
# - A label is an index into a row, and its array may change under a running call: label_of reads it once, and
#   what is no class of this loss becomes class 0 of a row without weight.
#
# A row's targets are a_j = w_j (uniform + confidence t_j), with class weights w and smoothed t:
#   loss = sum(a) log sum exp(z) - sum(a z);  grad = softmax(z) sum(a) - a
# t of a class is 1 there and 0 elsewhere. Plain classes never see a_j of the others.

cdef inline floating target_share(floating t, floating w, floating floor, floating keep) noexcept nogil:
    return w * (floor + keep * t)


cdef noinline_void target_sum_blocks(const Loss* rule, const floating* z, const floating* t, Py_ssize_t t_step, const floating* w,
                                     Py_ssize_t w_step, floating top, double* mass, double* dot, Py_ssize_t blocks) noexcept nogil:
    # mass and dot grow by a and a (z - top), lane by lane
    cdef double mass_part[LANES]
    cdef double dot_part[LANES]
    cdef floating a[LANES]
    cdef floating z_counted[LANES]          # top where a is 0: 0 times infinity is no loss
    cdef floating floor = <floating>rule.uniform, keep = <floating>rule.confidence, share_of
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


cdef noinline_void target_subtract_blocks(const Loss* rule, const floating* t, Py_ssize_t t_step, const floating* w,
                                          Py_ssize_t w_step, floating scale, floating* grad, Py_ssize_t blocks) noexcept nogil:
    # grad -= scale a
    cdef floating out[LANES]
    cdef floating floor = <floating>rule.uniform, keep = <floating>rule.confidence
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
    # A row (k,): its sums, if z is given, else its gradient. t NULL stands for zeros, class weights NULL for ones.
    cdef floating zeros[LANES]
    cdef floating ones[LANES]
    cdef floating z_block[LANES]
    cdef floating t_block[LANES]
    cdef floating w_block[LANES]
    cdef const floating* w = <const floating*>rule.class_weight
    cdef Py_ssize_t t_step = LANES, w_step = LANES, blocks = k // LANES, main = blocks * LANES, j
    for j in range(LANES):
        zeros[j], ones[j] = <floating>0, <floating>1
    if t == NULL:
        t, t_step = zeros, 0
    if w == NULL:
        w, w_step = ones, 0
    if z != NULL:
        target_sum_blocks(rule, z, t, t_step, w, w_step, top, mass, dot, blocks)
    else:
        target_subtract_blocks(rule, t, t_step, w, w_step, scale, grad, blocks)
    if main == k:
        return
    load_padded(t_block, t + t_step * blocks, k - main, <floating>0)
    load_padded(w_block, w + w_step * blocks, k - main, <floating>0)
    load_padded(z_block, (z if z != NULL else grad) + main, k - main, <floating>0)
    if z != NULL:
        target_sum_blocks(rule, <const floating*>z_block, <const floating*>t_block, 0, <const floating*>w_block, 0, top, mass, dot, 1)
    else:
        target_subtract_blocks(rule, <const floating*>t_block, 0, <const floating*>w_block, 0, scale, z_block, 1)
        store_partial(grad + main, z_block, k - main)


cdef double sum_targets(const Loss* rule, const floating* z, const floating* t, int64_t label, floating top,
                        double* dot, Py_ssize_t k) noexcept nogil:
    # Of a row: returns the mass sum(a); dot = sum(a (z - top)).
    cdef double mass_lane[LANES]
    cdef double dot_lane[LANES]
    cdef double mass = 0
    cdef Py_ssize_t j
    dot[0] = 0
    if t == NULL:
        mass = rule.confidence * class_weight_of(rule, label, z)
        dot[0] = mass * (<double>z[label] - <double>top) if mass != 0 else 0
    if t != NULL or rule.uniform != 0:
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
        grad[label] -= scale * <floating>(rule.confidence * class_weight_of(rule, label, grad))
    if t != NULL or rule.uniform != 0:
        walk_targets(rule, <const floating*>NULL, t, <floating>0, <double*>NULL, <double*>NULL, scale, grad, k)


cdef inline double class_weight_of(const Loss* rule, int64_t label, const floating* dtype) noexcept nogil:
    return 1.0 if rule.class_weight == NULL else <double>(<const floating*>rule.class_weight)[label]


cdef inline int64_t label_of(const Loss* rule, const void* targets, Py_ssize_t i, Py_ssize_t k, double* weight) noexcept nogil:
    # The class of row i; a row without one becomes class 0 of weight 0.
    cdef int64_t label = (<const volatile int64_t*>targets)[i]
    if <size_t>label < <size_t>k and label != rule.ignore:
        return label
    weight[0] = 0
    return 0


cdef noinline_void exp_columns(floating* e, floating* top, floating* total, Py_ssize_t k) noexcept nogil:
    # e (k, LANES) -> exp(e - top) in place, with each column's maximum and the sum of its exponentials
    cdef floating most[LANES]
    cdef floating partial[LANES]
    cdef floating out[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        most[j], partial[j] = <floating>-INFINITY, <floating>0
    for i in range(k):
        for j in range(LANES):
            most[j] = clamp_min(most[j], e[i * LANES + j])
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
    # Up to LANES rows z (rows, k) with targets (rows,) or (rows, k), weights (rows,) or NULL -> row_loss (rows,),
    # grad (rows, k).
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
    # maximum, exponentials and their sum; wide rows leave their exponentials in grad
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
    # losses, and the gradients of narrow rows
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
    # The factor from a row's exponentials to its gradient; part: its weight times its mass.
    return <floating>(part / <double>total) if part != 0 else <floating>0


cdef inline void scale_row(floating* grad, floating factor, Py_ssize_t k) noexcept nogil:
    # grad *= factor. NaN times 0 is 0 here: the row does not count.
    cdef Py_ssize_t j
    for j in range(k):
        grad[j] = grad[j] * factor if factor != <floating>0 else <floating>0


cdef void row_losses(const floating* total, const double* mass, const double* dot, const double* weight,
                     double* row_loss, Py_ssize_t rows) noexcept nogil:
    # loss = weight (mass log(total) - dot). All lanes are computed, those of rows are written.
    cdef double loss[LANES]
    cdef double part
    cdef Py_ssize_t i
    for i in range(LANES):
        part = weight[i] * mass[i]
        loss[i] = part * log_element(<double>total[i]) - weight[i] * dot[i] if part != 0 else 0.0
    for i in range(rows):
        row_loss[i] = loss[i]


cdef void cross_entropy_tangent(const Loss* rule, const floating* z, const void* targets, Py_ssize_t i, const floating* tz,
                                double weight, floating* tgrad, Py_ssize_t k) noexcept nogil:
    # Row i, z, tz, tgrad (k,): grad = weight (y sum(a) - a) with y = softmax(z), so
    # tgrad = weight sum(a) y (tz - sum(y tz)).
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
