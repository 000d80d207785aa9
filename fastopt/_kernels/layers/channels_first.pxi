# Images that come as (channels, height, width), turned to (height, width, channels).
#
# Such an image is a value of channels x height positions, each a line of `width` numbers. Line y of the turned image is the
# transpose of line y of all channels. TURN_CHANNELS lines are read at a time, and as many numbers written side by side, so
# neither reads nor writes leave the first cache for less than a cache line.

cdef enum:
    TURN_CHANNELS = 16


cdef inline void turn_lines(const Rows* first, const Rows* last, Py_ssize_t channels, Py_ssize_t height, Py_ssize_t width,
                            Py_ssize_t start, Py_ssize_t stop, bint forward, bint accumulate, floating* dtype) noexcept nogil:
    # lines start to stop of a batch, from first (n, channels, height, width) to last (n, height, width, channels), or back
    cdef Py_ssize_t i, k, c, x
    cdef floating* of
    cdef floating* to
    for i in range(start, stop):
        k = 0
        while k < channels:
            for c in range(k, min(k + TURN_CHANNELS, channels)):
                of = row(first, (i // height * channels + c) * height + i % height, dtype)
                to = row(last, i * width, dtype) + c        # a line of positions is in one run
                for x in range(width):
                    if forward:
                        to[x * last.ld] = of[x]
                    elif accumulate:
                        of[x] += to[x * last.ld]
                    else:
                        of[x] = to[x * last.ld]
            k += TURN_CHANNELS


cdef void turn(Run* r, Entry* e, void** values, bint forward, bint accumulate, floating* dtype, Py_ssize_t thread,
               Py_ssize_t n_threads) noexcept nogil:
    cdef Rows first = source_rows(r, e, values, dtype), last = dst_rows(r, e, values, dtype)
    cdef Py_ssize_t height = e.positions // e.n_out, lines = r.samples * height
    cdef Py_ssize_t start = chunk_start(lines, 1, thread, n_threads), stop = chunk_start(lines, 1, thread + 1, n_threads)
    if forward:
        turn_lines(&first, &last, e.n_out, height, e.n_in, start, stop, True, False, dtype)
    elif accumulate:
        turn_lines(&first, &last, e.n_out, height, e.n_in, start, stop, False, True, dtype)
    else:
        turn_lines(&first, &last, e.n_out, height, e.n_in, start, stop, False, False, dtype)


cdef void forward_channels_first(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, channels, height, width) -> y (n, height, width, channels)
    turn(r, e, r.values, True, False, dtype, thread, n_threads)


cdef void backward_channels_first(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy (n, height, width, channels) -> dx (n, channels, height, width) (+)=
    if e.sources[0].wanted:
        turn(r, e, r.dvalues, False, e.sources[0].accumulate, dtype, thread, n_threads)


cdef void tangent_channels_first(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if e.sources[0].wanted:
        turn(r, e, r.tangents, True, False, dtype, thread, n_threads)


cdef bint channels_first_fits(const Entry* e, const Shape* shapes) noexcept:
    cdef const Shape* first = &shapes[e.sources[0].value]
    cdef const Shape* last = &shapes[e.dst]
    return first.height == last.channels and first.width == last.height and first.channels == last.width


cdef Kind channels_first_kind
channels_first_kind.forward = Pass(forward_channels_first[float], forward_channels_first[double])
channels_first_kind.backward = Pass(backward_channels_first[float], backward_channels_first[double])
channels_first_kind.tangent = Pass(tangent_channels_first[float], tangent_channels_first[double])
channels_first_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
channels_first_kind.fits, channels_first_kind.least_rows = channels_first_fits, 1
register_kind(&channels_first_kind, "channels_first")
