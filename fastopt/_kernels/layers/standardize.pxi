# Standardization: y = (x - mean) * scale per column, by given statistics.
#
# Mean and scale are float64 whatever the network's dtype, and the first entry reads x in the dtype that came, float32 or
# float64: a column far from zero beside its deviation keeps its digits.
# - From float32 to float32 the arithmetic is float32, with the mean in two parts, (x - high) - low: where x is near the
#   mean, x - high is exact. The layer keeps high, low and scale in float32 beside mean and scale.
# - Everything else, and a mean or scale outside the range of float32, is computed in float64 and rounded once.
# - Statistics of files written before were taken of data rounded to the network's dtype. With them x is rounded to it
#   first, and low is 0: such a network keeps its bits.

ctypedef fused x_float:         # the dtype of x, where that of y is `floating`
    float
    double

cdef enum:                      # how a network of float32 reads x
    READ_IN_FLOAT64
    READ_AS_IT_COMES            # float32 in float32, float64 in float64
    READ_ROUNDED


cdef struct Standardize:
    const double *mean          # (c,)
    const double *scale
    const float *split          # (3, c): the mean in two parts and the scale, in float32
    const uint8_t *reading      # where its layer keeps how x is read, a READ_ value


cdef inline void standardize_split_row(const x_float* x, const float* high, const float* low, const float* scale, float* y,
                                       Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c):
        y[j] = ((<float>x[j] - high[j]) - low[j]) * scale[j]


cdef inline void standardize_wide_row(const x_float* x, const double* mean, const double* scale, floating* y,
                                      Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c):
        y[j] = <floating>((<double>x[j] - mean[j]) * scale[j])


cdef void standardize_rows(Run* r, Entry* e, const Rows* x, const x_float* like, floating* dtype, Py_ssize_t thread,
                           Py_ssize_t n_threads) noexcept nogil:
    # x (n, c), in the dtype that came -> y (n, c)
    cdef const Standardize* s = <Standardize*>e.own
    cdef int reading = s.reading[0]
    cdef Py_ssize_t i, c = e.n_in
    cdef bint in_float32 = reading == READ_ROUNDED or (reading == READ_AS_IT_COMES and sizeof(x_float) == sizeof(float))
    cdef Rows y = dst_rows(r, e, r.values, dtype)
    for i in range(chunk_start(rows_in(r, e), 1, thread, n_threads), chunk_start(rows_in(r, e), 1, thread + 1, n_threads)):
        if floating is float and in_float32:
            standardize_split_row(row(x, i, <x_float*>like), s.split, s.split + c, s.split + 2 * c, row(&y, i, dtype), c)
        else:
            standardize_wide_row(row(x, i, <x_float*>like), s.mean, s.scale, row(&y, i, dtype), c)


cdef void forward_standardize(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t source = e.sources[0].value
    cdef Rows x
    if (r.x_typenum if r.shapes[source].owner == 0 else r.typenum) == cnp.NPY_FLOAT32:
        x = value_rows(r, source, r.values, <float*>NULL)
        standardize_rows(r, e, &x, <float*>NULL, dtype, thread, n_threads)
    else:
        x = value_rows(r, source, r.values, <double*>NULL)
        standardize_rows(r, e, &x, <double*>NULL, dtype, thread, n_threads)


cdef void scale_columns(Run* r, Entry* e, const Rows* dy, const Rows* dx, bint accumulate, floating* dtype,
                        Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy (n, c) -> dx (n, c) (+)= dy * scale
    cdef const double* scale = (<Standardize*>e.own).scale
    cdef Py_ssize_t i, j
    cdef const floating* at
    cdef floating* to
    for i in range(chunk_start(rows_in(r, e), 1, thread, n_threads), chunk_start(rows_in(r, e), 1, thread + 1, n_threads)):
        at, to = row(dy, i, dtype), row(dx, i, dtype)
        for j in range(e.n_in):
            to[j] = (to[j] if accumulate else <floating>0) + at[j] * <floating>scale[j]


cdef void backward_standardize(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows dy = dst_rows(r, e, r.dvalues, dtype), dx = source_rows(r, e, r.dvalues, dtype)
    if e.sources[0].wanted:
        scale_columns(r, e, &dy, &dx, e.sources[0].accumulate, dtype, thread, n_threads)


cdef void tangent_standardize(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows tx = source_rows(r, e, r.tangents, dtype), ty = dst_rows(r, e, r.tangents, dtype)
    if e.sources[0].wanted:
        scale_columns(r, e, &tx, &ty, False, dtype, thread, n_threads)


cdef int place_standardize(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # own: mean, scale (c,) in float64; split (3, c) in float32 and reading () in uint8, which the layer makes of these
    cdef Standardize* s = <Standardize*>arrays.block(sizeof(Standardize))
    e.own = <void*>s
    s.mean = <double*>arrays.hold("mean", own.pop("mean"), cnp.NPY_FLOAT64, (e.n_in,))
    s.scale = <double*>arrays.hold("scale", own.pop("scale"), cnp.NPY_FLOAT64, (e.n_in,))
    s.split = <float*>arrays.hold("split", own.pop("split"), cnp.NPY_FLOAT32, (3, e.n_in))
    s.reading = <uint8_t*>arrays.hold("reading", own.pop("reading"), cnp.NPY_UINT8, ())
    return 0


cdef Kind standardize_kind
standardize_kind.forward = Pass(forward_standardize[float], forward_standardize[double])
standardize_kind.backward = Pass(backward_standardize[float], backward_standardize[double])
standardize_kind.tangent = Pass(tangent_standardize[float], tangent_standardize[double])
standardize_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
standardize_kind.place, standardize_kind.fits = place_standardize, same_shape
standardize_kind.reads_either, standardize_kind.least_rows = True, 1
register_kind(&standardize_kind, "standardize")
