/* Sums over rows and affine maps, column by column, on vectors: what batch normalisation is made
 * of. Included by simd.h per dtype, after tile.h.
 *
 * Rows are walked along the columns, as they lie in memory; for the sums COLUMN_ROWS of them side by
 * side, so that what belongs to a column is loaded once, and added as a tree over these rows.
 */
#if !defined(COLUMN_ROWS)
#define COLUMN_ROWS 8 /* side by side in a sum; part of the definition of the result's bits */
#endif

/* total[0], the sum of all terms, as a tree. */
TILE_INLINE VEC NAME(sum_tree)(VEC *term, const int rows) {
#pragma GCC unroll 4
    for (int half = rows / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) term[i] += term[i + half];
    return term[0];
}

TILE_INLINE VEC NAME(load_some)(const REAL *p, const int whole, ptrdiff_t n) {
    return whole ? *(const VEC *)p : NAME(load_part)(p, n);
}
TILE_INLINE void NAME(store_some)(REAL *p, VEC v, const int whole, ptrdiff_t n) {
    if (whole)
        *(VEC *)p = v;
    else
        NAME(store_part)(p, v, n);
}

/* Over a loop body that works on one vector of columns, j on: whole vectors, then a part of one. */
#define OVER_COLUMNS(body, ...)                                                                \
    do {                                                                                       \
        ptrdiff_t j = 0;                                                                       \
        for (; j + NAME(LANES) <= cols; j += NAME(LANES)) NAME(body)(__VA_ARGS__, 1, 0);       \
        if (j < cols) NAME(body)(__VA_ARGS__, 0, cols - j);                                    \
    } while (0)

/* sum[j] += sum_i w[i, j] (x[i, j] - centre[j]), plain[j] += sum_i w[i, j]; where w is NULL,
 * x - centre stands for w. */
TILE_INLINE void NAME(moment_body)(const int rows, const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t j,
                                   const REAL *centre, REAL *plain, REAL *sum, const int whole, ptrdiff_t n) {
    const VEC middle = NAME(load_some)(centre + j, whole, n);
    VEC term[COLUMN_ROWS], product[COLUMN_ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        const VEC d = NAME(load_some)(x + i * ld + j, whole, n) - middle;
        term[i] = w == NULL ? d : NAME(load_some)(w + i * ld + j, whole, n);
        product[i] = term[i] * d;
    }
    NAME(store_some)(plain + j, NAME(load_some)(plain + j, whole, n) + NAME(sum_tree)(term, rows), whole, n);
    NAME(store_some)(sum + j, NAME(load_some)(sum + j, whole, n) + NAME(sum_tree)(product, rows), whole, n);
}

/* w, x (rows, cols), centre (cols,) -> plain, sum (cols,), which they are added to. */
static void NAME(column_moments)(const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                                 const REAL *centre, REAL *plain, REAL *sum) {
    ptrdiff_t i = 0;
    if (w == NULL) {
        for (; i + COLUMN_ROWS <= rows; i += COLUMN_ROWS)
            OVER_COLUMNS(moment_body, COLUMN_ROWS, NULL, x + i * ld, ld, j, centre, plain, sum);
        for (; i < rows; i++) OVER_COLUMNS(moment_body, 1, NULL, x + i * ld, ld, j, centre, plain, sum);
    } else {
        for (; i + COLUMN_ROWS <= rows; i += COLUMN_ROWS)
            OVER_COLUMNS(moment_body, COLUMN_ROWS, w + i * ld, x + i * ld, ld, j, centre, plain, sum);
        for (; i < rows; i++) OVER_COLUMNS(moment_body, 1, w + i * ld, x + i * ld, ld, j, centre, plain, sum);
    }
}

/* y = (x - centre) scale + shift, then what is below zero set to zero if relu. Row by row: stores
 * that jump between rows take twice as long where they do not start a cache line. */
TILE_INLINE void NAME(scale_body)(const REAL *x, ptrdiff_t j, const REAL *centre, const REAL *scale, const REAL *shift,
                                  REAL *y, const int relu, const int whole, ptrdiff_t n) {
    const VEC d = NAME(load_some)(x + j, whole, n) - NAME(load_some)(centre + j, whole, n);
    const VEC out = d * NAME(load_some)(scale + j, whole, n) + NAME(load_some)(shift + j, whole, n);
    NAME(store_some)(y + j, relu ? NAME(above_zero)(out) : out, whole, n);
}

/* x (rows, cols), centre, scale, shift (cols,) -> y (rows, cols), which may be x. */
static void NAME(column_scale)(const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols, const REAL *centre,
                               const REAL *scale, const REAL *shift, REAL *y, int relu) {
    for (ptrdiff_t i = 0; i < rows; i++) {
        if (relu)
            OVER_COLUMNS(scale_body, x + i * ld, j, centre, scale, shift, y + i * ld, 1);
        else
            OVER_COLUMNS(scale_body, x + i * ld, j, centre, scale, shift, y + i * ld, 0);
    }
}

/* dx (+)= w weight + (x - centre) scale + shift */
TILE_INLINE void NAME(slope_body)(const REAL *w, const REAL *x, ptrdiff_t j, const REAL *centre, const REAL *weight,
                                  const REAL *scale, const REAL *shift, REAL *dx, const int accumulate,
                                  const int whole, ptrdiff_t n) {
    const VEC d = NAME(load_some)(x + j, whole, n) - NAME(load_some)(centre + j, whole, n);
    VEC out = d * NAME(load_some)(scale + j, whole, n) + NAME(load_some)(shift + j, whole, n);
    out = NAME(load_some)(w + j, whole, n) * NAME(load_some)(weight + j, whole, n) + out;
    if (accumulate) out += NAME(load_some)(dx + j, whole, n);
    NAME(store_some)(dx + j, out, whole, n);
}

/* w, x (rows, cols), the others (cols,) -> dx (rows, cols) */
static void NAME(column_slope)(const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                               const REAL *centre, const REAL *weight, const REAL *scale, const REAL *shift,
                               REAL *dx, int accumulate) {
    for (ptrdiff_t i = 0; i < rows; i++) {
        if (accumulate)
            OVER_COLUMNS(slope_body, w + i * ld, x + i * ld, j, centre, weight, scale, shift, dx + i * ld, 1);
        else
            OVER_COLUMNS(slope_body, w + i * ld, x + i * ld, j, centre, weight, scale, shift, dx + i * ld, 0);
    }
}
#undef OVER_COLUMNS
