# The yardsticks of `bench limits`.

def fma_rate():
    """Float32 FLOP/s of one short run on the current number of threads."""
    cdef LimitsCall c
    cdef double start
    result = np.zeros(max(1, team_get()))
    c.n, c.result = 1_000_000, <double*>data(result)
    start = team_seconds()
    team_run(fma_job, &c, result.size)
    return 2.0 * 12 * lanes_of(c.x) * c.n * result.size / (team_seconds() - start)


def read_rate(x, Py_ssize_t repeats):
    """Bytes per second of reading float32 x `repeats` times on the current number of threads."""
    cdef LimitsCall c
    cdef double start
    x = as_input("x", x, cnp.NPY_FLOAT32, (None,))
    result = np.zeros(max(1, team_get()))
    c.n, c.repeats, c.x, c.result = x.size, repeats, <float*>data(x), <double*>data(result)
    start = team_seconds()
    team_run(read_job, &c, result.size)
    return <double>x.nbytes * repeats / (team_seconds() - start)


def plain_pass(grad, list arrays):
    """Add float32 grad to two or three arrays of its size in place: an optimizer's memory traffic, and nothing else."""
    cdef PassCall call
    cdef Py_ssize_t i
    if len(arrays) not in (2, 3):
        raise ValueError(f"arrays: expected two or three, got {len(arrays)}")
    call.grad, call.n, call.n_arrays = <float*>data(as_input("grad", grad, cnp.NPY_FLOAT32, (None,))), grad.size, len(arrays)
    for i in range(call.n_arrays):
        call.arrays[i] = <float*>data(as_output(f"arrays[{i}]", arrays[i], cnp.NPY_FLOAT32, (call.n,)))
    check_no_overlap(tuple(f"arrays[{i}]" for i in range(len(arrays))), tuple(arrays), ("grad",), (grad,))
    with nogil:
        team_run(pass_job, &call, threads_for(4 * call.n))
