/* What is written on vectors, once, and included by simd.h per dtype: the dot micro-kernel,
 * a transpose, the way of a block through registers, a sum of squares.
 *
 * dot_macro_kernel        c[i, j] (+)= sum_k a[i, k] b[j, k]    a and b run along k
 *
 * A sum is stored with the bias added, unless NULL, and what is below zero set to zero if relu.
 *
 * Accumulators are an array of vectors that stays in registers because every
 * loop over it has a constant bound: each tile size is a case of a switch on an
 * always-inline body. An element is summed in the same order in every tile size
 * and position, so blocking and threads never change its bits.
 */
/* What is below zero becomes zero; NaN stays. */
ALWAYS_INLINE VEC NAME(relu_vector)(VEC v) {
    const __typeof__(v < v) below = v < (VEC){0};
    return (VEC)((__typeof__(below))v & ~below);
}

/* The sums of the lanes of LANES vectors, in order: LANES halving trees at once, each with the bits
 * of sum_lanes. */
ALWAYS_INLINE VEC NAME(sum_lanes_each)(const VEC *from) {
    VEC v[NAME(LANES)];
#pragma GCC unroll 16
    for (int i = 0; i < NAME(LANES); i++) v[i] = from[i];
#pragma GCC unroll 4
    for (int half = NAME(LANES) / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            v[i] = NAME(ZIP_LOWER)(v[i], v[i + half], NAME(index)) +
                   NAME(ZIP_UPPER)(v[i], v[i + half], NAME(index));
    return v[0];
}

/* A part of a product, over `depth` steps: where a, b and c start, and the epilogue. */
typedef struct {
    const REAL *a, *b, *bias;
    REAL *c;
    ptrdiff_t depth;
    int accumulate, relu;
} NAME(Part);

ALWAYS_INLINE void NAME(dot_micro_kernel)(const int rows, const int cols, const Product *p, NAME(Part) part, const int prefetch) {
    const REAL *a = part.a, *b = part.b, *bias = part.bias;
    REAL *c = part.c;
    const ptrdiff_t depth = part.depth;
    const int accumulate = part.accumulate, relu = part.relu;
    const ptrdiff_t lda = p->a_row, ldb = p->ldb, ldc = p->ldc;
    const ptrdiff_t whole = depth - depth % NAME(LANES);
    VEC acc[DOT_SUMS] = {{0}}; /* [i * cols + j] */
    VEC x[DOT_ROWS];
    REAL sums[DOT_SUMS] = {0}; /* likewise: what the products are added to */
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        if (accumulate) memcpy(sums + i * cols, c + i * ldc, cols * sizeof(REAL));
        if (bias != NULL)
#pragma GCC unroll 16
            for (int j = 0; j < cols; j++) sums[i * cols + j] += bias[j];
    }
    for (ptrdiff_t k = 0; k < whole; k += NAME(LANES)) {
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) x[i] = *(const VEC *)(a + i * lda + k);
#pragma GCC unroll 16
        for (int j = 0; j < cols; j++) {
            const VEC w = *(const VEC *)(b + j * ldb + k);
            if (prefetch) __builtin_prefetch(b + (j + cols) * ldb + k, 0, 2);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++) acc[i * cols + j] += x[i] * w;
        }
    }
    if (whole < depth) {
        const ptrdiff_t tail = depth - whole;
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) x[i] = NAME(load_partial)(a + i * lda + whole, tail);
#pragma GCC unroll 16
        for (int j = 0; j < cols; j++) {
            const VEC w = NAME(load_partial)(b + j * ldb + whole, tail);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++) acc[i * cols + j] += x[i] * w;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows * cols; i += NAME(LANES)) {
        const VEC sum = *(const VEC *)(sums + i) + NAME(sum_lanes_each)(acc + i);
        *(VEC *)(sums + i) = relu ? NAME(relu_vector)(sum) : sum;
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) memcpy(c + i * ldc, sums + i * cols, cols * sizeof(REAL));
}

/* c (rows, cols) (+)= a (rows, depth) b (cols, depth)^T, in tiles of at most DOT_SUMS sums: a lower
 * one is wider, but a single row reads only DOT_STREAMS long rows of b at once. If prefetch, the rows of
 * b after a tile's are prefetched. */
static void NAME(dot_macro_kernel)(const Product *p, const REAL *a, const REAL *b, REAL *c, ptrdiff_t depth,
                                   int accumulate, const REAL *bias, int relu, int prefetch) {
    const ptrdiff_t rows = p->rows, cols = p->cols;
    const ptrdiff_t single = depth < DOT_DEEP ? DOT_SUMS : DOT_STREAMS;
    const ptrdiff_t max_cols = rows <= 1 ? single : DOT_SUMS / (rows < DOT_ROWS ? rows : DOT_ROWS);
    for (ptrdiff_t j = 0; j < cols; j += max_cols) {
        const ptrdiff_t tile_cols = cols - j < max_cols ? cols - j : max_cols;
        for (ptrdiff_t i = 0; i < rows; i += DOT_ROWS) {
            const ptrdiff_t tile_rows = rows - i < DOT_ROWS ? rows - i : DOT_ROWS;
            const NAME(Part) part = {a + i * p->a_row, b + j * p->ldb, bias == NULL ? NULL : bias + j,
                                     c + i * p->ldc + j, depth, accumulate, relu};
#define CASE(r, w)                                                                                        \
    case (r) * 32 + (w): /* of a size that this level has not, nothing is compiled */                     \
        if ((r) <= DOT_ROWS && (r) * (w) <= DOT_SUMS) NAME(dot_micro_kernel)(r, w, p, part, prefetch && i == 0); \
        break;
            switch (tile_rows * 32 + tile_cols) {
                CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(1, 6) CASE(1, 7)
                CASE(1, 8) CASE(1, 9) CASE(1, 10) CASE(1, 11) CASE(1, 12) CASE(1, 13) CASE(1, 14)
                CASE(1, 15) CASE(1, 16) CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4) CASE(2, 5)
                CASE(2, 6) CASE(2, 7) CASE(2, 8) CASE(3, 1) CASE(3, 2) CASE(3, 3) CASE(3, 4)
                CASE(3, 5) CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(4, 4)
            }
#undef CASE
        }
    }
}

/* to[k * ldt + i] = from[i * ld + k] for i < rows <= LANES and k < depth. Interleaving the first
 * half of LANES vectors with the second log2(LANES) times transposes them. */
ALWAYS_INLINE void NAME(transpose_body)(const REAL *from, ptrdiff_t ld, ptrdiff_t rows, REAL *to,
                                        ptrdiff_t ldt, ptrdiff_t depth, const int pad, const int relu) {
    for (ptrdiff_t k = 0; k < depth; k += NAME(LANES)) {
        const ptrdiff_t tail = depth - k < NAME(LANES) ? depth - k : NAME(LANES);
        VEC v[NAME(LANES)], w[NAME(LANES)];
#pragma GCC unroll 16
        for (int i = 0; i < NAME(LANES); i++)
            v[i] = i >= rows                ? (VEC){0}
                   : tail == NAME(LANES)    ? *(const VEC *)(from + i * ld + k)
                                            : NAME(load_partial)(from + i * ld + k, tail);
#pragma GCC unroll 4
        for (int stage = 1; stage < NAME(LANES); stage *= 2) {
#pragma GCC unroll 8
            for (int i = 0; i < NAME(LANES) / 2; i++) {
                w[2 * i] = NAME(ZIP_LOWER)(v[i], v[i + NAME(LANES) / 2], NAME(index));
                w[2 * i + 1] = NAME(ZIP_UPPER)(v[i], v[i + NAME(LANES) / 2], NAME(index));
            }
#pragma GCC unroll 16
            for (int i = 0; i < NAME(LANES); i++) v[i] = w[i];
        }
#pragma GCC unroll 16
        for (int i = 0; i < NAME(LANES); i++) {
            if (i >= tail) break;
            if (relu) v[i] = NAME(relu_vector)(v[i]);
            if (pad || rows == NAME(LANES))
                *(VEC *)(to + (k + i) * ldt) = v[i];
            else
                NAME(store_partial)(to + (k + i) * ldt, v[i], rows);
        }
    }
}
/* Rows beyond `rows` count as zeros, and LANES elements are written for every k. */
static void NAME(transpose_in)(const REAL *from, ptrdiff_t ld, ptrdiff_t rows, REAL *to,
                               ptrdiff_t ldt, ptrdiff_t depth) {
    NAME(transpose_body)(from, ld, rows, to, ldt, depth, 1, 0);
}
/* What is below zero becomes zero, if relu. */
static void NAME(transpose_out)(const REAL *from, ptrdiff_t ld, ptrdiff_t rows, REAL *to,
                                ptrdiff_t ldt, ptrdiff_t depth, int relu) {
    NAME(transpose_body)(from, ld, rows, to, ldt, depth, 0, relu);
}

/* Sixteen elements on their way through a local array that the compiler keeps in registers: loops
 * over it need not fear that pointers overlap. What comes `prefetch_distance` elements later is prefetched. */
ALWAYS_INLINE void NAME(load_block)(REAL *to, const REAL *from, ptrdiff_t prefetch_distance) {
    __builtin_prefetch(from + prefetch_distance, 0, 3);
    if (sizeof(REAL) == 8) __builtin_prefetch(from + prefetch_distance + 8, 0, 3);
#pragma GCC unroll 8
    for (ptrdiff_t i = 0; i < 16; i += NAME(LANES)) *(VEC *)(to + i) = *(const VEC *)(from + i);
}
ALWAYS_INLINE void NAME(store_block)(REAL *to, const REAL *from) {
#pragma GCC unroll 8
    for (ptrdiff_t i = 0; i < 16; i += NAME(LANES)) *(VEC *)(to + i) = *(const VEC *)(from + i);
}

/* n <= 16 elements; pad: zeros follow them in `to`, up to 16. */
static inline void NAME(copy_partial)(REAL *to, const REAL *from, ptrdiff_t n, int pad) {
#pragma GCC unroll 8
    for (ptrdiff_t i = 0; i < 16; i += NAME(LANES)) {
        const ptrdiff_t tail = n - i < 0 ? 0 : n - i < NAME(LANES) ? n - i : NAME(LANES);
        const VEC v = NAME(load_partial)(from + i, tail);
        if (pad)
            *(VEC *)(to + i) = v;
        else
            NAME(store_partial)(to + i, v, tail);
    }
}

/* The sum of n squares, in a fixed order; approximate where it leaves the range of REAL. */
static double NAME(sum_squares)(const REAL *p, ptrdiff_t n) {
    VEC acc[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * NAME(LANES) <= n; i += 4 * NAME(LANES)) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const VEC x = *(const VEC *)(p + i + j * NAME(LANES));
            acc[j] += x * x;
        }
    }
    for (; i < n; i += NAME(LANES)) {
        const VEC x = NAME(load_partial)(p + i, n - i < NAME(LANES) ? n - i : NAME(LANES));
        acc[0] += x * x;
    }
    return NAME(sum_lanes)((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

/* The sum of a[i] b[i], in float64 and in a fixed order. */
static double NAME(dot_wide)(const REAL *a, const REAL *b, ptrdiff_t n) {
    typedef REAL part __attribute__((vector_size(VECTOR_BYTES / 8 * sizeof(REAL)), aligned(4), may_alias));
    enum { WIDE = VECTOR_BYTES / 8 };
    typedef double wide __attribute__((vector_size(VECTOR_BYTES)));
    wide acc[2] = {{0}};
    double total = 0;
    ptrdiff_t i = 0;
    for (; i + 2 * WIDE <= n; i += 2 * WIDE) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            acc[j] += __builtin_convertvector(*(const part *)(a + i + j * WIDE), wide) *
                      __builtin_convertvector(*(const part *)(b + i + j * WIDE), wide);
    }
    for (; i < n; i++) total += (double)a[i] * (double)b[i];
    acc[0] += acc[1];
    for (int j = 0; j < WIDE; j++) total += acc[0][j];
    return total;
}
