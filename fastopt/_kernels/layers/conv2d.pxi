# The convolution, channels last: y[n, i, j, o] = phi(b[o] + sum over r, s, c of W[o, r, s, c] x[n, i stride + r dilation - top,
# j stride + s dilation - left, c]), a cross-correlation as everywhere. With groups an output reads the channels of its group.
#
# - The products are those of convolutions.pxi. What a filter reads beyond the edge is the border of zeros of its source.
# - Forward: a thread owns pixels or, where these are few, strips of outputs. Bias and relu are applied in registers.
# - Backward: dz, with a border of zeros, is copied to scratch where filters reach beyond its edge.
# - Scratch holds the filters packed, and what a backward needs; every function that fills it ends with a barrier.

cdef struct Conv2d:
    Py_ssize_t groups, depth, width     # channels and outputs of a group
    Py_ssize_t kernel_y, kernel_x, stride_y, stride_x, dilation_y, dilation_x
    Py_ssize_t top, left        # padding; what lies below and to the right follows from the shapes
    Py_ssize_t size             # elements of a filter, kernel_y * kernel_x * depth
    Shape x, dx, y              # of the source, its gradient, and dst
    Py_ssize_t border_y, border_x       # of zeros that dz needs for dx
    Py_ssize_t *taps            # (size,): where the elements of a filter stand in x, from its first one
    Py_ssize_t *phase_taps      # (kernel_y * kernel_x,): r * kernel_x + s, phase by phase
    Py_ssize_t *phase_first     # (stride_y * stride_x + 1,): where the taps of a phase begin
    Py_ssize_t *back_taps       # (kernel_y * kernel_x * width,): where the elements of filters turned around stand in dz
    Py_ssize_t *counting        # 0, 1, 2, ... for neighboring channels: at least `width` of them
    void *weight                # (out, kernel_y, kernel_x, in / groups)
    void *bias                  # (out,) or NULL
    void *packed                # weight in strips, in a network that stays as it is; else NULL


# --- sizes

cdef inline Py_ssize_t run_length(const Conv2d* d) noexcept nogil:
    # how many elements of a filter, and of the pixels it reads, lie side by side
    return d.kernel_x * d.depth if d.groups == 1 and d.dilation_x == 1 else d.depth


cdef inline bint scatters(const Conv2d* d, floating* dtype) noexcept nogil:
    # whether dx is rather added up from the products of dz with whole filters: where its channels leave lanes empty, or many of
    # the taps that it gathers lie beyond the edge of dz. Multiply-adds of whole vectors; an addition to dx counts for four
    cdef Py_ssize_t lanes = lanes_of(dtype), runs = d.kernel_y * (1 if d.dilation_x == 1 else d.kernel_x)
    cdef Py_ssize_t phases = d.stride_y * d.stride_x
    cdef Py_ssize_t gathered = positions_of(&d.x) * d.kernel_y * d.kernel_x * d.width * round_up(d.depth, lanes)
    cdef Py_ssize_t scattered = d.width * round_up(d.size, lanes) + 4 * runs * round_up(d.size // runs, lanes)
    return d.groups == 1 and d.size > d.depth and 5 * positions_of(&d.y) * scattered * phases < 4 * gathered


cdef inline bint lanes_are_inputs(const Conv2d* d, floating* dtype) noexcept nogil:
    # whether the lanes of dW are the elements of a run; else they are outputs
    return run_length(d) % lanes_of(dtype) == 0


cdef inline Py_ssize_t filter_elements(const Conv2d* d) noexcept nogil:
    # that all filters take at most in strips, forward or backward
    cdef Py_ssize_t taps = d.kernel_y * d.kernel_x
    return d.groups * max(round_up(d.width, LANES_f) * d.size, max(taps * round_up(d.depth, LANES_f), round_up(d.size, LANES_f)) * d.width)


cdef inline Shape bordered_dz(const Conv2d* d) noexcept nogil:
    # of dz with its border, in scratch
    return Shape(d.y.height, d.y.width, d.y.channels, d.border_y, d.border_x, d.y.channels, 0, 0)


cdef inline Py_ssize_t bordered_elements(const Conv2d* d) noexcept nogil:
    # of a sample of dz with its border; none where it needs no border
    cdef Shape s = bordered_dz(d)
    return elements_of(&s) if d.border_y > 0 or d.border_x > 0 else 0


cdef inline Py_ssize_t gradient_chunks(const Conv2d* d, Py_ssize_t pixels) noexcept nogil:
    if d.y.channels * d.size > SMALL_GRADIENT:
        return 1
    return max(1, min(<Py_ssize_t>GRADIENT_CHUNKS, pixels // GRADIENT_CHUNK_PIXELS))


cdef inline Py_ssize_t gradient_elements(const Conv2d* d) noexcept nogil:
    # that dW takes in scratch, for one chunk of pixels
    return max(d.groups * d.size * round_up(d.width, LANES_f), d.y.channels * d.size)


cdef inline Grid forward_grid(const Conv2d* d, Image x, Image y, floating* dtype) noexcept nogil:
    # what the pixels of y read: the first element of each filter
    x.start = <floating*>x.start - d.top * x.row - d.left * x.pixel
    x.row *= d.stride_y
    x.pixel *= d.stride_x
    return Grid(d.y.height, d.y.width, x, y)


# --- forward

cdef inline Py_ssize_t unit_column(const Conv2d* d, Py_ssize_t unit, Py_ssize_t width, Py_ssize_t groups, floating* dtype) noexcept nogil:
    # the first column of a unit, a strip of a group; groups are `width` wide
    cdef Py_ssize_t strips = n_strips(width, dtype)
    return unit // strips * width + min(width, strip_start(width, unit % strips, dtype))


cdef inline Block pixels_or_units(Py_ssize_t pixels, Py_ssize_t units, bint many_weights, Py_ssize_t thread,
                                  Py_ssize_t n_threads) noexcept nogil:
    # the thread's pixels and units. Units are cut where they come out even and either pixels are few, or weights, which a
    # thread then reads its own part of, more than pixels
    if n_threads > 1 and (units % n_threads == 0 or units >= 4 * n_threads) and (many_weights or pixels < 32 * n_threads):
        return Block(0, pixels, chunk_start(units, 1, thread, n_threads), chunk_start(units, 1, thread + 1, n_threads))
    return Block(chunk_start(pixels, 1, thread, n_threads), chunk_start(pixels, 1, thread + 1, n_threads), 0, units)


cdef void conv2d_product(const Conv2d* d, const Grid* g, const void* packed, const void* bias, const Indirect* p,
                         Py_ssize_t depth, Py_ssize_t width, Block own, floating* dtype) noexcept nogil:
    # pixels r0 to r1, units c0 to c1 of c = a W^T + b; a group has `depth` channels in a and `width` in c
    cdef Py_ssize_t strips = n_strips(width, dtype), unit = own.c0, group
    cdef Strips s
    while unit < own.c1:        # group by group
        group = unit // strips
        s.n_out, s.first, s.last = width, unit - group * strips, min(strips, own.c1 - group * strips)
        s.packed = <floating*>packed + group * round_up(width, lanes_of(dtype)) * p.depth
        s.bias = <floating*>bias + group * width if bias != NULL else <floating*>NULL
        strips_product(g, p, &s, group * depth, group * width, own.r0, own.r1, dtype)
        unit += s.last - s.first


cdef const void* packed_filters(const Conv2d* d, const void* weight, void* room, floating* dtype, Py_ssize_t thread,
                                Py_ssize_t n_threads) noexcept nogil:
    # the filters in strips, complete on return
    cdef Py_ssize_t strips = n_strips(d.width, dtype), units = d.groups * strips, group
    cdef Py_ssize_t unit = chunk_start(units, 1, thread, n_threads), last = chunk_start(units, 1, thread + 1, n_threads), end
    while unit < last:
        group = unit // strips
        end = min(last, (group + 1) * strips)
        pack_strips(<floating*>weight + group * d.width * d.size, d.width, d.size, unit - group * strips, end - group * strips,
                    <floating*>room + group * round_up(d.width, lanes_of(dtype)) * d.size)
        unit = end
    team_barrier(n_threads)
    return room


cdef void conv2d_rows(const Run* r, const Conv2d* d, Image x, Image z, const void* packed, const void* bias, bint accumulate,
                      bint relu, Block own, floating* dtype) noexcept nogil:
    # z (+)= the convolution of x, the thread's block
    cdef Grid g = forward_grid(d, x, z, dtype)
    cdef Indirect p = Indirect(d.taps, NULL, d.size, accumulate, relu)
    conv2d_product(d, &g, packed, bias, &p, d.depth, d.width, own, dtype)


cdef inline Block conv2d_block(const Run* r, const Conv2d* d, Py_ssize_t thread, Py_ssize_t n_threads, floating* dtype) noexcept nogil:
    # the thread's pixels and units of y
    return pixels_or_units(r.samples * positions_of(&d.y), d.groups * n_strips(d.width, dtype),
                           d.size * d.y.channels > r.samples * positions_of(&d.x) * d.x.channels, thread, n_threads)


cdef inline Block block_of_units(const Conv2d* d, Block own, floating* dtype) noexcept nogil:
    # the thread's pixels and columns
    return Block(own.r0, own.r1, unit_column(d, own.c0, d.width, d.groups, dtype), unit_column(d, own.c1, d.width, d.groups, dtype))


cdef inline Image preactivation_image(const Run* r, const Entry* e, const Conv2d* d, void** z, void** values,
                                      floating* dtype) noexcept nogil:
    # as preactivations, in pixels
    if z[e.number] == NULL:
        return image_of(&d.y, values[d.y.owner], dtype)
    return Image(z[e.number], d.y.channels, d.y.width * d.y.channels, positions_of(&d.y) * d.y.channels)


cdef inline Sizes conv2d_sizes(const Run* r, const Entry* e) noexcept nogil:
    return Sizes(r.samples * e.out_positions, e.n_in, e.n_out)


cdef void forward_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (n, h, w, in) -> z (n, oh, ow, out), y = phi(z)
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows z = preactivations(r, e, r.z, r.values, dtype), y = dst_rows(r, e, r.values, dtype)
    cdef bint fused_relu = e.activation == RELU and z.start == y.start
    cdef Block own = conv2d_block(r, d, thread, n_threads, dtype)
    cdef const void* packed = d.packed
    if packed == NULL:
        packed = packed_filters(d, d.weight, r.scratch, dtype, thread, n_threads)
    conv2d_rows(r, d, image_of(&d.x, r.values[d.x.owner], dtype), preactivation_image(r, e, d, r.z, r.values, dtype), packed, d.bias,
                False, fused_relu, own, dtype)
    if not fused_relu and (e.activation != IDENTITY or z.start != y.start):     # y = phi(z)
        epilogue(e.activation, &z, &y, &s, block_of_units(d, own, dtype), dtype, thread, n_threads)


# --- backward

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


cdef void conv2d_input_gradient(Run* r, const Entry* e, const void* weight, Image dz, void** dvalues, bint accumulate,
                                floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dx (n, h, w, in) (+)= the convolution of dz with the filters turned around; dx lies in dvalues, which may be tangents
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Image dx = image_of(&d.dx, dvalues[d.dx.owner], dtype), wide = dz
    cdef floating* packed = <floating*>r.scratch + r.samples * bordered_elements(d)
    cdef Py_ssize_t phase, first, py, px, strips = n_strips(d.depth, dtype)
    cdef Shape shape = bordered_dz(d)
    cdef Grid g
    cdef Indirect p
    if scatters(d, dtype):
        scatter_gradient(r, d, <floating*>weight, dz, dx, accumulate, <floating*>r.scratch, dtype, thread, n_threads)
        return
    if bordered_elements(d) > 0:
        wide = image_of(&shape, r.scratch, dtype)
        copy_bordered(&shape, dz, &wide, r.samples, dtype, thread, n_threads)
    pack_turned(d, <floating*>weight, packed, thread, n_threads)
    team_barrier(n_threads)
    for phase in range(d.stride_y * d.stride_x):
        py, px, first = phase // d.stride_x, phase % d.stride_x, d.phase_first[phase]
        g = Grid((d.x.height - py + d.stride_y - 1) // d.stride_y, (d.x.width - px + d.stride_x - 1) // d.stride_x, wide, dx)
        g.c.start = <floating*>dx.start + py * dx.row + px * dx.pixel
        g.c.row *= d.stride_y
        g.c.pixel *= d.stride_x
        p = Indirect(d.back_taps + first * d.width, NULL, (d.phase_first[phase + 1] - first) * d.width, accumulate, False)
        if p.depth > 0 or not accumulate:
            conv2d_product(d, &g, packed + first * d.width * d.groups * round_up(d.depth, lanes_of(dtype)), NULL, &p, d.width, d.depth,
                           pixels_or_units(r.samples * g.height * g.width, d.groups * strips,
                                           d.size * d.y.channels > r.samples * positions_of(&d.y) * d.y.channels, thread, n_threads),
                           dtype)
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
    cdef Indirect p = Indirect(d.counting, NULL, d.width, False, False)
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
    cdef Py_ssize_t at, s0, s1, s, k
    cdef const floating* of
    cdef floating* to
    for first in range(apart):
        x = first
        while x < d.y.width:
            at = x * d.stride_x - d.left
            of = products + x * wide + tap * d.kernel_x * d.depth
            if d.dilation_x == 1 and pixel == d.depth:          # one run, as far as it lies within the image
                s0, s1 = max(<Py_ssize_t>0, -at), min(d.kernel_x, d.x.width - at)
                to = dx + at * pixel
                for k in range(s0 * d.depth, s1 * d.depth):
                    to[k] += of[k]
            else:
                for s in range(d.kernel_x):
                    if 0 <= at + s * d.dilation_x < d.x.width:
                        add_row(dx + (at + s * d.dilation_x) * pixel, of + s * d.depth, d.depth)
            x += apart


# --- gradients of weight and bias

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
    cdef Py_ssize_t runs = d.size // cols if inputs else 1, blocks = (rows + GRADIENT_ROWS - 1) // GRADIENT_ROWS
    cdef Py_ssize_t units = d.groups * runs * n_strips(cols, dw) * blocks, i, stop, end, chunk
    g.chunks, g.part, g.elements = gradient_chunks(d, g.pixels), room, gradient_elements(d)
    if inputs and g.chunks == 1:
        g.part = dw
    i, stop = chunk_start(g.chunks * units, 1, thread, n_threads), chunk_start(g.chunks * units, 1, thread + 1, n_threads)
    while i < stop:             # chunk by chunk of the pixels
        chunk = i // units
        end = min(stop, (chunk + 1) * units)
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
            p.depth, p.accumulate, p.relu = min(<Py_ssize_t>GRADIENT_PIXELS, stop - pixel), started, False
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
    cdef Py_ssize_t group = column // strips // runs, wide = round_up(d.width, lanes_of(part)), n, i, left
    cdef Py_ssize_t cols = strip_start(width, strip + 1, part) - strip_start(width, strip, part)
    cdef Py_ssize_t stop = min(row + GRADIENT_ROWS, d.width if inputs else d.size), tiles
    cdef Py_ssize_t c_rows[MAX_INDIRECT_ROWS]
    cdef const floating* x = <floating*>grid.a.start + group * d.depth
    cdef const floating* dz = <floating*>grid.c.start + group * d.width
    column = strip_start(width, strip, part)
    for i in range(MAX_INDIRECT_ROWS):
        c_rows[i] = i * (d.size if inputs else wide)
    left = stop - row
    tiles = (left + tile_rows(cols, part) - 1) // tile_rows(cols, part)
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


cdef void conv2d_bias_gradient(const Rows* dz, const Sizes* s, floating* db, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # db = the sums of dz's rows, the thread's columns; GRADIENT_PIXELS rows are added before they meet the others
    cdef floating part[COLUMN_GRAIN]
    cdef floating total[COLUMN_GRAIN]
    cdef Py_ssize_t c = chunk_start(s.n_out, COLUMN_GRAIN, thread, n_threads), stop = chunk_start(s.n_out, COLUMN_GRAIN, thread + 1, n_threads)
    cdef Py_ssize_t cols, i, end, n
    while c < stop:
        cols = min(<Py_ssize_t>COLUMN_GRAIN, stop - c)
        memset(total, 0, sizeof(total))
        i = 0
        while i < s.n:
            memset(part, 0, sizeof(part))
            end = min(s.n, i + GRADIENT_PIXELS)
            while i < end:      # run by run
                n = run_rows(dz, i, end)
                if cols == COLUMN_GRAIN:
                    add_rows_of(row(dz, i, db) + c, dz.ld, n, part, COLUMN_GRAIN)
                else:
                    add_rows_of(row(dz, i, db) + c, dz.ld, n, part, cols)
                i += n
            add_row(total, part, cols)
        memcpy(db + c, total, cols * sizeof(floating))
        c += cols


cdef inline void add_rows_of(const floating* a, Py_ssize_t ld, Py_ssize_t n, floating* total, Py_ssize_t cols) noexcept nogil:
    # total += the sums of n rows; a constant `cols` stays in registers
    cdef floating sums[COLUMN_GRAIN]
    cdef Py_ssize_t i, j
    for j in range(cols):
        sums[j] = total[j]
    for i in range(n):
        for j in range(cols):
            sums[j] += a[i * ld + j]
    for j in range(cols):
        total[j] = sums[j]


cdef inline Grid gradient_grid(const Run* r, const Conv2d* d, void** values, Image dz, floating* dtype) noexcept nogil:
    return forward_grid(d, image_of(&d.x, values[d.x.owner], dtype), dz, dtype)


cdef void backward_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dz (n, oh, ow, out) = dy phi', in place; dx (+)=, dW, db
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype)
    cdef Image image = image_of(&d.y, r.dvalues[d.y.owner], dtype)
    cdef floating* dw = gradient(r, e, 0, dtype)
    cdef floating* db = gradient(r, e, 1, dtype)
    cdef Gradient g
    activation_gradient(r, e, &s, &dz, dtype, thread, n_threads)
    team_barrier(n_threads)
    if e.sources[0].wanted:     # dx
        conv2d_input_gradient(r, e, d.weight, image, r.dvalues, e.sources[0].accumulate, dtype, thread, n_threads)
    if dw != NULL:              # dW
        g.n_grids, g.pixels, g.grids[0] = 1, s.n, gradient_grid(r, d, r.values, image, dtype)
        conv2d_weight_gradient(d, &g, <floating*>r.scratch, dw, thread, n_threads)
    if db != NULL:              # db
        conv2d_bias_gradient(&dz, &s, db, thread, n_threads)


# --- directional derivatives: a leading t names the tangent of what follows it

cdef void tangent_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tz = the convolutions of x with tW, + tb, and of tx with W; ty = phi' tz
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows v = preactivations(r, e, r.z, r.values, dtype), tz = preactivations(r, e, r.tz, r.tangents, dtype)
    cdef Rows ty = dst_rows(r, e, r.tangents, dtype)
    cdef Image tz_image = preactivation_image(r, e, d, r.tz, r.tangents, dtype)
    cdef Block own = conv2d_block(r, d, thread, n_threads, dtype)
    packed_filters(d, direction(r, e, 0, dtype), r.scratch, dtype, thread, n_threads)
    conv2d_rows(r, d, image_of(&d.x, r.values[d.x.owner], dtype), tz_image, r.scratch, direction(r, e, 1, dtype), False, False, own, dtype)
    if e.sources[0].wanted:
        team_barrier(n_threads)
        packed_filters(d, d.weight, r.scratch, dtype, thread, n_threads)
        conv2d_rows(r, d, image_of(&d.x, r.tangents[d.x.owner], dtype), tz_image, r.scratch, NULL, True, False, own, dtype)
    tangent_epilogue(e.activation, &v, &tz, &ty, &s, block_of_units(d, own, dtype), dtype, thread, n_threads)


cdef void tangent_backward_conv2d(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # dy, tdy become dz and tdz; dx (+)= dX(W, dz); tdx (+)= dX(W, tdz) + dX(tW, dz); tdW = dW(x, tdz) + dW(tx, dz)
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Sizes s = conv2d_sizes(r, e)
    cdef Rows dz = dst_rows(r, e, r.dvalues, dtype), tdz = dst_rows(r, e, r.dtangents, dtype)
    cdef Image image = image_of(&d.y, r.dvalues[d.y.owner], dtype), timage = image_of(&d.y, r.dtangents[d.y.owner], dtype)
    cdef bint moves = e.sources[0].wanted, accumulate = e.sources[0].accumulate
    cdef Gradient g
    activation_tangent_gradient(r, e, &s, &dz, &tdz, dtype, thread, n_threads)
    team_barrier(n_threads)
    if moves:
        conv2d_input_gradient(r, e, d.weight, image, r.dvalues, accumulate, dtype, thread, n_threads)
        conv2d_input_gradient(r, e, d.weight, timage, r.dtangents, accumulate, dtype, thread, n_threads)
        conv2d_input_gradient(r, e, direction(r, e, 0, dtype), image, r.dtangents, True, dtype, thread, n_threads)
    g.n_grids, g.pixels, g.grids[0] = 1, s.n, gradient_grid(r, d, r.values, timage, dtype)
    if moves:
        g.n_grids, g.grids[1] = 2, gradient_grid(r, d, r.tangents, image, dtype)
    conv2d_weight_gradient(d, &g, <floating*>r.scratch, gradient(r, e, 0, dtype), thread, n_threads)
    if e.n_weights > 1:
        conv2d_bias_gradient(&tdz, &s, gradient(r, e, 1, dtype), thread, n_threads)


# --- the kind

cdef Py_ssize_t conv2d_work(const Entry* e) noexcept nogil:
    return (<Conv2d*>e.own).size * e.n_out


cdef Py_ssize_t conv2d_scratch(const Entry* e, Py_ssize_t rows, bint training) noexcept nogil:
    # packed filters; in training the bordered dz beside them, or the parts of dW
    cdef Conv2d* d = <Conv2d*>e.own
    cdef Py_ssize_t samples = rows // e.positions
    if not training:
        return filter_elements(d) if d.packed == NULL else 0
    return max(filter_elements(d) + samples * bordered_elements(d),
               gradient_chunks(d, samples * e.out_positions) * gradient_elements(d))


cdef Py_ssize_t conv2d_thread_scratch(const Entry* e) noexcept nogil:
    return scatter_room(<Conv2d*>e.own)


cdef bint conv2d_fits(const Entry* e, const Shape* shapes) noexcept:
    return True                 # place_conv2d says why not


cdef int place_conv2d(Entry* e, dict own, list weights, Arrays arrays) except -1:
    # weights: weight (out, kernel_y, kernel_x, in / groups) and, or not, bias (out,); own: stride, padding (top, left), dilation,
    # groups. The source has a border as wide as filters reach
    cdef Conv2d* d = <Conv2d*>arrays.block(sizeof(Conv2d))
    e.own, d.x, d.y = <void*>d, arrays.shapes[e.sources[0].value], arrays.shapes[e.dst]
    d.dx = d.x
    d.groups = _numbers.whole_number("groups", own.pop("groups", 1))
    d.stride_y, d.stride_x = own.pop("stride", (1, 1))
    d.dilation_y, d.dilation_x = own.pop("dilation", (1, 1))
    d.top, d.left = own.pop("padding", (0, 0))
    if e.n_in % d.groups or e.n_out % d.groups:
        raise ValueError(f"{arrays.entry}: expected groups that divide {e.n_in} inputs and {e.n_out} outputs, got {d.groups}")
    shape = weights[0].shape if weights and weights[0].ndim == 4 else (e.n_out, 1, 1, e.n_in // d.groups)
    d.kernel_y, d.kernel_x = shape[1], shape[2]
    d.weight = arrays.hold_weight(e, "weight", weights, (e.n_out, d.kernel_y, d.kernel_x, e.n_in // d.groups))
    if len(weights) > 1:
        d.bias = arrays.hold_weight(e, "bias", weights, (e.n_out,))
    return place_taps(d, arrays)


cdef int place_taps(Conv2d* d, Arrays arrays) except -1:
    # the tables of offsets; refuses filters that reach beyond the border of x
    cdef Py_ssize_t taps = d.kernel_y * d.kernel_x, wide, r, s, k, i = 0, y, x
    d.depth, d.width = d.x.channels // d.groups, d.y.channels // d.groups
    d.size = taps * d.depth
    if min(d.kernel_y, d.kernel_x, d.stride_y, d.stride_x, d.dilation_y, d.dilation_x, d.top + 1, d.left + 1) < 1:
        raise ValueError(f"{arrays.entry}: expected numbers of at least 1, and a padding of at least 0")
    require_border(d, arrays)
    d.taps = <Py_ssize_t*>arrays.block(d.size * sizeof(Py_ssize_t))
    for r in range(d.kernel_y):
        for s in range(d.kernel_x):
            for k in range(d.depth):
                d.taps[(r * d.kernel_x + s) * d.depth + k] = (r * d.dilation_y * (d.x.width + 2 * d.x.border_x)
                                                             + s * d.dilation_x) * d.x.ld + k
    d.counting = <Py_ssize_t*>arrays.block((d.width + MAX_INDIRECT_ROWS) * sizeof(Py_ssize_t))
    for k in range(d.width + MAX_INDIRECT_ROWS):
        d.counting[k] = k
    d.border_y = dz_border(d.kernel_y, d.stride_y, d.dilation_y, d.top, d.x.height, d.y.height)
    d.border_x = dz_border(d.kernel_x, d.stride_x, d.dilation_x, d.left, d.x.width, d.y.width)
    d.phase_taps = <Py_ssize_t*>arrays.block(taps * sizeof(Py_ssize_t))
    d.phase_first = <Py_ssize_t*>arrays.block((d.stride_y * d.stride_x + 1) * sizeof(Py_ssize_t))
    d.back_taps = <Py_ssize_t*>arrays.block(taps * d.width * sizeof(Py_ssize_t))
    own = bordered_elements(d) > 0
    pixel = d.y.channels if own else d.y.ld
    wide = (d.y.width + 2 * (d.border_x if own else d.y.border_x)) * pixel
    for y in range(d.stride_y):         # pixel (y, x) of a stride's step: the taps by which it reaches the output
        for x in range(d.stride_x):
            for r in range(d.kernel_y):
                for s in range(d.kernel_x):
                    if (y + d.top - r * d.dilation_y) % d.stride_y or (x + d.left - s * d.dilation_x) % d.stride_x:
                        continue
                    d.phase_taps[i] = r * d.kernel_x + s
                    for k in range(d.width):
                        d.back_taps[i * d.width + k] = ((y + d.top - r * d.dilation_y) // d.stride_y * wide
                                                        + (x + d.left - s * d.dilation_x) // d.stride_x * pixel + k)
                    i += 1
            d.phase_first[y * d.stride_x + x + 1] = i
    return 0


cdef int require_border(const Conv2d* d, Arrays arrays) except -1:
    cdef Py_ssize_t y = (d.y.height - 1) * d.stride_y + d.dilation_y * (d.kernel_y - 1) + 1 - d.top - d.x.height
    cdef Py_ssize_t x = (d.y.width - 1) * d.stride_x + d.dilation_x * (d.kernel_x - 1) + 1 - d.left - d.x.width
    if max(y, d.top) > d.x.border_y or max(x, d.left) > d.x.border_x:
        raise ValueError(f"{arrays.entry}: expected a source with a border of {max(y, d.top)} rows and {max(x, d.left)} columns, "
                         f"got {d.x.border_y} and {d.x.border_x}")
    return 0


cdef Py_ssize_t dz_border(Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation, Py_ssize_t before, Py_ssize_t n_in,
                          Py_ssize_t n_out) noexcept:
    # the pixels beyond the edges of dz that the filters turned around reach
    cdef Py_ssize_t above = max(<Py_ssize_t>0, dilation * (kernel - 1) - before) // stride
    return max(above, (n_in - 1 + before) // stride - (n_out - 1))


cdef int prepare_conv2d(Entry* e, Arrays arrays) except -1:
    cdef Conv2d* d = <Conv2d*>e.own
    cdef bint single = arrays.typenum == cnp.NPY_FLOAT32
    d.packed = arrays.block(d.groups * round_up(d.width, LANES_f) * d.size * (4 if single else 8))
    if single:
        packed_filters(d, d.weight, d.packed, <float*>NULL, 0, 1)
    else:
        packed_filters(d, d.weight, d.packed, <double*>NULL, 0, 1)
    return 0


cdef Kind conv2d_kind
conv2d_kind.forward = Pass(forward_conv2d[float], forward_conv2d[double])
conv2d_kind.backward = Pass(backward_conv2d[float], backward_conv2d[double])
conv2d_kind.tangent = Pass(tangent_conv2d[float], tangent_conv2d[double])
conv2d_kind.tangent_backward = Pass(tangent_backward_conv2d[float], tangent_backward_conv2d[double])
conv2d_kind.place, conv2d_kind.fits, conv2d_kind.prepare = place_conv2d, conv2d_fits, prepare_conv2d
conv2d_kind.work, conv2d_kind.scratch, conv2d_kind.thread_scratch = conv2d_work, conv2d_scratch, conv2d_thread_scratch
conv2d_kind.least_rows, conv2d_kind.activates = 1, True
register_kind(&conv2d_kind, "conv2d")
