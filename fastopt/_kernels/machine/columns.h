/* Sums over rows and affine maps, column by column, on vectors: what batch normalization is made
 * of. Included by simd.h per dtype, after tile.h.
 *
 * Sums stay in registers while the rows pass, COLUMN_VECS vectors of columns at a time; every column
 * is added row after row, however many stand beside it. Maps walk along the rows, two side by side,
 * so that what belongs to a column is loaded once for both.
 */
ALWAYS_INLINE VEC NAME(load_vector)(const REAL *p, const int whole, ptrdiff_t n) {
    return whole ? *(const VEC *)p : NAME(load_partial)(p, n);
}
ALWAYS_INLINE void NAME(store_vector)(REAL *p, VEC v, const int whole, ptrdiff_t n) {
    if (whole)
        *(VEC *)p = v;
    else
        NAME(store_partial)(p, v, n);
}

/* sum_w[j] += sum_i w[i, j], sum_wd[j] += sum_i w[i, j] (x[i, j] - center[j]) for so many vectors of columns, or for
 * the n columns of a part of one; where w is NULL, x - center stands for w. */
ALWAYS_INLINE void NAME(moment_body)(const ColumnSums *a, ptrdiff_t j, const int vecs, const int whole, ptrdiff_t n,
                                     const int weighted) {
    const ptrdiff_t ldw = a->ldw, ldx = a->ldx, rows = a->rows;
    const REAL *w = weighted ? (const REAL *)a->w + j : NULL, *x = (const REAL *)a->x + j, *center = (const REAL *)a->center + j;
    REAL *sum_w = (REAL *)a->sum_w + j, *sum_wd = (REAL *)a->sum_wd + j;
    VEC mean[COLUMN_VECS], first[COLUMN_VECS], second[COLUMN_VECS];
    for (int v = 0; v < vecs; v++) {
        mean[v] = NAME(load_vector)(center + v * NAME(LANES), whole, n);
        first[v] = NAME(load_vector)(sum_w + v * NAME(LANES), whole, n);
        second[v] = NAME(load_vector)(sum_wd + v * NAME(LANES), whole, n);
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            const VEC d = NAME(load_vector)(x + i * ldx + v * NAME(LANES), whole, n) - mean[v];
            const VEC term = weighted ? NAME(load_vector)(w + i * ldw + v * NAME(LANES), whole, n) : d;
            first[v] += term;
            second[v] += term * d;
        }
    }
    for (int v = 0; v < vecs; v++) {
        NAME(store_vector)(sum_w + v * NAME(LANES), first[v], whole, n);
        NAME(store_vector)(sum_wd + v * NAME(LANES), second[v], whole, n);
    }
}

/* Strips of so many vectors, from column j on; returns the first column of what is narrower. */
ALWAYS_INLINE ptrdiff_t NAME(moment_strips)(const ColumnSums *a, ptrdiff_t j, const int vecs, const int weighted) {
    for (; j + vecs * NAME(LANES) <= a->cols; j += vecs * NAME(LANES)) NAME(moment_body)(a, j, vecs, 1, 0, weighted);
    return j;
}
ALWAYS_INLINE void NAME(moment_columns)(const ColumnSums *a, const int weighted) {
    ptrdiff_t j = NAME(moment_strips)(a, 0, COLUMN_VECS, weighted);
    j = NAME(moment_strips)(a, j, COLUMN_VECS / 2, weighted);
    j = NAME(moment_strips)(a, j, COLUMN_VECS / 4, weighted);
    j = NAME(moment_strips)(a, j, 1, weighted);
    if (j < a->cols) NAME(moment_body)(a, j, 1, 0, a->cols - j, weighted);
}

/* w, x (rows, cols), center (cols,) -> sum_w, sum_wd (cols,), which they are added to. */
static void NAME(column_moments)(const ColumnSums *a) {
    if (a->w == NULL)
        NAME(moment_columns)(a, 0);
    else
        NAME(moment_columns)(a, 1);
}

/* One vector of columns, j on, of one or two rows, i on: out = (x - center) scale + shift, to which w weight is added if
 * weighted, and what y holds if accumulate; what is below zero becomes zero if relu. y stands on a whole vector if streamed. */
ALWAYS_INLINE void NAME(map_body)(const ColumnMap *a, const int tile_rows, ptrdiff_t i, ptrdiff_t j, const int weighted,
                                  const int accumulate, const int relu, const int streamed, const int whole, ptrdiff_t n) {
    const VEC c = NAME(load_vector)((const REAL *)a->center + j, whole,
                                    n), s = NAME(load_vector)((const REAL *)a->scale + j, whole, n);
    const VEC b = NAME(load_vector)((const REAL *)a->shift + j, whole, n);
    const VEC g = weighted ? NAME(load_vector)((const REAL *)a->weight + j, whole, n) : (VEC){0};
    for (int r = 0; r < tile_rows; r++, i++) {
        REAL *y = (REAL *)a->y + i * a->ldy + j;
        VEC out = (NAME(load_vector)((const REAL *)a->x + i * a->ldx + j, whole, n) - c) * s + b;
        if (weighted) out = NAME(load_vector)((const REAL *)a->w + i * a->ldw + j, whole, n) * g + out;
        if (accumulate) out += NAME(load_vector)(y, whole, n);
        if (relu) out = NAME(relu_vector)(out);
        if (streamed)
            NAME(STREAM)(y, out);
        else
            NAME(store_vector)(y, out, whole, n);
    }
}
/* Columns j to end of one or two rows. */
ALWAYS_INLINE void NAME(map_columns)(const ColumnMap *a, const int tile_rows, ptrdiff_t i, ptrdiff_t j, ptrdiff_t end,
                                     const int weighted, const int accumulate, const int relu, const int streamed) {
    for (; j + NAME(LANES) <= end; j += NAME(LANES))
        NAME(map_body)(a, tile_rows, i, j, weighted, accumulate, relu, streamed, 1, 0);
    if (j < end) NAME(map_body)(a, tile_rows, i, j, weighted, accumulate, relu, 0, 0, end - j);
}
ALWAYS_INLINE void NAME(map_rows)(const ColumnMap *from, const int weighted, const int accumulate, const int relu) {
    const ColumnMap own = *from, *a = &own; /* stores to y do not reach it: it stays in registers */
    ptrdiff_t i = 0;
    for (; i + 2 <= a->rows; i += 2) NAME(map_columns)(a, 2, i, 0, a->cols, weighted, accumulate, relu, 0);
    if (i < a->rows) NAME(map_columns)(a, 1, i, 0, a->cols, weighted, accumulate, relu, 0);
}
/* Likewise, the whole cache lines of y past the cache: a store would read each of them first. */
ALWAYS_INLINE void NAME(stream_rows)(const ColumnMap *from, const int weighted, const int relu) {
    const ColumnMap own = *from, *a = &own;
    const ptrdiff_t line = 64 / sizeof(REAL);
    for (ptrdiff_t i = 0; i < a->rows; i++) {
        const ptrdiff_t before = (ptrdiff_t)(-(uintptr_t)((REAL *)a->y + i * a->ldy) % 64 / sizeof(REAL));
        const ptrdiff_t first = before < a->cols ? before : a->cols, last = a->cols - (a->cols - first) % line;
        NAME(map_columns)(a, 1, i, 0, first, weighted, 0, relu, 0);
        NAME(map_columns)(a, 1, i, first, last, weighted, 0, relu, 1);
        NAME(map_columns)(a, 1, i, last, a->cols, weighted, 0, relu, 0);
    }
    end_stream();
}

/* x (rows, cols), center, scale, shift (cols,) -> y (rows, cols) = (x - center) scale + shift, which may be x unless streamed. */
static void NAME(column_scale)(const ColumnMap *a) {
    if (a->streamed && a->relu)
        NAME(stream_rows)(a, 0, 1);
    else if (a->streamed)
        NAME(stream_rows)(a, 0, 0);
    else if (a->relu)
        NAME(map_rows)(a, 0, 0, 1);
    else
        NAME(map_rows)(a, 0, 0, 0);
}

/* w, x (rows, cols), the others (cols,) -> y (rows, cols) (+)= w weight + (x - center) scale + shift; what it adds to is not
 * streamed */
static void NAME(column_scale_add)(const ColumnMap *a) {
    if (a->accumulate)
        NAME(map_rows)(a, 1, 1, 0);
    else if (a->streamed)
        NAME(stream_rows)(a, 1, 0);
    else
        NAME(map_rows)(a, 1, 0, 0);
}
