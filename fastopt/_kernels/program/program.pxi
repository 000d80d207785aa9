# The compiled program: a network laid out as a flat list of entries over numbered values.
#
# Value 0 is the input; every entry reads one value (ADD two) and writes the next. The input comes in the
# program's dtype, or, where standardize alone reads it, in float32 or float64 as the caller has it.
# The contract of an entry, whatever its kind:
#   shapes      n_in, n_out; src (and shortcut) before dst. Program has checked every array against them
#   parameters  weight and bias point into the layer's arrays, and what regularizes the weight; its gradients are
#               numbers first_grad, first_grad + 1 of the caller's table; in a descent
#               weights of dense entries take their steps instead
#   forward     a member computes its share of dst from all of src; a barrier follows
#   backward    all of the gradient of dst is there; a member computes its share of the
#               parameters' gradients and, if needs_dx, of src's; it overwrites src's
#               gradient, or adds to it where a later entry has written it (accumulate_*);
#               a barrier follows
#   tangent     the directional derivative of forward along `directions`, one a parameter: a member
#               computes its share of dst's tangent from src's (none where needs_dx is false)
#   tangent     backward and its directional derivative at once: of the gradients of values and of
#   backward    the parameters; nobody asks for the parameters' gradients themselves
#   state       none of its own: what backward needs (dst, the pre-activation in `keep`, the
#               batch's `statistics`) is a value of the workspace; batch_norm's running averages
#               are the layer's, and move only when a step of a Trainer has passed (finish_batch)
#   random key  (seed, step, element): a seed of its own, the run's count of batches; backward
#               draws again what forward drew
# forward_entry, backward_entry, tangent_entry and tangent_backward_entry are the only places that know
# the kinds. A t before a name is the tangent of what it stands for.
#
# predict, value_and_grad, step and fit all run this list; each member of the team walks
# it in step with the others, so a call is one region, a whole slice of an epoch included.

cdef enum:
    ENTRY_DENSE, ENTRY_GROUPED_DENSE, ENTRY_MAXOUT, ENTRY_STANDARDIZE, ENTRY_WHITEN, ENTRY_BATCH_NORM, ENTRY_DROPOUT, ENTRY_ADD

ENTRY_KINDS = ("dense", "grouped_dense", "maxout", "standardize", "whiten", "batch_norm", "dropout", "add")

cdef struct Entry:
    int kind, activation
    Py_ssize_t n_in, n_out, groups, src, shortcut, dst, keep, first_grad
    bint needs_dx, accumulate_dx, needs_dshortcut, accumulate_dshortcut
    bint trained                # weight and bias have gradients
    # dense: weight (out, in / groups); standardize: mean (c,) in float64; whiten: matrix (c, c); batch_norm: gamma (c,) or NULL
    void *weight
    void *bias                  # dense: bias (out,) or NULL; standardize: scale (c,) in float64; batch_norm: beta (c,) or NULL
    float *split                # standardize, (3, c): the mean in two parts and the scale, in float32
    uint8_t *reading            # standardize: where its layer keeps how x is read
    void *running_mean          # batch_norm, (c,)
    void *running_var
    double eps, momentum
    Py_ssize_t statistics       # batch_norm: the value that holds mean and variance of a batch, and its coefficients, (5, c)
    double rate                 # dropout: the share to drop
    uint64_t *seed              # dropout: where its layer keeps its seed
    Penalty penalty             # dense, grouped_dense: what regularizes the weight
    Py_ssize_t first_penalty    # its rows' numbers in row_penalty
    void *packed                # dense: weight again, in strips, in a network that stays as it is; else NULL

cdef struct Run:                # one pass of a program over some rows
    int typenum, x_typenum      # of everything, and of value 0
    bint training
    Py_ssize_t n_entries, rows
    Py_ssize_t n                # rows of the whole call or batch: what chooses a kernel, for `rows` follows the team
    Entry* entries
    void** values               # by number: (rows, width)
    void** dvalues              # their gradients
    void** dparams              # parameter gradients
    void** tangents             # of the values, of dvalues; NULL where no directional derivative is asked for
    void** dtangents
    void** directions           # by number of the gradient: what the parameters move along
    void* scratch               # of one entry at a time
    void* tscratch              # likewise, for an operand that is a tangent
    Plan* plan                  # NULL: gradients only
    double* row_penalty         # (n_penalties,) of the rows of weights that are penalized
    Py_ssize_t n_penalties
    bint bounded                # some rows of weights have a largest norm
    uint64_t step               # number of the batch, from 0: what dropout draws by
    bint may_descend            # weights may take their steps in backward, without gradients
    int descent                 # how they do in this batch

cdef enum:
    DESCENT_NONE                # gradients first, then an update of everything
    DESCENT_AT_ONCE             # weights of dense entries take their steps in backward
    DESCENT_LIMITED             # likewise, after a backward that only measures the norm of all gradients


cdef void forward_entry(Run* r, Entry* e, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef floating* x = <floating*>r.values[e.src]
    cdef floating* y = <floating*>r.values[e.dst]
    cdef floating* z = <floating*>r.values[e.keep] if r.training and e.keep >= 0 else NULL
    cdef floating* scratch = <floating*>(r.scratch if r.n >= TRANSPOSE_ROWS else NULL)
    cdef floating* packed = <floating*>(e.packed if r.n < PACKED_ROWS and not r.training else NULL)
    cdef floating* statistics
    if e.kind == ENTRY_DENSE:
        forward_dense(x, <floating*>e.weight, packed, <floating*>e.bias, z, y,
                      scratch, r.rows, e.n_in, e.n_out, e.activation, not r.training, member, team)
    elif e.kind == ENTRY_GROUPED_DENSE:
        forward_grouped_dense(x, <floating*>e.weight, <floating*>e.bias, z, y, scratch, r.rows, e.n_in, e.n_out, e.groups,
                              e.activation, not r.training, member, team)
    elif e.kind == ENTRY_MAXOUT:
        forward_maxout(x, y, r.rows * e.n_out, e.n_in // e.n_out, member, team)
    elif e.kind == ENTRY_STANDARDIZE and (r.x_typenum if e.src == 0 else r.typenum) == cnp.NPY_FLOAT32:
        forward_standardize(<float*>r.values[e.src], <double*>e.weight, <double*>e.bias, e.split, e.reading[0], y, r.rows, e.n_in,
                            member, team)
    elif e.kind == ENTRY_STANDARDIZE:
        forward_standardize(<double*>r.values[e.src], <double*>e.weight, <double*>e.bias, e.split, e.reading[0], y, r.rows, e.n_in,
                            member, team)
    elif e.kind == ENTRY_BATCH_NORM and r.training:
        statistics = <floating*>r.values[e.statistics]
        forward_batch_norm(x, <floating*>e.weight, <floating*>e.bias, z, y, statistics, statistics + e.n_in,
                           statistics + 2 * e.n_in, r.rows, e.n_in, e.eps, e.activation, member, team)
    elif e.kind == ENTRY_BATCH_NORM:
        inference_batch_norm(x, <floating*>e.weight, <floating*>e.bias, <floating*>e.running_mean, <floating*>e.running_var,
                             y, r.rows, e.n_in, e.eps, e.activation, member, team)
    elif e.kind == ENTRY_WHITEN:
        forward_dense(x, <floating*>e.weight, NULL, NULL, NULL, y, scratch, r.rows, e.n_in, e.n_out, IDENTITY, True,
                      member, team)
    elif e.kind == ENTRY_DROPOUT:
        forward_dropout(x, y, r.rows * e.n_in, e.rate, e.seed[0], r.step, False, member, team)
    else:
        forward_add(x, <floating*>r.values[e.shortcut], y, r.rows * e.n_in, member, team)


cdef void backward_entry(Run* r, Entry* e, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef floating* dy = <floating*>r.dvalues[e.dst]
    cdef floating* dx = <floating*>r.dvalues[e.src] if e.needs_dx else NULL
    cdef floating* v = <floating*>r.values[e.keep if e.keep >= 0 else e.dst]
    cdef floating* dw = NULL
    cdef floating* db = NULL
    cdef floating* statistics
    if e.trained and r.descent != DESCENT_LIMITED:
        dw = <floating*>r.dparams[e.first_grad]
        db = <floating*>r.dparams[e.first_grad + 1] if e.bias != NULL else NULL
    if e.kind == ENTRY_DENSE and r.descent == DESCENT_AT_ONCE:
        descend_dense(dy, <floating*>r.values[e.src], <floating*>e.weight, v, dy, dx, db, <floating*>r.scratch,
                      r.plan, &r.plan.tensors[e.first_grad], &e.penalty, r.rows, e.n_in, e.n_out, e.activation, e.accumulate_dx,
                      member, team)
    elif e.kind == ENTRY_DENSE:
        backward_dense(dy, <floating*>r.values[e.src], <floating*>e.weight, v, dy, dx, dw, db, <floating*>r.scratch,
                       r.rows, e.n_in, e.n_out, e.activation, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_GROUPED_DENSE:
        backward_grouped_dense(dy, <floating*>r.values[e.src], <floating*>e.weight, v, dy, dx, dw, db,
                               r.rows, e.n_in, e.n_out, e.groups, e.activation, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_MAXOUT:
        if e.needs_dx:
            backward_maxout(dy, <floating*>r.values[e.src], dx, r.rows * e.n_out, e.n_in // e.n_out,
                            e.accumulate_dx, member, team)
    elif e.kind == ENTRY_STANDARDIZE:
        if e.needs_dx:
            backward_standardize(dy, <double*>e.bias, dx, r.rows, e.n_in, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_BATCH_NORM:
        if not e.needs_dx and e.weight == NULL:
            return
        statistics = <floating*>r.values[e.statistics]
        backward_batch_norm(dy, <floating*>r.values[e.src], <floating*>e.weight, statistics, statistics + e.n_in,
                            statistics + 2 * e.n_in, v, dy, dx, dw, db, r.rows, e.n_in, e.eps, e.activation, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_WHITEN:
        if e.needs_dx:
            backward_dense(dy, <floating*>r.values[e.src], <floating*>e.weight, dy, dy, dx, NULL, NULL, <floating*>r.scratch,
                           r.rows, e.n_in, e.n_out, IDENTITY, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_DROPOUT:
        if e.needs_dx:
            forward_dropout(dy, dx, r.rows * e.n_in, e.rate, e.seed[0], r.step, e.accumulate_dx, member, team)
    else:
        if e.needs_dx:
            backward_add(dy, dx, r.rows * e.n_in, e.accumulate_dx, member, team)
        if e.needs_dshortcut:
            backward_add(dy, <floating*>r.dvalues[e.shortcut], r.rows * e.n_in, e.accumulate_dshortcut, member, team)


cdef void tangent_entry(Run* r, Entry* e, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef floating* x = <floating*>r.values[e.src]
    cdef floating* tx = <floating*>r.tangents[e.src] if e.needs_dx else NULL
    cdef floating* v = <floating*>r.values[e.keep if e.keep >= 0 else e.dst]
    cdef floating* ty = <floating*>r.tangents[e.dst]
    cdef floating* tz = <floating*>r.tangents[e.keep if e.keep >= 0 else e.dst]
    cdef floating* scratch = <floating*>(r.scratch if r.n >= TRANSPOSE_ROWS else NULL)
    cdef floating* tscratch = <floating*>r.tscratch
    cdef floating* tweight = <floating*>r.directions[e.first_grad] if e.trained else NULL
    cdef floating* tbias = <floating*>r.directions[e.first_grad + 1] if e.trained and e.bias != NULL else NULL
    cdef floating* statistics
    cdef floating* tstatistics
    if e.kind == ENTRY_DENSE:
        tangent_dense(x, tx, <floating*>e.weight, tweight, tbias, v, tz, ty, scratch, tscratch, r.rows, e.n_in, e.n_out,
                      e.activation, member, team)
    elif e.kind == ENTRY_GROUPED_DENSE:
        tangent_grouped_dense(x, tx, <floating*>e.weight, tweight, tbias, v, tz, ty, scratch, tscratch, r.rows, e.n_in, e.n_out,
                              e.groups, e.activation, member, team)
    elif e.kind == ENTRY_BATCH_NORM and (tx != NULL or e.trained):
        statistics, tstatistics = <floating*>r.values[e.statistics], <floating*>r.tangents[e.statistics]
        tangent_batch_norm(x, tx, <floating*>e.weight, tweight, tbias, statistics, statistics + e.n_in, v, tz, ty,
                           tstatistics, tstatistics + e.n_in, r.rows, e.n_in, e.eps, e.activation, member, team)
    elif e.kind == ENTRY_ADD and e.needs_dshortcut:
        if tx != NULL:
            forward_add(tx, <floating*>r.tangents[e.shortcut], ty, r.rows * e.n_in, member, team)
        else:
            backward_add(<floating*>r.tangents[e.shortcut], ty, r.rows * e.n_in, False, member, team)
    elif tx == NULL:
        return                  # nothing before it is trained
    elif e.kind == ENTRY_MAXOUT:
        tangent_maxout(x, tx, ty, r.rows * e.n_out, e.n_in // e.n_out, member, team)
    elif e.kind == ENTRY_STANDARDIZE:
        backward_standardize(tx, <double*>e.bias, ty, r.rows, e.n_in, False, member, team)
    elif e.kind == ENTRY_WHITEN:
        forward_dense(tx, <floating*>e.weight, NULL, NULL, NULL, ty, scratch, r.rows, e.n_in, e.n_out, IDENTITY, True,
                      member, team)
    elif e.kind == ENTRY_DROPOUT:
        forward_dropout(tx, ty, r.rows * e.n_in, e.rate, e.seed[0], r.step, False, member, team)
    else:
        backward_add(tx, ty, r.rows * e.n_in, False, member, team)


cdef void tangent_backward_entry(Run* r, Entry* e, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dparams receives the tangents of the parameters' gradients
    cdef floating* dy = <floating*>r.dvalues[e.dst]
    cdef floating* tdy = <floating*>r.dtangents[e.dst]
    cdef floating* x = <floating*>r.values[e.src]
    cdef floating* tx = <floating*>r.tangents[e.src] if e.needs_dx else NULL
    cdef floating* dx = <floating*>r.dvalues[e.src]
    cdef floating* tdx = <floating*>r.dtangents[e.src]
    cdef floating* v = <floating*>r.values[e.keep if e.keep >= 0 else e.dst]
    cdef floating* tv = <floating*>r.tangents[e.keep if e.keep >= 0 else e.dst]
    cdef floating* tweight = <floating*>r.directions[e.first_grad] if e.trained else NULL
    cdef floating* tdw = <floating*>r.dparams[e.first_grad] if e.trained else NULL
    cdef floating* tdb = <floating*>r.dparams[e.first_grad + 1] if e.trained and e.bias != NULL else NULL
    cdef floating* statistics
    cdef floating* tstatistics
    cdef Run tangent
    if e.kind == ENTRY_DENSE:
        tangent_backward_dense(dy, tdy, x, tx, <floating*>e.weight, tweight, v, tv, dx, tdx, tdw, tdb, <floating*>r.scratch,
                               <floating*>r.tscratch, r.rows, e.n_in, e.n_out, e.activation, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_GROUPED_DENSE:
        tangent_backward_grouped_dense(dy, tdy, x, tx, <floating*>e.weight, tweight, v, tv, dx, tdx, tdw, tdb, r.rows,
                                       e.n_in, e.n_out, e.groups, e.activation, e.accumulate_dx, member, team)
    elif e.kind == ENTRY_BATCH_NORM:
        if tx == NULL and not e.trained:
            return
        statistics, tstatistics = <floating*>r.values[e.statistics], <floating*>r.tangents[e.statistics]
        tangent_backward_batch_norm(dy, tdy, x, tx, <floating*>e.weight, tweight, statistics, statistics + e.n_in, tstatistics,
                                    tstatistics + e.n_in, v, tv, dx, tdx, tdw, tdb, r.rows, e.n_in, e.eps, e.activation,
                                    e.accumulate_dx, member, team)
    else:                       # linear where it stands: gradient and tangent go the same way
        tangent = r[0]
        tangent.dvalues = r.dtangents
        backward_entry(r, e, dtype, member, team)
        backward_entry(&tangent, e, dtype, member, team)


cdef void forward_add(const floating* a, const floating* b, floating* y, Py_ssize_t n, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # y = a + b, all (n,)
    cdef Py_ssize_t i
    for i in range(share(n, GRAIN, member, team), share(n, GRAIN, member + 1, team)):
        y[i] = a[i] + b[i]


cdef void backward_add(const floating* dy, floating* dx, Py_ssize_t n, bint accumulate, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # dx (+)= dy, both (n,)
    cdef Py_ssize_t i
    for i in range(share(n, GRAIN, member, team), share(n, GRAIN, member + 1, team)):
        dx[i] = dx[i] + dy[i] if accumulate else dy[i]


cdef void forward(Run* r, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(r.n_entries):
        forward_entry(r, &r.entries[i], dtype, member, team)
        if not keeps_columns(r, i):
            team_barrier(team)


cdef inline bint keeps_columns(Run* r, Py_ssize_t i) noexcept nogil:
    # whether members go on from entry i without meeting: batch_norm takes the statistics of the very columns
    # that a member has written in dense, still warm, and then meets the others itself
    cdef Entry* e = &r.entries[i]
    return (r.training and r.n >= TRANSPOSE_ROWS and e.kind == ENTRY_DENSE and e.activation != SOFTMAX
            and i + 1 < r.n_entries and e[1].kind == ENTRY_BATCH_NORM and e[1].src == e.dst)


cdef void backward(Run* r, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(r.n_entries - 1, -1, -1):
        backward_entry(r, &r.entries[i], dtype, member, team)
        team_barrier(team)


cdef void tangent_forward(Run* r, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(r.n_entries):
        tangent_entry(r, &r.entries[i], dtype, member, team)
        team_barrier(team)


cdef void tangent_backward(Run* r, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(r.n_entries - 1, -1, -1):
        tangent_backward_entry(r, &r.entries[i], dtype, member, team)
        team_barrier(team)


# ---------------------------------------------------------------- regularization

cdef void sum_penalties(Run* r, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # row_penalty of all weights, a member's share
    cdef Py_ssize_t i
    cdef Entry* e
    for i in range(r.n_entries):
        e = &r.entries[i]
        if penalizes(&e.penalty):
            penalty_rows(&e.penalty, <floating*>e.weight, r.row_penalty + e.first_penalty, e.n_out, e.n_in // e.groups, member, team)


cdef void add_penalties(Run* r, void** directions, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # to gradients of weights that are whole; those that are not had them added in descend_rows. With directions, by
    # number of the gradient, to the gradients' derivatives along them
    cdef Py_ssize_t i, n, start, stop
    cdef Entry* e
    cdef Penalty penalty
    cdef floating* w
    for i in range(r.n_entries):
        e = &r.entries[i]
        if penalizes(&e.penalty) and not (e.kind == ENTRY_DENSE and r.descent == DESCENT_AT_ONCE):
            penalty, w = e.penalty, <floating*>e.weight
            if directions != NULL:  # l1 is linear
                penalty.l1, w = 0, <floating*>directions[e.first_grad]
            n = e.n_out * (e.n_in // e.groups)
            start, stop = share(n, GRAIN, member, team), share(n, GRAIN, member + 1, team)
            add_penalty_gradient(&penalty, w + start, <floating*>r.dparams[e.first_grad] + start, stop - start)


cdef void limit_weights(Run* r, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # after an update: no row of weights is longer than its layer allows
    cdef Py_ssize_t i
    cdef Entry* e
    cdef floating* ema
    cdef double rest
    team_barrier(team)
    for i in range(r.n_entries):
        e = &r.entries[i]
        if e.penalty.max_norm > 0:
            ema, rest = NULL, 0
            if r.plan != NULL and r.plan.tensors[e.first_grad].ema != NULL:
                ema, rest = <floating*>r.plan.tensors[e.first_grad].ema, ema_share(r.plan, &r.plan.tensors[e.first_grad])
            limit_rows(&e.penalty, <floating*>e.weight, ema, rest, e.n_out, e.n_in // e.groups, member, team)


# ---------------------------------------------------------------- predict

# With enough rows each member walks the program over rows of its own and meets nobody;
# few rows are walked by all members together. A long call is made of several regions, each over the
# next rows, between which Python answers signals; kernels are chosen by the rows of the whole call.

cdef enum:
    MAX_PREDICT_TEAM = 256

cdef double PREDICT_SECONDS = 0.025     # regions grow until they last so long, so none lasts twice as long

cdef struct PredictCall:
    Run run
    bint apart                  # each member has rows and values of its own
    Py_ssize_t n, x_bytes, n_out            # x_bytes: of one row of x
    Py_ssize_t start, stop      # rows of this region
    void *x
    void *y
    void** values[MAX_PREDICT_TEAM]
    void* scratch[MAX_PREDICT_TEAM]


cdef void predict_rows(PredictCall* c, Run* run, floating* dtype, Py_ssize_t start, Py_ssize_t stop,
                       Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    while start < stop:
        if member == 0:
            run.rows = min(PREDICT_ROWS, stop - start)
            run.values[0] = <char*>c.x + start * c.x_bytes
            run.values[run.entries[run.n_entries - 1].dst] = <floating*>c.y + start * c.n_out
        team_barrier(team)
        forward(run, dtype, member, team)
        start += PREDICT_ROWS


cdef void predict_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef PredictCall* c = <PredictCall*>args
    cdef Run own = c.run
    cdef Run* run = &c.run
    cdef Py_ssize_t start = c.start, stop = c.stop, rows = c.stop - c.start
    if c.apart:
        own.values, own.scratch = c.values[member], c.scratch[member]
        run = &own
        start, stop = c.start + share(rows, DOT_ROWS, member, team), c.start + share(rows, DOT_ROWS, member + 1, team)
        member, team = 0, 1
    if run.typenum == cnp.NPY_FLOAT32:
        predict_rows(c, run, <float*>NULL, start, stop, member, team)
    else:
        predict_rows(c, run, <double*>NULL, start, stop, member, team)


# ---------------------------------------------------------------- training

cdef struct TrainCall:
    Run run
    Loss loss
    Py_ssize_t n_out, x_bytes, target_bytes  # bytes: of one row of x, of targets
    Py_ssize_t n, position                  # rows of data, next row to use
    int64_t* sizes                          # (n_sizes,) rows of the coming batches
    Py_ssize_t n_sizes, batches             # batches: done in this call
    int64_t* order                          # (n,) rows in the order of use; NULL: rows lie ready, one batch
    void *x
    void *targets
    void *weights
    void *batch_x                           # what a batch is gathered into
    void *batch_targets
    void *batch_weights
    double* row_loss
    double batch_loss, batch_weight
    double deadline, loss_sum, weight_sum   # loss_sum: of batch means times batch weight
    bint undefined                          # the batch has no loss, so it has not happened
    bint stop
    bint gauss_newton, forward_known        # of a Hessian-vector product


cdef void gather_rows(TrainCall* c, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # rows order[position : position + rows] of the data -> the batch arrays
    cdef Py_ssize_t i, row, rows = c.run.rows
    for i in range(share(rows, 1, member, team), share(rows, 1, member + 1, team)):
        row = c.order[c.position + i]
        memcpy(<char*>c.batch_x + i * c.x_bytes, <char*>c.x + row * c.x_bytes, c.x_bytes)
        memcpy(<char*>c.batch_targets + i * c.target_bytes, <char*>c.targets + row * c.target_bytes, c.target_bytes)
        if c.weights != NULL:
            (<floating*>c.batch_weights)[i] = (<floating*>c.weights)[row]


cdef int descent_of(Run* r) noexcept nogil:
    # depends on the batch alone: an epoch that goes on after an interruption takes the same way
    cdef Py_ssize_t i
    cdef Entry* e
    if not r.may_descend:
        return DESCENT_NONE
    if not r.plan.limited:
        return DESCENT_AT_ONCE
    if r.n_penalties > 0:           # the norm of a gradient and a penalty's is not that of rows of x and dz
        return DESCENT_NONE
    for i in range(r.n_entries):
        e = &r.entries[i]
        if e.kind == ENTRY_DENSE and not gram_pays(r.rows, e.n_in, e.n_out):
            return DESCENT_NONE
    return DESCENT_LIMITED


cdef void prepare_descent(Run* r) noexcept nogil:
    # one member: the step is counted, and weights are left out of the update of all the rest
    cdef Py_ssize_t i
    update_prepare(r.plan)
    for i in range(r.n_entries):
        if r.entries[i].kind == ENTRY_DENSE:
            r.plan.tensors[r.entries[i].first_grad].source = NULL


cdef void descend_limited(Run* r, double* row_squares, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # after a backward that has left dz in dvalues: the norm, then the step of every weight; row_squares (rows,)
    cdef Py_ssize_t i, k
    cdef Entry* e
    cdef floating* db
    for i in range(share(r.rows, 1, member, team), share(r.rows, 1, member + 1, team)):
        row_squares[i] = 0
        for k in range(r.n_entries):
            e = &r.entries[k]
            if e.kind == ENTRY_DENSE:
                row_squares[i] += gram_row(<floating*>r.values[e.src], <floating*>r.dvalues[e.dst], i, e.n_in, e.n_out, e.bias != NULL)
    team_barrier(team)
    if member == 0:
        r.plan.scale = 1
        limit_norm(r.plan, add_up(row_squares, r.rows))
        prepare_descent(r)
    team_barrier(team)
    for k in range(r.n_entries):
        e = &r.entries[k]
        if e.kind == ENTRY_DENSE:
            db = <floating*>r.dparams[e.first_grad + 1] if e.bias != NULL else NULL
            descend_dense(<floating*>r.dvalues[e.dst], <floating*>r.values[e.src], <floating*>e.weight, <floating*>NULL,
                          <floating*>r.dvalues[e.dst], <floating*>NULL, db, <floating*>r.scratch, r.plan, &r.plan.tensors[e.first_grad],
                          &e.penalty, r.rows, e.n_in, e.n_out, IDENTITY, False, member, team)
            team_barrier(team)


cdef void train_batch(TrainCall* c, Run* run, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # forward, loss, backward and update of the batch that starts at position
    cdef Py_ssize_t last = run.entries[run.n_entries - 1].dst
    cdef floating* weights = NULL
    cdef double loss
    if c.order != NULL:
        gather_rows(c, dtype, member, team)
    if run.plan != NULL and run.plan.interim:
        leave_job(run.plan, member, team)
    team_barrier(team)
    if c.weights != NULL:
        weights = <floating*>(c.weights if c.order == NULL else c.batch_weights)
    forward(run, dtype, member, team)
    loss_rows(&c.loss, <floating*>run.values[last], c.targets if c.order == NULL else c.batch_targets, weights,
              c.row_loss, <floating*>run.dvalues[last], run.rows, c.n_out, member, team)
    sum_penalties(run, dtype, member, team)
    team_barrier(team)
    loss = add_up(c.row_loss, run.rows) + add_up(run.row_penalty, run.n_penalties)      # by every member: all take the same way
    if loss != loss and run.plan != NULL and run.plan.check_finite == FINITE_ANY:
        if run.plan.interim:
            return_job(run.plan, member, team)
        if member == 0:
            c.undefined = True
        return
    if member == 0:
        c.batch_loss = loss
        c.batch_weight = loss_weight(&c.loss, c.targets if c.order == NULL else c.batch_targets, weights, run.rows, c.n_out)
        if run.descent == DESCENT_AT_ONCE:
            prepare_descent(run)
        elif run.plan != NULL and not run.plan.gated:
            update_prepare(run.plan)
    backward(run, dtype, member, team)
    if run.n_penalties > 0:
        add_penalties(run, NULL, dtype, member, team)
        team_barrier(team)
    if run.descent == DESCENT_LIMITED:
        descend_limited(run, c.row_loss, dtype, member, team)
        update_all(run.plan, member, team)
    elif run.plan != NULL:
        if run.plan.interim:
            return_job(run.plan, member, team)
        update_step(run.plan, member, team)
    if run.bounded and run.plan != NULL and run.plan.passed:
        limit_weights(run, dtype, member, team)


cdef void move_averages(Run* r, floating* dtype) noexcept nogil:
    # the running averages of every batch_norm take the batch in
    cdef Py_ssize_t i
    cdef Entry* e
    cdef floating* statistics
    for i in range(r.n_entries):
        e = &r.entries[i]
        if e.kind == ENTRY_BATCH_NORM:
            statistics = <floating*>r.values[e.statistics]
            update_running(<floating*>e.running_mean, <floating*>e.running_var, statistics, statistics + e.n_in,
                           r.rows, e.n_in, e.momentum)


cdef void finish_batch(TrainCall* c, floating* dtype) noexcept nogil:
    c.stop = team_seconds() > c.deadline
    if c.undefined or (c.run.plan != NULL and c.run.plan.refused):      # the batch has not happened
        c.stop = True
        return
    if c.run.plan != NULL:
        c.stop |= c.run.plan.n_rows > 0 and c.run.plan.row >= c.run.plan.n_rows
    if c.run.plan != NULL and not c.run.plan.left_out:
        move_averages(&c.run, dtype)
    if c.run.plan == NULL or not c.run.plan.left_out:
        c.loss_sum += c.batch_loss * c.batch_weight
        c.weight_sum += c.batch_weight
    c.position += c.run.rows
    c.batches += 1
    c.run.step += 1
    c.stop |= c.position >= c.n or c.batches >= c.n_sizes


cdef void train_rows(TrainCall* c, Run* run, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # batches from position on, until the data, the time or a table is used up; a last batch may be smaller
    while True:
        if member == 0:
            run.n = run.rows = min(c.sizes[c.batches], c.n - c.position)
            run.descent = descent_of(run)
            if run.plan != NULL:
                update_begin(run.plan)
        team_barrier(team)
        train_batch(c, run, dtype, member, team)
        team_barrier(team)
        if member == 0:
            finish_batch(c, dtype)
        team_barrier(team)
        if c.stop:
            return


cdef void train_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef TrainCall* c = <TrainCall*>args
    if c.run.typenum == cnp.NPY_FLOAT32:
        train_rows(c, &c.run, <float*>NULL, member, team)
    else:
        train_rows(c, &c.run, <double*>NULL, member, team)


# ---------------------------------------------------------------- Hessian-vector products

# H v is the directional derivative of the gradient (Pearlmutter 1994): every entry is walked forward and
# backward once more, for tangents. Gauss-Newton products leave the curvature of the entries out:
# J^T (loss's Hessian) J v, a tangent forward and an ordinary backward (Schraudolph 2002).

cdef void hvp_rows(TrainCall* c, Run* run, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # rows lie ready, as one batch; dparams receives the product
    cdef Py_ssize_t last = run.entries[run.n_entries - 1].dst
    cdef void** of_loss = run.dvalues if c.gauss_newton else run.dtangents
    if not c.forward_known:
        forward(run, dtype, member, team)
    tangent_forward(run, dtype, member, team)
    if not c.gauss_newton:
        loss_rows(&c.loss, <floating*>run.values[last], c.targets, <floating*>c.weights, c.row_loss,
                  <floating*>run.dvalues[last], run.rows, c.n_out, member, team)
    loss_tangent_rows(&c.loss, <floating*>run.values[last], c.targets, <floating*>c.weights, <floating*>run.tangents[last],
                      <floating*>of_loss[last], run.rows, c.n_out, member, team)
    team_barrier(team)
    if c.gauss_newton:
        backward(run, dtype, member, team)
    else:
        tangent_backward(run, dtype, member, team)
    add_penalties(run, run.directions, dtype, member, team)


cdef void hvp_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef TrainCall* c = <TrainCall*>args
    if c.run.typenum == cnp.NPY_FLOAT32:
        hvp_rows(c, &c.run, <float*>NULL, member, team)
    else:
        hvp_rows(c, &c.run, <double*>NULL, member, team)


# ---------------------------------------------------------------- entry points

cdef class Workspace:
    """The values of a program for up to `capacity` rows; with gradients, and room for a batch, if for training.

    `tangents`: those of the values and of their gradients instead; the input, which stays, has none.
    """
    cdef void* block
    cdef void** values
    cdef void** dvalues
    cdef void* scratch
    cdef double* row_loss
    cdef double* row_penalty
    cdef char *batch_x
    cdef char *batch_targets
    cdef char *batch_weights
    cdef readonly Py_ssize_t capacity

    def __cinit__(self, Program program, Py_ssize_t capacity, bint training, bint tangents=False):
        cdef Py_ssize_t i, n_values = len(program.widths), item = 4 if program.typenum == cnp.NPY_FLOAT32 else 8
        cdef Py_ssize_t rows = round_up(min(max(capacity, 1), 1 << 56), 16)    # every value starts on a cache line
        cdef Py_ssize_t tables = (2 * n_values * <Py_ssize_t>sizeof(void*) + 63) // 64 * 64
        cdef Py_ssize_t first = 1 if tangents else 0, values = rows * sum(program.widths[first:]) * item
        cdef Py_ssize_t target = max(8, program.widths[n_values - 1] * item)
        cdef Py_ssize_t x_bytes = program.n_in * (8 if program.reads_either else item)
        cdef Py_ssize_t extra = 0               # for a batch that is gathered, its weights and losses
        cdef Py_ssize_t scratch = item * program.scratch(rows, training)
        cdef char* p
        if <double>rows * (sum(program.widths) + 16.0) * 64 > 2.0**62:      # sizes below stay whole numbers of 63 bits
            raise MemoryError(f"no memory for a batch of {capacity} rows")
        if training and not tangents:
            extra = rows * (8 + 8 + x_bytes + target) + 8 * program.n_penalties
        self.block = aligned_block(tables + scratch + (2 if training else 1) * values + extra)
        self.values, self.dvalues = <void**>self.block, <void**>self.block + n_values
        self.scratch = <char*>self.block + tables
        p = <char*>self.scratch + scratch
        for i in range(first, n_values):
            self.values[i] = p
            self.dvalues[i] = p + values
            p += rows * <Py_ssize_t>program.widths[i] * item
        if training and not tangents:
            p += values
            self.row_loss, self.batch_weights = <double*>p, p + 8 * rows
            self.batch_x = p + 16 * rows
            self.batch_targets = self.batch_x + rows * x_bytes
            self.row_penalty = <double*>(self.batch_targets + rows * target)
        self.capacity = rows

    def __dealloc__(self):
        free(self.block)


cdef class Program:
    """A network laid out over numbered values; see the head of the kernel source for the contract.

    Parameters
    ----------
    widths : list of int
        Width of every value; value 0 is the input, the last one the output.
    entries : list of dict
        kind, src, dst, and by kind: activation, weight, bias, groups, shortcut, keep, mean, var, eps, momentum,
        statistics, rate, seed, penalty (l1, l2, max_norm).
    typenum : int
        NumPy type number of every array.
    packed : bool
        The parameters will not change: keep a copy of the weights as the products like them.
    """
    cdef Entry* entries
    cdef Py_ssize_t n_entries
    cdef Py_ssize_t work                    # multiply-adds of one row, forward
    cdef readonly int typenum
    cdef bint reads_either                  # the input may be float32 or float64
    cdef readonly Py_ssize_t n_in, n_out
    cdef readonly Py_ssize_t least_rows     # of a batch to train on
    cdef Py_ssize_t n_penalties             # rows of weights that are penalized
    cdef bint bounded                       # some have a largest norm
    cdef readonly list widths
    cdef list arrays, grad_shapes           # arrays: held so that the pointers stay good
    cdef list running                       # averages that training moves
    cdef list pool                          # workspaces at rest, for predict

    def __cinit__(self, list widths, list entries, int typenum, bint packed=False):
        cdef Py_ssize_t i
        cdef Entry* e
        self.widths, self.typenum, self.arrays, self.grad_shapes, self.pool = widths, typenum, [], [], [None]
        self.running = [spec[name] for spec in entries if spec["kind"] == "batch_norm" for name in ("mean", "var")]
        self.n_entries, self.n_in, self.n_out = len(entries), widths[0], widths[len(widths) - 1]
        self.least_rows = 1
        self.entries = <Entry*>aligned_block(len(entries) * sizeof(Entry))
        has_gradient, written = [False] * len(widths), set()
        for i, spec in enumerate(entries):
            e = &self.entries[i]
            self.place(e, spec, f"entries[{i}] ({spec['kind']})")
            self.hold_arrays(e, spec, f"entries[{i}] ({spec['kind']})", packed)
            if e.kind == ENTRY_BATCH_NORM:
                self.least_rows = 2
            e.needs_dx = has_gradient[e.src]
            e.needs_dshortcut = e.kind == ENTRY_ADD and has_gradient[e.shortcut]
            product = e.kind in (ENTRY_DENSE, ENTRY_GROUPED_DENSE)
            e.trained = product or (e.kind == ENTRY_BATCH_NORM and e.weight != NULL)
            has_gradient[e.dst] = e.trained or e.needs_dx or e.needs_dshortcut
            self.work += e.n_in * e.n_out // e.groups if product or e.kind == ENTRY_WHITEN else 4 * e.n_in
            e.penalty.l1, e.penalty.l2, e.penalty.max_norm = spec.get("penalty", (0.0, 0.0, 0.0))
            e.first_penalty = self.n_penalties
            self.n_penalties += e.n_out if penalizes(&e.penalty) else 0
            self.bounded |= e.penalty.max_norm > 0
            if e.trained:
                e.first_grad = len(self.grad_shapes)
                self.grad_shapes += [a.shape for a in (spec["weight"], spec.get("bias")) if a is not None]
        self.reads_either = self.standardize_alone_reads_input()
        for i in range(self.n_entries - 1, -1, -1):       # the order of backward: who comes first overwrites
            e = &self.entries[i]
            e.accumulate_dx = e.src in written
            if e.needs_dx:
                written.add(e.src)
            e.accumulate_dshortcut = e.shortcut in written
            if e.needs_dshortcut:
                written.add(e.shortcut)

    def __dealloc__(self):
        free(self.entries)

    cdef int require_writable(self) except -1:
        # the running averages; parameters are the optimizer's
        for array in self.running:
            if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array):
                refuse_changed("running averages of BatchNorm", array)
        return 0

    cdef bint standardize_alone_reads_input(self) noexcept:
        cdef Py_ssize_t i, readers = 0
        cdef bint standardize = True
        for i in range(self.n_entries):
            if self.entries[i].src == 0 or (self.entries[i].kind == ENTRY_ADD and self.entries[i].shortcut == 0):
                readers += 1
                standardize &= self.entries[i].kind == ENTRY_STANDARDIZE
        return readers == 1 and standardize

    cdef int place(self, Entry* e, dict spec, str name) except -1:
        # what an entry reads and writes: values that are there, of widths that fit its kind
        cdef Py_ssize_t n = len(self.widths)
        e.kind, e.src, e.dst = ENTRY_KINDS.index(spec["kind"]), spec["src"], spec["dst"]
        e.keep, e.shortcut, e.statistics = spec.get("keep", -1), spec.get("shortcut", 0), spec.get("statistics", -1)
        e.activation, e.groups = activation_code(spec.get("activation", "identity")), whole_number("groups", spec.get("groups", 1))
        e.eps, e.momentum, e.rate = spec.get("eps", 0.0), spec.get("momentum", 0.0), spec.get("rate", 0.0)
        if not (0 <= e.src < e.dst < n and 0 <= e.shortcut < e.dst and -1 <= e.keep < n and -1 <= e.statistics < n):
            raise ValueError(f"{name}: expected values from 0 to {n - 1}, read before they are written, got {spec}")
        e.n_in, e.n_out = self.widths[e.src], self.widths[e.dst]
        fit = e.n_in > 0 and e.n_out > 0
        if e.kind == ENTRY_MAXOUT:
            fit &= e.n_in % e.n_out == 0
        elif e.kind in (ENTRY_DENSE, ENTRY_GROUPED_DENSE):
            fit &= e.n_in % e.groups == 0 and e.n_out % e.groups == 0 and (e.groups == 1 or e.kind == ENTRY_GROUPED_DENSE)
        else:
            fit &= e.n_in == e.n_out
        if e.kind == ENTRY_ADD:
            fit &= self.widths[e.shortcut] == e.n_out
        if e.kind == ENTRY_BATCH_NORM:                  # a value has 16 rows at least
            fit &= e.statistics >= 0 and 16 * <Py_ssize_t>self.widths[e.statistics] >= 5 * e.n_in
        if e.keep >= 0:
            fit &= self.widths[e.keep] == e.n_out
        if not fit:
            raise ValueError(f"{name}: expected widths that fit this kind, got {e.n_in} -> {e.n_out} among {self.widths}")
        return 0

    cdef int hold_arrays(self, Entry* e, dict spec, str name, bint packed) except -1:
        # pointers to an entry's arrays, each of the shape that its kernels read
        cdef tuple column = (e.n_in,), rows = (e.n_out,)
        if e.kind in (ENTRY_DENSE, ENTRY_GROUPED_DENSE):
            e.weight = self.hold(f"{name} weight", spec["weight"], self.typenum, (e.n_out, e.n_in // e.groups), packed)
            e.bias = self.hold(f"{name} bias", spec.get("bias"), self.typenum, rows, packed)
        elif e.kind == ENTRY_WHITEN:
            e.weight = self.hold(f"{name} weight", spec["weight"], self.typenum, (e.n_out, e.n_in), packed)
        elif e.kind == ENTRY_STANDARDIZE:
            e.weight = self.hold(f"{name} mean", spec["mean"], cnp.NPY_FLOAT64, column, packed)
            e.bias = self.hold(f"{name} scale", spec["scale"], cnp.NPY_FLOAT64, column, packed)
            e.split = <float*>self.hold(f"{name} split", spec["split"], cnp.NPY_FLOAT32, (3, e.n_in), packed)
            e.reading = <uint8_t*>self.hold(f"{name} reading", spec["reading"], cnp.NPY_UINT8, (), packed)
        elif e.kind == ENTRY_BATCH_NORM:
            e.weight = self.hold(f"{name} gamma", spec["weight"], self.typenum, column, packed)
            e.bias = self.hold(f"{name} beta", spec["bias"], self.typenum, column, packed)
            e.running_mean = self.hold(f"{name} running_mean", spec["mean"], self.typenum, column, packed)
            e.running_var = self.hold(f"{name} running_var", spec["var"], self.typenum, column, packed)
            if (e.weight == NULL) != (e.bias == NULL) or e.running_mean == NULL or e.running_var == NULL:
                raise ValueError(f"{name}: expected gamma and beta or neither, and running averages, got {spec}")
        elif e.kind == ENTRY_DROPOUT:
            e.seed = <uint64_t*>self.hold(f"{name} seed", spec["seed"], cnp.NPY_UINT64, (), packed)
        if packed and e.kind == ENTRY_DENSE and spec["weight"].nbytes <= PACKED_BYTES:
            self.arrays.append(pack_weight(spec["weight"]))
            e.packed = data(self.arrays[len(self.arrays) - 1])
        return 0

    cdef void* hold(self, str name, object array, int typenum, tuple shape, bint only_read) except? NULL:
        # a pointer to an array that lives as long as the program; NULL for None
        if array is None:
            return NULL
        if not (is_plain(array, typenum, <int>len(shape)) and fits(array, shape)):
            dtype = cnp.PyArray_DescrFromType(typenum)
            kind = TypeError if array.dtype != dtype else ValueError
            raise kind(f"{name}: expected a C-contiguous {dtype} array of shape {shape_text(shape)}, "
                       f"got {array.dtype} of shape {array.shape}")
        if not (only_read or cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array)):
            raise ValueError(f"{name}: expected a writable array, got a read-only one; pass a copy")
        self.arrays.append(array)
        return data(array)

    cdef Py_ssize_t scratch(self, Py_ssize_t rows, bint training) noexcept:
        # elements that the entry in greatest need of them takes, in whole cache lines
        cdef Py_ssize_t i, size = 0
        for i in range(self.n_entries):
            if self.entries[i].kind in (ENTRY_DENSE, ENTRY_GROUPED_DENSE, ENTRY_WHITEN):
                if self.typenum == cnp.NPY_FLOAT32:
                    size = max(size, dense_scratch(rows, self.entries[i].n_in, self.entries[i].n_out, training, <float*>NULL))
                else:
                    size = max(size, dense_scratch(rows, self.entries[i].n_in, self.entries[i].n_out, training, <double*>NULL))
        return round_up(size, 16)

    cdef void start(self, Run* run, Workspace workspace, bint training) noexcept:
        run.typenum, run.training, run.n_entries, run.entries = self.typenum, training, self.n_entries, self.entries
        run.x_typenum = self.typenum
        run.values, run.dvalues, run.dparams, run.scratch = workspace.values, workspace.dvalues, NULL, workspace.scratch
        run.plan, run.may_descend, run.descent, run.step = NULL, False, DESCENT_NONE, 0
        run.row_penalty, run.n_penalties, run.bounded = workspace.row_penalty, self.n_penalties, self.bounded
        run.tangents = run.dtangents = run.directions = NULL
        run.tscratch = NULL

    cpdef object rows(self, object x, str name="x"):
        """x (n, n_in) as the program reads it, in its own dtype or, where it reads either, in float32 or float64."""
        cdef int typenum = self.typenum
        if self.reads_either:
            if not is_array(x):
                x = _arrays.as_numbers(name, x)
            typenum = cnp.PyArray_TYPE(<cnp.ndarray>x)
            if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64:
                typenum = cnp.NPY_FLOAT32 if np.can_cast(x.dtype, np.float32) else cnp.NPY_FLOAT64
        return as_numbers(name, x, typenum, (None, self.n_in))

    def predict(self, x, out=None):
        """Inference output for rows x; any thread may call it at any time."""
        cdef PredictCall c
        cdef Py_ssize_t team, i
        x = self.rows(x)
        c.n, c.n_out = cnp.PyArray_DIM(<cnp.ndarray>x, 0), self.n_out
        c.x_bytes = self.n_in * cnp.PyArray_ITEMSIZE(<cnp.ndarray>x)
        if out is None:
            out = np.empty((c.n, c.n_out), dtype_of(self.typenum))
        else:
            out = as_output("out", out, self.typenum, (c.n, c.n_out))
            check_apart(("out",), (out,), ("x",), (x,))
        if c.n == 0:
            return out
        team = min(team_for(self.work * c.n), <Py_ssize_t>MAX_PREDICT_TEAM)
        c.apart = team > 1 and c.n >= team * ROWS_APART
        if not c.apart:
            team = team_for(self.work * min(c.n, <Py_ssize_t>PREDICT_ROWS) // self.n_entries)
        workspaces = [self.take_workspace(min(c.n, PREDICT_ROWS)) for _ in range(team if c.apart else 1)]
        for i in range(len(workspaces)):
            c.values[i], c.scratch[i] = (<Workspace>workspaces[i]).values, (<Workspace>workspaces[i]).scratch
        self.start(&c.run, <Workspace>workspaces[0], False)
        c.x, c.y, c.run.n, c.start = data(x), data(out), c.n, 0
        c.stop, c.run.x_typenum = c.n, cnp.PyArray_TYPE(<cnp.ndarray>x)
        if self.work * c.n > PREDICT_WORK:
            self.predict_long(&c, team)
        else:
            with nogil:
                team_run(predict_job, &c, team)
        self.pool.extend(workspaces)
        return out

    cdef int predict_long(self, PredictCall* c, Py_ssize_t team) except -1:
        # region after region; a signal's exception ends the call with the rows done so far
        cdef Py_ssize_t unit = PREDICT_ROWS * (team if c.apart else 1)
        cdef Py_ssize_t rows = max(1, PREDICT_WORK // (self.work * unit)) * unit
        cdef double began
        while c.start < c.n:
            c.stop, began = min(c.n, c.start + rows), team_seconds()
            with nogil:
                team_run(predict_job, c, team)
            c.start = c.stop
            PyErr_CheckSignals()
            if team_seconds() - began < PREDICT_SECONDS:
                rows *= 2
        return 0

    cdef Workspace take_workspace(self, Py_ssize_t rows):
        # one at rest, if it is large enough; the pool's first entry stays, so that the list keeps its memory
        cdef Workspace workspace
        if len(self.pool) == 1:
            return Workspace(self, rows, False)
        workspace = self.pool.pop()
        return workspace if workspace.capacity >= rows else Workspace(self, rows, False)

    def new_grads(self):
        """Uninitialised arrays for the gradients of all parameters."""
        return [np.empty(shape, dtype_of(self.typenum)) for shape in self.grad_shapes]


cdef class Training:
    """A program bound to a loss, gradients, scratch and (unless None) the update of an optimizer."""
    cdef Program program
    cdef Workspace workspace
    cdef Workspace tangents                 # None until a Hessian-vector product asks for it
    cdef Update update
    cdef str loss
    cdef Loss rule
    cdef object class_weight                # held for the rule
    cdef readonly double batch_weight       # what the mean of the last step divided by
    cdef public Py_ssize_t epoch            # number of the epoch under way
    cdef public Py_ssize_t position         # its next row
    cdef public Py_ssize_t batches          # trained on so far
    cdef public double loss_sum, weight_sum  # of its batches so far
    cdef readonly list grads
    cdef void** dparams
    cdef Py_ssize_t rows                    # of the last step

    def __cinit__(self, Program program, str loss, Update update, Py_ssize_t max_batch, *,
                  delta=1.0, label_smoothing=0.0, class_weight=None, ignore_index=IGNORE_INDEX):
        cdef Py_ssize_t i
        check_loss(loss)
        self.class_weight = fill_loss(&self.rule, delta, label_smoothing, class_weight, ignore_index, program.typenum,
                                      program.n_out)
        self.program, self.loss, self.update = program, loss, update
        self.grads = program.new_grads()
        self.dparams = <void**>aligned_block(len(self.grads) * sizeof(void*))
        for i, grad in enumerate(self.grads):
            self.dparams[i] = data(grad)
        self.workspace = Workspace(program, max_batch, True)

    def __dealloc__(self):
        free(self.dparams)

    @property
    def max_batch(self):
        return self.workspace.capacity

    def check(self, x, targets, sample_weight=None):
        """The arrays as the kernels take them; raises what `step` and `run` would."""
        cdef int typenum = self.program.typenum
        x = self.program.rows(x)
        weights = as_weights("sample_weight", sample_weight, typenum, x.shape[0])
        targets = as_targets(self.loss, targets, typenum, x.shape[0], self.program.n_out, self.rule.ignore, weights)
        return x, targets, weights

    cdef tuple check_batch(self, object x, object targets, object sample_weight):
        x, targets, weights = self.check(x, targets, sample_weight)
        if x.shape[0] == 0:
            raise ValueError("x: expected at least one row, got none")
        if x.shape[0] < self.program.least_rows:
            raise ValueError("x: expected at least two rows to take batch statistics of, got 1; predict and evaluate take one")
        return x, targets, weights

    cdef void fill(self, TrainCall* c, object x, object targets, object weights, Py_ssize_t batch) except *:
        if batch > self.workspace.capacity:
            self.workspace = Workspace(self.program, batch, True)
        self.program.start(&c.run, self.workspace, True)
        c.run.dparams = self.dparams
        c.loss = self.rule
        c.loss.kind = kind_of(self.loss, targets)
        c.n, c.n_out, c.position, c.batches = x.shape[0], self.program.n_out, 0, 0
        c.x_bytes, c.run.x_typenum = x.nbytes // x.shape[0], cnp.PyArray_TYPE(<cnp.ndarray>x)
        c.target_bytes = targets.nbytes // x.shape[0]
        c.x, c.targets = data(x), data(targets)
        c.weights = NULL if weights is None else data(weights)
        c.order, c.row_loss = NULL, self.workspace.row_loss
        c.batch_x, c.batch_targets, c.batch_weights = self.workspace.batch_x, self.workspace.batch_targets, self.workspace.batch_weights
        c.run.plan = NULL if self.update is None else &self.update.plan
        c.run.may_descend, c.run.step = self.may_descend(), self.batches
        c.deadline = c.loss_sum = c.weight_sum = 0
        c.undefined = False

    cdef bint may_descend(self) noexcept:
        # whether no gradient of weights needs to be whole before the first update
        cdef Plan* plan = NULL if self.update is None else &self.update.plan
        cdef Entry* e
        cdef Py_ssize_t i, found = 0
        if not can_descend(plan) or plan.n_tensors != len(self.grads):
            return False
        for i in range(self.program.n_entries):
            e = &self.program.entries[i]
            if e.kind == ENTRY_DENSE:
                found += 2 if e.bias != NULL else 1
                if plan.tensors[e.first_grad].param != e.weight:
                    return False
        return found == plan.n_tensors or not plan.limited

    cdef void execute(self, TrainCall* c, Py_ssize_t rows) except *:
        # the one region of a call; backward takes twice forward's work, and meets twice as often
        cdef Py_ssize_t each = rows if self.update is None else rows + UPDATE_WORK
        cdef Py_ssize_t team = team_for(each * self.program.work // self.program.n_entries)
        if self.update is not None:
            self.require_in_place()
            if self.update.held is not self.grads:
                self.update.take(self.grads)
                self.update.held = self.grads
        with nogil:
            team_run(train_job, c, team)

    cpdef int require_in_place(self) except -1:
        """Raise ValueError unless all that a step writes can be written, and lies where it did."""
        if self.update is not None:
            self.update.require_in_place()
        return self.program.require_writable()

    def step(self, x, targets, sample_weight=None, bint in_epoch=False):
        """One batch: forward, loss, backward and, with an optimizer, update; returns the mean loss.

        `in_epoch`: counted as rows of the epoch under way, as `run` counts its batches.
        """
        cdef TrainCall c
        cdef int64_t rows
        x, targets, weights = self.check_batch(x, targets, sample_weight)
        rows = self.rows = x.shape[0]
        self.enter()
        try:
            self.fill(&c, x, targets, weights, rows)
            c.sizes, c.n_sizes = &rows, 1
            c.run.values[0] = c.x
            self.execute(&c, rows)
            if in_epoch:
                self.position += c.position
                self.loss_sum += c.loss_sum
                self.weight_sum += c.weight_sum
        finally:
            self.leave()
        self.report(&c)
        if self.update is not None:
            self.batches += 1
        self.batch_weight = c.batch_weight
        return c.batch_loss

    def hvp(self, x, targets, v, sample_weight=None, *, bint gauss_newton=False, bint again=False):
        """The Hessian of the mean loss of a batch, or its Gauss-Newton part, times v; new arrays.

        `v` holds an array a parameter. `again`: rows, targets, weights and parameters are those of the last call,
        `step` or `hvp`, so forward is not repeated.
        """
        cdef TrainCall c
        cdef Py_ssize_t i, n_params = len(self.grads)
        x, targets, weights = self.check_batch(x, targets, sample_weight)
        v = list(v)
        if len(v) != n_params:
            raise ValueError(f"v: expected {n_params} arrays, one a parameter, got {len(v)}")
        v = [as_numbers(f"v[{i}]", a, self.program.typenum, self.program.grad_shapes[i]) for i, a in enumerate(v)]
        product, pointers = self.program.new_grads(), np.empty(2 * n_params + 1, np.uintp)
        for i in range(n_params):
            pointers[i], pointers[n_params + i] = <size_t>data(v[i]), <size_t>data(product[i])
        self.enter()
        try:
            self.fill(&c, x, targets, weights, x.shape[0])
            if self.tangents is None or self.tangents.capacity < self.workspace.capacity:
                self.tangents = Workspace(self.program, self.workspace.capacity, True, True)
            c.run.tangents, c.run.dtangents, c.run.tscratch = self.tangents.values, self.tangents.dvalues, self.tangents.scratch
            c.run.directions, c.run.dparams = <void**>data(pointers), <void**>data(pointers) + n_params
            c.run.values[0], c.run.plan, c.run.n = c.x, NULL, x.shape[0]
            c.run.rows, c.gauss_newton, c.forward_known = c.run.n, gauss_newton, again
            team = team_for(c.run.rows * self.program.work // self.program.n_entries)
            with nogil:
                team_run(hvp_job, &c, team)
        finally:
            self.leave()
        return product

    def finish(self):
        """What a step that no update makes leaves to be done: the running averages of every batch_norm take in what the
        last forward has seen, and rows of weights are limited."""
        cdef Run run
        self.program.start(&run, self.workspace, True)
        run.rows = self.rows
        if self.program.typenum == cnp.NPY_FLOAT32:
            move_averages(&run, <float*>NULL)
            limit_weights(&run, <float*>NULL, 0, 1)
        else:
            move_averages(&run, <double*>NULL)
            limit_weights(&run, <double*>NULL, 0, 1)

    cdef int enter(self) except -1:
        # the workspace and the optimizer belong to one call at a time
        if self.update is not None:
            self.update.enter()
        return 0

    cdef void leave(self) noexcept:
        if self.update is not None:
            self.update.leave()

    cdef int report(self, TrainCall* c) except -1:
        # what made a call stop before its time
        if c.undefined:
            raise FloatingPointError("loss: expected one that is defined, got nan; the rows of the batch, or what the network makes "
                                     "of them, hold NaN or infinity; the step has not been taken")
        return self.update.report_refusal() if self.update is not None else 0

    def run(self, x, targets, sample_weight, order, sizes, double seconds):
        """Batches of checked data in the given order of rows, from `position` on, for about `seconds`.

        `sizes` holds the rows of the coming batches. Moves `position`, `batches`, `loss_sum` and
        `weight_sum` on before it returns: what Ctrl-C cannot part from the updates.
        """
        cdef TrainCall c
        order, sizes = np.require(order, np.int64, ["C", "A"]), np.require(sizes, np.int64, ["C", "A"])
        cdef Py_ssize_t batch = min(sizes.max(), x.shape[0])
        self.enter()
        try:
            if not 0 <= self.position < x.shape[0]:
                raise ValueError(f"X: expected more than the {self.position} rows the interrupted epoch used, got {x.shape[0]}")
            self.fill(&c, x, targets, sample_weight, batch)
            c.order, c.position, c.loss_sum, c.weight_sum = <int64_t*>data(order), self.position, self.loss_sum, self.weight_sum
            c.sizes, c.n_sizes = <int64_t*>data(sizes), sizes.size
            c.run.values[0] = c.batch_x
            c.deadline = team_seconds() + seconds
            self.execute(&c, batch)
            self.position, self.loss_sum, self.weight_sum = c.position, c.loss_sum, c.weight_sum
            self.batches += c.batches
        finally:
            self.leave()
        self.report(&c)

    def end_epoch(self):
        """Start the next epoch: one call, which Ctrl-C cannot part."""
        self.epoch += 1
        self.position, self.loss_sum, self.weight_sum = 0, 0, 0


def copy_arrays(list targets, list sources):
    """Copy arrays into others of their shapes and dtypes, all C-contiguous: one call, which Ctrl-C cannot part."""
    for target, source in zip(targets, sources, strict=True):
        if source.dtype != target.dtype or source.shape != target.shape or not source.flags.c_contiguous:
            raise ValueError(f"expected a contiguous {target.dtype} array of shape {target.shape}, got {source.dtype} {source.shape}")
        if not target.flags.writeable:
            raise ValueError(f"expected arrays that can be written, got a read-only one of shape {target.shape}")
    for target, source in zip(targets, sources):
        memcpy(data(target), data(source), target.nbytes)
