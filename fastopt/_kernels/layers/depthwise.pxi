# Depthwise convolutions: as many groups as channels, before and after, so an output reads the channel of its number only:
# y[n, i, j, c] = phi(b[c] + sum over r, s of W[c, r, s] x[n, i stride + r dilation - top, j stride + s dilation - left, c]).
# conv2d calls these products in the place of its own.
#
# - Nothing is summed over channels, so lanes are channels, in x, in W and in y: depthwise.h. Outputs count as one group here,
#   whose filters lie in strips like all others, so that a tap is a run of vectors.
# - Such a layer waits for memory, hence nothing is copied into a border: a line of pixels goes by spans whose taps within the
#   image are the same, and no other tap is read.
# - dx is the same convolution of dz with taps that go backward; with a stride there is one for each pixel of a step, as in
#   conv2d_gradients.pxi.
# - dW is cut into the same chunks, here of lines. GRADIENT_PIXELS of a span are summed in registers.

cdef extern from "simd.h" nogil:
    ctypedef struct Taps:
        Py_ssize_t rows, columns, x_row, x_column, w_row, w_column
    ctypedef struct Depthwise:
        Taps taps
        const void *x
        const void *w
        const void *bias
        void *y
        Py_ssize_t x_pixel, y_pixel, pixels, channels
        bint accumulate, relu
    ctypedef struct DepthwiseGradient:
        Taps taps
        const void *x
        const void *dz
        void *dw
        Py_ssize_t x_line, x_pixel, dz_line, dz_pixel, lines, pixels, channels
    void depthwise_line "fastopt_depthwise_line"(const void* like, const Depthwise* line)      # like: a number of the dtype
    void depthwise_gradient "fastopt_depthwise_gradient"(const void* like, const DepthwiseGradient* sums)

cdef struct Sweep:              # how the pixels of an image read another one
    Regions regions             # of the pixels; both axes are cut
    Taps taps                   # the steps between taps, in elements of the image read and in taps of a filter
    Py_ssize_t tap, at          # the first one, and what pixel (0, 0) reads by it, counted from where a Grid's a starts


# --- tables

cdef Sweep forward_sweep(const Conv2d* d, Arrays arrays) except *:
    cdef Py_ssize_t x_row = (d.x.width + 2 * d.x.border_x) * d.x.ld
    cdef Sweep s
    s.regions = regions_by_taps(arrays, d.y.height, d.y.width, &d.x, (-d.top, -d.left), (d.stride_y, d.stride_x),
                                (d.dilation_y, d.dilation_x), (d.kernel_y, d.kernel_x), 1)
    s.taps = Taps(0, 0, d.dilation_y * x_row, d.dilation_x * d.x.ld, d.kernel_x, 1)
    s.tap = s.at = 0
    return s


cdef tuple turned_taps(Py_ssize_t phase, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation, Py_ssize_t before):
    # along an axis, the taps that reach pixel `phase` of a stride's step: how many, the first, how many from one to the next, the
    # pixel of dz to which the first belongs, and how many pixels from one to the next
    taps = [r for r in range(kernel) if (phase + before - r * dilation) % stride == 0]
    step = stride // math.gcd(stride, dilation)
    first = taps[0] if taps else 0
    return len(taps), first, step, (phase + before - first * dilation) // stride, -step * dilation // stride


cdef Sweep turned_sweep(const Conv2d* d, Arrays arrays, Py_ssize_t y, Py_ssize_t x) except *:
    # of dx, the pixels (y, x) of a stride's steps
    cdef Py_ssize_t dz_row = (d.y.width + 2 * d.y.border_x) * d.y.ld
    cdef Py_ssize_t rows, columns, r, c, r_step, c_step, at_y, at_x, y_step, x_step
    cdef Sweep s
    rows, r, r_step, at_y, y_step = turned_taps(y, d.kernel_y, d.stride_y, d.dilation_y, d.top)
    columns, c, c_step, at_x, x_step = turned_taps(x, d.kernel_x, d.stride_x, d.dilation_x, d.left)
    s.regions = regions_by_taps(arrays, pixels_of_phase(d.x.height, d.stride_y, y), pixels_of_phase(d.x.width, d.stride_x, x), &d.y,
                                (at_y, at_x), (1, 1), (y_step, x_step), (rows, columns), 1)
    s.taps = Taps(0, 0, y_step * dz_row, x_step * d.y.ld, r_step * d.kernel_x, c_step)
    s.tap, s.at = r * d.kernel_x + c, at_y * dz_row + at_x * d.y.ld
    return s


cdef int place_turned_sweeps(Conv2d* d, Arrays arrays) except -1:
    # what gradients take besides
    cdef Py_ssize_t y, x
    d.turned = <Sweep*>arrays.block(d.stride_y * d.stride_x * sizeof(Sweep))
    for y in range(d.stride_y):
        for x in range(d.stride_x):
            d.turned[y * d.stride_x + x] = turned_sweep(d, arrays, y, x)
    return 0


# --- products

cdef inline const Span* span_of(const Span* spans, Py_ssize_t i) noexcept nogil:
    while spans.stop <= i:
        spans += 1
    return spans


cdef void depthwise_spans(const Sweep* s, const Span* y, Py_ssize_t start, Py_ssize_t stop, const floating* x, Py_ssize_t w_tap,
                          const floating* w, floating* to, Depthwise* line) noexcept nogil:
    # pixels start to stop of a line of the output, whose pixel 0 is `to` and reads x by the first tap; a tap of w is w_tap elements
    cdef const Span* span = span_of(s.regions.x, start)
    cdef Py_ssize_t end
    while start < stop:
        end = min(stop, span.stop)
        line.taps.rows, line.taps.columns = y.last - y.first, span.last - span.first
        line.x = x + y.first * s.taps.x_row + span.first * s.taps.x_column + start * line.x_pixel
        line.w = w + (s.tap + y.first * s.taps.w_row + span.first * s.taps.w_column) * w_tap
        line.y, line.pixels = to + start * line.y_pixel, end - start
        depthwise_line(w, line)
        start = end
        span += 1


cdef void depthwise_product(const Grid* g, const Sweep* s, Py_ssize_t channels, Py_ssize_t taps, const void* packed, const void* bias,
                            bint accumulate, bint relu, Block own, floating* dtype) noexcept nogil:
    # pixels r0 to r1 of c, strips c0 to c1 of the channels
    cdef Py_ssize_t strip, column, w_tap, i, end, image, y, x
    cdef Depthwise line
    line.x_pixel, line.y_pixel, line.accumulate, line.relu = g.a.pixel, g.c.pixel, accumulate, relu
    for strip in range(own.c0, own.c1):
        column, line.channels = strip_start(channels, strip, dtype), strip_cols(channels, strip, dtype)
        w_tap = strip_start(channels, strip + 1, dtype) - column
        line.taps = s.taps
        line.taps.w_row, line.taps.w_column = s.taps.w_row * w_tap, s.taps.w_column * w_tap
        line.bias = <floating*>bias + column if bias != NULL else <floating*>NULL
        i = own.r0
        while i < own.r1:       # line by line
            image, y, x = i // (g.height * g.width), i // g.width % g.height, i % g.width
            end = min(g.width, x + own.r1 - i)
            depthwise_spans(s, span_of(s.regions.y, y), x, end, <floating*>g.a.start + image * g.a.image + y * g.a.row + s.at + column,
                            w_tap, <floating*>packed + column * taps, <floating*>g.c.start + image * g.c.image + y * g.c.row + column,
                            &line)
            i += end - x


cdef void depthwise_input_gradient(const Run* r, const Conv2d* d, const floating* weight, Image dz, Image dx, bint accumulate,
                                   floating* packed, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dx (+)= the convolution of dz with the taps turned around, phase by phase
    cdef Py_ssize_t phase
    cdef Grid g
    pack_groups(weight, d.groups, d.width, d.size, packed, thread, n_threads)
    for phase in range(d.stride_y * d.stride_x):
        g = phase_grid(d, r.samples, phase, dz, dx, packed)
        depthwise_product(&g, &d.turned[phase], d.width, d.size, packed, NULL, accumulate, False,
                          rows_or_units(r.samples * g.height * g.width, n_strips(d.width, packed), False, thread, n_threads), packed)
    team_barrier(n_threads)


# --- the gradient of the weight

cdef void depthwise_lines(const Conv2d* d, const Grid* g, Py_ssize_t line, Py_ssize_t lines, Py_ssize_t column, Py_ssize_t channels,
                          floating* part) noexcept nogil:
    # part (taps, channels) += the sums of lines that lie in one image and read the same rows of taps
    cdef const Sweep* s = d.sweep
    cdef Py_ssize_t image = line // g.height, wide = round_up(d.width, lanes_of(part)), start, i
    cdef const Span* y = span_of(s.regions.y, line % g.height)
    cdef const Span* x
    cdef DepthwiseGradient sums
    sums.taps = s.taps
    sums.taps.rows, sums.taps.w_row, sums.taps.w_column = y.last - y.first, s.taps.w_row * wide, s.taps.w_column * wide
    sums.x_line, sums.x_pixel, sums.dz_line, sums.dz_pixel = g.a.row, g.a.pixel, g.c.row, g.c.pixel
    sums.lines, sums.channels = lines, channels
    for i in range(s.regions.n_x):
        x = &s.regions.x[i]
        start = x.start
        while start < x.stop:
            sums.pixels, sums.taps.columns = min(<Py_ssize_t>GRADIENT_PIXELS, x.stop - start), x.last - x.first
            sums.x = (<floating*>g.a.start + image * g.a.image + line % g.height * g.a.row + start * g.a.pixel + s.at + column
                      + y.first * s.taps.x_row + x.first * s.taps.x_column)
            sums.dz = <floating*>g.c.start + image * g.c.image + line % g.height * g.c.row + start * g.c.pixel + column
            sums.dw = part + (y.first * d.kernel_x + x.first) * wide + column
            depthwise_gradient(part, &sums)
            start += sums.pixels


cdef void depthwise_units(const Conv2d* d, const Gradient* g, Py_ssize_t chunk, Py_ssize_t first, Py_ssize_t last,
                          floating* dtype) noexcept nogil:
    # a chunk's sums: strips `first` to `last` of the channels
    cdef floating* part = <floating*>g.part + chunk * g.elements
    cdef Py_ssize_t lines = g.grids[0].images * d.y.height, together = max(<Py_ssize_t>1, GRADIENT_PIXELS // d.y.width)
    cdef Py_ssize_t wide = round_up(d.width, lanes_of(dtype)), strip, column, tap, line, stop, n, y
    cdef int i
    for strip in range(first, last):
        column = strip_start(d.width, strip, dtype)
        for tap in range(d.size):
            memset(part + tap * wide + column, 0, (strip_start(d.width, strip + 1, dtype) - column) * <Py_ssize_t>sizeof(floating))
        for i in range(g.n_grids):
            line, stop = chunk_start(lines, 1, chunk, g.chunks), chunk_start(lines, 1, chunk + 1, g.chunks)
            while line < stop:
                y = line % d.y.height
                n = min(together, stop - line, span_of(d.sweep.regions.y, y).stop - y)
                depthwise_lines(d, &g.grids[i], line, n, column, strip_cols(d.width, strip, dtype), part)
                line += n
