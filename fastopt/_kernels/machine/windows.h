/* The gradient of the maximum over a window of an image, channel by channel, on vectors. Included by simd.h per dtype, after
 * columns.h.
 *
 * What is left of dy stays in registers while the pixels of a window pass, row by row. 112x112x64, windows of 3x3, us, at
 * v4: 600 with a loop along channels for each pixel, 430 so.
 */

/* dx += dy at the first pixel of x that is the largest, of one vector of channels, or of a part of n. */
ALWAYS_INLINE void NAME(winners_body)(const Winners *w, ptrdiff_t j, const int whole, ptrdiff_t n) {
    const VEC best = NAME(load_vector)((const REAL *)w->best + j, whole, n);
    VEC left = NAME(load_vector)((const REAL *)w->dy + j, whole, n);
    for (ptrdiff_t r = 0; r < w->end; r++) {
        const REAL *p = (const REAL *)w->x + r * w->x_row + j;
        REAL *dx = (REAL *)w->dx + r * w->dx_row + j;
        for (ptrdiff_t i = 0; i < w->pixels; i++, p += w->x_pixel, dx += w->dx_pixel) {
            const VEC x = NAME(load_vector)(p, whole, n);
            const __typeof__(x == x) won = (x == best) | (x != x);
            if (r >= w->first) {
                const VEC sum = NAME(load_vector)(dx, whole, n) + (VEC)((__typeof__(won))left & won);
                NAME(store_vector)(dx, sum, whole, n);
            }
            left = (VEC)((__typeof__(won))left & ~won);
        }
    }
}

static void NAME(add_to_winners)(const Winners *w) {
    ptrdiff_t j = 0;
    for (; j + NAME(LANES) <= w->channels; j += NAME(LANES)) NAME(winners_body)(w, j, 1, 0);
    if (j < w->channels) NAME(winners_body)(w, j, 0, w->channels - j);
}
