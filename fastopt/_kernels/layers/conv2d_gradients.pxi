# The gradients of a convolution, of its input and of its filters, given dz; convolutions.pxi says how.

# --- the gradient of the input

cdef void copy_bordered(const Shape* s, Image of, const Image* to, Py_ssize_t samples, floating* dtype, Py_ssize_t thread,
                        Py_ssize_t n_threads) noexcept nogil:
    # images -> images of shape s with its border, zeros included; the thread's rows of pixels
    cdef Py_ssize_t high = s.height + 2 * s.border_y, c = s.channels, rows = samples * high, i, y, x
    cdef floating* at
    cdef const floating* row
    for i in range(chunk_start(rows, 1, thread, n_threads), chunk_start(rows, 1, thread + 1, n_threads)):
        y = i % high - s.border_y
        at = <floating*>to.start + i // high * to.image + y * to.row - s.border_x * c
        if y < 0 or y >= s.height:
            memset(at, 0, to.row * sizeof(floating))
            continue
        memset(at, 0, s.border_x * c * sizeof(floating))
        at += s.border_x * c
        row = <floating*>of.start + i // high * of.image + y * of.row
        if of.pixel == c:
            memcpy(at, row, s.width * c * sizeof(floating))
        else:
            for x in range(s.width):
                memcpy(at + x * c, row + x * of.pixel, c * sizeof(floating))
        memset(at + s.width * c, 0, s.border_x * c * sizeof(floating))


cdef void pack_turned(const Conv2d* d, const floating* weight, floating* packed, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # filters for dx, phase by phase: (groups, strips of channels, taps of the phase, outputs, width)
    cdef Py_ssize_t taps = d.kernel_y * d.kernel_x, phases = d.stride_y * d.stride_x, wide = round_up(d.depth, lanes_of(packed))
    cdef Py_ssize_t phase, first, n, i, k, g, rows = taps * d.width
    for phase in range(phases):
        first = d.phase_first[phase]
        n = d.phase_first[phase + 1] - first
        for i in range(chunk_start(n, 1, thread, n_threads), chunk_start(n, 1, thread + 1, n_threads)):
            for g in range(d.groups):
                for k in range(d.width):
                    pack_row(weight + ((g * d.width + k) * taps + d.phase_taps[first + i]) * d.depth, d.depth, i * d.width + k,
                             n * d.width, packed + (first * d.width * d.groups + g * n * d.width) * wide)


cdef inline Grid phase_grid(const Conv2d* d, Py_ssize_t images, Py_ssize_t phase, Image dz, Image dx, floating* dtype) noexcept nogil:
    # the pixels of dx that stand alike in a stride's step; they read dz
    cdef Py_ssize_t y = phase // d.stride_x, x = phase % d.stride_x
    dx.start = <floating*>dx.start + y * dx.row + x * dx.pixel
    dx.row *= d.stride_y
    dx.pixel *= d.stride_x
    return Grid(images, pixels_of_phase(d.x.height, d.stride_y, y), pixels_of_phase(d.x.width, d.stride_x, x), dz, dx)


cdef void conv2d_input_gradient(Run* r, const Entry* e, const void* weight, Image dz, void** dvalues, bint accumulate,
                                floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dx (n, h, w, in) (+)= the convolution of dz with the filters turned around; dx lies in dvalues, which may be tangents
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Image dx = image_of(&d.dx, dvalues[d.dx.owner], dtype), wide = dz
    cdef floating* packed = <floating*>r.scratch + r.samples * bordered_elements(d)
    cdef Py_ssize_t phase, first, strips = n_strips(d.depth, dtype)
    cdef Shape shape = bordered_dz(d)
    cdef bint many_weights = d.size > r.samples * positions_of(&d.y)
    cdef Block own
    cdef Grid g
    cdef Indirect p
    if d.depthwise:
        depthwise_input_gradient(r, d, <floating*>weight, dz, dx, accumulate, <floating*>r.scratch, thread, n_threads)
        return
    if scatters(d, dtype):
        scatter_gradient(r, d, <floating*>weight, dz, dx, accumulate, <floating*>r.scratch, dtype, thread, n_threads)
        return
    if bordered_elements(d) > 0:
        wide = image_of(&shape, r.scratch, dtype)
        copy_bordered(&shape, dz, &wide, r.samples, dtype, thread, n_threads)
    pack_turned(d, <floating*>weight, packed, thread, n_threads)
    team_barrier(n_threads)
    for phase in range(d.stride_y * d.stride_x):
        first, g = d.phase_first[phase], phase_grid(d, r.samples, phase, wide, dx, dtype)
        p = Indirect(d.back_taps + first * d.width, NULL, (d.phase_first[phase + 1] - first) * d.width, accumulate, False, False)
        if p.depth > 0 or not accumulate:
            own = rows_or_units(r.samples * g.height * g.width, d.groups * strips, many_weights, thread, n_threads)
            conv2d_product(&g, &d.phase_regions[phase], packed + first * d.width * d.groups * round_up(d.depth, lanes_of(dtype)), NULL, &p,
                           d.width, d.depth, own, dtype)
    team_barrier(n_threads)


cdef inline Py_ssize_t scatter_room(const Conv2d* d) noexcept nogil:
    # elements of the products of a row of dz with all filters
    return d.y.width * round_up(d.size, LANES_f)


cdef void scatter_gradient(const Run* r, const Conv2d* d, const floating* weight, Image dz, Image dx, bint accumulate,
                           floating* packed, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dx of few channels, the thread's rows: of each row of dz that reaches them, the products with all filters are added
    cdef Py_ssize_t rows = r.samples * d.x.height, k, i, stop, image, y0, y1, y, tap, x
    cdef floating* products = <floating*>(r.thread_scratch + thread * r.thread_bytes)
    for k in range(chunk_start(d.width, 1, thread, n_threads), chunk_start(d.width, 1, thread + 1, n_threads)):
        pack_row(weight + k * d.size, d.size, k, d.width, packed)
    team_barrier(n_threads)
    i, stop = chunk_start(rows, 1, thread, n_threads), chunk_start(rows, 1, thread + 1, n_threads)
    while i < stop:             # image by image
        image, y0 = i // d.x.height, i % d.x.height
        y1 = min(d.x.height, y0 + stop - i)
        for y in range(y0, y1):
            for x in range(d.x.width if not accumulate else 0):
                memset(<floating*>dx.start + image * dx.image + y * dx.row + x * dx.pixel, 0, d.depth * sizeof(floating))
        for y in range(max(<Py_ssize_t>0, (y0 + d.top - (d.kernel_y - 1) * d.dilation_y + d.stride_y - 1) // d.stride_y),
                       min(d.y.height, (y1 - 1 + d.top) // d.stride_y + 1)):
            dz_products(d, <floating*>dz.start + image * dz.image + y * dz.row, dz.pixel, packed, products)
            for tap in range(d.kernel_y):
                x = y * d.stride_y - d.top + tap * d.dilation_y
                if y0 <= x < y1:
                    scatter_row(d, products, tap, <floating*>dx.start + image * dx.image + x * dx.row, dx.pixel)
        i += y1 - y0
    team_barrier(n_threads)


cdef void dz_products(const Conv2d* d, const floating* dz, Py_ssize_t pixel, const floating* packed, floating* products) noexcept nogil:
    # a row of dz (width, out), `pixel` elements apart -> dz W (width, size), whole vectors
    cdef Py_ssize_t a_rows[MAX_INDIRECT_ROWS]
    cdef Py_ssize_t c_rows[MAX_INDIRECT_ROWS]
    cdef Py_ssize_t wide = round_up(d.size, LANES_f), strip, column, cols, x, tiles, i
    cdef int n
    cdef Indirect p = Indirect(d.counting, NULL, d.width, False, False, False)
    for i in range(MAX_INDIRECT_ROWS):
        a_rows[i], c_rows[i] = i * pixel, i * wide
    for strip in range(n_strips(d.size, products)):
        column = strip_start(d.size, strip, products)
        cols = strip_start(d.size, strip + 1, products) - column
        tiles = (d.y.width + tile_rows(cols, products) - 1) // tile_rows(cols, products)
        x = 0
        while x < d.y.width:    # in tiles as even as can be
            n = <int>((d.y.width - x + tiles - 1) // tiles)
            indirect_packed(&p, n, cols, dz + x * pixel, a_rows, packed + column * d.width, NULL, products + x * wide + column, c_rows)
            x += n
            tiles -= 1


cdef void scatter_row(const Conv2d* d, const floating* products, Py_ssize_t tap, floating* dx, Py_ssize_t pixel) noexcept nogil:
    # adds what row `tap` of the filters gives to a row of dx. Pixels whose runs overlap do not follow each other, for each
    # would wait for the other's stores
    cdef Py_ssize_t wide = round_up(d.size, LANES_f), apart = (d.kernel_x * d.dilation_x + d.stride_x - 1) // d.stride_x, first, x
    cdef Py_ssize_t at, s0, s1, s
    cdef const floating* of
    for first in range(apart):
        x = first
        while x < d.y.width:
            at = x * d.stride_x - d.left
            of = products + x * wide + tap * d.kernel_x * d.depth
            if d.dilation_x == 1 and pixel == d.depth:          # one run, as far as it lies within the image
                s0, s1 = max(<Py_ssize_t>0, -at), min(d.kernel_x, d.x.width - at)
                add_run(dx + (at + s0) * pixel, of + s0 * d.depth, (s1 - s0) * d.depth)
            else:
                for s in range(d.kernel_x):
                    if 0 <= at + s * d.dilation_x < d.x.width:
                        add_run(dx + (at + s * d.dilation_x) * pixel, of + s * d.depth, d.depth)
            x += apart


# --- the gradient of the weight

cdef struct Gradient:           # of a weight; from one product, or the sum of several
    Grid grids[2]               # x through forward_grid, and dz
    int n_grids
    Py_ssize_t chunks, pixels   # of pixels; of the whole batch
    void *part                  # where a chunk's sum goes, `elements` from one to the next
    Py_ssize_t elements


cdef void conv2d_weight_gradient(const Conv2d* d, Gradient* g, floating* room, floating* dw, Py_ssize_t thread,
                                 Py_ssize_t n_threads) noexcept nogil:
    # dW (out, kernel_y, kernel_x, in / groups) = the sum over grids and pixels of dz^T x; ends with a barrier if room was used
    cdef bint inputs = lanes_are_inputs(d, dw)
    cdef Py_ssize_t rows = d.width if inputs else d.size, cols = run_length(d) if inputs else d.width
    cdef Py_ssize_t runs = d.size // cols if inputs else 1, blocks = 1 if d.depthwise else (rows + GRADIENT_ROWS - 1) // GRADIENT_ROWS
    cdef Py_ssize_t units = d.groups * runs * n_strips(cols, dw) * blocks, i, stop, end, chunk
    g.chunks, g.part, g.elements = gradient_chunks(d, g.pixels), room, gradient_elements(d)
    if inputs and g.chunks == 1:
        g.part = dw
    i, stop = chunk_start(g.chunks * units, 1, thread, n_threads), chunk_start(g.chunks * units, 1, thread + 1, n_threads)
    while i < stop:             # chunk by chunk of the pixels
        chunk = i // units
        end = min(stop, (chunk + 1) * units)
        if d.depthwise:
            depthwise_units(d, g, chunk, i - chunk * units, end - chunk * units, dw)
        else:
            gradient_units(d, g, chunk, i - chunk * units, end - chunk * units, blocks, dw)
        i = end
    if g.part != dw:
        team_barrier(n_threads)
        add_parts(d, g, inputs, dw, thread, n_threads)
        team_barrier(n_threads)


cdef void gradient_units(const Conv2d* d, const Gradient* g, Py_ssize_t chunk, Py_ssize_t first, Py_ssize_t last, Py_ssize_t blocks,
                         floating* dtype) noexcept nogil:
    # a chunk's sums: units `first` to `last`, each a block of rows and a strip of columns, GRADIENT_PIXELS after the others
    cdef Py_ssize_t x[GRADIENT_PIXELS]
    cdef Py_ssize_t dz[GRADIENT_PIXELS]
    cdef Py_ssize_t pixel, stop = chunk_start(g.pixels, GRADIENT_PIXELS, chunk + 1, g.chunks), unit
    cdef int i
    cdef bint started = False
    cdef Indirect p
    for i in range(g.n_grids):
        pixel = chunk_start(g.pixels, GRADIENT_PIXELS, chunk, g.chunks)
        while pixel < stop or not started:      # of no pixels, zeros
            p.depth, p.accumulate, p.resume, p.relu = min(<Py_ssize_t>GRADIENT_PIXELS, stop - pixel), started, False, False
            pixel_offsets(&g.grids[i], pixel, p.depth, x, dz)
            p.a_cols, p.b_rows = x, dz
            if lanes_are_inputs(d, dtype):
                p.a_cols, p.b_rows = dz, x
            for unit in range(first, last):
                gradient_unit(d, g, &g.grids[i], &p, unit // blocks, unit % blocks * GRADIENT_ROWS,
                              <floating*>g.part + chunk * g.elements)
            pixel += p.depth
            started = True


cdef void gradient_unit(const Conv2d* d, const Gradient* g, const Grid* grid, const Indirect* p, Py_ssize_t column, Py_ssize_t row,
                        floating* part) noexcept nogil:
    # rows `row` on, GRADIENT_ROWS of them, of one strip of one run of one group; column counts strips, within runs, in groups
    cdef bint inputs = lanes_are_inputs(d, part)
    cdef Py_ssize_t width = run_length(d) if inputs else d.width, strips = n_strips(width, part)
    cdef Py_ssize_t runs = d.size // width if inputs else 1, strip = column % strips, at = column // strips % runs * width
    cdef Py_ssize_t group = column // strips // runs, wide = round_up(d.width, lanes_of(part)), n, i
    cdef Py_ssize_t cols = strip_start(width, strip + 1, part) - strip_start(width, strip, part)
    cdef Py_ssize_t stop = min(row + GRADIENT_ROWS, d.width if inputs else d.size), tiles
    cdef Py_ssize_t c_rows[MAX_INDIRECT_ROWS]
    cdef const floating* x = <floating*>grid.a.start + group * d.depth
    cdef const floating* dz = <floating*>grid.c.start + group * d.width
    column = strip_start(width, strip, part)
    for i in range(MAX_INDIRECT_ROWS):
        c_rows[i] = i * (d.size if inputs else wide)
    tiles = (stop - row + tile_rows(cols, part) - 1) // tile_rows(cols, part)
    while row < stop:           # in tiles as even as can be
        n = (stop - row + tiles - 1) // tiles
        if inputs:
            indirect_product(p, <int>n, cols, dz + row, d.counting, x + d.taps[at] + column, NULL,
                             part + (group * d.width + row) * d.size + at + column, c_rows)
        else:
            indirect_product(p, <int>n, cols, x, d.taps + row, dz + column, NULL, part + (group * d.size + row) * wide + column, c_rows)
        row += n
        tiles -= 1


cdef void add_parts(const Conv2d* d, const Gradient* g, bint inputs, floating* dw, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dW = the sum of the chunks' parts, in order, transposed where lanes were outputs; the thread's filters
    cdef Py_ssize_t wide = round_up(d.width, lanes_of(dw)), k, e, q, group
    cdef const floating* of
    cdef floating total
    for k in range(chunk_start(d.y.channels, 1, thread, n_threads), chunk_start(d.y.channels, 1, thread + 1, n_threads)):
        group = k // d.width
        for e in range(d.size):
            of = <floating*>g.part + (k * d.size + e if inputs else (group * d.size + e) * wide + k - group * d.width)
            total = of[0]
            for q in range(1, g.chunks):
                total += of[q * g.elements]
            dw[k * d.size + e] = total
