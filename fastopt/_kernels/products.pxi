# Products of matrices, all a layer needs: y = x W^T, dx = dz W, dW = dz^T x.
#
# - Two register tiles (tile.h). The dot tile runs along the contiguous summed dimension of both
#   operands; a few rows are multiplied so, reading the weights once and packing nothing.
#   The spread tile spreads one operand over the lanes of the other.
# - From TRANSPOSE_ROWS rows on, forward lays the ROWS along the lanes: x is transposed into strips,
#   and the weights, by far the larger array, are read as they lie. The transposes in and out cost
#   one part in (n_out) and one in (n_in) of the product.
# - Networks that stay as they are keep small weights packed in strips of outputs, for few rows.
# - The summed dimension is cut into panels of fixed length, added in order, so an element has
#   the same bits in any block, strip and team.
# - What is in strips: (strips, depth, width), a strip as wide as one spread tile, or less.

cdef extern from "simd.h" nogil:
    const int DOT_ROWS, SPREAD_ROWS, SPREAD_VECS, LANES_f, LANES_d
    void dot_tiles_f(Py_ssize_t rows, Py_ssize_t cols, const float* a, Py_ssize_t lda, const float* b, Py_ssize_t ldb,
                     Py_ssize_t depth, float* c, Py_ssize_t ldc, int accumulate, const float* bias, int relu, int ahead)
    void dot_tiles_d(Py_ssize_t rows, Py_ssize_t cols, const double* a, Py_ssize_t lda, const double* b, Py_ssize_t ldb,
                     Py_ssize_t depth, double* c, Py_ssize_t ldc, int accumulate, const double* bias, int relu, int ahead)
    void spread_tile_f(int rows, Py_ssize_t cols, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
                       const float* b, Py_ssize_t ldb, Py_ssize_t depth, float* c, Py_ssize_t ldc, int accumulate)
    void spread_tile_d(int rows, Py_ssize_t cols, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
                       const double* b, Py_ssize_t ldb, Py_ssize_t depth, double* c, Py_ssize_t ldc, int accumulate)
    void spread_finish_f(int rows, Py_ssize_t cols, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
                         const float* b, Py_ssize_t ldb, Py_ssize_t depth, float* c, Py_ssize_t ldc, int accumulate,
                         const float* bias, int relu)
    void spread_finish_d(int rows, Py_ssize_t cols, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
                         const double* b, Py_ssize_t ldb, Py_ssize_t depth, double* c, Py_ssize_t ldc, int accumulate,
                         const double* bias, int relu)
    void transpose_in_f(const float* source, Py_ssize_t ld, Py_ssize_t rows, float* to, Py_ssize_t ldt, Py_ssize_t depth)
    void transpose_in_d(const double* source, Py_ssize_t ld, Py_ssize_t rows, double* to, Py_ssize_t ldt, Py_ssize_t depth)
    void transpose_out_f(const float* source, Py_ssize_t ld, Py_ssize_t rows, float* to, Py_ssize_t ldt, Py_ssize_t depth,
                         const float* bias, int relu)
    void transpose_out_d(const double* source, Py_ssize_t ld, Py_ssize_t rows, double* to, Py_ssize_t ldt, Py_ssize_t depth,
                         const double* bias, int relu)
    double dot_wide_f(const float* a, const float* b, Py_ssize_t n)
    double dot_wide_d(const double* a, const double* b, Py_ssize_t n)


cdef inline void dot_tiles(Py_ssize_t rows, Py_ssize_t cols, const floating* a, Py_ssize_t lda, const floating* b, Py_ssize_t ldb,
                           Py_ssize_t depth, floating* c, Py_ssize_t ldc, bint accumulate,
                           const floating* bias, bint relu, bint ahead) noexcept nogil:
    if floating is float:
        dot_tiles_f(rows, cols, a, lda, b, ldb, depth, c, ldc, accumulate, bias, relu, ahead)
    else:
        dot_tiles_d(rows, cols, a, lda, b, ldb, depth, c, ldc, accumulate, bias, relu, ahead)


cdef inline void spread_tile(int rows, Py_ssize_t cols, const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
                             const floating* b, Py_ssize_t ldb, Py_ssize_t depth,
                             floating* c, Py_ssize_t ldc, bint accumulate, const floating* bias, bint relu) noexcept nogil:
    if bias == NULL and not relu:
        if floating is float:
            spread_tile_f(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate)
        else:
            spread_tile_d(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate)
    elif floating is float:
        spread_finish_f(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate, bias, relu)
    else:
        spread_finish_d(rows, cols, a, a_row, a_col, b, ldb, depth, c, ldc, accumulate, bias, relu)


cdef inline void transpose_in(const floating* source, Py_ssize_t ld, Py_ssize_t rows, floating* to, Py_ssize_t ldt,
                              Py_ssize_t depth) noexcept nogil:
    # to[k * ldt + i] = source[i * ld + k], zeros where i reaches beyond `rows`
    if floating is float:
        transpose_in_f(source, ld, rows, to, ldt, depth)
    else:
        transpose_in_d(source, ld, rows, to, ldt, depth)


cdef inline void transpose_out(const floating* source, Py_ssize_t ld, Py_ssize_t rows, floating* to, Py_ssize_t ldt,
                               Py_ssize_t depth, const floating* bias, bint relu) noexcept nogil:
    # to[k * ldt + i] = source[i * ld + k], with bias (rows,) and relu
    if floating is float:
        transpose_out_f(source, ld, rows, to, ldt, depth, bias, relu)
    else:
        transpose_out_d(source, ld, rows, to, ldt, depth, bias, relu)


cdef inline double dot_wide(const floating* a, const floating* b, Py_ssize_t n) noexcept nogil:
    if floating is float:
        return dot_wide_f(a, b, n)
    else:
        return dot_wide_d(a, b, n)


cdef inline Py_ssize_t strip_of(floating* dtype) noexcept nogil:
    # outputs that one spread tile takes
    return SPREAD_VECS * (LANES_f if floating is float else LANES_d)


cdef void dot_product(const floating* a, Py_ssize_t lda, const floating* b, Py_ssize_t ldb, floating* c, Py_ssize_t ldc,
                      Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t depth, bint accumulate, const floating* bias, bint relu) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (cols, depth)^T; then bias (cols,), unless NULL, is added, and relu applied
    cdef Py_ssize_t panel = DOT_PANEL_BYTES // <Py_ssize_t>sizeof(floating), k = 0
    cdef bint last, ahead = cols * depth * <Py_ssize_t>sizeof(floating) > DOT_AHEAD_BYTES
    while k < depth or k == 0:                  # depth 0 still writes zeros
        last = k + panel >= depth
        dot_tiles(rows, cols, a + k, lda, b + k, ldb, min(panel, depth - k), c, ldc, accumulate or k > 0,
                  bias if last else NULL, last and relu, ahead)
        k += panel


cdef void spread_product(const floating* a, Py_ssize_t a_row, Py_ssize_t a_col, const floating* b, Py_ssize_t ldb,
                         floating* c, Py_ssize_t ldc, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t depth,
                         bint accumulate, const floating* bias, bint relu) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (depth, cols), a[i, k] at a[i * a_row + k * a_col];
    # then bias (cols,), unless NULL, is added, and relu applied
    cdef bint last
    cdef Py_ssize_t strip = strip_of(c), i, j, k = 0, length, wide
    cdef int high
    while k < depth or k == 0:
        length = min(SPREAD_PANEL, depth - k)
        last = k + SPREAD_PANEL >= depth
        j = 0
        while j < cols:
            wide = min(strip, cols - j)
            i = 0
            while i < rows:
                high = <int>min(SPREAD_ROWS, rows - i)
                spread_tile(high, wide, a + i * a_row + k * a_col, a_row, a_col, b + k * ldb + j, ldb, length,
                            c + i * ldc + j, ldc, accumulate or k > 0, bias + j if last and bias != NULL else NULL, last and relu)
                i += high
            j += wide
        k += SPREAD_PANEL


cdef void packed_product(const floating* a, Py_ssize_t lda, const floating* packed, floating* c, Py_ssize_t ldc,
                         Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last, Py_ssize_t depth,
                         const floating* bias, bint relu) noexcept nogil:
    # columns first to last of c (rows, cols) = a (rows, depth) b^T; packed (strips, depth, strip) holds b;
    # `first` starts a strip; bias and relu as spread_product has them
    cdef Py_ssize_t strip = strip_of(c), j
    for j in range(first // strip, (last + strip - 1) // strip):
        spread_product(a, lda, 1, packed + j * strip * depth, strip, c + j * strip, ldc, rows,
                       min(strip, last - j * strip), depth, False, bias + j * strip if bias != NULL else NULL, relu)


cdef inline Py_ssize_t lanes_of(floating* dtype) noexcept nogil:
    return LANES_f if floating is float else LANES_d


cdef inline Py_ssize_t round_up(Py_ssize_t n, Py_ssize_t grain) noexcept nogil:
    return (n + grain - 1) // grain * grain


cdef inline Py_ssize_t strips_of(Py_ssize_t rows, floating* dtype) noexcept nogil:
    # strips that the rows of a transposed operand make
    return (round_up(rows, lanes_of(dtype)) + strip_of(dtype) - 1) // strip_of(dtype)


cdef inline Py_ssize_t strip_start(Py_ssize_t rows, Py_ssize_t s, floating* dtype) noexcept nogil:
    # first row of strip s: whole vectors, shared out evenly
    return round_up(rows, lanes_of(dtype)) // lanes_of(dtype) * s // strips_of(rows, dtype) * lanes_of(dtype)


cdef void transpose_strips(const floating* x, floating* strips, Py_ssize_t rows, Py_ssize_t depth,
                           Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (rows, depth) -> strips of (depth, width), zeros for rows that are missing; member's share of the depth
    cdef Py_ssize_t first = share(depth, lanes_of(x), member, team), last = share(depth, lanes_of(x), member + 1, team)
    cdef Py_ssize_t lanes = lanes_of(x), s, i, start, width
    for s in range(strips_of(rows, x)):
        start = strip_start(rows, s, x)
        width = strip_start(rows, s + 1, x) - start
        i = 0
        while i < width:
            transpose_in(x + (start + i) * depth + first, depth, min(lanes, rows - start - i),
                         strips + start * depth + first * width + i, width, last - first)
            i += lanes


cdef struct StripShare:         # of a product of rows in strips: a member's rows, with strips of their own, and columns
    Py_ssize_t r0, r1, c0, c1


cdef StripShare share_strips(const floating* x, floating* strips, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t grain,
                             bint alone, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (n, in) -> strips, whole for the member on return. If members may work alone, and there are rows enough for
    # all, each has rows of its own and meets nobody; else all have all rows and own columns, cut at `grain`
    cdef StripShare s
    if alone and n >= ROWS_APART * team:
        s.r0, s.r1 = share(n, lanes_of(x), member, team), share(n, lanes_of(x), member + 1, team)
        s.c0, s.c1 = 0, n_out
        transpose_strips(x + s.r0 * n_in, strips + s.r0 * n_in, s.r1 - s.r0, n_in, 0, 1)
    else:
        s.r0, s.r1 = 0, n
        s.c0, s.c1 = share(n_out, grain, member, team), share(n_out, grain, member + 1, team)
        transpose_strips(x, strips, n, n_in, member, team)
        team_barrier(team)
    return s


cdef void transposed_product(const floating* strips, const floating* more_strips, Py_ssize_t n_in, Py_ssize_t k,
                             const floating* weight, const floating* more_weight, floating* y,
                             Py_ssize_t rows, Py_ssize_t n_out, Py_ssize_t depth, Py_ssize_t first, Py_ssize_t last,
                             const floating* bias, bint relu) noexcept nogil:
    # columns first to last of y (rows, n_out) = x weight^T, then bias and relu as dot_product has them; strips hold
    # x (rows, n_in), whose columns k to k + depth are multiplied; weight, its rows `depth` long, and bias start with
    # column `first`. The product of more_strips and more_weight, unless NULL, is added
    cdef floating block[BLOCK_OUT * 48]                     # (BLOCK_OUT, width), width <= 48 at every level
    cdef Py_ssize_t lanes = lanes_of(y), s, j, i, start, width, high
    for s in range(strips_of(rows, y)):
        start = strip_start(rows, s, y)
        width = strip_start(rows, s + 1, y) - start
        for j in range(first, last, 48):    # BLOCK_OUT, spelt out for the sake of a C loop
            high = min(<Py_ssize_t>BLOCK_OUT, last - j)
            spread_rows(weight + (j - first) * depth, depth, 1, strips + start * n_in + k * width, width, 0, block, width,
                        high, width, depth, False)
            if more_strips != NULL:
                spread_rows(more_weight + (j - first) * depth, depth, 1, more_strips + start * n_in + k * width, width, 0,
                            block, width, high, width, depth, True)
            i = 0
            while i < high:
                transpose_out(block + i * width, width, min(lanes, high - i), y + start * n_out + j + i, n_out,
                              min(width, rows - start), bias + j - first + i if bias != NULL else NULL, relu)
                i += lanes


cdef void spread_rows(const floating* a, Py_ssize_t a_row, Py_ssize_t a_col, const floating* b, Py_ssize_t ldb, Py_ssize_t step,
                      floating* c, Py_ssize_t ldc, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t depth, bint accumulate) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (depth, cols), a tile's rows whole before the next: for an a
    # that is read once. a[i, k] at a[i * a_row + k * a_col]; a strip of b (depth, ldb) every `step` elements
    cdef Py_ssize_t strip = strip_of(c), i = 0, j, k, s, wide
    cdef int high
    while i < rows:
        high = <int>min(SPREAD_ROWS, rows - i)
        j = s = 0
        while j < cols:
            wide = min(strip, cols - j)
            k = 0
            while k < depth or k == 0:
                spread_tile(high, wide, a + i * a_row + k * a_col, a_row, a_col, b + s * step + k * ldb, ldb,
                            min(<Py_ssize_t>SPREAD_PANEL, depth - k), c + i * ldc + j, ldc, accumulate or k > 0, NULL, False)
                k += SPREAD_PANEL
            j += strip
            s += 1
        i += high


cdef void copy_strips(const floating* x, floating* strips, Py_ssize_t rows, Py_ssize_t cols,
                      Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # x (rows, cols) -> strips of (rows, strip); member's share of the strips
    cdef Py_ssize_t strip = strip_of(x), i, j
    cdef Py_ssize_t first = share(cols, strip, member, team), last = share(cols, strip, member + 1, team)
    j = first
    while j < last:
        for i in range(rows):
            memcpy(strips + j * rows + i * strip, x + i * cols + j, min(strip, last - j) * <Py_ssize_t>sizeof(floating))
        j += strip


cdef inline bint pays_packing(Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    # whether dW = dz^T x takes its operands from strips
    return n >= TRANSPOSE_ROWS and n_in >= PACK_WIDTH and n_out >= PACK_WIDTH


cdef void transpose_rows(const floating* a, floating* to, Py_ssize_t ldt, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t cols) noexcept nogil:
    # to[j * ldt + i] = a[i, j] for rows r0 to r1 of a (rows, cols)
    while r0 < r1:
        transpose_in(a + r0 * cols, cols, min(lanes_of(a), r1 - r0), to + r0, ldt, cols)
        r0 += lanes_of(a)


cdef inline void grid_share(Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t row_grain, Py_ssize_t col_grain,
                            Py_ssize_t member, Py_ssize_t team, Py_ssize_t* r0, Py_ssize_t* r1,
                            Py_ssize_t* c0, Py_ssize_t* c1) noexcept nogil:
    # member's rectangle of (rows, cols): columns are cut while they leave every member two
    # tiles, for then each reads its own weights only; else rows
    if cols >= 2 * col_grain * team:
        r0[0], r1[0] = 0, rows
        c0[0], c1[0] = share(cols, col_grain, member, team), share(cols, col_grain, member + 1, team)
    else:
        r0[0], r1[0] = share(rows, row_grain, member, team), share(rows, row_grain, member + 1, team)
        c0[0], c1[0] = 0, cols


def pack_weight(weight):
    """Weight (out, in) as `packed_product` reads it: (strips, in, strip), the last strip filled with zeros."""
    strip = SPREAD_VECS * (LANES_f if weight.dtype == np.float32 else LANES_d)
    n_out, n_in = weight.shape
    strips = (n_out + strip - 1) // strip
    block = np.zeros(strips * n_in * strip + 64 // weight.itemsize, weight.dtype)
    start = -block.ctypes.data % 64 // weight.itemsize
    packed = block[start:start + strips * n_in * strip].reshape(strips, n_in, strip)
    for j in range(strips):
        rows = weight[j * strip:(j + 1) * strip]
        packed[j, :, :len(rows)] = rows.T
    return packed
