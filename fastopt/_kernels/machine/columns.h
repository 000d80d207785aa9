/* Sums over rows and affine maps, column by column, on vectors: what batch normalisation is made
 * of. Included by simd.h per dtype, after tile.h.
 *
 * Sums stay in registers while the rows pass, COLUMN_VECS vectors of columns at a time; every column
 * is added row after row, however many stand beside it. Maps walk along the rows, two side by side,
 * so that what belongs to a column is loaded once for both.
 */
TILE_INLINE VEC NAME(load_some)(const REAL *p, const int whole, ptrdiff_t n) {
    return whole ? *(const VEC *)p : NAME(load_part)(p, n);
}
TILE_INLINE void NAME(store_some)(REAL *p, VEC v, const int whole, ptrdiff_t n) {
    if (whole)
        *(VEC *)p = v;
    else
        NAME(store_part)(p, v, n);
}

/* plain[j] += sum_i w[i, j], sum[j] += sum_i w[i, j] (x[i, j] - centre[j]) for so many vectors of columns, or for
 * the n columns of a part of one; where w is NULL, x - centre stands for w. */
TILE_INLINE void NAME(moment_body)(const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t rows, const REAL *centre,
                                   REAL *plain, REAL *sum, const int vecs, const int whole, ptrdiff_t n) {
    VEC middle[COLUMN_VECS], first[COLUMN_VECS], second[COLUMN_VECS];
    for (int v = 0; v < vecs; v++) {
        middle[v] = NAME(load_some)(centre + v * NAME(LANES), whole, n);
        first[v] = NAME(load_some)(plain + v * NAME(LANES), whole, n);
        second[v] = NAME(load_some)(sum + v * NAME(LANES), whole, n);
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            const VEC d = NAME(load_some)(x + i * ld + v * NAME(LANES), whole, n) - middle[v];
            const VEC term = w == NULL ? d : NAME(load_some)(w + i * ld + v * NAME(LANES), whole, n);
            first[v] += term;
            second[v] += term * d;
        }
    }
    for (int v = 0; v < vecs; v++) {
        NAME(store_some)(plain + v * NAME(LANES), first[v], whole, n);
        NAME(store_some)(sum + v * NAME(LANES), second[v], whole, n);
    }
}

TILE_INLINE void NAME(moment_columns)(const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                                      const REAL *centre, REAL *plain, REAL *sum, const int weighted) {
    const ptrdiff_t wide = COLUMN_VECS * NAME(LANES);
    ptrdiff_t j = 0;
#define AT_COLUMN weighted ? w + j : NULL, x + j, ld, rows, centre + j, plain + j, sum + j
    for (; j + wide <= cols; j += wide) NAME(moment_body)(AT_COLUMN, COLUMN_VECS, 1, 0);
    for (; j + NAME(LANES) <= cols; j += NAME(LANES)) NAME(moment_body)(AT_COLUMN, 1, 1, 0);
    if (j < cols) NAME(moment_body)(AT_COLUMN, 1, 0, cols - j);
#undef AT_COLUMN
}

/* w, x (rows, cols), centre (cols,) -> plain, sum (cols,), which they are added to. */
static void NAME(column_moments)(const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                                 const REAL *centre, REAL *plain, REAL *sum) {
    if (w == NULL)
        NAME(moment_columns)(w, x, ld, rows, cols, centre, plain, sum, 0);
    else
        NAME(moment_columns)(w, x, ld, rows, cols, centre, plain, sum, 1);
}

/* Over a loop body that works on one vector of columns, j on, of one or two rows, i on. */
#define OVER_ROWS(body, ...)                                                                           \
    do {                                                                                               \
        ptrdiff_t i = 0;                                                                               \
        for (; i + 2 <= rows; i += 2) OVER_COLUMNS(body, 2, __VA_ARGS__);                              \
        if (i < rows) OVER_COLUMNS(body, 1, __VA_ARGS__);                                              \
    } while (0)
#define OVER_COLUMNS(body, high, ...)                                                                  \
    do {                                                                                               \
        ptrdiff_t j = 0;                                                                               \
        for (; j + NAME(LANES) <= cols; j += NAME(LANES)) NAME(body)(high, i * ld + j, ld, j, __VA_ARGS__, 1, 0); \
        if (j < cols) NAME(body)(high, i * ld + j, ld, j, __VA_ARGS__, 0, cols - j);                   \
    } while (0)

/* y = (x - centre) scale + shift, then what is below zero set to zero if relu, at `at` in x and y. */
TILE_INLINE void NAME(scale_body)(const int high, ptrdiff_t at, ptrdiff_t ld, ptrdiff_t j, const REAL *x, const REAL *centre,
                                  const REAL *scale, const REAL *shift, REAL *y, const int relu, const int whole, ptrdiff_t n) {
    const VEC c = NAME(load_some)(centre + j, whole, n), a = NAME(load_some)(scale + j, whole, n);
    const VEC b = NAME(load_some)(shift + j, whole, n);
    for (int r = 0; r < high; r++, at += ld) {
        const VEC out = (NAME(load_some)(x + at, whole, n) - c) * a + b;
        NAME(store_some)(y + at, relu ? NAME(above_zero)(out) : out, whole, n);
    }
}

/* x (rows, cols), centre, scale, shift (cols,) -> y (rows, cols), which may be x. */
static void NAME(column_scale)(const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols, const REAL *centre,
                               const REAL *scale, const REAL *shift, REAL *y, int relu) {
    if (relu)
        OVER_ROWS(scale_body, x, centre, scale, shift, y, 1);
    else
        OVER_ROWS(scale_body, x, centre, scale, shift, y, 0);
}

/* dx (+)= w weight + (x - centre) scale + shift */
TILE_INLINE void NAME(slope_body)(const int high, ptrdiff_t at, ptrdiff_t ld, ptrdiff_t j, const REAL *w, const REAL *x,
                                  const REAL *centre, const REAL *weight, const REAL *scale, const REAL *shift, REAL *dx,
                                  const int accumulate, const int whole, ptrdiff_t n) {
    const VEC c = NAME(load_some)(centre + j, whole, n), a = NAME(load_some)(scale + j, whole, n);
    const VEC b = NAME(load_some)(shift + j, whole, n), g = NAME(load_some)(weight + j, whole, n);
    for (int r = 0; r < high; r++, at += ld) {
        VEC out = (NAME(load_some)(x + at, whole, n) - c) * a + b;
        out = NAME(load_some)(w + at, whole, n) * g + out;
        if (accumulate) out += NAME(load_some)(dx + at, whole, n);
        NAME(store_some)(dx + at, out, whole, n);
    }
}

/* w, x (rows, cols), the others (cols,) -> dx (rows, cols) */
static void NAME(column_slope)(const REAL *w, const REAL *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t cols,
                               const REAL *centre, const REAL *weight, const REAL *scale, const REAL *shift,
                               REAL *dx, int accumulate) {
    if (accumulate)
        OVER_ROWS(slope_body, w, x, centre, weight, scale, shift, dx, 1);
    else
        OVER_ROWS(slope_body, w, x, centre, weight, scale, shift, dx, 0);
}
#undef OVER_ROWS
#undef OVER_COLUMNS
