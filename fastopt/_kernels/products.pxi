# Products of matrices, all that layers need: y = x W^T, dx = dz W, dW = dz^T x.
#
# - Two micro-kernels. The dot micro-kernel (tile.h) runs along the contiguous summed dimension of both operands; it
#   multiplies a few rows, reads the weights once and packs nothing. The indirect micro-kernel (indirect.h) copies one operand
#   to all lanes and runs along the other.
# - From TRANSPOSE_ROWS rows on, forward lays the ROWS along the lanes: x is packed transposed, in strips, and the weights, by
#   far the larger array, are read as they lie. The transposes in and out cost one part in n_out and one in n_in of the product.
# - dx and dW read all operands as they lie, through tables of where rows begin.
# - A summed dimension is cut into blocks of fixed depth, which are added in order: an element has the same bits in any tile,
#   strip and team.

cdef extern from "simd.h" nogil:
    const int DOT_ROWS
    ctypedef struct Product:
        const void *a
        const void *b
        const void *bias
        void *c
        Py_ssize_t rows, cols, depth, a_row, ldb, ldc
        bint accumulate, relu
    # Macros over both types. A part of a product: of p, how the operands lie, their rows and columns
    void dot_macro_kernel "fastopt_dot_macro_kernel"(const Product* p, const void* a, const void* b, void* c, Py_ssize_t depth,
                                                     bint accumulate, const void* bias, bint relu, bint prefetch)
    double dot_wide "fastopt_dot_wide"(const void* a, const void* b, Py_ssize_t n)

cdef struct Sizes:              # of a layer's product: x (n, n_in), weight (n_out, n_in), y (n, n_out)
    Py_ssize_t n, n_in, n_out


cdef Py_ssize_t dot_rows() noexcept nogil:
    return DOT_ROWS


cdef inline Block grid_chunk(Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t row_grain, Py_ssize_t col_grain,
                             Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # the thread's block: columns are cut while each thread gets two grains, for then it reads its own weights only; else rows
    if cols >= 2 * col_grain * n_threads:
        return Block(0, rows, chunk_start(cols, col_grain, thread, n_threads), chunk_start(cols, col_grain, thread + 1, n_threads))
    return Block(chunk_start(rows, row_grain, thread, n_threads), chunk_start(rows, row_grain, thread + 1, n_threads), 0, cols)


# --- products of operands as they lie

cdef void dot_product(const Product* p, floating* dtype) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (cols, depth)^T; then bias (cols,), unless NULL, is added, and relu applied
    cdef const floating* a = <floating*>p.a
    cdef const floating* b = <floating*>p.b
    cdef Py_ssize_t block_depth = DOT_DEPTH_BYTES // <Py_ssize_t>sizeof(floating), k = 0
    cdef Py_ssize_t size = p.cols * p.depth * <Py_ssize_t>sizeof(floating)
    cdef bint last, prefetch = size * min(p.rows, <Py_ssize_t>DOT_ROWS) > tuning.dot_prefetch_bytes
    while k < p.depth or k == 0:           # block by block of the depth; a depth of 0 still writes zeros
        last = k + block_depth >= p.depth  # the epilogue comes with the last block
        dot_macro_kernel(p, a + k, b + k, <floating*>p.c, min(block_depth, p.depth - k), p.accumulate or k > 0,
                         <floating*>p.bias if last else <floating*>NULL, last and p.relu, prefetch)
        k += block_depth


# --- rows in strips, which forward multiplies with weights as they lie

cdef void transpose_lanes(const Rows* x, Py_ssize_t r, Py_ssize_t n, Block b, floating* to, Py_ssize_t ldt) noexcept nogil:
    # columns c0 to c1 of n <= LANES rows from r on -> to[k * ldt + i], zeros for rows that are missing
    cdef floating some[16 * 64]
    cdef Py_ssize_t k = b.c0, i, tile_cols
    if run_rows(x, r, r + n) == n:
        transpose_in(row(x, r, to) + k, x.ld, n, to, ldt, b.c1 - k)
        return
    while k < b.c1:             # the rows lie in several runs
        tile_cols = min(<Py_ssize_t>64, b.c1 - k)
        for i in range(n):
            memcpy(some + i * 64, row(x, r + i, to) + k, tile_cols * <Py_ssize_t>sizeof(floating))
        transpose_in(<floating*>some, 64, n, to + (k - b.c0) * ldt, ldt, tile_cols)
        k += tile_cols


cdef void pack_transposed(const Rows* x, Block b, Py_ssize_t depth, floating* strips) noexcept nogil:
    # rows r0 to r1 of x (n, depth) -> strips (depth, width), of which columns c0 to c1 are written
    cdef Py_ssize_t rows = b.r1 - b.r0, lanes = lanes_of(strips), s, i, start, width
    for s in range(n_strips(rows, strips)):
        start = strip_start(rows, s, strips)
        width = strip_start(rows, s + 1, strips) - start
        i = 0
        while i < width:
            transpose_lanes(x, b.r0 + start + i, min(lanes, rows - start - i), b, strips + start * depth + b.c0 * width + i, width)
            i += lanes


cdef Block pack_chunk(const Rows* x, floating* strips, const Sizes* s, Py_ssize_t grain, bint own_rows,
                      Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x -> strips, complete on return, which gives the thread's block of y. Where threads may have rows of their own, and
    # there are enough for all, nobody waits; else each thread has all rows, and columns of its own, cut at `grain`
    cdef Py_ssize_t lanes = lanes_of(strips)
    cdef Block own
    if own_rows and s.n >= MIN_OWN_ROWS * n_threads:
        own = Block(chunk_start(s.n, lanes, thread, n_threads), chunk_start(s.n, lanes, thread + 1, n_threads), 0, s.n_out)
        pack_transposed(x, Block(own.r0, own.r1, 0, s.n_in), s.n_in, strips + own.r0 * s.n_in)
        return own
    pack_transposed(x, Block(0, s.n, chunk_start(s.n_in, lanes, thread, n_threads), chunk_start(s.n_in, lanes, thread + 1, n_threads)),
                    s.n_in, strips)
    team_barrier(n_threads)
    return Block(0, s.n, chunk_start(s.n_out, grain, thread, n_threads), chunk_start(s.n_out, grain, thread + 1, n_threads))


cdef struct TransposedProduct:  # y (n, out) = x W^T + b, the rows of x in strips
    const void *strips          # of rows r0 to r1 of x (n, n_in)
    const void *more_strips     # of another x, whose product with more_weight is added; or NULL
    const void *weight          # (out, depth)
    const void *more_weight
    const void *bias            # (out,) or NULL
    Py_ssize_t n_in, k, depth   # columns k to k + depth of x, (n, n_in), are multiplied
    bint relu


cdef void transposed_product(const TransposedProduct* p, const Rows* y, Block own, floating* dtype) noexcept nogil:
    # the block `own` of y; weight and bias start with the first output of all
    cdef floating block[BLOCK_OUT * 64]                     # W x^T, (BLOCK_OUT, width); width <= 64 at every level
    cdef Py_ssize_t rows = own.r1 - own.r0, s, j, start, width, high
    for s in range(n_strips(rows, dtype)):
        start = strip_start(rows, s, dtype)
        width = strip_start(rows, s + 1, dtype) - start
        for j in range(own.c0, own.c1, 48):     # by BLOCK_OUT, as a constant that makes a C loop
            high = min(<Py_ssize_t>BLOCK_OUT, own.c1 - j)
            if p.bias != NULL:
                spread_bias(<floating*>p.bias + j, block, high, width)
            multiply_strip(<floating*>p.weight + j * p.depth, <floating*>p.strips + start * p.n_in + p.k * width, block, high, width,
                           p.depth, p.bias != NULL, False)
            if p.more_strips != NULL:
                multiply_strip(<floating*>p.more_weight + j * p.depth, <floating*>p.more_strips + start * p.n_in + p.k * width, block,
                               high, width, p.depth, False, True)
            transpose_back(block, width, high, y, own.r0 + start, min(start + width, rows) - start, j, p.relu)


cdef inline void spread_bias(const floating* bias, floating* block, Py_ssize_t high, Py_ssize_t width) noexcept nogil:
    # block (high, width) = bias (high,) in every column: where sums start
    cdef Py_ssize_t i, j
    for i in range(high):
        for j in range(width):
            block[i * width + j] = bias[i]


cdef inline void multiply_strip(const floating* weight, const floating* strip, floating* block, Py_ssize_t high, Py_ssize_t width,
                                Py_ssize_t depth, bint resume, bint accumulate) noexcept nogil:
    # block (high, width) = weight (high, depth) strip (depth, width); sums go on from the block, or are added to it
    cdef Py_ssize_t weight_rows[BLOCK_OUT]
    cdef Py_ssize_t block_rows[BLOCK_OUT]
    cdef Py_ssize_t i, k = 0
    cdef Indirect p
    p.a_cols, p.b_rows, p.relu = IN_ORDER, NULL, False
    for i in range(high):
        weight_rows[i], block_rows[i] = i * depth, i * width
    while k < depth or k == 0:
        p.depth, p.resume, p.accumulate = min(<Py_ssize_t>SUM_DEPTH, depth - k), resume and k == 0, accumulate or k > 0
        strip_product(&p, width, weight + k, weight_rows, strip + k * width, NULL, block, block_rows, high)
        k += SUM_DEPTH


cdef inline void transpose_back(floating* block, Py_ssize_t width, Py_ssize_t high, const Rows* y, Py_ssize_t r0, Py_ssize_t n,
                                Py_ssize_t j, bint relu) noexcept nogil:
    # rows r0 to r0 + n, columns j to j + high of y = block (high, width)^T, with relu; run by run
    cdef Py_ssize_t lanes = lanes_of(block), i = 0, r, m
    while i < high:
        r = 0
        while r < n:
            m = min(lanes, run_rows(y, r0 + r, r0 + n))
            transpose_out(block + i * width + r, width, min(lanes, high - i), row(y, r0 + r, block) + j + i, y.ld, m, relu)
            r += m
        i += lanes


# --- dx = dz W and dW = dz^T x

cdef struct RowOffsets:         # where rows begin, in elements behind the first
    Py_ssize_t *x               # (n,) of x and dx
    Py_ssize_t *dz              # (n,)
    Py_ssize_t *weight          # (SUM_DEPTH,) of the weight, or as many as it has


cdef void unpacked_product(const Indirect* p, const floating* a, const Py_ssize_t* a_rows, const floating* b, floating* c,
                           const Py_ssize_t* c_rows, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    # c (rows, cols) (+)= a b, of which nothing is packed
    cdef Py_ssize_t s, j
    for s in range(n_strips(cols, c)):
        j = strip_start(cols, s, c)
        strip_product(p, strip_cols(cols, s, c), a, a_rows, b + j, NULL, c + j, c_rows, rows)


cdef void input_gradient_block(const RowOffsets* at, const floating* dz, const floating* weight, floating* dx, Block b,
                               Py_ssize_t depth, bint accumulate) noexcept nogil:
    # rows r0 to r1, columns c0 to c1 of dx (+)= dz W over `depth` outputs, at most SUM_DEPTH; dz and weight start with the
    # first of these. Rows of dz that stay in L2 meet all columns before the next ones do. A few rows are over before a strip
    # of W is in cache: these read W block by block, and sums go on from one to the next
    cdef Py_ssize_t high = max(<Py_ssize_t>MAX_INDIRECT_ROWS, INPUT_GRADIENT_BYTES // (max(depth, 1) * <Py_ssize_t>sizeof(floating)))
    cdef Py_ssize_t deep = INPUT_GRADIENT_DEPTH if b.r1 - b.r0 <= INPUT_GRADIENT_FEW and not accumulate else SUM_DEPTH, k
    cdef Indirect p
    p.a_cols, p.accumulate, p.relu = IN_ORDER, accumulate, False
    while b.r0 < b.r1:
        k = 0
        while k < depth or k == 0:
            p.b_rows, p.depth, p.resume = at.weight + k, min(deep, depth - k), k > 0
            unpacked_product(&p, dz + k, at.dz + b.r0, weight + b.c0, dx + b.c0, at.x + b.r0, min(high, b.r1 - b.r0), b.c1 - b.c0)
            k += deep
        b.r0 += high


cdef void weight_gradient(const RowOffsets* at, const floating* dz, const floating* x, floating* dw, Py_ssize_t ldw, Block b,
                          Py_ssize_t n, bint accumulate) noexcept nogil:
    # rows r0 to r1, columns c0 to c1 of dW (+)= dz^T x over n rows; dw points to the first of them. So few rows at a time that
    # they are written as runs, as long as can be
    cdef Py_ssize_t dw_rows[FUSED_ROWS]
    cdef Py_ssize_t high, k
    cdef Indirect p
    p.resume, p.relu = False, False
    for k in range(min(<Py_ssize_t>FUSED_ROWS, b.r1 - b.r0)):
        dw_rows[k] = k * ldw
    while b.r0 < b.r1:
        high, k = min(<Py_ssize_t>FUSED_ROWS, b.r1 - b.r0), 0
        while k < n or k == 0:
            p.a_cols, p.b_rows = at.dz + k, at.x + k
            p.depth, p.accumulate = min(<Py_ssize_t>SUM_DEPTH, n - k), accumulate or k > 0
            unpacked_product(&p, dz + b.r0, IN_ORDER, x + b.c0, dw, dw_rows, high, b.c1 - b.c0)
            k += SUM_DEPTH
        dw += high * ldw
        b.r0 += high


cdef void sum_rows(const Rows* a, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t n, floating* total) noexcept nogil:
    # total[c0:c1] = the sums over n rows of these columns of a; SUM_ROWS rows are added before they meet the others
    cdef floating part[COLUMN_GRAIN]
    cdef floating sums[COLUMN_GRAIN]
    cdef Py_ssize_t cols, i, end, run
    while c0 < c1:
        cols = min(<Py_ssize_t>COLUMN_GRAIN, c1 - c0)
        memset(sums, 0, sizeof(sums))
        i = 0
        while i < n:
            memset(part, 0, sizeof(part))
            end = min(n, i + SUM_ROWS)
            while i < end:      # run by run
                run = run_rows(a, i, end)
                if cols == COLUMN_GRAIN:        # a constant: the sums stay in registers
                    add_rows_of(row(a, i, total) + c0, a.ld, run, part, COLUMN_GRAIN)
                else:
                    add_rows_of(row(a, i, total) + c0, a.ld, run, part, cols)
                i += run
            add_row(sums, part, cols)
        memcpy(total + c0, sums, cols * sizeof(floating))
        c0 += cols


cdef inline void add_rows_of(const floating* a, Py_ssize_t ld, Py_ssize_t n, floating* total, Py_ssize_t cols) noexcept nogil:
    # total += the sums of n rows
    cdef floating sums[COLUMN_GRAIN]
    cdef Py_ssize_t i, j
    for j in range(cols):
        sums[j] = total[j]
    for i in range(n):
        for j in range(cols):
            sums[j] += a[i * ld + j]
    for j in range(cols):
        total[j] = sums[j]


cdef inline void add_row(floating* y, const floating* bias, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        y[j] += bias[j]
