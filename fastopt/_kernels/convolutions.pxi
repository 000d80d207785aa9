# Products of pixels with filters, all that a convolution needs: forward, input gradient and weight gradient are one
# micro-kernel (indirect.h), which finds its operands through tables of offsets.
#
# - A pixel of the output reads elements of the input at the same offsets from its first one, whatever the kernel, stride
#   and dilation: `taps`, a table of one offset an element of a filter. Nothing is copied; what lies beyond the edge is the
#   image's border of zeros.
# - Filters are packed in strips of outputs, (strips, elements of a filter, width), once a call, or once for all in a network
#   that stays as it is. A strip is as even as whole vectors allow, so tiles of different heights have one width.
# - Pixels are taken PIXEL_BLOCK at a time: what they read stays in L2 while all strips pass.
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
        bint accumulate, relu
    # c[c_rows[i] + j] = bias[j] + sum_k a[a_rows[i] + a_cols[k]] b[b_rows[k] + j]; packed: b is (depth, whole vectors)
    void indirect_packed "fastopt_indirect_packed"(const Indirect* p, int rows, Py_ssize_t cols, const void* a, const Py_ssize_t* a_rows,
                                                   const void* b, const void* bias, void* c, const Py_ssize_t* c_rows)
    void prefetch_lines(const void* p, Py_ssize_t size)
    void indirect_product "fastopt_indirect_product"(const Indirect* p, int rows, Py_ssize_t cols, const void* a,
                                                     const Py_ssize_t* a_rows, const void* b, const void* bias, void* c,
                                                     const Py_ssize_t* c_rows)

cdef enum:
    MAX_INDIRECT_ROWS = 16      # of a tile, at any level

cdef struct Grid:               # pixels of a batch that a product reads, a, and writes, c
    Py_ssize_t height, width    # of an image
    Image a, c


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


cdef inline Py_ssize_t strip_size(const Strips* s, Py_ssize_t strip, Py_ssize_t depth, floating* dtype) noexcept nogil:
    # the bytes of a strip; none beyond the last one to compute
    if strip >= s.last:
        return 0
    return (strip_start(s.n_out, strip + 1, dtype) - strip_start(s.n_out, strip, dtype)) * depth * <Py_ssize_t>sizeof(floating)


cdef void strips_product(const Grid* g, const Indirect* p, const Strips* s, Py_ssize_t a_first, Py_ssize_t c_first,
                         Py_ssize_t start, Py_ssize_t stop, floating* dtype) noexcept nogil:
    # pixels start to stop; a_first and c_first: the channels of a and c with which the group begins
    cdef Py_ssize_t a[PIXEL_BLOCK]
    cdef Py_ssize_t c[PIXEL_BLOCK]
    cdef Py_ssize_t n, strip, column, cols, i, tiles, share
    cdef const char* ahead
    cdef int rows
    while start < stop:
        n = min(<Py_ssize_t>PIXEL_BLOCK, stop - start)
        pixel_offsets(g, start, n, a, c)
        for strip in range(s.first, s.last):
            column, cols = strip_start(s.n_out, strip, dtype), strip_cols(s.n_out, strip, dtype)
            tiles = (n + tile_rows(cols, dtype) - 1) // tile_rows(cols, dtype)
            ahead = <char*>s.packed + strip_start(s.n_out, strip + 1, dtype) * p.depth * <Py_ssize_t>sizeof(floating)
            share = strip_size(s, strip + 1, p.depth, dtype) // tiles
            i = 0
            while i < n:        # in tiles as even as can be, each of which prefetches its share of the next strip
                rows = <int>((n - i + tiles - 1) // tiles)
                prefetch_lines(ahead, share)
                ahead += share
                indirect_packed(p, rows, cols, <floating*>g.a.start + a_first, a + i, <floating*>s.packed + column * p.depth,
                                <floating*>s.bias + column if s.bias != NULL else <floating*>NULL,
                                <floating*>g.c.start + c_first + column, c + i)
                i += rows
                tiles -= 1
        start += n


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
