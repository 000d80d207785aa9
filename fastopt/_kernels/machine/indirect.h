/* The indirect micro-kernel: a product whose rows and columns stand anywhere, found through tables of offsets
 * (Dukhan 2019, "The Indirect Convolution Algorithm"). Included by simd.h per dtype.
 *
 *   c[c_rows[i] + j] = bias[j] + sum over k < depth of a[a_rows[i] + a_cols[k]] * b[b_rows[k] + j]
 *
 * In indirect_packed b is a strip, (depth, width) in whole vectors; in indirect_product `cols` elements of a row of b are
 * read. With accumulate c is added; with resume the sum goes on from c instead of the bias; with relu what is below zero
 * becomes zero. `cols` elements of a row of c are written. A tile is at most INDIRECT_ROWS(vecs) rows x vecs vectors. An
 * element is summed in the order of k in every tile, so tiles and threads never change its bits.
 */
ALWAYS_INLINE void NAME(indirect_body)(const int rows, const int vecs, const int packed, const Indirect *p, ptrdiff_t cols,
                                       const REAL *a, const ptrdiff_t *a_rows, const REAL *b, const REAL *bias, REAL *c,
                                       const ptrdiff_t *c_rows) {
    const ptrdiff_t depth = p->depth, last = (vecs - 1) * NAME(LANES), tail = cols - last;
    const ptrdiff_t *a_cols = p->a_cols, *b_rows = p->b_rows;
    const int partial = tail < NAME(LANES), accumulate = p->accumulate, relu = p->relu;
    const REAL *x[INDIRECT_MAX_ROWS]; /* constant sizes, without which the compiler keeps accumulators in memory */
    VEC acc[INDIRECT_MAX_ROWS][INDIRECT_VECS], w[INDIRECT_VECS];
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++)
        w[j] = bias == NULL                        ? (VEC){0}
               : partial && j * NAME(LANES) == last ? NAME(load_partial)(bias + last, tail)
                                                   : *(const VEC *)(bias + j * NAME(LANES));
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        x[i] = a + a_rows[i];
#pragma GCC unroll 4
        for (int j = 0; j < vecs; j++) acc[i][j] = w[j];
    }
    if (p->resume)
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const REAL *from = c + c_rows[i];
#pragma GCC unroll 4
            for (int j = 0; j < vecs; j++)
                acc[i][j] = partial && j * NAME(LANES) == last ? NAME(load_partial)(from + last, tail)
                                                               : *(const VEC *)(from + j * NAME(LANES));
        }
    for (ptrdiff_t k = 0; k < depth; k++) {
        const ptrdiff_t at = a_cols[k];
        const REAL *y = packed ? b + k * vecs * NAME(LANES) : b + b_rows[k];
#pragma GCC unroll 4
        for (int j = 0; j < vecs; j++)
            w[j] = !packed && partial && j * NAME(LANES) == last ? NAME(load_partial)(y + last, tail)
                                                                 : *(const VEC *)(y + j * NAME(LANES));
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const REAL element = x[i][at];
#pragma GCC unroll 4
            for (int j = 0; j < vecs; j++) acc[i][j] += element * w[j];
        }
    }
    if (!accumulate && !relu && !partial) { /* a short sum feels every instruction that follows it */
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int j = 0; j < vecs; j++) *(VEC *)(c + c_rows[i] + j * NAME(LANES)) = acc[i][j];
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        REAL *to = c + c_rows[i];
#pragma GCC unroll 4
        for (int j = 0; j < vecs; j++) {
            const int cut = partial && j * NAME(LANES) == last;
            REAL *at = to + j * NAME(LANES);
            VEC sum = acc[i][j];
            if (accumulate) sum += cut ? NAME(load_partial)(at, tail) : *(VEC *)at;
            if (relu) sum = NAME(relu_vector)(sum);
            if (cut)
                NAME(store_partial)(at, sum, tail);
            else
                *(VEC *)at = sum;
        }
    }
}

#define CASE(i, j)                                                                                                    \
    case (i) * 8 + (j):                                                                                               \
        if ((i) <= INDIRECT_ROWS(j) && (j) <= INDIRECT_VECS)                                                          \
            NAME(indirect_body)(i, j, PACKED, p, cols, a, a_rows, b, bias, c, c_rows);                                \
        break;
#define CASES(i) CASE(i, 1) CASE(i, 2) CASE(i, 3) CASE(i, 4)
#define ALL_CASES                                                                                                     \
    switch (rows * 8 + (int)((cols + NAME(LANES) - 1) / NAME(LANES))) {                                               \
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) CASES(7) CASES(8)                                       \
    }
#define PACKED 1
static void NAME(indirect_packed)(const Indirect *p, int rows, ptrdiff_t cols, const REAL *a, const ptrdiff_t *a_rows,
                                  const REAL *b, const REAL *bias, REAL *c, const ptrdiff_t *c_rows) {
    ALL_CASES
}
#undef PACKED
#define PACKED 0
static void NAME(indirect_product)(const Indirect *p, int rows, ptrdiff_t cols, const REAL *a, const ptrdiff_t *a_rows,
                                   const REAL *b, const REAL *bias, REAL *c, const ptrdiff_t *c_rows) {
    ALL_CASES
}
#undef PACKED
#undef ALL_CASES
#undef CASES
#undef CASE

/* to[i] += from[i] for i < n: runs too short for a loop that the compiler vectorizes. */
static inline void NAME(add_run)(REAL *to, const REAL *from, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += NAME(LANES)) {
        const ptrdiff_t tail = n - i < NAME(LANES) ? n - i : NAME(LANES);
        NAME(store_partial)(to + i, NAME(load_partial)(to + i, tail) + NAME(load_partial)(from + i, tail), tail);
    }
}
