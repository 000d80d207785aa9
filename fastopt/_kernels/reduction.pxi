# Sums of equally long arrays in their order, whatever the team: gradients of ranks of an MPI job.

cdef enum: SUM_BLOCK = 2048     # elements, which stay in the L1 cache from the first part to the last write

cdef struct SumCall:
    Py_ssize_t n, n_parts, n_outs
    void** parts
    double* factors             # of the parts; a part with the factor 0 counts as zeros, whatever it holds
    void** outs                 # where the sum goes, which may be among the parts


cdef void scaled(floating* out, const floating* a, double factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if factor == 1:
        memcpy(out, a, n * sizeof(floating))
    elif factor == 0:
        memset(out, 0, n * sizeof(floating))
    else:
        for i in range(n):
            out[i] = <floating>factor * a[i]


cdef void sum_parts_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef SumCall* c = <SumCall*>args
    cdef floating[SUM_BLOCK] total, product
    cdef const floating* a
    cdef Py_ssize_t i, k, n, first = chunk_start(c.n, SUM_BLOCK, thread, n_threads)
    cdef Py_ssize_t stop = chunk_start(c.n, SUM_BLOCK, thread + 1, n_threads)
    while first < stop:
        n = min(<Py_ssize_t>SUM_BLOCK, stop - first)
        scaled(&total[0], <const floating*>c.parts[0] + first, c.factors[0], n)
        for k in range(1, c.n_parts):
            a = <const floating*>c.parts[k] + first
            if c.factors[k] != 1:   # a product that is rounded before it is added, also where the machine could fuse them
                scaled(&product[0], a, c.factors[k], n)
                a = &product[0]
            for i in range(n):
                total[i] += a[i]
        for k in range(c.n_outs):
            memcpy(<floating*>c.outs[k] + first, &total[0], n * sizeof(floating))
        first += n
