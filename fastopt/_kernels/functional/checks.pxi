# What stands between Python and a pointer: dtype, shape, layout, overlap.
#
# Every check raises before anything is written, and its message names the
# argument, what was expected, what came, and the way out.

cdef inline bint is_array(object a):
    # an ndarray all of whose elements count
    return cnp.PyArray_CheckExact(a) or (cnp.PyArray_Check(a) and not _arrays.has_masked(a))


cdef inline bint is_plain(object a, int typenum, int ndim):
    # an ndarray of this dtype and rank that a kernel can read where it lies
    return (is_array(a) and cnp.PyArray_TYPE(<cnp.ndarray>a) == typenum
            and cnp.PyArray_NDIM(<cnp.ndarray>a) == ndim
            and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a)
            and cnp.PyArray_ISALIGNED(<cnp.ndarray>a) and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>a))


cdef inline void* data(object a) noexcept:
    return cnp.PyArray_DATA(<cnp.ndarray>a)


cdef int float_type(str name, object a) except -1:
    # the type number of a floating array that sets the dtype of a call
    cdef int typenum
    if is_array(a) and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>a):
        typenum = cnp.PyArray_TYPE(<cnp.ndarray>a)
        if typenum == cnp.NPY_FLOAT32 or typenum == cnp.NPY_FLOAT64:
            return typenum
    _arrays.require_array(name, a)
    if a.dtype == np.float32:
        return cnp.NPY_FLOAT32
    if a.dtype == np.float64:
        return cnp.NPY_FLOAT64
    raise TypeError(f"{name}: expected dtype float32 or float64, got {a.dtype}; pass {name}.astype(np.float32)")


cdef object dtype_of(int typenum):
    return np.dtype(np.float32 if typenum == cnp.NPY_FLOAT32 else np.float64)


cdef str shape_text(tuple shape):
    return "(" + ", ".join("n" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


cdef inline bint fits(object a, tuple shape):
    # whether an ndarray has the shape; None stands for any length
    cdef Py_ssize_t i
    if cnp.PyArray_NDIM(<cnp.ndarray>a) != len(shape):
        return False
    for i in range(len(shape)):
        if shape[i] is not None and <Py_ssize_t>shape[i] != cnp.PyArray_DIM(<cnp.ndarray>a, <int>i):
            return False
    return True


cdef object new_array(int typenum, Py_ssize_t n, tuple shape=()):
    # (n, *shape), not initialized
    cdef cnp.npy_intp dims[4]
    cdef Py_ssize_t i
    dims[0] = n
    for i in range(len(shape)):
        dims[i + 1] = shape[i]
    return cnp.PyArray_EMPTY(<int>len(shape) + 1, dims, typenum, 0)


cdef int check_shape(str name, object a, tuple shape, str way_out="") except -1:
    if not fits(a, shape):
        if not way_out and a.ndim == 1 and len(shape) == 2:
            way_out = f"; pass {name}.reshape(1, -1) for one row"
        raise ValueError(f"{name}: expected shape {shape_text(shape)}, got {a.shape}{way_out}")
    return 0


cdef object as_input(str name, object a, int typenum, tuple shape):
    # an array a kernel only reads: of exactly this dtype; copied if its layout asks for it
    if is_plain(a, typenum, <int>len(shape)) and fits(a, shape):
        return a
    if not is_plain(a, typenum, len(shape)):
        if float_type(name, a) != typenum:
            raise TypeError(f"{name}: expected dtype {dtype_of(typenum)}, got {a.dtype}; pass {name}.astype(np.{dtype_of(typenum)})")
        check_shape(name, a, shape)
        a = np.require(a, dtype_of(typenum), ["C", "A"])
    check_shape(name, a, shape)
    return a


cdef object as_numbers(str name, object a, int typenum, tuple shape):
    # any real numbers, converted to the dtype of a network if need be
    if not is_plain(a, typenum, <int>len(shape)):
        a = _arrays.as_numbers(name, a)
        check_shape(name, a, shape)
        a = np.require(a, dtype_of(typenum), ["C", "A"])
    check_shape(name, a, shape)
    return a


cdef object as_output(str name, object a, int typenum, tuple shape):
    # an array a kernel overwrites in place; None makes a new one
    if is_plain(a, typenum, <int>len(shape)) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>a) and fits(a, shape):
        return a
    if a is None:
        return np.empty(shape, dtype_of(typenum))
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array to write to, got {type(a).__name__}")
    _arrays.require_array(name, a)
    if a.dtype != dtype_of(typenum) or not a.dtype.isnative:
        raise TypeError(f"{name}: expected dtype {dtype_of(typenum)} to write to, got {a.dtype}")
    check_shape(name, a, shape)
    if not a.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one; pass a copy")
    if not is_plain(a, typenum, len(shape)):
        raise ValueError(f"{name}: expected a C-contiguous, aligned array to write to, got strides {a.strides}; "
                         f"pass np.ascontiguousarray({name})")
    return a


cdef object optional_input(str name, object a, int typenum, tuple shape):
    return None if a is None else as_input(name, a, typenum, shape)


cdef object optional_output(str name, object a, int typenum, tuple shape):
    return None if a is None else as_output(name, a, typenum, shape)


cdef bint overlaps(object a, object b):
    # whether two contiguous arrays share memory
    cdef char* p = <char*>data(a)
    cdef char* q = <char*>data(b)
    return p < q + cnp.PyArray_NBYTES(<cnp.ndarray>b) and q < p + cnp.PyArray_NBYTES(<cnp.ndarray>a)


cdef int check_no_overlap(tuple names, tuple outputs, tuple input_names, tuple inputs) except -1:
    # no output shares memory with an input or another output; None is absent
    cdef Py_ssize_t i, j
    for i in range(len(outputs)):
        for j in range(i):
            check_pair(names[i], outputs[i], names[j], outputs[j])
        for j in range(len(inputs)):
            check_pair(names[i], outputs[i], input_names[j], inputs[j])
    return 0


cdef inline int check_pair(str name, object a, str other, object b) except -1:
    if a is not None and b is not None and overlaps(a, b):
        raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}; pass a copy")
    return 0


cdef int check_disjoint(list arrays) except -1:
    # (name, array) pairs: no two share memory
    spans = sorted((<size_t>data(a), i) for i, (_, a) in enumerate(arrays) if a.size)
    for (_, i), (start, j) in zip(spans, spans[1:]):
        if overlaps(arrays[i][1], arrays[j][1]):
            raise ValueError(f"{arrays[max(i, j)][0]}: expected memory of its own, got an array that overlaps "
                             f"{arrays[min(i, j)][0]}; pass a copy")
    return 0


cdef inline Py_ssize_t whole_number(str name, object a) except -1:
    # at least 1; without a call where it is a Python int
    return a if type(a) is int and a > 0 else _numbers.whole_number(name, a)


cdef inline double positive_number(str name, object a) except -1:
    # finite and above 0; without a call where it is a Python float
    return a if type(a) is float and 0 < <double>a < HUGE_VAL else _numbers.finite_number(name, a, above=0)


cdef int activation_code(object activation) except -1:
    try:
        return ACTIVATIONS.index(activation)
    except ValueError:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}") from None
