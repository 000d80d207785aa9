# The step of an optimizer: all tensors of all groups in one call, and what surrounds the rules: check of finite
# gradients, limit of the norm, accumulation, interim points, averages. Clipping of gradients alone stands at the end.
#
# - All tensors are one range of bytes, cut into chunks: many small ones share a region.
# - check_finite, max_norm and accumulation must see every gradient first: they are the check. Only a plan that asks
#   for one of them passes it; the others go straight to the rules.
# - Nothing is written before the check has let the step pass, except sums of gradients already checked.
# - An update that follows a schedule finds its options in a table, made ahead in Python.

cdef enum:
    FINITE_ANY, FINITE_RAISE, FINITE_SKIP

cdef struct Plan:               # everything a step needs
    Py_ssize_t n_groups, n_tensors, n_bytes, n_elements, n_partials
    Options* options            # (groups,)
    Tensor* tensors             # (n_tensors,)
    int check_finite
    bint clips_norm             # the norm of all gradients is measured, and at most max_norm
    double max_norm, clip       # clip: infinity for none
    double ema_decay
    Py_ssize_t accumulate
    double share                # of the gradients in their mean: below 1 where they are sums over ranks
    bint interim                # some group takes its gradients at an interim point
    bint checked                # the check has something to do
    double* partials            # (n_partials,): sums of squares on the grid
    Py_ssize_t n_columns, n_rows, row   # of the table; row: of the coming update
    double* table               # (n_columns, n_rows)
    Py_ssize_t* targets         # (n_columns,): the option each column holds, group * N_NUMBERS + number
    bint shared, bad            # ranks share the check: `squares` of all gradients are known, and whether some are not finite
    double squares
    # what happened
    int64_t updates, skipped
    Py_ssize_t accumulated      # calls since the last update
    double norm, scale
    bint passed                 # the check lets this step change parameters
    bint exact                  # the coming update keeps subnormal numbers: some tensor's step asks for it
    bint left_out, refused      # a gradient was not finite; refused: under check_finite "raise"


cdef inline Py_ssize_t item_bytes(const Tensor* t) noexcept nogil:
    return 4 if t.typenum == cnp.NPY_FLOAT32 else 8


cdef inline Py_ssize_t padded_bytes(const Tensor* t) noexcept nogil:
    # bytes of a tensor, rounded up to whole chunks
    return (t.size * item_bytes(t) + CHUNK_BYTES - 1) // CHUNK_BYTES * CHUNK_BYTES


# ---------------------------------------------------------------- walking over chunks

ctypedef void (*float_work)(Plan* plan, Tensor* t, float* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil
ctypedef void (*double_work)(Plan* plan, Tensor* t, double* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil


cdef void walk_chunk(Plan* plan, float_work of_float, double_work of_double, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # thread's part of all tensors laid end to end, each by the version of its dtype
    cdef Py_ssize_t first = chunk_start(plan.n_bytes, CHUNK_BYTES, thread, n_threads)
    cdef Py_ssize_t last = chunk_start(plan.n_bytes, CHUNK_BYTES, thread + 1, n_threads)
    cdef Py_ssize_t i, begin = 0, start, stop
    cdef Tensor* t
    for i in range(plan.n_tensors):
        t = &plan.tensors[i]
        start, stop = max(first - begin, 0) // item_bytes(t), min((last - begin) // item_bytes(t), t.size)
        if start < stop and t.typenum == cnp.NPY_FLOAT32:
            of_float(plan, t, NULL, start, stop)
        elif start < stop:
            of_double(plan, t, NULL, start, stop)
        begin += padded_bytes(t)


cdef void update_part(Plan* plan, Tensor* t, floating* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # an averaged tensor piece by piece: its parameters are still in L1 when the average takes them
    cdef Py_ssize_t middle, piece = EMA_BLOCK if t.ema != NULL else stop - start
    while start < stop and t.source != NULL:
        middle = min(start + piece, stop)
        update_range(plan, t, start, middle, <floating*>t.source + start)
        start = middle


cdef inline void update_range(Plan* plan, Tensor* t, Py_ssize_t start, Py_ssize_t stop, const floating* grad) noexcept nogil:
    # Elements start to stop of t, grad (stop - start,) their gradient.
    cdef int formula = plan.options[t.group].formula
    update_tensor(formula, t, plan.scale * t.step.sign, plan.clip, grad, start, stop)
    if t.ema != NULL:
        update_ema(plan, t, start, stop, grad)


cdef inline double ema_alpha(const Plan* plan, const Tensor* t) noexcept nogil:
    # The weight of the parameter in its average.
    return 1 if t.count == 1 else 1 - plan.ema_decay


cdef void update_ema(Plan* plan, Tensor* t, Py_ssize_t start, Py_ssize_t stop, const floating* dtype) noexcept nogil:
    # ema = decay ema + (1 - decay) param; after the first update it is the parameter itself.
    cdef floating decay = <floating>(0 if t.count == 1 else plan.ema_decay), alpha = <floating>ema_alpha(plan, t)
    cdef floating* ema = <floating*>t.ema
    cdef const floating* param = <floating*>t.param
    cdef Py_ssize_t i
    for i in range(start, stop):
        ema[i] = decay * ema[i] + alpha * param[i]


cdef void add_part(Plan* plan, Tensor* t, floating* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # sum (+)= grad
    if t.grad != NULL:
        add_to(<floating*>t.grad + start, <floating*>t.sum + start, stop - start, t.summed)


cdef inline void add_to(const floating* grad, floating* total, Py_ssize_t n, bint summed) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        total[i] = total[i] + grad[i] if summed else grad[i]


cdef void interim_part(Plan* plan, Tensor* t, floating* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # home = param; param = param + momentum * velocity
    cdef floating mu = <floating>plan.options[t.group].number[MU]
    cdef floating* home = <floating*>t.home
    cdef floating* param = <floating*>t.param
    cdef const floating* velocity = <floating*>t.state[0 if plan.options[t.group].rule == RULE_SGD else 2]
    cdef Py_ssize_t i
    if home == NULL or t.frozen:
        return
    for i in range(start, stop):
        home[i] = param[i]
        param[i] = home[i] + mu * velocity[i]


cdef void restore_part(Plan* plan, Tensor* t, floating* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # param = home
    if t.home != NULL and not t.frozen:
        memcpy(<floating*>t.param + start, <floating*>t.home + start, (stop - start) * <Py_ssize_t>sizeof(floating))


# ---------------------------------------------------------------- the check

cdef void measure_chunk(Plan* plan, bint sums, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # partials = sums of squares of NORM_BLOCK elements each, of the gradients or of their sums.
    cdef Py_ssize_t first = chunk_start(plan.n_partials, 1, thread, n_threads)
    cdef Py_ssize_t last = chunk_start(plan.n_partials, 1, thread + 1, n_threads)
    cdef Py_ssize_t i, k, base = 0, cells, start
    cdef Tensor* t
    cdef void* source
    for i in range(plan.n_tensors):
        t = &plan.tensors[i]
        cells = (t.size + NORM_BLOCK - 1) // NORM_BLOCK
        source = t.grad if not sums else t.sum if t.summed else NULL
        for k in range(max(first - base, 0), min(last - base, cells)):
            start = k * NORM_BLOCK
            if source == NULL:
                plan.partials[base + k] = 0
            elif t.typenum == cnp.NPY_FLOAT32:
                plan.partials[base + k] = squares(<float*>source + start, min(t.size - start, <Py_ssize_t>NORM_BLOCK))
            else:
                plan.partials[base + k] = squares(<double*>source + start, min(t.size - start, <Py_ssize_t>NORM_BLOCK))
        base += cells


cdef extern from "simd.h" nogil:
    double sum_squares "fastopt_sum_squares"(const void* p, Py_ssize_t n)
    unsigned long flush_denormals()
    unsigned long keep_denormals()
    void restore_denormals(unsigned long mode)


cdef double squares(const floating* p, Py_ssize_t n) noexcept nogil:
    # The sum of squares. It is infinite or NaN only if an element is, or if float64 cannot hold a float64's square.
    cdef double total = sum_squares(p, n), x
    cdef Py_ssize_t i
    if floating is float:
        if not (total > 1e-30 and total < 1e38):    # outside the range of float32: once more, slowly
            total = 0
            for i in range(n):
                x = p[i]
                total += x * x
    return total


cdef bint finite(const floating* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating difference
    for i in range(n):
        difference = p[i] - p[i]
        if difference != difference:    # infinity and NaN leave NaN
            return False
    return True


cdef bint all_finite(Plan* plan) noexcept nogil:
    # After measure_share. A sum that is not finite asks for a second look: an element's square may have overflowed.
    cdef double total = sum_in_order(plan.partials, plan.n_partials)
    cdef Py_ssize_t i
    cdef Tensor* t
    if total - total == 0:
        return True
    for i in range(plan.n_tensors):
        t = &plan.tensors[i]
        if t.grad == NULL:
            continue
        if not (finite(<float*>t.grad, t.size) if t.typenum == cnp.NPY_FLOAT32 else finite(<double*>t.grad, t.size)):
            return False
    return True


cdef void check_grads(Plan* plan) noexcept nogil:
    # One thread: whether check_finite lets the gradients pass.
    plan.passed = plan.check_finite == FINITE_ANY or (all_finite(plan) and not plan.bad)
    if not plan.passed:
        plan.left_out = True
        plan.refused = plan.check_finite == FINITE_RAISE
        plan.skipped += plan.check_finite == FINITE_SKIP


cdef void count_sums(Plan* plan) noexcept nogil:
    # One thread: counts a call whose gradients have been added; the last call before an update passes.
    cdef Py_ssize_t i
    for i in range(plan.n_tensors):
        plan.tensors[i].summed |= plan.tensors[i].grad != NULL
    plan.accumulated += 1
    plan.passed = plan.accumulated >= plan.accumulate


cdef void clip_norm(Plan* plan, double squares) noexcept nogil:
    # scale limits the norm to max_norm; squares: the sum over all gradients, before plan.scale.
    plan.norm = sqrt(squares) * plan.scale
    plan.scale *= min(1.0, plan.max_norm / (plan.norm + 1e-6)) if plan.norm == plan.norm else plan.norm


cdef void update_check(Plan* plan, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # Sets `passed` and, for a step that passes, its scale and constants.
    cdef bint sums = plan.accumulate > 1
    # the gradients of this call: finite?
    if plan.check_finite != FINITE_ANY or (plan.clips_norm and not sums):
        measure_chunk(plan, False, thread, n_threads)
        team_barrier(n_threads)
    if thread == 0:
        check_grads(plan)
    team_barrier(n_threads)
    # accumulation: add them, and pass with the last call
    if plan.passed and sums:
        walk_chunk(plan, add_part[float], add_part[double], thread, n_threads)
        team_barrier(n_threads)
        if thread == 0:
            count_sums(plan)
        team_barrier(n_threads)
        if plan.passed and plan.clips_norm:
            measure_chunk(plan, True, thread, n_threads)
            team_barrier(n_threads)
    # mean of the sums, limit of the norm, constants
    if plan.passed and thread == 0:
        plan.scale = plan.share / plan.accumulate
        if plan.clips_norm:
            clip_norm(plan, plan.squares if plan.shared else sum_in_order(plan.partials, plan.n_partials))
        update_prepare(plan)
    team_barrier(n_threads)


# ---------------------------------------------------------------- a step, in order

cdef void update_begin(Plan* plan) noexcept nogil:
    # One thread, before anything else: takes the options of the coming update from the table.
    cdef Py_ssize_t i
    plan.passed = plan.left_out = plan.refused = False
    plan.scale = plan.share
    if plan.row < plan.n_rows:
        for i in range(plan.n_columns):
            plan.options[plan.targets[i] // N_NUMBERS].number[plan.targets[i] % N_NUMBERS] = plan.table[i * plan.n_rows + plan.row]


cdef void update_prepare(Plan* plan) noexcept nogil:
    # One thread, once the step cannot fail any more: counts it and sets the constants of every tensor.
    cdef Py_ssize_t i
    cdef Tensor* t
    cdef Tensor* twin = NULL    # the tensor prepared last: others of its group and counts have its constants
    cdef Tensor like            # its counts before this step
    plan.passed, plan.exact = True, False
    plan.updates += 1
    plan.row += 1
    plan.accumulated = 0
    for i in range(plan.n_tensors):
        t = &plan.tensors[i]
        t.source = t.sum if t.summed else t.grad if plan.accumulate == 1 else NULL
        t.summed = False
        if t.source == NULL:
            continue
        if twin != NULL and twin.group == t.group and like.count == t.count and like.started == t.started and like.product == t.product:
            t.count, t.started, t.product, t.step = twin.count, twin.started, twin.product, twin.step
        else:
            like.count, like.started, like.product = t.count, t.started, t.product
            prepare(&plan.options[t.group], t)
            plan.exact |= t.step.exact
            twin = t


cdef void update_step(Plan* plan, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # All threads, with all gradients computed; a plan without a check has passed update_prepare and a barrier before.
    if plan.checked:
        update_check(plan, thread, n_threads)
    if plan.passed:
        update_all(plan, thread, n_threads)


cdef void update_all(Plan* plan, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # All threads, after update_prepare.
    cdef unsigned long mode = enter_update(plan)
    walk_chunk(plan, update_part[float], update_part[double], thread, n_threads)
    restore_denormals(mode)


cdef inline unsigned long enter_update(const Plan* plan) noexcept nogil:
    # Flushes subnormal numbers, or keeps them; returns the mode for restore_denormals.
    return keep_denormals() if plan.exact else flush_denormals()


cdef void update_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    update_step(<Plan*>args, thread, n_threads)


cdef void interim_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    walk_chunk(<Plan*>args, interim_part[float], interim_part[double], thread, n_threads)


cdef void restore_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    walk_chunk(<Plan*>args, restore_part[float], restore_part[double], thread, n_threads)


# ---------------------------------------------------------------- clipping of gradients by themselves

cdef void clip_part(Plan* plan, Tensor* t, floating* dtype, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # grad = clip(scale grad)
    cdef floating factor = <floating>plan.scale, high = <floating>plan.clip
    cdef floating* grad = <floating*>t.grad
    cdef Py_ssize_t i
    for i in range(start, stop):
        grad[i] = clipped(factor * grad[i], high)


cdef void measure_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    measure_chunk(<Plan*>args, False, thread, n_threads)


cdef void clip_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    walk_chunk(<Plan*>args, clip_part[float], clip_part[double], thread, n_threads)
