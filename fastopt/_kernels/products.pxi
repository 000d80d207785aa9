# Products of matrices, all that layers need: y = x W^T, dx = dz W, dW = dz^T x.
#
# - Two micro-kernels (tile.h). The dot micro-kernel runs along the contiguous summed dimension of both operands; it
#   multiplies a few rows, reads the weights once and packs nothing. The broadcast micro-kernel copies one operand to all
#   lanes and runs along the other.
# - From TRANSPOSE_ROWS rows on, forward lays the ROWS along the lanes: x is packed transposed, and the weights, by far the
#   larger array, are read as they lie. The transposes in and out cost one part in n_out and one in n_in of the product.
# - The summed dimension is cut into blocks of fixed depth, which are added in order: an element has the same bits in any
#   tile, micro-panel and team.
# - Packed memory is (panels, depth, width), a micro-panel as wide as one tile of the broadcast micro-kernel, or less.

cdef extern from "simd.h" nogil:
    const int DOT_ROWS, BROADCAST_ROWS, BROADCAST_VECS
    ctypedef struct Product:
        const void *a
        const void *b
        const void *bias
        void *c
        Py_ssize_t rows, cols, depth, a_row, a_col, ldb, ldc
        bint accumulate, relu
    # Macros over both types. The micro-kernels take a part of a product, and of p only how its operands lie; the dot one
    # takes its rows and columns from there, too
    void dot_macro_kernel "fastopt_dot_macro_kernel"(const Product* p, const void* a, const void* b, void* c, Py_ssize_t depth,
                                                     bint accumulate, const void* bias, bint relu, bint prefetch)
    void broadcast_micro_kernel "fastopt_broadcast_micro_kernel"(
        const Product* p, int rows, Py_ssize_t cols, const void* a, const void* b, void* c, Py_ssize_t depth, bint accumulate)
    void broadcast_micro_kernel_epilogue "fastopt_broadcast_micro_kernel_epilogue"(
        const Product* p, int rows, Py_ssize_t cols, const void* a, const void* b, void* c, Py_ssize_t depth, bint accumulate,
        const void* bias, bint relu)
    double dot_wide "fastopt_dot_wide"(const void* a, const void* b, Py_ssize_t n)

cdef struct Sizes:              # of a layer's product: x (n, n_in), weight (n_out, n_in), y (n, n_out)
    Py_ssize_t n, n_in, n_out


cdef inline Py_ssize_t panel_width(floating* dtype) noexcept nogil:
    # the width of a micro-panel: columns of one tile of the broadcast micro-kernel
    return BROADCAST_VECS * lanes_of(dtype)


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


cdef void broadcast_product(const Product* p, floating* dtype) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (depth, cols); then bias (cols,), unless NULL, is added, and relu applied
    cdef const floating* a = <floating*>p.a
    cdef const floating* b = <floating*>p.b
    cdef floating* c = <floating*>p.c
    cdef Py_ssize_t j, k = 0
    while k < p.depth or k == 0:        # block by block of the depth, micro-panel by micro-panel, tile by tile
        j = 0
        while j < p.cols:
            broadcast_panel(p, k, min(panel_width(dtype), p.cols - j), a, b + k * p.ldb + j, c + j, j)
            j += panel_width(dtype)
        k += BROADCAST_DEPTH


cdef inline void broadcast_panel(const Product* p, Py_ssize_t k, Py_ssize_t cols, const floating* a, const floating* b,
                                 floating* c, Py_ssize_t j) noexcept nogil:
    # the columns of one micro-panel, j on, and one block of the depth, k on; b and c as they start there
    cdef Py_ssize_t depth = min(<Py_ssize_t>BROADCAST_DEPTH, p.depth - k), i = 0
    cdef bint last = k + BROADCAST_DEPTH >= p.depth, epilogue = last and (p.bias != NULL or p.relu)
    cdef const floating* bias = <floating*>p.bias + j if last and p.bias != NULL else <floating*>NULL
    while i < p.rows:
        if epilogue:
            broadcast_micro_kernel_epilogue(p, <int>min(<Py_ssize_t>BROADCAST_ROWS, p.rows - i), cols, a + i * p.a_row + k * p.a_col, b,
                                            c + i * p.ldc, depth, p.accumulate or k > 0, bias, p.relu)
        else:
            broadcast_micro_kernel(p, <int>min(<Py_ssize_t>BROADCAST_ROWS, p.rows - i), cols, a + i * p.a_row + k * p.a_col, b,
                                   c + i * p.ldc, depth, p.accumulate or k > 0)
        i += BROADCAST_ROWS


cdef void broadcast_rows(const Product* p, Py_ssize_t step, floating* dtype) noexcept nogil:
    # c (rows, cols) (+)= a (rows, depth) b (depth, cols), where a tile's rows are done with before the next: a is read once.
    # The micro-panels of b, (depth, ldb) each, stand `step` elements apart
    cdef const floating* a = <floating*>p.a
    cdef const floating* b = <floating*>p.b
    cdef floating* c = <floating*>p.c
    cdef Py_ssize_t panel_cols = panel_width(dtype), i = 0, j, k, s
    while i < p.rows:
        j = s = 0
        while j < p.cols:
            k = 0
            while k < p.depth or k == 0:
                broadcast_micro_kernel(p, <int>min(<Py_ssize_t>BROADCAST_ROWS, p.rows - i), min(panel_cols, p.cols - j),
                                       a + i * p.a_row + k * p.a_col, b + s * step + k * p.ldb, c + i * p.ldc + j,
                                       min(<Py_ssize_t>BROADCAST_DEPTH, p.depth - k), p.accumulate or k > 0)
                k += BROADCAST_DEPTH
            j += panel_cols
            s += 1
        i += BROADCAST_ROWS


# --- rows in micro-panels, which forward multiplies with weights as they lie

cdef inline Py_ssize_t n_panels(Py_ssize_t rows, floating* dtype) noexcept nogil:
    # the number of micro-panels that the rows of a transposed operand make
    return (round_up(rows, lanes_of(dtype)) + panel_width(dtype) - 1) // panel_width(dtype)


cdef inline Py_ssize_t panel_start(Py_ssize_t rows, Py_ssize_t s, floating* dtype) noexcept nogil:
    # the first row of micro-panel s: whole vectors, in even parts
    return round_up(rows, lanes_of(dtype)) // lanes_of(dtype) * s // n_panels(rows, dtype) * lanes_of(dtype)


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


cdef void pack_transposed(const Rows* x, Block b, Py_ssize_t depth, floating* panels) noexcept nogil:
    # rows r0 to r1 of x (n, depth) -> micro-panels (depth, width), of which columns c0 to c1 are written
    cdef Py_ssize_t rows = b.r1 - b.r0, lanes = lanes_of(panels), s, i, start, width
    for s in range(n_panels(rows, panels)):
        start = panel_start(rows, s, panels)
        width = panel_start(rows, s + 1, panels) - start
        i = 0
        while i < width:
            transpose_lanes(x, b.r0 + start + i, min(lanes, rows - start - i), b, panels + start * depth + b.c0 * width + i, width)
            i += lanes


cdef Block pack_chunk(const Rows* x, floating* panels, const Sizes* s, Py_ssize_t grain, bint own_rows,
                      Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x -> micro-panels, complete on return, which gives the thread's block of y. Where threads may have rows of their own, and
    # there are enough for all, nobody waits; else each thread has all rows, and columns of its own, cut at `grain`
    cdef Py_ssize_t lanes = lanes_of(panels)
    cdef Block own
    if own_rows and s.n >= MIN_OWN_ROWS * n_threads:
        own = Block(chunk_start(s.n, lanes, thread, n_threads), chunk_start(s.n, lanes, thread + 1, n_threads), 0, s.n_out)
        pack_transposed(x, Block(own.r0, own.r1, 0, s.n_in), s.n_in, panels + own.r0 * s.n_in)
        return own
    pack_transposed(x, Block(0, s.n, chunk_start(s.n_in, lanes, thread, n_threads), chunk_start(s.n_in, lanes, thread + 1, n_threads)),
                    s.n_in, panels)
    team_barrier(n_threads)
    return Block(0, s.n, chunk_start(s.n_out, grain, thread, n_threads), chunk_start(s.n_out, grain, thread + 1, n_threads))


cdef struct PanelProduct:       # y (n, out) = x W^T + b, the rows of x in micro-panels
    const void *panels          # of rows r0 to r1 of x (n, n_in)
    const void *more_panels     # of another x, whose product with more_weight is added; or NULL
    const void *weight          # (out, depth)
    const void *more_weight
    const void *bias            # (out,) or NULL
    Py_ssize_t n_in, k, depth   # columns k to k + depth of x, (n, n_in), are multiplied
    bint relu


cdef void transposed_product(const PanelProduct* p, const Rows* y, Block own, floating* dtype) noexcept nogil:
    # the block `own` of y; weight and bias start with the first output of all
    cdef floating block[BLOCK_OUT * 48]                     # (BLOCK_OUT, width), width <= 48 at every level
    cdef Py_ssize_t lanes = lanes_of(dtype), rows = own.r1 - own.r0, s, j, i, start, width, r, n
    cdef Product part
    part.a_row, part.a_col, part.c, part.depth = p.depth, 1, <void*>block, p.depth
    for s in range(n_panels(rows, dtype)):
        start = panel_start(rows, s, dtype)
        width = panel_start(rows, s + 1, dtype) - start
        part.cols = part.ldb = part.ldc = width
        for j in range(own.c0, own.c1, 48):     # by BLOCK_OUT, as a constant that makes a C loop: W x^T into `block`
            part.rows, part.accumulate = min(<Py_ssize_t>BLOCK_OUT, own.c1 - j), False
            part.a, part.b = <floating*>p.weight + j * p.depth, <floating*>p.panels + start * p.n_in + p.k * width
            broadcast_rows(&part, 0, dtype)
            if p.more_panels != NULL:
                part.a, part.b = <floating*>p.more_weight + j * p.depth, <floating*>p.more_panels + start * p.n_in + p.k * width
                part.accumulate = True
                broadcast_rows(&part, 0, dtype)
            i = 0
            while i < part.rows:                # and back: transposed into y, with bias and relu, run by run
                r = start
                while r < min(start + width, rows):
                    n = run_rows(y, own.r0 + r, own.r0 + min(start + width, rows))
                    transpose_out(block + i * width + r - start, width, min(lanes, part.rows - i),
                                  row(y, own.r0 + r, dtype) + j + i, y.ld, n,
                                  <floating*>p.bias + j + i if p.bias != NULL else <floating*>NULL, p.relu)
                    r += n
                i += lanes


# --- dW = dz^T x

cdef struct Operands:           # as broadcast_rows takes them: dz along the outputs, x along the inputs
    Py_ssize_t row, col         # dz[i, j] at dz + j * row + i * col
    Py_ssize_t ldb, step        # x[i, c] at x + c // width * step + i * ldb + c % width
    const void *dz
    const void *x


cdef inline bint pays_packing(Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    # whether the product dW is worth packing its operands
    return n >= TRANSPOSE_ROWS and n_in >= PACK_WIDTH and n_out >= PACK_WIDTH


cdef void pack_operands(const Rows* x, const Rows* dz, floating* scratch, Operands* to, const Sizes* s, bint panels,
                        Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # in scratch, x in micro-panels and dz transposed, where that is wanted and pays; else both as matrices without gaps, copied
    # to scratch where they have some. A thread packs its chunk of x, and the rows of dz that it has computed itself
    cdef Py_ssize_t panel_cols = panel_width(scratch), width = round_up(s.n, lanes_of(scratch))
    cdef Py_ssize_t r0 = chunk_start(s.n, ROW_GRAIN, thread, n_threads), r1 = chunk_start(s.n, ROW_GRAIN, thread + 1, n_threads)
    cdef floating* more = scratch + s.n * round_up(s.n_in, panel_cols)
    if panels and pays_packing(s.n, s.n_in, s.n_out):
        to.x, to.dz, to.row, to.col, to.ldb, to.step = scratch, more, width, 1, panel_cols, s.n * panel_cols
        pack_panels(x, scratch, s.n, s.n_in, thread, n_threads)
        while r0 < r1:
            transpose_lanes(dz, r0, min(lanes_of(more), r1 - r0), Block(0, 0, 0, s.n_out), more + r0, width)
            r0 += lanes_of(more)
    else:
        to.x, to.dz = gathered(x, scratch, s.n_in, r0, r1), gathered(dz, more, s.n_out, r0, r1)
        to.row, to.col, to.ldb, to.step = 1, s.n_out, s.n_in, panel_cols


cdef void pack_panels(const Rows* x, floating* panels, Py_ssize_t rows, Py_ssize_t cols,
                      Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # x (rows, cols) -> micro-panels (rows, width), the thread's chunk of them
    cdef Py_ssize_t panel_cols = panel_width(panels), i, j = chunk_start(cols, panel_cols, thread, n_threads)
    cdef Py_ssize_t last = chunk_start(cols, panel_cols, thread + 1, n_threads)
    while j < last:
        for i in range(rows):
            memcpy(panels + j * rows + i * panel_cols, row(x, i, panels) + j, min(panel_cols, last - j) * <Py_ssize_t>sizeof(floating))
        j += panel_cols


cdef inline void weight_gradient(const Operands* a, floating* dw, Py_ssize_t ldw, Block b, Py_ssize_t n, bint accumulate) noexcept nogil:
    # rows r0 to r1, columns c0, which starts a micro-panel, to c1 of dW (+)= dz^T x over n rows; dw points to the first of them
    cdef Product p
    p.a, p.a_row, p.a_col = <floating*>a.dz + b.r0 * a.row, a.row, a.col
    p.b, p.ldb = <floating*>a.x + b.c0 // panel_width(dw) * a.step, a.ldb
    p.c, p.ldc, p.rows, p.cols, p.depth, p.accumulate = dw, ldw, b.r1 - b.r0, b.c1 - b.c0, n, accumulate
    broadcast_rows(&p, a.step, dw)


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
