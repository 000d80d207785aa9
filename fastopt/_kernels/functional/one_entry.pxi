# A layer by itself: a program of one entry over arrays of the caller, value 0 -> value 1.

cdef struct OneEntry:
    Run run
    Entry entry
    Source source
    Shape shapes[2]
    void* values[2]
    void* dvalues[2]
    void* saved
    void* z                     # the preactivation, where it is wanted
    void* dparams[MAX_WEIGHTS]
    bint backward


cdef void one_entry(OneEntry* c, const Kind* kind, void* own, int typenum, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept:
    # sets up an entry from rows (n, n_in) to rows (n, n_out); the gradient of the former is wanted
    memset(c, 0, sizeof(OneEntry))
    c.shapes[0] = Shape(1, 1, n_in, 0, 0, n_in, 0, 0)
    c.shapes[1] = Shape(1, 1, n_out, 0, 0, n_out, 1, 0)
    c.source.wanted = True
    c.entry.kind, c.entry.own, c.entry.n_in, c.entry.n_out = kind, own, n_in, n_out
    c.entry.positions = c.entry.out_positions = 1
    c.entry.sources, c.entry.n_sources, c.entry.dst = &c.source, 1, 1
    c.run.typenum, c.run.x_typenum, c.run.samples, c.run.n = typenum, typenum, n, n
    c.run.entries, c.run.n_entries, c.run.shapes, c.run.output = &c.entry, 1, c.shapes, 1
    c.run.values, c.run.dvalues, c.run.saved, c.run.z, c.run.dparams = c.values, c.dvalues, &c.saved, &c.z, c.dparams


cdef void one_entry_pass(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef OneEntry* c = <OneEntry*>args
    do_pass(&c.entry.kind.backward if c.backward else &c.entry.kind.forward, &c.run, &c.entry, dtype, thread, n_threads)


cdef inline void run_one(OneEntry* c, Py_ssize_t work) noexcept nogil:
    # runs the pass of the entry, on as many threads as its multiply-adds are worth
    run_typed(c.run.typenum, one_entry_pass[float], one_entry_pass[double], c, threads_for(work))


cdef inline void* data_or_null(object a) noexcept:
    return NULL if a is None else data(a)
