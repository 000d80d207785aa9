# Augmentation: each image of a batch is flipped and shifted at random; zeros come in where it leaves.
#
# - Nothing is stored: what happens to image i of a batch is a function of (seed, step, i), drawn by splitmix64 as the keys of
#   dropout are, and drawn again in backward.
# - Pixel p of an axis comes from `start + step p`, step being 1 or -1: a map whose inverse is of the same form. So backward,
#   which takes the gradient of each pixel from where the pixel went, is forward with the inverse.

cdef struct Augment:
    Py_ssize_t height, width    # the largest shifts, in pixels
    bint flip_height, flip_width
    uint64_t *seed              # where its layer keeps it

cdef struct AxisMap:
    Py_ssize_t start, step


cdef inline AxisMap axis_map(uint64_t draw, Py_ssize_t most, bint flips, Py_ssize_t size) noexcept nogil:
    # from a draw of 32 bits: its high bits say by how much the content of an axis moves on, its lowest bit whether it is flipped before
    cdef Py_ssize_t by = <Py_ssize_t>((draw * <uint64_t>(2 * most + 1)) >> 32) - most
    if flips and draw & 1:
        return AxisMap(size - 1 + by, -1)
    return AxisMap(-by, 1)


cdef inline AxisMap inverse_map(AxisMap m) noexcept nogil:
    return AxisMap(-m.step * m.start, m.step)


cdef void augment_rows(Run* r, Entry* e, const Rows* x, const Rows* y, bint inverse, bint accumulate, floating* dtype,
                       Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # y (n, height, width, c) (+)= x, moved; the thread's lines of pixels
    cdef Augment* a = <Augment*>e.own
    cdef const Shape* s = &r.shapes[e.dst]
    cdef Py_ssize_t lines = r.samples * s.height, image, i, line
    cdef uint64_t stream = splitmix64(splitmix64(a.seed[0]) + r.step), draw
    cdef AxisMap down, along
    for i in range(chunk_start(lines, 1, thread, n_threads), chunk_start(lines, 1, thread + 1, n_threads)):
        image = i // s.height
        draw = splitmix64(stream + image)
        down = axis_map(draw >> 32, a.height, a.flip_height, s.height)
        along = axis_map(<uint32_t>draw, a.width, a.flip_width, s.width)
        if inverse:
            down, along = inverse_map(down), inverse_map(along)
        line = down.start + down.step * (i % s.height)
        if line < 0 or line >= s.height:        # no pixel of this line comes from the image
            along.start, along.step, line = -1, 0, 0
        augment_line(row(x, (image * s.height + line) * s.width, dtype), x.ld, row(y, i * s.width, dtype), y.ld, along, s.width,
                     s.channels, accumulate)


cdef inline void augment_line(const floating* x, Py_ssize_t ldx, floating* y, Py_ssize_t ldy, AxisMap m, Py_ssize_t width, Py_ssize_t c,
                              bint accumulate) noexcept nogil:
    # one line of pixels of c channels
    cdef Py_ssize_t j, k, source = m.start
    for j in range(width):
        if source < 0 or source >= width:
            for k in range(0 if accumulate else c):
                y[k] = 0
        elif accumulate:
            for k in range(c):
                y[k] += x[source * ldx + k]
        else:
            for k in range(c):
                y[k] = x[source * ldx + k]
        source += m.step
        y += ldy


cdef void forward_augment(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows x = source_rows(r, e, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    augment_rows(r, e, &x, &y, False, False, dtype, thread, n_threads)


cdef void backward_augment(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows dy = dst_rows(r, e, r.dvalues, dtype), dx = source_rows(r, e, r.dvalues, dtype)
    if e.sources[0].wanted:
        augment_rows(r, e, &dy, &dx, True, e.sources[0].accumulate, dtype, thread, n_threads)


cdef void tangent_augment(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Rows tx = source_rows(r, e, r.tangents, dtype), ty = dst_rows(r, e, r.tangents, dtype)
    if e.sources[0].wanted:
        augment_rows(r, e, &tx, &ty, False, False, dtype, thread, n_threads)


cdef int place_augment(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # own: shift and flip, pairs of height and width, and seed () in uint64, which its layer may set
    cdef Augment* a = <Augment*>arrays.block(sizeof(Augment))
    e.own = <void*>a
    a.height, a.width = own.pop("shift")
    a.flip_height, a.flip_width = own.pop("flip")
    a.seed = <uint64_t*>arrays.hold("seed", own.pop("seed"), cnp.NPY_UINT64, ())
    return 0


cdef Kind augment_kind
augment_kind.forward = Pass(forward_augment[float], forward_augment[double])
augment_kind.backward = Pass(backward_augment[float], backward_augment[double])
augment_kind.tangent = Pass(tangent_augment[float], tangent_augment[double])
augment_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
augment_kind.place, augment_kind.fits, augment_kind.least_rows = place_augment, same_shape, 1
register_kind(&augment_kind, "augment")
