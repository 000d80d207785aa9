# What this machine can do at most: the yardsticks that `bench limits` prints.
#
# - FMA peak: enough independent vector accumulators to hide the latency; every loop over them is
#   unrolled, because one index known only at run time would keep them all in memory.
# - Read bandwidth: a sum over an array, four vectors at a time.
# - An update's bandwidth: the least arithmetic that reads three or four arrays and rewrites all but one.

cdef extern from *:
    """
    #ifdef VECTOR_BYTES
    static float limits_fma(ptrdiff_t n) {
        enum { CHAINS = 12 };
        vecf acc[CHAINS], a = {0}, b = {0};
    #pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) acc[i] = a;
        for (ptrdiff_t k = 0; k < n; k++) {
    #pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) { acc[i] = acc[i] * a + b; __asm__ volatile("" : "+x"(acc[i])); }
        }
    #pragma GCC unroll 12
        for (int i = 1; i < CHAINS; i++) acc[0] += acc[i];
        return sum_lanes_f(acc[0]);
    }
    static float limits_read(const float *p, ptrdiff_t n) {
        vecf acc[4] = {{0}};
        for (ptrdiff_t i = 0; i + 4 * LANES_f <= n; i += 4 * LANES_f) {
    #pragma GCC unroll 4
            for (int j = 0; j < 4; j++) acc[j] += *(const vecf *)(p + i + j * LANES_f);
        }
        return sum_lanes_f(acc[0] + acc[1] + acc[2] + acc[3]);
    }
    #endif
    """
    float limits_fma(Py_ssize_t n) nogil
    float limits_read(const float* p, Py_ssize_t n) nogil

cdef struct LimitsCall:
    Py_ssize_t n, repeats
    float* x
    double* result              # (team,): kept, so that no loop is empty


cdef void fma_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef LimitsCall* c = <LimitsCall*>args
    c.result[thread] = limits_fma(c.n)


cdef void read_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef LimitsCall* c = <LimitsCall*>args
    cdef Py_ssize_t start = chunk_start(c.n, 64, thread, n_threads), stop = chunk_start(c.n, 64, thread + 1, n_threads), i
    for i in range(c.repeats):
        c.result[thread] += <double>limits_read(c.x + start, stop - start)


cdef struct PassCall:
    Py_ssize_t n, n_arrays
    float* grad
    float* arrays[3]


cdef void pass_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef PassCall* c = <PassCall*>args
    cdef float *a = c.arrays[0]
    cdef float *b = c.arrays[1]
    cdef float *d = c.arrays[2]
    cdef Py_ssize_t start = chunk_start(c.n, GRAIN, thread, n_threads), stop = chunk_start(c.n, GRAIN, thread + 1, n_threads), i
    cdef float g
    if c.n_arrays == 2:
        for i in range(start, stop):
            g = c.grad[i]
            a[i] += g
            b[i] += g
    else:
        for i in range(start, stop):
            g = c.grad[i]
            a[i] += g
            b[i] += g
            d[i] += g
