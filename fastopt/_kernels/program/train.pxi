# Training steps: forward, loss, backward and update of one batch after the other, in one region.

cdef struct TrainCall:
    Run run
    Loss loss
    Py_ssize_t n_out, positions             # of the output: each position of a sample is a row, with a loss of its own
    Py_ssize_t x_bytes, target_bytes, weight_bytes      # of one sample
    Py_ssize_t n, position                  # samples of data, and the next one to use
    int64_t* sizes                          # (n_sizes,) samples of the coming batches
    Py_ssize_t n_sizes, batches             # batches: how many this call has done
    int64_t* order                          # (n,) numbers of samples in the order of use; NULL: they lie ready, one batch
    void *x
    void *targets
    void *weights
    void *batch_x                           # where the samples of a batch are gathered
    void *batch_targets
    void *batch_weights
    double* row_loss
    double batch_loss, batch_weight
    double deadline, loss_sum, weight_sum   # loss_sum: means of batches times their weights
    bint undefined                          # the loss of the batch is NaN, so the batch has not happened
    bint stop
    bint gauss_newton, forward_known        # of a Hessian-vector product
    bint given                              # the caller finds the loss, and the gradient of the output


cdef void gather_rows(TrainCall* c, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # samples order[position : position + samples] of the data -> the batch arrays
    cdef Py_ssize_t i, row, rows = c.run.samples
    for i in range(chunk_start(rows, 1, thread, n_threads), chunk_start(rows, 1, thread + 1, n_threads)):
        row = c.order[c.position + i]
        memcpy(<char*>c.batch_x + i * c.x_bytes, <char*>c.x + row * c.x_bytes, c.x_bytes)
        memcpy(<char*>c.batch_targets + i * c.target_bytes, <char*>c.targets + row * c.target_bytes, c.target_bytes)
        if c.weights != NULL:
            memcpy(<char*>c.batch_weights + i * c.weight_bytes, <char*>c.weights + row * c.weight_bytes, c.weight_bytes)


cdef int update_of(Run* r) noexcept nogil:
    # how weights take their steps. It depends on the batch alone, so an epoch that goes on after an interrupt has the same bits
    cdef Py_ssize_t i
    cdef Entry* e
    if not r.may_fuse:
        return GRADIENTS_FIRST
    if not r.plan.clips_norm:
        return UPDATE_FUSED
    if r.n_penalties > 0:           # rows of x and dz do not give the norm of a gradient that holds a penalty's
        return GRADIENTS_FIRST
    for i in range(r.n_entries):
        e = &r.entries[i]
        if e.fuses and not e.kind.row_norm_pays(r, e):
            return GRADIENTS_FIRST
    return UPDATE_CLIPPED


cdef void prepare_fused(Run* r) noexcept nogil:
    # one thread counts the step, and leaves the weights that take theirs in backward out of the update of all others
    cdef Py_ssize_t i
    update_prepare(r.plan)
    for i in range(r.n_entries):
        if r.entries[i].fuses:
            r.plan.tensors[r.entries[i].weights[0].grad].source = NULL


cdef void update_clipped(Run* r, double* row_squares, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # after a backward that has left dz in dvalues: the norm of all gradients, then the steps of weights; row_squares (samples,)
    cdef Py_ssize_t i, k
    cdef Entry* e
    # what row i adds, of all entries
    for i in range(chunk_start(r.samples, 1, thread, n_threads), chunk_start(r.samples, 1, thread + 1, n_threads)):
        row_squares[i] = 0
        for k in range(r.n_entries):
            e = &r.entries[k]
            if e.fuses:
                row_squares[i] += e.kind.row_norm(r, e, i)
    team_barrier(n_threads)
    if thread == 0:
        r.plan.scale = 1
        clip_norm(r.plan, sum_in_order(row_squares, r.samples))
        prepare_fused(r)
    team_barrier(n_threads)
    for k in range(r.n_entries):
        e = &r.entries[k]
        if e.fuses:
            do_pass(&e.kind.fused_update, r, e, dtype, thread, n_threads)
            team_barrier(n_threads)


cdef inline floating* weights_of(const TrainCall* c, floating* dtype) noexcept nogil:
    # of the samples of the batch under way; NULL where all count alike
    return <floating*>(c.batch_weights if c.weights != NULL and c.order != NULL else c.weights)


cdef void start_batch(TrainCall* c, Run* run, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # gathers the batch that starts at `position`; parameters to the interim point, where the rule takes its gradient there
    if c.order != NULL:
        gather_rows(c, thread, n_threads)
    if run.plan != NULL and run.plan.interim:
        interim_job(run.plan, thread, n_threads)
    team_barrier(n_threads)


cdef double loss_of_batch(TrainCall* c, Run* run, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # after forward: the gradient of the output; every thread adds up the loss, and all have the same. Where the caller finds
    # both, the loss is that of the penalties
    cdef Py_ssize_t last = run.output, rows = run.samples * c.positions
    if not c.given:
        loss_rows(&c.loss, <floating*>run.values[last], c.targets if c.order == NULL else c.batch_targets, weights_of(c, dtype),
                  c.row_loss, <floating*>run.dvalues[last], rows, c.n_out, thread, n_threads)
    sum_penalties(run, dtype, thread, n_threads)
    team_barrier(n_threads)
    return (0 if c.given else sum_in_order(c.row_loss, rows)) + sum_in_order(run.row_penalty, run.n_penalties)


cdef void note_loss(TrainCall* c, double loss, floating* dtype) noexcept nogil:
    # one thread: the loss of the batch, and what it counts
    c.batch_loss = loss
    c.batch_weight = 0 if c.given else loss_weight(&c.loss, c.targets if c.order == NULL else c.batch_targets,
                                                   weights_of(c, dtype), c.run.samples * c.positions, c.n_out)


cdef void train_batch(TrainCall* c, Run* run, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # forward, loss, backward and update of the batch that starts at `position`
    cdef double loss
    start_batch(c, run, dtype, thread, n_threads)
    forward(run, 0, run.n_entries, dtype, thread, n_threads)
    loss = loss_of_batch(c, run, dtype, thread, n_threads)
    if loss != loss and run.plan != NULL and run.plan.check_finite == FINITE_ANY:
        if run.plan.interim:
            restore_job(run.plan, thread, n_threads)
        if thread == 0:
            c.undefined = True
        return
    if thread == 0:             # prepare the update; the other threads see it after the next barrier, in backward
        note_loss(c, loss, dtype)
        if run.update == UPDATE_FUSED:
            prepare_fused(run)
        elif run.plan != NULL and not run.plan.checked:
            update_prepare(run.plan)
    backward(run, 0, run.n_entries, dtype, thread, n_threads)
    if run.n_penalties > 0:
        add_penalties(run, NULL, 0, run.n_entries, dtype, thread, n_threads)
        team_barrier(n_threads)
    if run.update == UPDATE_CLIPPED:    # update
        update_clipped(run, c.row_loss, dtype, thread, n_threads)
        update_all(run.plan, thread, n_threads)
    elif run.plan != NULL:
        if run.plan.interim:
            restore_job(run.plan, thread, n_threads)
        update_step(run.plan, thread, n_threads)
    if run.has_max_norm and run.plan != NULL and run.plan.passed:
        apply_max_norm(run, dtype, thread, n_threads)


cdef void finish_batch(TrainCall* c, floating* dtype) noexcept nogil:
    # on one thread: counts the batch, unless it was refused, and says whether to stop
    c.stop = team_seconds() > c.deadline
    if c.undefined or (c.run.plan != NULL and c.run.plan.refused):      # the batch has not happened
        c.stop = True
        return
    if c.run.plan != NULL:
        c.stop |= c.run.plan.n_rows > 0 and c.run.plan.row >= c.run.plan.n_rows
    if c.run.plan != NULL and not c.run.plan.left_out:
        after_batch(&c.run, dtype)
    if c.run.plan == NULL or not c.run.plan.left_out:
        c.loss_sum += c.batch_loss * c.batch_weight
        c.weight_sum += c.batch_weight
    c.position += c.run.samples
    c.batches += 1
    c.run.step += 1
    c.stop |= c.position >= c.n or c.batches >= c.n_sizes


cdef void train_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # batches from `position` on, until the data, the time, or the coming values of a schedule are used up; the last batch may
    # be smaller
    cdef TrainCall* c = <TrainCall*>args
    cdef Run* run = &c.run
    while True:
        if thread == 0:
            run.n = run.samples = min(c.sizes[c.batches], c.n - c.position)
            run.update = update_of(run)
            if run.plan != NULL:
                update_begin(run.plan)
        team_barrier(n_threads)
        train_batch(c, run, dtype, thread, n_threads)
        team_barrier(n_threads)
        if thread == 0:
            finish_batch(c, dtype)
        team_barrier(n_threads)
        if c.stop:
            return
