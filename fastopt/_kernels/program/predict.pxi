# Inference: where there are enough samples, each thread walks the program over its own and waits for nobody; few samples are
# walked by all threads together. A long call is made of several regions, each over the next samples, between which Python
# answers signals. The samples of the whole call choose the kernels.

cdef enum:
    MAX_PREDICT_THREADS = 256

cdef double PREDICT_SECONDS = 0.025     # regions double until they last so long, so none lasts twice as long

cdef struct PredictCall:
    Run run
    bint own_rows               # each thread has samples and values of its own
    Py_ssize_t n, x_bytes, y_bytes          # samples; bytes of one in x and in y
    Py_ssize_t piece            # samples at a time
    Py_ssize_t grain            # at whose multiples samples are cut for threads
    Py_ssize_t start, stop      # samples of this region
    void *x
    void *y
    void** values[MAX_PREDICT_THREADS]
    void* scratch[MAX_PREDICT_THREADS]


cdef void predict_rows(PredictCall* c, Run* run, floating* dtype, Py_ssize_t start, Py_ssize_t stop,
                       Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    while start < stop:
        if thread == 0:
            run.samples = min(c.piece, stop - start)
            run.values[0] = <char*>c.x + start * c.x_bytes
            run.values[run.output] = <char*>c.y + start * c.y_bytes
        team_barrier(n_threads)
        forward(run, 0, run.n_entries, dtype, thread, n_threads)
        start += c.piece


cdef void predict_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef PredictCall* c = <PredictCall*>args
    cdef Run own
    cdef Run* run = &c.run
    cdef Py_ssize_t start = c.start, stop = c.stop, rows = c.stop - c.start
    if c.own_rows:
        own = c.run
        own.values, own.scratch = c.values[thread], c.scratch[thread]
        run = &own
        start, stop = c.start + chunk_start(rows, c.grain, thread, n_threads), c.start + chunk_start(rows, c.grain, thread + 1, n_threads)
        thread, n_threads = 0, 1
    predict_rows(c, run, dtype, start, stop, thread, n_threads)
