# Pooling: of the window of every output pixel the largest or the average, channel by channel.
#
# - The rules are torch's. Windows are clipped to the image, so padding is never read. An average divides by its window as
#   far as it lies within the padded image, or by its real pixels. NaN wins every maximum, and of equal pixels the first, in
#   row order, gets the gradient.
# - A window is folded twice: its columns, and then what they give, from left to right. Neighboring windows share columns,
#   and loops along channels become loops along whole rows of pixels. A block of columns stays in L1 between the two.
# - Forward is cut by rows of the output, backward by rows of dx: a thread goes through every window that meets its rows, in
#   order, and writes into its rows only. So a sum has one order at any team.
# - Backward of a maximum finds the winner again, as maxout does.

cdef extern from "simd.h" nogil:
    ctypedef struct Winners:
        const void *x
        const void *best
        const void *dy
        void *dx
        Py_ssize_t x_row, x_pixel, dx_row, dx_pixel, pixels, channels, first, end
    void add_to_winners "fastopt_add_to_winners"(const void* like, const Winners* w)    # like: a number of the dtype

cdef struct Axis:               # the windows along one axis of an image
    Py_ssize_t kernel, stride, padding
    Py_ssize_t pixels, windows

cdef struct Pool2d:
    Axis y, x
    bint count_include_pad      # of averages


cdef inline Py_ssize_t first_pixel(const Axis* a, Py_ssize_t window) noexcept nogil:
    return max(<Py_ssize_t>0, window * a.stride - a.padding)


cdef inline Py_ssize_t end_pixel(const Axis* a, Py_ssize_t window) noexcept nogil:
    return min(a.pixels, window * a.stride - a.padding + a.kernel)


cdef inline Py_ssize_t first_window(const Axis* a, Py_ssize_t pixel) noexcept nogil:
    # the first window that ends behind a pixel
    cdef Py_ssize_t before = pixel + a.padding - a.kernel
    return before // a.stride + 1 if before >= 0 else 0


cdef inline Py_ssize_t end_window(const Axis* a, Py_ssize_t end) noexcept nogil:
    # the first window that starts at pixel `end` or behind it
    return min(a.windows, (end - 1 + a.padding) // a.stride + 1)


cdef inline Py_ssize_t counted_pixels(const Axis* a, Py_ssize_t window, bint include_pad) noexcept nogil:
    # what an average divides by, along this axis
    cdef Py_ssize_t start = window * a.stride - a.padding
    if include_pad:
        return min(a.pixels + a.padding, start + a.kernel) - start
    return end_pixel(a, window) - first_pixel(a, window)


cdef inline Image images_of(const Run* r, Py_ssize_t value, void** values, Py_ssize_t channel, floating* dtype) noexcept nogil:
    # of a value in `values`, those of a Run, its dvalues or tangents: from a channel on
    return image_of(&r.shapes[value], <floating*>values[r.shapes[value].owner] + channel, dtype)


cdef inline floating* pixel_at(const Image* a, Py_ssize_t image, Py_ssize_t y, Py_ssize_t x, floating* dtype) noexcept nogil:
    return <floating*>a.start + image * a.image + y * a.row + x * a.pixel


# --- forward

cdef inline void fold_body(bint maxima, const floating* x, Py_ssize_t step, Py_ssize_t taps, floating* y, Py_ssize_t n,
                           bint accumulate) noexcept nogil:
    cdef Py_ssize_t i, t
    cdef floating folded
    for i in range(n):
        folded = y[i] if accumulate else x[i]
        for t in range(0 if accumulate else 1, taps):
            folded = maximum(folded, x[i + t * step]) if maxima else folded + x[i + t * step]
        y[i] = folded


cdef inline void fold_some(bint maxima, const floating* x, Py_ssize_t step, Py_ssize_t taps, floating* y, Py_ssize_t n,
                           bint accumulate) noexcept nogil:
    # up to four taps, or three besides y: constants let the compiler vectorize
    if not accumulate:
        if taps == 1:
            memcpy(y, x, n * sizeof(floating))
        elif taps == 2:
            fold_body(maxima, x, step, 2, y, n, False)
        elif taps == 3:
            fold_body(maxima, x, step, 3, y, n, False)
        else:
            fold_body(maxima, x, step, 4, y, n, False)
    elif taps == 1:
        fold_body(maxima, x, step, 1, y, n, True)
    elif taps == 2:
        fold_body(maxima, x, step, 2, y, n, True)
    else:
        fold_body(maxima, x, step, 3, y, n, True)


cdef void fold(bint maxima, const floating* x, Py_ssize_t step, Py_ssize_t taps, floating* y, Py_ssize_t n,
               bint accumulate) noexcept nogil:
    # y (n,) = the largest or the sum of `taps` rows of x, (n,) each and `step` apart, or of y and these, in this order
    cdef Py_ssize_t some
    while taps > 0:
        some = min(taps, <Py_ssize_t>(3 if accumulate else 4))
        if maxima:
            fold_some(True, x, step, some, y, n, accumulate)
        else:
            fold_some(False, x, step, some, y, n, accumulate)
        x, taps, accumulate = x + some * step, taps - some, True


cdef void pool_row(const Pool2d* p, bint maxima, const Image* x, Py_ssize_t image, Py_ssize_t window_y, Py_ssize_t c, floating* y,
                   Py_ssize_t y_pixel) noexcept nogil:
    # y, a row of the output, in the c channels with which x and y start
    cdef floating columns[POOL_BLOCK]       # (pixels, c): columns of the windows, folded
    cdef Py_ssize_t y0 = first_pixel(&p.y, window_y), rows = end_pixel(&p.y, window_y) - y0, i, start = 0, stop, window, x0, x1
    cdef floating count
    cdef const floating* at
    cdef floating* to
    while start < p.x.pixels:
        stop, at = min(p.x.pixels, start + POOL_BLOCK // c), pixel_at(x, image, y0, start, y)
        if x.pixel == c:
            fold(maxima, at, x.row, rows, columns, (stop - start) * c, False)
        else:
            for i in range(stop - start):
                fold(maxima, at + i * x.pixel, x.row, rows, columns + i * c, c, False)
        for window in range(first_window(&p.x, start), end_window(&p.x, stop)):
            x0, x1, to = first_pixel(&p.x, window), end_pixel(&p.x, window), y + window * y_pixel
            i = max(x0, start)              # of a window that has begun in the block before, the rest
            fold(maxima, columns + (i - start) * c, c, min(x1, stop) - i, to, c, i > x0)
            if not maxima and x1 <= stop:
                count = counted_pixels(&p.y, window_y, p.count_include_pad) * counted_pixels(&p.x, window, p.count_include_pad)
                for i in range(c):
                    to[i] = to[i] / count
        start = stop


cdef void pool_forward(Run* r, Entry* e, void** values, bint maxima, floating* dtype, Py_ssize_t thread,
                       Py_ssize_t n_threads) noexcept nogil:
    # x (n, height, width, c) -> y (n, windows, windows, c); a thread owns rows of y
    cdef const Pool2d* p = <Pool2d*>e.own
    cdef Image x, y
    cdef Py_ssize_t m = r.samples * p.y.windows, i, c0 = 0, c
    while c0 < e.n_in:
        c = min(<Py_ssize_t>POOL_CHANNELS, e.n_in - c0)
        x, y = images_of(r, e.sources[0].value, values, c0, dtype), images_of(r, e.dst, values, c0, dtype)
        for i in range(chunk_start(m, 1, thread, n_threads), chunk_start(m, 1, thread + 1, n_threads)):
            pool_row(p, maxima, &x, i // p.y.windows, i % p.y.windows, c, pixel_at(&y, i // p.y.windows, i % p.y.windows, 0, dtype),
                     y.pixel)
        c0 += c


cdef void forward_max_pool2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    pool_forward(r, e, r.values, True, dtype, thread, n_threads)


cdef void forward_avg_pool2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    pool_forward(r, e, r.values, False, dtype, thread, n_threads)


# --- backward

cdef inline void window_maxima(const Pool2d* p, const Image* x, Py_ssize_t image, Py_ssize_t window_y, Py_ssize_t window_x,
                               floating* best, Py_ssize_t c) noexcept nogil:
    # best (c,)
    cdef Py_ssize_t y0 = first_pixel(&p.y, window_y), x0 = first_pixel(&p.x, window_x), taps = end_pixel(&p.x, window_x) - x0, i
    for i in range(y0, end_pixel(&p.y, window_y)):
        fold(True, <const floating*>pixel_at(x, image, i, x0, best), x.pixel, taps, best, c, i > y0)


cdef void max_window_backward(const Pool2d* p, const Image* x, const Image* dx, Py_ssize_t image, Py_ssize_t window_y,
                              Py_ssize_t window_x, Py_ssize_t first, Py_ssize_t end, const floating* dy, Py_ssize_t c) noexcept nogil:
    # rows first to end of dx += dy (c,) at the first largest pixel of a window, which may stand before these rows
    cdef floating best[POOL_CHANNELS]
    cdef Py_ssize_t y0 = first_pixel(&p.y, window_y), x0 = first_pixel(&p.x, window_x)
    cdef Winners w
    window_maxima(p, x, image, window_y, window_x, best, c)
    w.x, w.x_row, w.x_pixel = pixel_at(x, image, y0, x0, best), x.row, x.pixel
    w.dx, w.dx_row, w.dx_pixel = pixel_at(dx, image, y0, x0, best), dx.row, dx.pixel
    w.best, w.dy, w.pixels, w.channels = best, dy, end_pixel(&p.x, window_x) - x0, c
    w.first, w.end = first - y0, min(end, end_pixel(&p.y, window_y)) - y0
    add_to_winners(dy, &w)


cdef void avg_window_backward(const Pool2d* p, const Image* dx, Py_ssize_t image, Py_ssize_t window_y, Py_ssize_t window_x,
                              Py_ssize_t first, Py_ssize_t end, const floating* dy, Py_ssize_t c) noexcept nogil:
    # rows first to end of dx += dy (c,) / count at every pixel of a window
    cdef floating share[POOL_CHANNELS]
    cdef floating count = (counted_pixels(&p.y, window_y, p.count_include_pad)
                           * counted_pixels(&p.x, window_x, p.count_include_pad))
    cdef Py_ssize_t i, j, k
    cdef floating* to
    for k in range(c):
        share[k] = dy[k] / count
    for i in range(max(first, first_pixel(&p.y, window_y)), min(end, end_pixel(&p.y, window_y))):
        for j in range(first_pixel(&p.x, window_x), end_pixel(&p.x, window_x)):
            to = pixel_at(dx, image, i, j, share)
            for k in range(c):
                to[k] += share[k]


cdef void pool_backward(Run* r, Entry* e, bint maxima, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy (n, windows, windows, c), x (n, height, width, c) -> dx; a thread owns rows of dx
    cdef const Pool2d* p = <Pool2d*>e.own
    cdef Image x, dx, dy
    cdef Py_ssize_t m = r.samples * p.y.pixels, start = chunk_start(m, 1, thread, n_threads)
    cdef Py_ssize_t stop = chunk_start(m, 1, thread + 1, n_threads), c0 = 0, c, row, image, first, end, i, j
    while c0 < e.n_in and e.sources[0].wanted:
        c, row = min(<Py_ssize_t>POOL_CHANNELS, e.n_in - c0), start
        x, dx = images_of(r, e.sources[0].value, r.values, c0, dtype), images_of(r, e.sources[0].value, r.dvalues, c0, dtype)
        dy = images_of(r, e.dst, r.dvalues, c0, dtype)
        while row < stop:       # the rows of one image
            image, first = row // p.y.pixels, row % p.y.pixels
            end = min(p.y.pixels, first + stop - row)
            if c0 == 0 and not e.sources[0].accumulate:
                for i in range(first, end):         # a source is all of the channels of its value
                    memset(pixel_at(&dx, image, i, 0, dtype), 0, p.x.pixels * e.n_in * sizeof(floating))
            for i in range(first_window(&p.y, first), end_window(&p.y, end)):
                for j in range(p.x.windows):
                    if maxima:
                        max_window_backward(p, &x, &dx, image, i, j, first, end, pixel_at(&dy, image, i, j, dtype), c)
                    else:
                        avg_window_backward(p, &dx, image, i, j, first, end, pixel_at(&dy, image, i, j, dtype), c)
            row += end - first
        c0 += c


cdef void backward_max_pool2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    pool_backward(r, e, True, dtype, thread, n_threads)


cdef void backward_avg_pool2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    pool_backward(r, e, False, dtype, thread, n_threads)


# --- tangents. Both backwards are linear in dy, and the same however x moves

cdef inline void follow(const floating* x, const floating* best, const floating* tx, floating* ty, Py_ssize_t c) noexcept nogil:
    # ty = tx where x has won
    cdef Py_ssize_t i
    cdef floating change
    for i in range(c):
        change = tx[i] if x[i] == best[i] else ty[i]
        ty[i] = tx[i] if x[i] != x[i] else change


cdef void max_window_tangent(const Pool2d* p, const Image* x, const Image* tx, Py_ssize_t image, Py_ssize_t window_y,
                             Py_ssize_t window_x, floating* ty, Py_ssize_t c) noexcept nogil:
    # ty (c,) = tx of the first largest pixel: from the last to the first, so that the first winner stays
    cdef floating best[POOL_CHANNELS]
    cdef Py_ssize_t i, j
    window_maxima(p, x, image, window_y, window_x, best, c)
    for i in range(end_pixel(&p.y, window_y) - 1, first_pixel(&p.y, window_y) - 1, -1):
        for j in range(end_pixel(&p.x, window_x) - 1, first_pixel(&p.x, window_x) - 1, -1):
            follow(pixel_at(x, image, i, j, best), best, pixel_at(tx, image, i, j, best), ty, c)


cdef void tangent_max_pool2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef const Pool2d* p = <Pool2d*>e.own
    cdef Image x, tx, ty
    cdef Py_ssize_t m = r.samples * p.y.windows, i, j, image, window_y, c0 = 0, c
    while c0 < e.n_in and e.sources[0].wanted:
        c = min(<Py_ssize_t>POOL_CHANNELS, e.n_in - c0)
        x, tx = images_of(r, e.sources[0].value, r.values, c0, dtype), images_of(r, e.sources[0].value, r.tangents, c0, dtype)
        ty = images_of(r, e.dst, r.tangents, c0, dtype)
        for i in range(chunk_start(m, 1, thread, n_threads), chunk_start(m, 1, thread + 1, n_threads)):
            image, window_y = i // p.y.windows, i % p.y.windows
            for j in range(p.x.windows):
                max_window_tangent(p, &x, &tx, image, window_y, j, pixel_at(&ty, image, window_y, j, dtype), c)
        c0 += c


cdef void tangent_avg_pool2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if e.sources[0].wanted:
        pool_forward(r, e, r.tangents, False, dtype, thread, n_threads)


# --- the kinds

cdef inline bint windows_fit(const Axis* a) noexcept:
    # whether padding is at most half a window, and every window holds a pixel
    return a.kernel > 0 and a.stride > 0 and 0 <= 2 * a.padding <= a.kernel and (a.windows - 1) * a.stride - a.padding < a.pixels


cdef int place_pool2d(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # own: kernel_size, stride, padding, each (rows, columns); of averages count_include_pad
    cdef const Shape* x = &arrays.shapes[e.sources[0].value]
    cdef const Shape* y = &arrays.shapes[e.dst]
    cdef Pool2d* p = <Pool2d*>arrays.block(sizeof(Pool2d))
    kernel, stride, padding = own.pop("kernel_size"), own.pop("stride"), own.pop("padding")
    p.y = Axis(kernel[0], stride[0], padding[0], x.height, y.height)
    p.x = Axis(kernel[1], stride[1], padding[1], x.width, y.width)
    e.own, p.count_include_pad = <void*>p, own.pop("count_include_pad", False)
    if not (windows_fit(&p.y) and windows_fit(&p.x)):
        raise ValueError(f"{arrays.entry}: expected windows that hold pixels of the image, got kernel_size {kernel}, stride {stride}, "
                         f"padding {padding} from {(x.height, x.width)} to {(y.height, y.width)}")
    return 0


cdef bint same_channels(const Entry* e, const Shape* shapes) noexcept:
    return e.n_in == e.n_out


cdef Kind max_pool2d_kind
max_pool2d_kind.forward = Pass(forward_max_pool2d[float], forward_max_pool2d[double])
max_pool2d_kind.backward = Pass(backward_max_pool2d[float], backward_max_pool2d[double])
max_pool2d_kind.tangent = Pass(tangent_max_pool2d[float], tangent_max_pool2d[double])
max_pool2d_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
max_pool2d_kind.place, max_pool2d_kind.fits, max_pool2d_kind.least_rows = place_pool2d, same_channels, 1
register_kind(&max_pool2d_kind, "max_pool2d")

cdef Kind avg_pool2d_kind
avg_pool2d_kind.forward = Pass(forward_avg_pool2d[float], forward_avg_pool2d[double])
avg_pool2d_kind.backward = Pass(backward_avg_pool2d[float], backward_avg_pool2d[double])
avg_pool2d_kind.tangent = Pass(tangent_avg_pool2d[float], tangent_avg_pool2d[double])
avg_pool2d_kind.tangent_backward = Pass(backward_twice[float], backward_twice[double])
avg_pool2d_kind.place, avg_pool2d_kind.fits, avg_pool2d_kind.least_rows = place_pool2d, same_channels, 1
register_kind(&avg_pool2d_kind, "avg_pool2d")
