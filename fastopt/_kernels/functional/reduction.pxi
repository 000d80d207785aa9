# Sums over the ranks of an MPI job, for fastopt.parallel.

def sum_parts(list parts, list factors, list outs):
    """Write ``factors[0] * parts[0] + factors[1] * parts[1] + ...``, added in this order, to each of `outs`.

    All are flat arrays of one length and float type; outputs may be among the parts. A part with the factor 0 counts as
    zeros, whatever it holds.
    """
    cdef SumCall c
    cdef Py_ssize_t i
    cdef int typenum = float_type("parts[0]", parts[0])
    c.n, c.n_parts, c.n_outs = parts[0].size, len(parts), len(outs)
    numbers = as_input("factors", np.array(factors, np.float64), cnp.NPY_FLOAT64, (c.n_parts,))
    pointers = np.empty(c.n_parts + c.n_outs, np.uintp)
    parts = [as_input(f"parts[{i}]", a, typenum, (c.n,)) for i, a in enumerate(parts)]
    outs = [as_output(f"outs[{i}]", a, typenum, (c.n,)) for i, a in enumerate(outs)]
    for i, a in enumerate(parts + outs):
        pointers[i] = <size_t>data(a)
    c.factors, c.parts, c.outs = <double*>data(numbers), <void**>data(pointers), <void**>data(pointers) + c.n_parts
    with nogil:
        run_typed(typenum, sum_parts_job[float], sum_parts_job[double], &c, threads_for(c.n * (c.n_parts + c.n_outs)))
