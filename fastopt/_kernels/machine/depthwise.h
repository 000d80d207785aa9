/* Convolutions whose every output reads the one channel of its number, on vectors of channels. Included by simd.h per
 * dtype, after columns.h.
 *
 * - A tile of an output is some pixels of a line by some vectors of channels. Its sums stay in registers while the taps
 *   pass, row by row; the weights of a tap are loaded once for all of its pixels.
 * - Where rows have three taps that read neighbors, as in most networks, a vector of x is loaded once for all three, if
 *   there are 32 registers: machines start no more loads than multiply-adds. 56x56x64, 3x3, us: 58 with a load for each
 *   tap, 50 so. With 16 registers, where a tile is one vector wide, 14x14x256 took 37 instead of 26.
 * - A tile of a gradient is some taps by some vectors of channels. Its sums stay in registers while the pixels pass; dz
 *   is loaded once for all of its taps.
 * - An element is summed in one order in every tile, so tiles never change its bits.
 */

/* A row of taps of a tile: so many vectors of channels, or the first n lanes of one. */
ALWAYS_INLINE void NAME(depthwise_taps)(const Depthwise *d, const int pixels, const int vecs, const int whole, ptrdiff_t n,
                                        const REAL *x, const REAL *w, VEC acc[][INDIRECT_VECS]) {
    VEC tap[INDIRECT_VECS];
    for (ptrdiff_t s = 0; s < d->taps.columns; s++, x += d->taps.x_column, w += d->taps.w_column) {
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) tap[v] = *(const VEC *)(w + v * NAME(LANES));
#pragma GCC unroll 8
        for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++)
                acc[i][v] += NAME(load_vector)(x + i * d->x_pixel + v * NAME(LANES), whole, n) * tap[v];
    }
}

/* Likewise, three taps that read neighbors. */
ALWAYS_INLINE void NAME(depthwise_three)(const Depthwise *d, const int pixels, const int vecs, const int whole, ptrdiff_t n,
                                         const REAL *x, const REAL *w, VEC acc[][INDIRECT_VECS]) {
    VEC tap[3][INDIRECT_VECS];
#pragma GCC unroll 3
    for (int s = 0; s < 3; s++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) tap[s][v] = *(const VEC *)(w + s * d->taps.w_column + v * NAME(LANES));
#pragma GCC unroll 10
    for (int q = 0; q < pixels + 2; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) {
            const VEC pixel = NAME(load_vector)(x + q * d->x_pixel + v * NAME(LANES), whole, n);
#pragma GCC unroll 3
            for (int s = 0; s < 3; s++)
                if (q >= s && q - s < pixels) acc[q - s][v] += pixel * tap[s][v];
        }
}

/* A tile of y; three: all rows are such taps. */
ALWAYS_INLINE void NAME(depthwise_tile)(const Depthwise *d, const int pixels, const int vecs, const int three, const int whole,
                                        ptrdiff_t n, const REAL *x, const REAL *w, const REAL *bias, REAL *y) {
    VEC acc[INDIRECT_MAX_ROWS][INDIRECT_VECS];
#pragma GCC unroll 4
    for (int v = 0; v < vecs; v++) {
        const VEC start = bias == NULL ? (VEC){0} : NAME(load_vector)(bias + v * NAME(LANES), whole, n);
#pragma GCC unroll 8
        for (int i = 0; i < pixels; i++) acc[i][v] = start;
    }
    for (ptrdiff_t r = 0; r < d->taps.rows; r++) {
        if (three)
            NAME(depthwise_three)(d, pixels, vecs, whole, n, x + r * d->taps.x_row, w + r * d->taps.w_row, acc);
        else
            NAME(depthwise_taps)(d, pixels, vecs, whole, n, x + r * d->taps.x_row, w + r * d->taps.w_row, acc);
    }
#pragma GCC unroll 8
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) {
            REAL *to = y + i * d->y_pixel + v * NAME(LANES);
            VEC sum = acc[i][v];
            if (d->accumulate) sum += NAME(load_vector)(to, whole, n);
            if (d->relu) sum = NAME(relu_vector)(sum);
            NAME(store_vector)(to, sum, whole, n);
        }
}

ALWAYS_INLINE void NAME(depthwise_tiles)(const Depthwise *d, const int three) {
    const int most_vecs = three ? DEPTHWISE_VECS : INDIRECT_VECS;
    for (ptrdiff_t j = 0, left = d->channels; left > 0; left = d->channels - j) {
        const ptrdiff_t whole = left / NAME(LANES), vecs = whole < most_vecs ? whole : most_vecs;
        const ptrdiff_t most = three ? INDIRECT_MAX_ROWS : INDIRECT_ROWS(vecs);
        const REAL *x = (const REAL *)d->x + j, *w = (const REAL *)d->w + j;
        const REAL *bias = d->bias == NULL ? NULL : (const REAL *)d->bias + j;
        REAL *y = (REAL *)d->y + j;
        for (ptrdiff_t i = 0, tiles = (d->pixels + most - 1) / most; i < d->pixels; tiles--) {
            const ptrdiff_t pixels = (d->pixels - i + tiles - 1) / tiles; /* as even as can be */
            switch (pixels * 8 + vecs) {
#define CASE(p, v)                                                                                                     \
    case (p) * 8 + (v):                                                                                                \
        if ((p) <= INDIRECT_ROWS(v) && (v) <= INDIRECT_VECS && (v) <= most_vecs)                                       \
            NAME(depthwise_tile)(d, p, (v) < 1 ? 1 : (v), three, (v) > 0, left, x + i * d->x_pixel, w, bias,           \
                                 y + i * d->y_pixel);                                                                  \
        break;
#define CASES(p) CASE(p, 0) CASE(p, 1) CASE(p, 2) CASE(p, 3) CASE(p, 4)
                CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) CASES(7) CASES(8)
#undef CASES
#undef CASE
            }
            i += pixels;
        }
        j += (vecs < 1 ? 1 : vecs) * NAME(LANES);
    }
}

/* y (pixels, channels) of a line, the channels of a strip of weights. */
static void NAME(depthwise_line)(const Depthwise *line) {
    Depthwise d = *line; /* stores to y do not reach it: it stays in registers */
    if (DEPTHWISE_VECS > 0 && d.taps.columns == 3 && d.taps.x_column == -d.x_pixel) { /* from the last pixel on the taps go forward */
        d.x = (const REAL *)d.x + (d.pixels - 1) * d.x_pixel;
        d.y = (REAL *)d.y + (d.pixels - 1) * d.y_pixel;
        d.x_pixel = -d.x_pixel;
        d.y_pixel = -d.y_pixel;
    }
    if (DEPTHWISE_VECS > 0 && d.taps.columns == 3 && d.taps.x_column == d.x_pixel)
        NAME(depthwise_tiles)(&d, 1);
    else
        NAME(depthwise_tiles)(&d, 0);
}

/* A tile of dw: the taps from x and dw on, and vectors of channels likewise. */
ALWAYS_INLINE void NAME(depthwise_sums)(const DepthwiseGradient *d, const int rows, const int columns, const int vecs,
                                        const int whole, ptrdiff_t n, const REAL *x, const REAL *dz, REAL *dw) {
    VEC acc[DEPTHWISE_TAPS * DEPTHWISE_TAPS][INDIRECT_VECS] = {{{0}}}, g[INDIRECT_VECS];
    for (ptrdiff_t i = 0; i < d->lines; i++) {
        const REAL *from = x + i * d->x_line, *of = dz + i * d->dz_line;
        for (ptrdiff_t j = 0; j < d->pixels; j++, from += d->x_pixel, of += d->dz_pixel) {
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) g[v] = NAME(load_vector)(of + v * NAME(LANES), whole, n);
#pragma GCC unroll 9
            for (int t = 0; t < rows * columns; t++) {
                const REAL *at = from + t / columns * d->taps.x_row + t % columns * d->taps.x_column;
#pragma GCC unroll 4
                for (int v = 0; v < vecs; v++) acc[t][v] += NAME(load_vector)(at + v * NAME(LANES), whole, n) * g[v];
            }
        }
    }
#pragma GCC unroll 9
    for (int t = 0; t < rows * columns; t++) {
        REAL *to = dw + t / columns * d->taps.w_row + t % columns * d->taps.w_column;
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) *(VEC *)(to + v * NAME(LANES)) += acc[t][v];
    }
}

/* Likewise, all channels. */
ALWAYS_INLINE void NAME(depthwise_tap_sums)(const DepthwiseGradient *d, const int rows, const int columns, const REAL *x,
                                            REAL *dw) {
    const int taps = rows * columns, most = taps * INDIRECT_VECS > DEPTHWISE_SUMS ? DEPTHWISE_SUMS / taps : INDIRECT_VECS;
    const REAL *dz = d->dz;
    for (ptrdiff_t j = 0, left = d->channels; left > 0; left = d->channels - j) {
        const ptrdiff_t whole = left / NAME(LANES), vecs = whole < most ? whole : most;
        switch (vecs) {
#define CASE(v)                                                                                                        \
    case v:                                                                                                            \
        if ((v) <= most)                                                                                               \
            NAME(depthwise_sums)(d, rows, columns, (v) < 1 ? 1 : (v), (v) > 0, left, x + j, dz + j, dw + j);           \
        break;
            CASE(0) CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
        }
        j += (vecs < 1 ? 1 : vecs) * NAME(LANES);
    }
}

/* dw (taps, channels) += the sum over lines of pixels of dz x, whole vectors of dw. */
static void NAME(depthwise_gradient)(const DepthwiseGradient *sums) {
    const DepthwiseGradient own = *sums, *d = &own;
    const ptrdiff_t most = DEPTHWISE_TAPS;
    for (ptrdiff_t r = 0, row_tiles = (d->taps.rows + most - 1) / most; r < d->taps.rows; row_tiles--) {
        const ptrdiff_t rows = (d->taps.rows - r + row_tiles - 1) / row_tiles; /* as even as can be */
        for (ptrdiff_t s = 0, tiles = (d->taps.columns + most - 1) / most; s < d->taps.columns; tiles--) {
            const ptrdiff_t columns = (d->taps.columns - s + tiles - 1) / tiles;
            const REAL *x = (const REAL *)d->x + r * d->taps.x_row + s * d->taps.x_column;
            REAL *dw = (REAL *)d->dw + r * d->taps.w_row + s * d->taps.w_column;
            switch (rows * 4 + columns) {
#define CASE(p, q)                                \
    case (p) * 4 + (q):                           \
        NAME(depthwise_tap_sums)(d, p, q, x, dw); \
        break;
                CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(3, 1) CASE(3, 2) CASE(3, 3)
#undef CASE
            }
            s += columns;
        }
        r += rows;
    }
}
