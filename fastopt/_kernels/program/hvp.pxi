# H v is the directional derivative of the gradient (Pearlmutter 1994): every entry is walked forward and backward once more,
# for tangents. A Gauss-Newton product, J^T H_loss J v, leaves out the curvature of the entries: a tangent forward and an
# ordinary backward (Schraudolph 2002).

cdef void hvp_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # the rows lie ready, as one batch; dparams receive the product
    cdef TrainCall* c = <TrainCall*>args
    cdef Run* run = &c.run
    cdef Py_ssize_t last = run.output, rows = run.samples * c.positions
    cdef void** of_loss = run.dvalues if c.gauss_newton else run.dtangents
    if not c.forward_known:
        forward(run, 0, run.n_entries, dtype, thread, n_threads)
    tangent_forward(run, dtype, thread, n_threads)
    if not c.gauss_newton:
        loss_rows(&c.loss, <floating*>run.values[last], c.targets, <floating*>c.weights, c.row_loss,
                  <floating*>run.dvalues[last], rows, c.n_out, thread, n_threads)
    loss_tangent_rows(&c.loss, <floating*>run.values[last], c.targets, <floating*>c.weights, <floating*>run.tangents[last],
                      <floating*>of_loss[last], rows, c.n_out, thread, n_threads)
    team_barrier(n_threads)
    if c.gauss_newton:
        backward(run, 0, run.n_entries, dtype, thread, n_threads)
    else:
        tangent_backward(run, dtype, thread, n_threads)
    add_penalties(run, run.directions, 0, run.n_entries, dtype, thread, n_threads)
