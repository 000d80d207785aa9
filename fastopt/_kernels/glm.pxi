# Generalized linear models: loss, gradient and Hessian X^T D X from one read of X.
#
# - A model with k linear predictors (k > 1: softmax) has theta (k, q): coefficients and, if asked for, the
#   intercept as the last column. The formulas of families are those of glm_families.pxi.
# - A row is d dense numbers, and entries: columns with a value, or, of categorical codes, with a 1. Dense columns come
#   first. An entry is read for its linear predictor and added where it belongs in gradient and Hessian, so what is no
#   entry costs nothing. Inside, a predictor has two columns more than there are: the intercept's, used or not, and one
#   behind it for codes that have none, the reference levels; its theta is 0, and nobody reads its sums.
# - LANES rows pass at a time, in L1: linear predictors, formulas, gradient. Every
#   HESSIAN_ROWS rows, one symmetric update of X^T D X, lower triangle, from a panel in the dtype of the
#   Hessian: float32 halves its time. The rest is float64, whatever X is.
# - Rows are cut into chunks by the shape alone; each has sums of its own, added in order in the end,
#   so the bits do not depend on the team. A pass runs in slices, each the next panels of every chunk, and
#   signals are looked at in between: an interrupt need not wait for the last row.
# - center (d,) is subtracted from a row, in float64, as it is read: columns far from zero keep the digits in
#   which their rows differ. Theta, gradient and Hessian belong to the centered columns.
# - curvature (blocks, k, LANES) keeps w l'' (k = 1), or the probabilities, of the last point: all that its
#   Hessian and Hessian-vector products need.
# - The checks of y and of the weights are those of fastopt/newton/glm.py, the only caller.

cdef extern from "simd.h" nogil:
    void prefetch_lines(const void* p, Py_ssize_t size)

cdef enum:                  # what a pass computes
    GLM_VALUE               # loss, gradient, curvature
    GLM_PRODUCT             # H v, theta being v
    GLM_HESSIAN             # nothing: the Hessian alone, from the curvature


# ---------------------------------------------------------------- one pass over the rows

cdef struct GlmPlan:
    int family, typenum     # typenum of X
    double parameter        # p of TWEEDIE, s of NEGATIVE_BINOMIAL
    double shift            # log s
    Py_ssize_t n, d, k, q   # rows, dense columns, predictors, parameters of one
    bint intercept
    void* x                 # (n, d)
    int32_t* columns        # (entries,) of each row in ascending order, counted from d on, or NULL: all dense
    double* values          # (entries,), or NULL: ones
    int64_t* starts         # (n + 1,): where the entries of a row start, or NULL: at multiples of `entries`
    Py_ssize_t entries
    Py_ssize_t wide         # columns of theta, of sums and of Hessians inside: q, or all there are and two
    Py_ssize_t panel_cols   # of a panel: d and the intercept; with entries d, the intercept being like an entry
    double* y               # (n,): values, 0 and 1, or classes
    double* weights         # (n,), or NULL: ones
    double* center          # (d,), or NULL: zeros
    double* offset          # (n, k), part of the linear predictors, or NULL: zeros
    double* curvature       # (blocks, k, LANES)
    Py_ssize_t chunks
    Py_ssize_t chunk_taken[GLM_CHUNKS]  # rows that went into the Hessian of a chunk
    double* chunk_grad      # (chunks, k, wide)
    double* chunk_loss      # (chunks,)
    double* chunk_lane      # (chunks, LANES): the loss so far, from slice to slice
    double* rows            # (chunks, LANES, d): rows widened, or about the center; a thread uses its own
    # what one call asks for
    int kind, hessian_type  # hessian_type: type number, or -1 for none
    int buffer_type         # type number that panel and chunk_hessian are made for, or -1
    Py_ssize_t step         # of HESSIAN_ROWS rows, every step-th are taken for the Hessian
    Py_ssize_t part, parts  # the slice to run, and how many there are
    Py_ssize_t ld           # of panels and of chunk_hessian: `wide` in whole vectors
    void* panel             # (chunks, 2, HESSIAN_ROWS, ld): [X 1] and D [X 1]; a thread uses its own
    void* chunk_hessian     # (chunks, k (k + 1) / 2, wide, ld)
    void* hessian           # (k q, k q): the lower triangle is written
    double* theta           # (k, wide)
    double* grad            # (k, q)
    double loss


cdef struct GlmScratch:     # of a thread, on the heap: k has no limit
    double* z               # (k, LANES)
    double* r


cdef void widen_rows(const floating* x, double* to, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        to[i] = <double>x[i]


cdef void center_rows(const floating* x, const double* center, double* to, Py_ssize_t rows, Py_ssize_t d) noexcept nogil:
    # to (rows, d) = x - center
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(d):
            to[j] = <double>x[j] - center[j]
        x += d
        to += d


cdef void fill_panel(const double* x, const double* c, floating* s, Py_ssize_t rows, Py_ssize_t d, Py_ssize_t q,
                     Py_ssize_t ld) noexcept nogil:
    # s (rows, ld) = sqrt(c) [x 1], c NULL: ones; what pads a row stays 0
    cdef Py_ssize_t i, j
    cdef double scale = 1
    for i in range(rows):
        if c != NULL:
            scale = root(c[i])
        for j in range(d):
            s[j] = <floating>(scale * x[j])
        if q > d:
            s[d] = <floating>scale
        x += d
        s += ld


cdef void weight_panel(const floating* s, const double* weight, floating* to, Py_ssize_t rows, Py_ssize_t cols,
                       Py_ssize_t ld) noexcept nogil:
    # to = weight s, row by row
    cdef Py_ssize_t i, j
    cdef floating w
    for i in range(rows):
        w = <floating>weight[i]
        for j in range(cols):
            to[j] = w * s[j]
        s += ld
        to += ld


cdef void triangle_update(const floating* a, const floating* b, Py_ssize_t ld, Py_ssize_t rows, floating* h,
                          Py_ssize_t q, const char* next_rows, Py_ssize_t size) noexcept nogil:
    # lower triangle of h (q, ld) += a^T b; a, b (rows, ld), of q columns. Tiles end with a whole vector: what they write above
    # the diagonal is never read. Meanwhile the `size` bytes from `next_rows` on are prefetched
    cdef Py_ssize_t offsets[HESSIAN_ROWS]
    cdef Py_ssize_t h_rows[MAX_INDIRECT_ROWS]
    cdef Py_ssize_t wide = strip_width(h), high = INDIRECT_ROWS(INDIRECT_VECS), i, j, tiles = 0
    cdef Indirect p
    cdef int n
    p.a_cols, p.b_rows, p.depth, p.accumulate, p.resume, p.relu = offsets, offsets, rows, True, False, False
    for i in range(rows):
        offsets[i] = i * ld
    for i in range(high):
        h_rows[i] = i * ld
    j = 0
    while j < q:
        tiles += (q - j + high - 1) // high
        j += wide
    size = round_up(size // max(1, tiles) + 1, 64)
    j = 0
    while j < q:
        i = j
        while i < q:
            n = <int>min(high, q - i)
            prefetch_lines(next_rows, size)
            next_rows += size
            indirect_product(&p, n, min(wide, round_up(i + n - j, lanes_of(h))), a + i, IN_ORDER, b + j, NULL, h + i * ld + j, h_rows)
            i += n
        j += wide


cdef void add_entries(const GlmPlan* g, const double* weight, const floating* s, bint rooted, Py_ssize_t i, Py_ssize_t rows,
                      floating* h) noexcept nogil:
    # lower triangle of h (wide, ld) += w [x e 1]^T [x e 1] but for x^T x, of rows i to i + rows with weight w and the
    # entries e; the panel s (rows, ld) holds x, or, if rooted, sqrt(w) x
    cdef Py_ssize_t a, b, count, start, last, j, own
    cdef floating w, cross, v
    cdef const int32_t* columns
    cdef const double* values
    cdef floating* row
    for j in range(rows):
        start = entries_from(g, i + j, &count)
        columns = g.columns + start
        values = g.values + start
        last = count + g.intercept
        for a in range(last):
            own = columns[a] if a < count else g.q - 1 - g.d
            v = <floating>values[a] if a < count and g.values != NULL else <floating>1
            w = <floating>weight[j] * v
            row = h + (g.d + own) * g.ld
            if g.d:
                cross = <floating>root(weight[j]) * v if rooted else w
                for b in range(g.d):
                    row[b] += cross * s[b]
                row += g.d
            if g.values == NULL:
                for b in range(a):
                    row[columns[b]] += w
            else:
                for b in range(a):
                    row[columns[b]] += w * <floating>values[b]
            row[own] += w * v
        s += g.ld


cdef void hessian_update(const GlmPlan* g, floating* s, floating* h, Py_ssize_t block, Py_ssize_t rows,
                         const char* next_rows, Py_ssize_t size) noexcept nogil:
    # h (pairs, wide, ld) grows by the rows in the panel s, the first of which starts block `block`; the next `size` bytes
    # of X, from `next_rows` on, are prefetched
    cdef double weight[HESSIAN_ROWS]
    cdef double w[LANES]
    cdef floating* weighted = s + HESSIAN_ROWS * g.ld
    cdef Py_ssize_t a, b, i, pair = 0
    if g.k == 1:
        triangle_update(<const floating*>s, <const floating*>s, g.ld, rows, h, g.panel_cols, next_rows, size)
        if g.columns != NULL:
            add_entries(g, g.curvature + block * LANES, <const floating*>s, True, block * LANES, rows, h)
        return
    for a in range(g.k):
        for b in range(a + 1):
            i = 0
            while i < rows:
                block_weights(g, block * LANES + i, min(<Py_ssize_t>LANES, rows - i), w)
                pair_block(g.curvature + (block * LANES + i) * g.k, w, weight + i, a, b)
                i += LANES
            weight_panel(s, weight, weighted, rows, min(g.ld, round_up(g.panel_cols, LANES)), g.ld)
            triangle_update(<const floating*>weighted, <const floating*>s, g.ld, rows, h, g.panel_cols, next_rows,
                            size if pair == 0 else 0)
            if g.columns != NULL:
                add_entries(g, weight, <const floating*>s, False, block * LANES, rows, h)
            h += g.wide * g.ld
            pair += 1


cdef inline void block_weights(const GlmPlan* g, Py_ssize_t i, Py_ssize_t rows, double* w) noexcept nogil:
    # the weights of rows i to i + rows, zeros beyond
    cdef Py_ssize_t j
    if g.weights != NULL:
        fill_rows(g.weights + i, rows, w)
        return
    for j in range(LANES):
        w[j] = 1.0 if j < rows else 0.0


cdef inline void fill_rows(const double* source, Py_ssize_t rows, double* to) noexcept nogil:
    # to (LANES,) = source (rows,), zeros beyond
    if rows == LANES:
        memcpy(to, source, LANES * sizeof(double))
    else:
        load_padded(to, source, rows, 0.0)


cdef inline Py_ssize_t entries_from(const GlmPlan* g, Py_ssize_t i, Py_ssize_t* count) noexcept nogil:
    # where the entries of row i start, and how many there are
    if g.starts == NULL:
        count[0] = g.entries
        return i * g.entries
    count[0] = g.starts[i + 1] - g.starts[i]
    return g.starts[i]


cdef void gather_entries(const GlmPlan* g, Py_ssize_t i, Py_ssize_t rows, double* z) noexcept nogil:
    # z (k, LANES) += E theta^T of the entries E of rows i to i + rows
    cdef Py_ssize_t a, e, j, count, start
    cdef const int32_t* columns
    cdef const double* values
    cdef const double* theta
    cdef double total
    for j in range(rows):
        start = entries_from(g, i + j, &count)
        columns = g.columns + start
        values = g.values + start
        theta = g.theta + g.d
        for a in range(g.k):
            total = 0
            if g.values == NULL:
                for e in range(count):
                    total += theta[columns[e]]
            else:
                for e in range(count):
                    total += values[e] * theta[columns[e]]
            z[a * LANES + j] += total
            theta += g.wide


cdef void scatter_entries(const GlmPlan* g, Py_ssize_t i, Py_ssize_t rows, const double* r, double* grad) noexcept nogil:
    # grad (k, wide) += r^T E of the entries E of rows i to i + rows, r (k, LANES)
    cdef Py_ssize_t a, e, j, count, start
    cdef const int32_t* columns
    cdef const double* values
    cdef double* to
    cdef double derivative
    for j in range(rows):
        start = entries_from(g, i + j, &count)
        columns = g.columns + start
        values = g.values + start
        to = grad + g.d
        for a in range(g.k):
            derivative = r[a * LANES + j]
            if g.values == NULL:
                for e in range(count):
                    to[columns[e]] += derivative
            else:
                for e in range(count):
                    to[columns[e]] += derivative * values[e]
            to += g.wide


cdef void add_gradient(const GlmPlan* g, const double* r, const double* x, Py_ssize_t rows, const char* next_rows, Py_ssize_t size,
                       double* grad) noexcept nogil:
    # grad (k, wide) += r^T X of r (k, LANES), x (rows, d); the `size` bytes of the next rows are prefetched
    cdef Py_ssize_t x_rows[LANES]
    cdef Py_ssize_t r_rows[MAX_INDIRECT_ROWS]
    cdef Py_ssize_t grad_rows[MAX_INDIRECT_ROWS]
    cdef Py_ssize_t a, i, j
    cdef Indirect p
    p.a_cols, p.b_rows, p.depth, p.accumulate, p.resume, p.relu = IN_ORDER, x_rows, rows, True, False, False
    for i in range(rows):
        x_rows[i] = i * g.d
    for i in range(MAX_INDIRECT_ROWS):
        r_rows[i], grad_rows[i] = i * LANES, i * g.wide
    size //= n_strips(g.d, grad)
    for i in range(n_strips(g.d, grad)):
        j = strip_start(g.d, i, grad)
        prefetch_lines(next_rows, size)
        next_rows += size
        a = 0
        while a < g.k:
            strip_product(&p, strip_cols(g.d, i, grad), r + a * LANES, r_rows, x + j, NULL, grad + a * g.wide + j, grad_rows,
                          min(<Py_ssize_t>MAX_INDIRECT_ROWS, g.k - a))
            a += MAX_INDIRECT_ROWS


cdef void glm_block(const GlmPlan* g, const double* x, const char* next_rows, Py_ssize_t size, Py_ssize_t i, Py_ssize_t rows,
                    GlmScratch* s, double* grad, double* lane) noexcept nogil:
    # rows i to i + rows, which x (rows, d) holds; the `size` bytes of the next rows, from `next_rows` on, are prefetched,
    # half of them with the linear predictors, half with the gradient
    cdef double y[LANES]
    cdef double w[LANES]
    cdef double* c = g.curvature + i * g.k
    cdef double intercept
    cdef Py_ssize_t a, j = 0
    cdef Product p
    p.a_row, p.ldb, p.ldc, p.rows = g.wide, g.d, LANES, g.k
    # linear predictors z = X theta^T, with intercept and offset
    if g.d == 0:
        memset(s.z, 0, g.k * LANES * sizeof(double))
    while j < rows and g.d:
        prefetch_lines(next_rows, size * GLM_DOT_ROWS // (2 * LANES))
        next_rows += size * GLM_DOT_ROWS // (2 * LANES)
        p.cols = min(<Py_ssize_t>GLM_DOT_ROWS, rows - j)
        dot_macro_kernel(&p, g.theta, x + j * g.d, s.z + j, g.d, False, <double*>NULL, False, False)
        j += GLM_DOT_ROWS
    if g.columns != NULL:
        gather_entries(g, i, rows, s.z)
    block_weights(g, i, rows, w)
    fill_rows(g.y + i, rows, y)
    for a in range(g.k):
        intercept = g.theta[a * g.wide + g.q - 1] if g.intercept else 0.0
        for j in range(LANES):
            s.z[a * LANES + j] += intercept
        if g.offset != NULL and g.kind == GLM_VALUE:
            for j in range(rows):
                s.z[a * LANES + j] += g.offset[(i + j) * g.k + a]
        for j in range(LANES):      # a row without weight, or none at all: 1 is in every domain, 0 times infinity NaN
            if w[j] == 0:
                s.z[a * LANES + j] = 1.0
    # r = w l' and c = w l'', or p of the softmax, by the family's formula; of a product r = D z
    if g.kind == GLM_PRODUCT:
        product_block(s.z, c, w, s.r, g.k)
    elif g.family == MULTINOMIAL:
        softmax_block(s.z, y, w, s.r, c, lane, g.k)
    elif g.family == GAUSSIAN:
        family_block(<GaussianFamily*>NULL, s.z, y, w, 0, 0, s.r, c, lane)
    elif g.family == BINOMIAL:
        family_block(<BinomialFamily*>NULL, s.z, y, w, 0, 0, s.r, c, lane)
    elif g.family == POISSON:
        family_block(<PoissonFamily*>NULL, s.z, y, w, 0, 0, s.r, c, lane)
    elif g.family == GAMMA:
        family_block(<GammaFamily*>NULL, s.z, y, w, 0, 0, s.r, c, lane)
    elif g.family == GAMMA_INVERSE:
        family_block(<GammaInverseFamily*>NULL, s.z, y, w, 0, 0, s.r, c, lane)
    elif g.family == TWEEDIE:
        family_block(<TweedieFamily*>NULL, s.z, y, w, g.parameter, 0, s.r, c, lane)
    else:
        family_block(<NegativeBinomialFamily*>NULL, s.z, y, w, g.parameter, g.shift, s.r, c, lane)
    if g.d:
        add_gradient(g, s.r, x, rows, next_rows, size // 2, grad)
    if g.columns != NULL:
        scatter_entries(g, i, rows, s.r, grad)
    if g.intercept:
        for a in range(g.k):
            grad[a * g.wide + g.q - 1] += lane_sum(s.r + a * LANES)


cdef inline const double* read_rows(const GlmPlan* g, const floating* x, double* tile_cols, Py_ssize_t rows) noexcept nogil:
    # the rows from x on in float64, centered: where they lie, if they are that already, else in wide (rows, d)
    if g.center != NULL:
        center_rows(x, g.center, tile_cols, rows, g.d)
        return tile_cols
    if floating is double:
        return x
    else:
        widen_rows(x, tile_cols, rows * g.d)
        return tile_cols


cdef void glm_chunk(GlmPlan* g, Py_ssize_t chunk, GlmScratch* s, double* tile_cols, floating* panel, floating* h) noexcept nogil:
    # the rows of a chunk that belong to this slice; panel and h NULL: no Hessian
    cdef double* lane = g.chunk_lane + chunk * LANES
    cdef double* grad = g.chunk_grad + chunk * g.k * g.wide
    cdef Py_ssize_t i = chunk_start(g.n, LANES, chunk, g.chunks), stop = chunk_start(g.n, LANES, chunk + 1, g.chunks)
    cdef Py_ssize_t panels = chunk_start(stop - i, HESSIAN_ROWS, g.part, g.parts) // HESSIAN_ROWS  # done so far
    cdef Py_ssize_t width = sizeof(float) if g.typenum == cnp.NPY_FLOAT32 else sizeof(double), size, rows, first
    cdef bint wanted = h != NULL and panels % g.step == 0
    cdef const double* x
    cdef const char* these_rows
    cdef const char* next_rows
    # the first slice clears the sums
    if g.part == 0:
        memset(lane, 0, LANES * sizeof(double))
        memset(grad, 0, g.k * g.wide * sizeof(double))
        if h != NULL:
            memset(h, 0, g.k * (g.k + 1) // 2 * g.wide * g.ld * sizeof(floating))
        g.chunk_taken[chunk] = 0
    stop = min(stop, i + chunk_start(stop - i, HESSIAN_ROWS, g.part + 1, g.parts))
    i += panels * HESSIAN_ROWS
    first = i
    while i < stop:
        rows = min(<Py_ssize_t>LANES, stop - i)
        size, these_rows = rows * g.d * width, <const char*>g.x + i * g.d * width
        next_rows = these_rows + size
        if g.typenum == cnp.NPY_FLOAT32:
            x = read_rows(g, <const float*>these_rows, tile_cols, rows)
        else:
            x = read_rows(g, <const double*>these_rows, tile_cols, rows)
        # loss and gradient of the block
        if g.kind != GLM_HESSIAN:
            glm_block(g, x, next_rows, 0 if wanted else size, i, rows, s, grad, lane)
        # its rows of the panel, and the Hessian of every whole panel
        if wanted:
            fill_panel(x, g.curvature + i if g.k == 1 else NULL, panel + (i - first) * g.ld, rows, g.d,
                       g.panel_cols, g.ld)
            g.chunk_taken[chunk] += rows
        if i + rows - first == HESSIAN_ROWS or i + rows == stop:
            if wanted:
                hessian_update(g, panel, h, first // LANES, i + rows - first, next_rows, HESSIAN_ROWS * size // rows)
            first = i + rows
            panels += 1
            wanted = h != NULL and panels % g.step == 0
        i += rows
    g.chunk_loss[chunk] = sum_in_order(lane, LANES)


cdef void reduce_hessian(const GlmPlan* g, floating* h, floating* out, floating scale, Py_ssize_t thread,
                         Py_ssize_t n_threads) noexcept nogil:
    # out (k q, k q) = scale times the sums of h (chunks, pairs, wide, ld) over the chunks, lower triangle;
    # the pair (a, b) is symmetric itself
    cdef Py_ssize_t pairs = g.k * (g.k + 1) // 2, ldo = g.k * g.q, a, b, c, i, j, pair = 0
    cdef floating* row
    cdef const floating* more
    for a in range(g.k):
        for b in range(a + 1):
            for i in range(chunk_start(g.q, 1, thread, n_threads), chunk_start(g.q, 1, thread + 1, n_threads)):
                row = h + (pair * g.wide + i) * g.ld
                for c in range(1, g.chunks):
                    more = row + c * pairs * g.wide * g.ld
                    for j in range(i + 1):
                        row[j] += more[j]
                if scale != <floating>1:
                    for j in range(i + 1):
                        row[j] *= scale
                memcpy(out + (a * g.q + i) * ldo + b * g.q, row, (i + 1) * sizeof(floating))
                if a != b:
                    for j in range(i):
                        out[(a * g.q + j) * ldo + b * g.q + i] = row[j]
            pair += 1


cdef void glm_pass(void* plan, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # the slice of a thread's chunks; after the last slice its part of their sums
    cdef GlmPlan* g = <GlmPlan*>plan
    cdef GlmScratch s
    cdef Py_ssize_t size = g.k * g.wide, taken = 0, c, i, to
    cdef double total
    cdef floating* h = <floating*>g.chunk_hessian if g.hessian_type >= 0 else NULL
    cdef floating* panel = <floating*>g.panel + thread * 2 * HESSIAN_ROWS * g.ld if h != NULL else NULL
    s.z = g.rows + g.chunks * LANES * g.d + thread * 2 * g.k * LANES
    s.r = s.z + g.k * LANES
    for c in range(chunk_start(g.chunks, 1, thread, n_threads), chunk_start(g.chunks, 1, thread + 1, n_threads)):
        glm_chunk(g, c, &s, g.rows + thread * LANES * g.d, panel,
                  h + c * g.k * (g.k + 1) // 2 * g.wide * g.ld if h != NULL else NULL)
    if g.part + 1 < g.parts:
        return
    team_barrier(n_threads)
    if h != NULL:
        for c in range(g.chunks):
            taken += g.chunk_taken[c]
        reduce_hessian(g, h, <floating*>g.hessian, <floating>g.n / <floating>taken, thread, n_threads)
    if g.kind == GLM_HESSIAN:
        return
    for i in range(chunk_start(size, GRAIN, thread, n_threads), chunk_start(size, GRAIN, thread + 1, n_threads)):
        total = 0
        for c in range(g.chunks):
            total += g.chunk_grad[c * size + i]
        to = i // g.wide
        if i - to * g.wide < g.q:
            g.grad[i - to * (g.wide - g.q)] = total
    if thread == 0:
        g.loss = sum_in_order(g.chunk_loss, g.chunks)
