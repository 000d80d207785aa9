# Products of pixels with filters, all that a convolution needs: forward, input gradient and weight gradient are one
# micro-kernel (indirect.h), which finds its operands through tables of offsets.
#
# - A pixel of the output reads elements of the input at the same offsets from its first one, whatever the kernel, stride
#   and dilation: `taps`, a table of one offset an element of a filter. Nothing is copied; what lies beyond the edge is the
#   image's border of zeros.
# - Filters are packed in strips of outputs, (strips, elements of a filter, width), once a call, or once for all in a network
#   that stays as it is. A strip is as even as whole vectors allow, so tiles of different heights have one width.
# - A strip passes all pixels before the next one, which their tiles prefetch where that helps the processor: filters are
#   by far the larger array where they do not fit the cache.
# - Taps beyond the edge are not multiplied: pixels go by regions whose filters reach beyond it alike, rows and columns along
#   the edges and what is left. The border of zeros is still there for regions that are too small to be worth a tile.
# - The gradient of the input is a convolution of dz with the filters turned around. With a stride it is one for each pixel
#   of a stride's step, for which the taps differ ("phases"); no zero is multiplied.
# - Where an input has few channels, lanes along channels would be empty. Then the products of a row of dz with all elements
#   of the filters are computed, and added to the rows of dx that they belong to ("scatter").
# - The gradient of the weights sums over pixels, GRADIENT_PIXELS at a time, in order; lanes are the channels of a run of
#   taps where these fill vectors, and else outputs, of which the result is transposed. Small gradients over many pixels are
#   cut into chunks of pixels at fixed borders, for threads to share; their sums are added in order.

cdef extern from "simd.h" nogil:
    const int INDIRECT_VECS
    int INDIRECT_ROWS(int vecs)
    ctypedef struct Indirect:
        const Py_ssize_t *a_cols
        const Py_ssize_t *b_rows
        Py_ssize_t depth
        bint accumulate, resume, relu
    # c[c_rows[i] + j] = bias[j] + sum_k a[a_rows[i] + a_cols[k]] b[b_rows[k] + j]; packed: b is (depth, whole vectors)
    void indirect_packed "fastopt_indirect_packed"(const Indirect* p, int rows, Py_ssize_t cols, const void* a, const Py_ssize_t* a_rows,
                                                   const void* b, const void* bias, void* c, const Py_ssize_t* c_rows)
    void add_run "fastopt_add_run"(const void* to, const void* source, Py_ssize_t n)
    void prefetch_lines(const void* p, Py_ssize_t size)
    void indirect_product "fastopt_indirect_product"(const Indirect* p, int rows, Py_ssize_t cols, const void* a,
                                                     const Py_ssize_t* a_rows, const void* b, const void* bias, void* c,
                                                     const Py_ssize_t* c_rows)

cdef enum:
    MAX_INDIRECT_ROWS = 16      # of a tile, at any level

cdef struct Grid:               # pixels of a batch that a product reads, a, and writes, c
    Py_ssize_t images, height, width
    Image a, c

cdef struct Span:               # pixels of an axis, start to stop, all of whose taps within the image are first to last
    Py_ssize_t start, stop, first, last

cdef struct Regions:            # the pixels of a grid, by their taps within the image: the spans of its axes
    Span *y
    Span *x
    Py_ssize_t n_y, n_x
    Py_ssize_t kernel_x, each   # taps of a row of a filter; elements of a tap
    bint cut_y, cut_x           # no tap beyond the edge is multiplied, along this axis


cdef inline Py_ssize_t vectors(Py_ssize_t n, floating* dtype) noexcept nogil:
    return (n + lanes_of(dtype) - 1) // lanes_of(dtype)


cdef inline Py_ssize_t n_strips(Py_ssize_t n_out, floating* dtype) noexcept nogil:
    return (vectors(n_out, dtype) + INDIRECT_VECS - 1) // INDIRECT_VECS


cdef inline Py_ssize_t strip_start(Py_ssize_t n_out, Py_ssize_t strip, floating* dtype) noexcept nogil:
    # the first output of a strip
    return vectors(n_out, dtype) * strip // n_strips(n_out, dtype) * lanes_of(dtype)


cdef inline Py_ssize_t strip_cols(Py_ssize_t n_out, Py_ssize_t strip, floating* dtype) noexcept nogil:
    return min(n_out, strip_start(n_out, strip + 1, dtype)) - strip_start(n_out, strip, dtype)


cdef inline int tile_rows(Py_ssize_t cols, floating* dtype) noexcept nogil:
    # the most rows of a tile so wide
    return INDIRECT_ROWS(<int>vectors(cols, dtype))


cdef void pixel_offsets(const Grid* g, Py_ssize_t first, Py_ssize_t n, Py_ssize_t* a, Py_ssize_t* c) noexcept nogil:
    # where n pixels from `first` on stand in a and in c
    cdef Py_ssize_t of_image = g.height * g.width, image = first // of_image, y = first % of_image // g.width, x = first % g.width
    cdef Py_ssize_t i = 0, end
    cdef Py_ssize_t to_a, to_c
    while i < n:                # row by row
        to_a = image * g.a.image + y * g.a.row + x * g.a.pixel
        to_c = image * g.c.image + y * g.c.row + x * g.c.pixel
        end = min(n, i + g.width - x)
        while i < end:
            a[i], c[i] = to_a, to_c
            to_a += g.a.pixel
            to_c += g.c.pixel
            i += 1
        x = 0
        y += 1
        if y == g.height:
            y = 0
            image += 1


cdef struct Strips:             # c (pixels, n_out) = a W^T + b of one group, a's pixels through offsets
    const void *packed          # (strips, depth, width)
    const void *bias            # (n_out,) or NULL
    Py_ssize_t n_out, first, last       # strips `first` to `last` are computed


cdef struct Tile:               # what all tiles of a strip share
    Py_ssize_t column, cols, width      # its outputs; width: whole vectors
    const void *packed
    const void *bias
    const void *ahead           # the next strip, ahead_size bytes, of which a tile of some of the `pixels` prefetches its share
    Py_ssize_t ahead_size, pixels


cdef inline Grid region_grid(const Grid* g, const Span* y, const Span* x, Py_ssize_t a_first, Py_ssize_t c_first,
                             floating* dtype) noexcept nogil:
    cdef Grid part = g[0]
    part.height, part.width = y.stop - y.start, x.stop - x.start
    part.a.start = <floating*>g.a.start + y.start * g.a.row + x.start * g.a.pixel + a_first
    part.c.start = <floating*>g.c.start + y.start * g.c.row + x.start * g.c.pixel + c_first
    return part


cdef void region_product(const Grid* g, const Regions* regions, const Span* y, const Span* x, const Indirect* p, Tile* t,
                         Py_ssize_t first, Py_ssize_t last, floating* dtype) noexcept nogil:
    # pixels first to last of a region, one strip. The taps of a region are one piece of the filters or, where columns of them
    # lie beyond the edge, one piece a row, of which each but the first goes on from the sums in c
    cdef Py_ssize_t a[PIXEL_BLOCK]
    cdef Py_ssize_t c[PIXEL_BLOCK]
    cdef bint whole = x.last - x.first == regions.kernel_x
    cdef Py_ssize_t taps = max(<Py_ssize_t>0, x.last - x.first) * (max(<Py_ssize_t>0, y.last - y.first) if whole else 1)
    cdef Py_ssize_t pieces = 1 if whole or taps == 0 else max(<Py_ssize_t>1, y.last - y.first), n, i, piece, at, tiles, share
    cdef Indirect part
    cdef int rows
    if y.last <= y.first:
        taps = 0
    part.b_rows = NULL
    while first < last:
        n = min(<Py_ssize_t>PIXEL_BLOCK, last - first)
        pixel_offsets(g, first, n, a, c)
        for piece in range(pieces):
            at = ((y.first + piece) * regions.kernel_x + x.first) * regions.each if taps > 0 else 0
            part.a_cols, part.depth, part.resume = p.a_cols + at, taps * regions.each, piece > 0
            part.accumulate, part.relu = p.accumulate and piece == 0, p.relu and piece == pieces - 1
            tiles = (n + tile_rows(t.cols, dtype) - 1) // tile_rows(t.cols, dtype)
            i = 0
            while i < n:        # in tiles as even as can be
                rows = <int>((n - i + tiles - 1) // tiles)
                share = t.ahead_size * rows // t.pixels if piece == 0 else 0
                prefetch_lines(t.ahead, share)
                t.ahead = <char*>t.ahead + share
                indirect_packed(&part, rows, t.cols, <floating*>g.a.start, a + i, <floating*>t.packed + at * t.width,
                                <floating*>t.bias if piece == 0 else <floating*>NULL, <floating*>g.c.start, c + i)
                i += rows
                tiles -= 1
        first += n


cdef void strips_product(const Grid* g, const Regions* regions, const Indirect* p, const Strips* s, Py_ssize_t a_first,
                         Py_ssize_t c_first, Py_ssize_t start, Py_ssize_t stop, floating* dtype) noexcept nogil:
    # pixels start to stop, region by region; a_first and c_first: the channels of a and c with which the group begins
    cdef Py_ssize_t strip, i, before, size, first, last
    cdef Grid part
    cdef Tile t
    for strip in range(s.first, s.last):
        t.column, t.cols = strip_start(s.n_out, strip, dtype), strip_cols(s.n_out, strip, dtype)
        t.width = strip_start(s.n_out, strip + 1, dtype) - t.column
        t.packed, t.bias = <floating*>s.packed + t.column * p.depth, NULL
        if s.bias != NULL:
            t.bias = <floating*>s.bias + t.column
        t.ahead, t.ahead_size, t.pixels = <floating*>t.packed + t.width * p.depth, 0, max(<Py_ssize_t>1, stop - start)
        if strip + 1 < s.last and tuning.strip_prefetch:
            t.ahead_size = (strip_start(s.n_out, strip + 2, dtype) - t.column - t.width) * p.depth * <Py_ssize_t>sizeof(floating)
        before = 0
        for i in range(regions.n_y * regions.n_x):
            part = region_grid(g, &regions.y[i // regions.n_x], &regions.x[i % regions.n_x], a_first, c_first + t.column, dtype)
            size = part.images * part.height * part.width
            first, last = max(start, before) - before, min(stop, before + size) - before
            if first < last:
                region_product(&part, regions, &regions.y[i // regions.n_x], &regions.x[i % regions.n_x], p, &t, first, last, dtype)
            before += size


cdef void pack_strips(const floating* weight, Py_ssize_t n_out, Py_ssize_t depth, Py_ssize_t first, Py_ssize_t last,
                      floating* packed) noexcept nogil:
    # strips `first` to `last` of weight (n_out, depth) -> (strips, depth, width), zeros for outputs that are missing
    cdef Py_ssize_t strip, column, width, i
    for strip in range(first, last):
        column = strip_start(n_out, strip, packed)
        width = strip_start(n_out, strip + 1, packed) - column
        i = 0
        while i < width:
            transpose_in(weight + (column + i) * depth, depth, min(lanes_of(packed), n_out - column - i),
                         packed + column * depth + i, width, depth)
            i += lanes_of(packed)


cdef inline void pack_row(const floating* row, Py_ssize_t n, Py_ssize_t k, Py_ssize_t depth, floating* packed) noexcept nogil:
    # row k of a matrix (depth, n) -> (strips, depth, width)
    cdef Py_ssize_t strip, column, width, cols
    for strip in range(n_strips(n, packed)):
        column = strip_start(n, strip, packed)
        width, cols = strip_start(n, strip + 1, packed) - column, strip_cols(n, strip, packed)
        memcpy(packed + column * depth + k * width, row + column, cols * <Py_ssize_t>sizeof(floating))
        memset(packed + column * depth + k * width + cols, 0, (width - cols) * <Py_ssize_t>sizeof(floating))
