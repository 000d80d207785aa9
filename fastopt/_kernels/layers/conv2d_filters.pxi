# The filters of a convolution: their geometry, tables of offsets and packed forms, and the product of an image with them.

cdef struct Sweep               # depthwise.pxi

cdef struct Conv2d:
    Py_ssize_t groups, depth, width     # channels that an output reads, and outputs of a group
    bint depthwise              # groups of one channel and one output each, which count as one group here; depthwise.pxi
    Py_ssize_t kernel_y, kernel_x, stride_y, stride_x, dilation_y, dilation_x
    Py_ssize_t top, left        # padding; what lies below and to the right follows from the shapes
    Py_ssize_t size             # elements of a filter, kernel_y * kernel_x * depth
    Shape x, dx, y              # of the source, its gradient, and dst
    Py_ssize_t border_y, border_x       # of zeros that dz needs for dx
    Py_ssize_t *taps            # (size,): where the elements of a filter stand in x, from its first one
    Py_ssize_t *phase_taps      # (kernel_y * kernel_x,): r * kernel_x + s, phase by phase
    Py_ssize_t *phase_first     # (stride_y * stride_x + 1,): where the taps of a phase begin
    Py_ssize_t *back_taps       # (kernel_y * kernel_x * width,): where the elements of filters turned around stand in dz
    Regions regions             # of y
    Regions *phase_regions      # of dx, by phase
    Sweep *sweep                # where it is depthwise, y over x,
    Sweep *turned               # (stride_y * stride_x,): and dx over dz, by phase
    Py_ssize_t *counting        # 0, 1, 2, ... for neighboring channels: at least `width` of them
    void *weight                # (out, kernel_y, kernel_x, in / groups)
    void *bias                  # (out,) or NULL
    void *packed                # the weight in strips, in place of `weight`, where a network keeps it so; else NULL


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
    return d.groups == 1 and not d.depthwise and d.size > d.depth and 5 * positions_of(&d.y) * scattered * phases < 4 * gathered


cdef inline bint lanes_are_inputs(const Conv2d* d, floating* dtype) noexcept nogil:
    # whether the lanes of dW are the elements of a run; else they are outputs
    return not d.depthwise and run_length(d) > 0 and run_length(d) % lanes_of(dtype) == 0


cdef inline Py_ssize_t filter_elements(const Conv2d* d) noexcept nogil:
    # that all filters take at most in strips, forward or backward
    cdef Py_ssize_t taps = d.kernel_y * d.kernel_x
    if d.depthwise:
        return round_up(d.width, LANES_f) * taps
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


cdef inline Grid forward_grid(const Conv2d* d, Py_ssize_t images, Image x, Image y, floating* dtype) noexcept nogil:
    # what the pixels of y read: the first element of each filter
    x.start = <floating*>x.start - d.top * x.row - d.left * x.pixel
    x.row *= d.stride_y
    x.pixel *= d.stride_x
    return Grid(images, d.y.height, d.y.width, x, y)


# --- tables

cdef int place_taps(Conv2d* d, Arrays arrays) except -1:
    # the sizes and tables of forward; refuses filters that reach beyond the border of x
    cdef Py_ssize_t taps = d.kernel_y * d.kernel_x, r, s, k, i = 0
    d.depth, d.width = d.x.channels // d.groups, d.y.channels // d.groups
    d.size = taps * d.depth
    d.depthwise = is_depthwise((d.x.channels, d.y.channels, d.groups))
    if d.depthwise:
        d.groups, d.width = 1, d.y.channels
    if min(d.kernel_y, d.kernel_x, d.stride_y, d.stride_x, d.dilation_y, d.dilation_x, d.top + 1, d.left + 1) < 1:
        raise ValueError(f"{arrays.entry}: expected numbers of at least 1, and a padding of at least 0")
    if d.depthwise:
        d.sweep = <Sweep*>arrays.block(sizeof(Sweep))
        d.sweep[0] = forward_sweep(d, arrays)
        return 0
    require_border(d, arrays)
    d.taps = <Py_ssize_t*>arrays.block(d.size * sizeof(Py_ssize_t))
    for r in range(d.kernel_y):
        for s in range(d.kernel_x):
            for k in range(d.depth):
                d.taps[i] = (r * d.dilation_y * (d.x.width + 2 * d.x.border_x) + s * d.dilation_x) * d.x.ld + k
                i += 1
    d.regions = cut_regions(arrays, &d.y, &d.x, (-d.top, -d.left), (d.stride_y, d.stride_x), (d.dilation_y, d.dilation_x),
                            (d.kernel_y, d.kernel_x), d.depth)
    return 0


cdef int place_back_taps(Conv2d* d, Arrays arrays) except -1:
    # likewise, what gradients take besides
    cdef Py_ssize_t taps = d.kernel_y * d.kernel_x, phases = d.stride_y * d.stride_x, wide, pixel, r, s, k, i = 0, y, x
    if d.depthwise:
        return place_turned_sweeps(d, arrays)
    d.counting = <Py_ssize_t*>arrays.block((d.width + MAX_INDIRECT_ROWS) * sizeof(Py_ssize_t))
    for k in range(d.width + MAX_INDIRECT_ROWS):
        d.counting[k] = k
    d.phase_regions = <Regions*>arrays.block(phases * sizeof(Regions))
    if phases == 1:
        d.phase_regions[0] = cut_regions(arrays, &d.x, &d.y, (d.top, d.left), (1, 1), (-d.dilation_y, -d.dilation_x),
                                         (d.kernel_y, d.kernel_x), d.width)
    if not d.phase_regions[0].cut_y:    # dz needs no border where no tap beyond its edge is multiplied
        d.border_y = dz_border(d.kernel_y, d.stride_y, d.dilation_y, d.top, d.x.height, d.y.height)
    if not d.phase_regions[0].cut_x:
        d.border_x = dz_border(d.kernel_x, d.stride_x, d.dilation_x, d.left, d.x.width, d.y.width)
    pixel, wide = d.y.ld, d.y.width + 2 * d.y.border_x      # of dz as it lies, or with its border in scratch
    if bordered_elements(d) > 0:
        pixel, wide = d.y.channels, d.y.width + 2 * d.border_x
    d.phase_taps = <Py_ssize_t*>arrays.block(taps * sizeof(Py_ssize_t))
    d.phase_first = <Py_ssize_t*>arrays.block((phases + 1) * sizeof(Py_ssize_t))
    d.back_taps = <Py_ssize_t*>arrays.block(taps * d.width * sizeof(Py_ssize_t))
    for y in range(d.stride_y):         # pixel (y, x) of a stride's step: the taps by which it reaches the output
        for x in range(d.stride_x):
            for r in range(d.kernel_y):
                for s in range(d.kernel_x):
                    if (y + d.top - r * d.dilation_y) % d.stride_y or (x + d.left - s * d.dilation_x) % d.stride_x:
                        continue
                    d.phase_taps[i] = r * d.kernel_x + s
                    for k in range(d.width):
                        d.back_taps[i * d.width + k] = ((y + d.top - r * d.dilation_y) // d.stride_y * wide * pixel
                                                        + (x + d.left - s * d.dilation_x) // d.stride_x * pixel + k)
                    i += 1
            d.phase_first[y * d.stride_x + x + 1] = i
            if phases > 1:      # its taps as one row, all taken to lie within
                d.phase_regions[y * d.stride_x + x] = whole_region(
                    arrays, pixels_of_phase(d.x.height, d.stride_y, y), pixels_of_phase(d.x.width, d.stride_x, x),
                    1, i - d.phase_first[y * d.stride_x + x], d.width)
    return 0


cdef inline Py_ssize_t pixels_of_phase(Py_ssize_t n, Py_ssize_t stride, Py_ssize_t phase) noexcept nogil:
    # of n pixels along an axis, those that are number `phase` of a stride's step
    return (n - phase + stride - 1) // stride


cdef Py_ssize_t spans(Span* to, Py_ssize_t n, Py_ssize_t size, Py_ssize_t first, Py_ssize_t step, Py_ssize_t tap_step,
                      Py_ssize_t kernel) noexcept:
    # cuts an axis of n pixels where their taps within an image of `size` pixels change, and returns how many spans that makes:
    # tap r of pixel i reads pixel first + i * step + r * tap_step
    cdef Py_ssize_t i, r, at, low, high, count = 0
    for i in range(n):
        low, high = kernel, 0
        for r in range(kernel):
            at = first + i * step + r * tap_step
            if 0 <= at < size:
                low, high = min(low, r), max(high, r + 1)
        if count == 0 or to[count - 1].first != low or to[count - 1].last != high:
            to[count] = Span(i, i, low, high)
            count += 1
        to[count - 1].stop = i + 1
    return count


cdef double region_cost(const Regions* a) noexcept:
    # taps that are multiplied; a tile of few pixels counts as one of TILE_PIXELS
    cdef double total = 0
    cdef Py_ssize_t i, j, n
    for i in range(a.n_y):
        for j in range(a.n_x):
            n = (a.y[i].stop - a.y[i].start) * (a.x[j].stop - a.x[j].start)
            total += max(n, <Py_ssize_t>TILE_PIXELS) * max(<Py_ssize_t>0, a.y[i].last - a.y[i].first) * max(
                <Py_ssize_t>0, a.x[j].last - a.x[j].first)
    return total


cdef Regions whole_region(Arrays arrays, Py_ssize_t height, Py_ssize_t width, Py_ssize_t kernel_y, Py_ssize_t kernel_x,
                          Py_ssize_t each):
    # an image that is not cut
    cdef Span *whole = <Span*>arrays.block(2 * sizeof(Span))
    whole[0], whole[1] = Span(0, height, 0, kernel_y), Span(0, width, 0, kernel_x)
    return Regions(whole, whole + 1, 1, 1, kernel_x, each, False, False)


cdef Regions regions_by_taps(Arrays arrays, Py_ssize_t height, Py_ssize_t width, const Shape* within, tuple first, tuple step,
                             tuple tap_step, tuple kernel, Py_ssize_t each):
    # the regions of an image whose pixels read one `within`, both axes cut
    cdef Span *y = <Span*>arrays.block((height + width) * sizeof(Span))
    cdef Span *x = y + height
    return Regions(y, x, spans(y, height, within.height, first[0], step[0], tap_step[0], kernel[0]),
                   spans(x, width, within.width, first[1], step[1], tap_step[1], kernel[1]), kernel[1], each, True, True)


cdef Regions cut_regions(Arrays arrays, const Shape* of, const Shape* within, tuple first, tuple step, tuple tap_step, tuple kernel,
                         Py_ssize_t each):
    # likewise: both axes cut, or rows only, or neither, as costs least
    cdef Regions best = whole_region(arrays, of.height, of.width, kernel[0], kernel[1], each)
    cdef Regions cut = regions_by_taps(arrays, of.height, of.width, within, first, step, tap_step, kernel, each), rows = cut
    rows.x, rows.n_x, rows.cut_x = best.x, 1, False
    if region_cost(&rows) < region_cost(&best):
        best = rows
    return cut if region_cost(&cut) < region_cost(&best) else best


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


# --- products

cdef void conv2d_product(const Grid* g, const Regions* regions, const void* packed, const void* bias, const Indirect* p,
                         Py_ssize_t depth, Py_ssize_t width, Block own, floating* dtype) noexcept nogil:
    # pixels r0 to r1, units c0 to c1 of c = a W^T + b; a group has `depth` channels in a and `width` in c
    cdef Py_ssize_t strips = n_strips(width, dtype), unit = own.c0, group
    cdef Strips s
    while unit < own.c1:        # group by group
        group = unit // strips
        s.n_out, s.first, s.last = width, unit - group * strips, min(strips, own.c1 - group * strips)
        s.packed = <floating*>packed + group * round_up(width, lanes_of(dtype)) * p.depth
        s.bias = <floating*>bias + group * width if bias != NULL else <floating*>NULL
        strips_product(g, regions, p, &s, group * depth, group * width, own.r0, own.r1, dtype)
        unit += s.last - s.first


cdef void conv2d_rows(const Conv2d* d, Py_ssize_t images, Image x, Image z, const void* packed, const void* bias, bint accumulate,
                      bint relu, Block own, floating* dtype) noexcept nogil:
    # z (+)= the convolution of x, the thread's block
    cdef Grid g = forward_grid(d, images, x, z, dtype)
    cdef Indirect p = Indirect(d.taps, NULL, d.size, accumulate, False, relu)
    if d.depthwise:
        depthwise_product(&g, d.sweep, d.width, d.size, packed, bias, accumulate, relu, own, dtype)
        return
    conv2d_product(&g, &d.regions, packed, bias, &p, d.depth, d.width, own, dtype)


cdef inline Block conv2d_block(const Run* r, const Conv2d* d, Py_ssize_t thread, Py_ssize_t n_threads, floating* dtype) noexcept nogil:
    # the thread's pixels and units of y
    return rows_or_units(r.samples * positions_of(&d.y), d.groups * n_strips(d.width, dtype),
                         d.size * d.y.channels > r.samples * positions_of(&d.x) * d.x.channels, thread, n_threads)


cdef inline Image preactivation_image(const Run* r, const Entry* e, const Conv2d* d, void** z, void** values,
                                      floating* dtype) noexcept nogil:
    # as preactivations, in pixels
    if z[e.number] == NULL:
        return image_of(&d.y, values[d.y.owner], dtype)
    return Image(z[e.number], d.y.channels, d.y.width * d.y.channels, positions_of(&d.y) * d.y.channels)


cdef inline Sizes conv2d_sizes(const Run* r, const Entry* e) noexcept nogil:
    return Sizes(r.samples * e.out_positions, e.n_in, e.n_out)
