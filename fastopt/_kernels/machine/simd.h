/* Vector types per instruction set, and the micro-kernels built on them.
 *
 * Lives here: the vector of LANES elements for float and double, the interleaving
 * that transposes, and the denormal mode; through files included once per dtype,
 * partial vectors and operations on bits (bits.h), the two micro-kernels (tile.h),
 * the loops along columns (columns.h), over a window of an image (windows.h) and of
 * depthwise convolutions (depthwise.h).
 * Blocking, threads and epilogues are Cython.
 *
 * - GCC/Clang vector extensions, so that one text serves every level; the only
 *   intrinsics are what the extensions lack: masked loads and stores, and halves.
 * - Vectors are declared with the alignment of their element: a cast pointer is
 *   the unaligned load.
 * - sum_lanes adds the lanes as a halving tree.
 * - The numbers of rows and vectors in a tile are what fits the register file.
 * - What is compiled once for all levels (FASTOPT_PYTHON, see setup.py) sees structs, but nothing that a level decides.
 */
#ifndef FASTOPT_SIMD_H
#define FASTOPT_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "coefficients.h"

#ifndef FASTOPT_PYTHON
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

/* Tuning table: accumulators + operands fill 32 (AVX-512) or 16 registers. What tiles reach:
 * docs/performance.md. DOT_STREAMS, one row, GB/s: 1024x1024 by 8 rows of weights at once and by 16
 * 80 and 57, 2048x2048 58 and 49; 64x64 107 and 117. COLUMN_VECS, at v4: batch_statistics 128x512 in eight rows
 * of one vector 4.2 us, in 64 rows of 4 or 8 vectors 2.4. */
#if VECTOR_BYTES == 64
enum { DOT_ROWS = 4, DOT_SUMS = 16, COLUMN_VECS = 8 };
#elif VECTOR_BYTES == 32
enum { DOT_ROWS = 2, DOT_SUMS = 8, COLUMN_VECS = 4 };
#else
enum { DOT_ROWS = 2, DOT_SUMS = 8, COLUMN_VECS = 4 };
#endif
enum { DOT_DEEP = 512, DOT_STREAMS = 8 };
#if VECTOR_BYTES == 64
enum { INDIRECT_VECS = 4 };
#define INDIRECT_ROWS(vecs) ((vecs) == 4 ? 6 : 8)
#else
enum { INDIRECT_VECS = 2 };
#define INDIRECT_ROWS(vecs) ((vecs) == 2 ? (VECTOR_BYTES == 32 ? 6 : 4) : 8)
#endif
enum { INDIRECT_MAX_ROWS = 8 };
/* Taps of a tile of a depthwise gradient, along an axis, and its vectors of sums. 56x56x64, 3x3, us: of 9 sums 54,
 * of 18 48, of 27 53. */
enum { DEPTHWISE_TAPS = 3, DEPTHWISE_SUMS = VECTOR_BYTES == 64 ? 18 : 12 };
/* Vectors of a tile of eight pixels that loads x once for three taps; 0: there are none. */
enum { DEPTHWISE_VECS = VECTOR_BYTES == 64 ? 2 : 0 };
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* One compiled body for every caller: inlined or specialized copies may contract
 * a * b + c differently and give different bits. */
#ifdef __clang__
#define FASTOPT_NOINLINE __attribute__((noinline))
#else
#define FASTOPT_NOINLINE __attribute__((noinline, noclone))
#endif

/* What the dot micro-kernel multiplies: c (rows, cols) (+)= a (rows, depth) b (cols, depth)^T, whose rows stand a_row, ldb and
 * ldc apart. */
typedef struct {
    const void *a, *b, *bias;
    void *c;
    ptrdiff_t rows, cols, depth, a_row, ldb, ldc;
    int accumulate, relu;
} Product;

/* What the indirect micro-kernel multiplies: where the columns of a and the rows of b stand, `depth` of them. */
typedef struct {
    const ptrdiff_t *a_cols, *b_rows;
    ptrdiff_t depth;
    int accumulate, resume, relu;
} Indirect;

/* Sums of columns and maps along rows: what columns.h reads. Leading dimensions count elements. */
typedef struct {
    const void *w, *x, *center;
    void *sum_w, *sum_wd;
    ptrdiff_t ldw, ldx, rows, cols;
} ColumnSums;
typedef struct {
    const void *w, *x, *center, *weight, *scale, *shift;
    void *y;
    ptrdiff_t ldw, ldx, ldy, rows, cols;
    int relu, accumulate, streamed;
} ColumnMap;

/* A window of images x and dx, its maxima, and dy, (channels,) each: what windows.h reads. Rows from `first` to `end` of dx
 * are written. */
typedef struct {
    const void *x, *best, *dy;
    void *dx;
    ptrdiff_t x_row, x_pixel, dx_row, dx_pixel, pixels, channels, first, end;
} Winners;

/* The taps of a filter and where those lie that follow each other: of x and of the weights, whose channels lie side by side. */
typedef struct {
    ptrdiff_t rows, columns, x_row, x_column, w_row, w_column;
} Taps;

/* A line of a depthwise convolution: y (pixels, channels) (+)= bias + the sum of w x over the taps. */
typedef struct {
    Taps taps;
    const void *x, *w, *bias;
    void *y;
    ptrdiff_t x_pixel, y_pixel, pixels, channels;
    int accumulate, relu;
} Depthwise;

/* The gradient of its weights: dw (taps, channels) += the sum of dz x over lines of pixels. */
typedef struct {
    Taps taps;
    const void *x, *dz;
    void *dw;
    ptrdiff_t x_line, x_pixel, dz_line, dz_pixel, lines, pixels, channels;
} DepthwiseGradient;

#ifndef FASTOPT_PYTHON
/* The lanes of two vectors in turn: a[0] b[0] a[1] b[1] ..., the first half of them or the second. */
#if defined(__clang__)
#define SHUFFLE(a, b, index, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, index, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif
#define ZIP_LOWER_2(a, b, index) SHUFFLE(a, b, index, 0, 2)
#define ZIP_LOWER_4(a, b, index) SHUFFLE(a, b, index, 0, 4, 1, 5)
#define ZIP_LOWER_8(a, b, index) SHUFFLE(a, b, index, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_LOWER_16(a, b, index) SHUFFLE(a, b, index, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_UPPER_2(a, b, index) SHUFFLE(a, b, index, 1, 3)
#define ZIP_UPPER_4(a, b, index) SHUFFLE(a, b, index, 2, 6, 3, 7)
#define ZIP_UPPER_8(a, b, index) SHUFFLE(a, b, index, 4, 12, 5, 13, 6, 14, 7, 15)
#define ZIP_UPPER_16(a, b, index) SHUFFLE(a, b, index, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#if VECTOR_BYTES == 64
#define ZIP_LOWER_f ZIP_LOWER_16
#define ZIP_UPPER_f ZIP_UPPER_16
#define ZIP_LOWER_d ZIP_LOWER_8
#define ZIP_UPPER_d ZIP_UPPER_8
#elif VECTOR_BYTES == 32
#define ZIP_LOWER_f ZIP_LOWER_8
#define ZIP_UPPER_f ZIP_UPPER_8
#define ZIP_LOWER_d ZIP_LOWER_4
#define ZIP_UPPER_d ZIP_UPPER_4
#else
#define ZIP_LOWER_f ZIP_LOWER_4
#define ZIP_UPPER_f ZIP_UPPER_4
#define ZIP_LOWER_d ZIP_LOWER_2
#define ZIP_UPPER_d ZIP_UPPER_2
#endif

/* The lanes of `mask`, from p or to p; the others are those of v. In 32 bytes the first n, the others zeros. */
#if VECTOR_BYTES == 64
#define MASKED_LOAD_f(v, mask, p) (vecf)_mm512_mask_loadu_ps((__m512)(v), (__mmask16)(mask), p)
#define MASKED_LOAD_d(v, mask, p) (vecd)_mm512_mask_loadu_pd((__m512d)(v), (__mmask8)(mask), p)
#define MASKED_STORE_f(p, mask, v) _mm512_mask_storeu_ps(p, (__mmask16)(mask), (__m512)(v))
#define MASKED_STORE_d(p, mask, v) _mm512_mask_storeu_pd(p, (__mmask8)(mask), (__m512d)(v))
#elif VECTOR_BYTES == 32
#define LOAD_FIRST_f(p, n) (vecf)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n)), \
                                                                         _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
#define LOAD_FIRST_d(p, n) (vecd)_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), \
                                                                         _mm256_setr_epi64x(0, 1, 2, 3)))
#endif

/* A vector to p, which stands on a multiple of its size, past the cache; end_stream orders it before what other threads are
 * told of it. */
#if VECTOR_BYTES == 64
#define STREAM_f(p, v) _mm512_stream_ps(p, (__m512)(v))
#define STREAM_d(p, v) _mm512_stream_pd(p, (__m512d)(v))
#elif VECTOR_BYTES == 32
#define STREAM_f(p, v) _mm256_stream_ps(p, (__m256)(v))
#define STREAM_d(p, v) _mm256_stream_pd(p, (__m256d)(v))
#elif defined(__SSE2__)
#define STREAM_f(p, v) _mm_stream_ps(p, (__m128)(v))
#define STREAM_d(p, v) _mm_stream_pd(p, (__m128d)(v))
#else
#define STREAM_f(p, v) (*(vecf *)(p) = (v))
#define STREAM_d(p, v) (*(vecd *)(p) = (v))
#endif
#if defined(__SSE2__)
static inline void end_stream(void) { _mm_sfence(); }
#else
static inline void end_stream(void) {}
#endif

#define REAL float
#define VEC vecf
#define NAME(x) x##_f
typedef float vecf __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t bits_f;
typedef int index_f __attribute__((vector_size(VECTOR_BYTES)));
ALWAYS_INLINE float sum_lanes_f(vecf v) {
#if VECTOR_BYTES >= 32
#if VECTOR_BYTES == 64
    const __m512 whole = (__m512)v;
    const __m256 half = _mm512_castps512_ps256(whole) +
                        _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(whole), 1));
#else
    const __m256 half = (__m256)v;
#endif
    __m128 four = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
    four += _mm_movehl_ps(four, four);
    return four[0] + four[1];
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
#include "bits.h"
#include "tile.h"
#include "indirect.h"
#include "columns.h"
#include "windows.h"
#include "depthwise.h"
#undef REAL
#undef VEC
#undef NAME

#define REAL double
#define VEC vecd
#define NAME(x) x##_d
typedef double vecd __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef uint64_t bits_d;
typedef long long index_d __attribute__((vector_size(VECTOR_BYTES)));
ALWAYS_INLINE double sum_lanes_d(vecd v) {
#if VECTOR_BYTES >= 32
#if VECTOR_BYTES == 64
    const __m256d half = _mm512_castpd512_pd256((__m512d)v) + _mm512_extractf64x4_pd((__m512d)v, 1);
#else
    const __m256d half = (__m256d)v;
#endif
    const __m128d two = _mm256_castpd256_pd128(half) + _mm256_extractf128_pd(half, 1);
    return two[0] + two[1];
#else
    return v[0] + v[1];
#endif
}
#include "bits.h"
#include "tile.h"
#include "indirect.h"
#include "columns.h"
#include "windows.h"
#include "depthwise.h"
#undef REAL
#undef VEC
#undef NAME

/* x = m 2^k with 0.7 < m < 1.42, for x >= 1: returns k. The bits of k become a double by those of 2^52. */
static inline double fastopt_log_parts(double x, double *m) {
    const uint64_t low = UINT64_C(0x3fe6a09e667f3bcd), one = UINT64_C(0x3ff0000000000000);
    const uint64_t bits = bits_of_d(x), k = (bits + (one - low)) >> 52;
    *m = from_bits_d(bits - ((k << 52) - one));
    return from_bits_d(k | UINT64_C(0x4330000000000000)) - (4503599627370496.0 + 1023.0);
}

/* What fused Cython code calls without knowing its own type: that of x, or what `like` points to, which is not read. */
#define EITHER(name, x) _Generic((x), float: name##_f, double: name##_d)
#define BOTH(name, like) EITHER(name, *(like))
#define fastopt_abs(x) _Generic((x), float: fabsf, double: fabs)(x)
#define fastopt_sqrt(x) _Generic((x), float: sqrtf, double: sqrt)(x)
#define fastopt_copysign(x, y) _Generic((x), float: copysignf, double: copysign)(x, y)
#define fastopt_quotient(a, b, max_divisor) EITHER(quotient, a)(a, b, max_divisor)
#define MAX_DIVISOR_f 0x1.e6238ep126f
#define MAX_DIVISOR_d 0x1.e623822fc16e6p1022
#define fastopt_max_divisor(x) EITHER(MAX_DIVISOR, x)
#define POLYNOMIAL(table, x) EITHER(polynomial, x)(x, EITHER(table, x), sizeof EITHER(table, x) / sizeof *EITHER(table, x))
#define fastopt_exp_polynomial(r) POLYNOMIAL(exp_coefficients, r)
#define fastopt_gauss_polynomial(r) POLYNOMIAL(gauss_coefficients, r)
#define fastopt_atanh_polynomial(z) POLYNOMIAL(atanh_coefficients, z)
#define fastopt_tanh_polynomial(z) POLYNOMIAL(tanh_coefficients, z)
#define fastopt_mills_polynomial(v) POLYNOMIAL(mills_coefficients, (v) - (__typeof__(v))0.5)
#define fastopt_square_plus(a, b) EITHER(square_plus, a)(a, b)
#define fastopt_power_from_low_bits(x) EITHER(power_from_low_bits, x)(x)
#define fastopt_load_padded(block, x, n, padding) BOTH(load_padded, block)(block, x, n, padding)
#define fastopt_store_padded(x, block, n) BOTH(store_padded, block)(x, block, n)
#define fastopt_load_block(to, from, prefetch_distance) BOTH(load_block, to)(to, from, prefetch_distance)
#define fastopt_store_block(to, from) BOTH(store_block, to)(to, from)
#define fastopt_copy_partial(to, from, n, pad) BOTH(copy_partial, to)(to, from, n, pad)
#define fastopt_sum_squares(p, n) BOTH(sum_squares, p)(p, n)
#define fastopt_dot_macro_kernel(p, a, b, c, depth, accumulate, bias, relu, prefetch) \
    BOTH(dot_macro_kernel, c)(p, a, b, c, depth, accumulate, bias, relu, prefetch)
#define fastopt_indirect_packed(p, rows, cols, a, a_rows, b, bias, c, c_rows) \
    BOTH(indirect_packed, c)(p, rows, cols, a, a_rows, b, bias, c, c_rows)
#define fastopt_add_run(to, from, n) BOTH(add_run, to)(to, from, n)
#define fastopt_indirect_product(p, rows, cols, a, a_rows, b, bias, c, c_rows) \
    BOTH(indirect_product, c)(p, rows, cols, a, a_rows, b, bias, c, c_rows)
#define fastopt_transpose_in(from, ld, rows, to, ldt, depth) BOTH(transpose_in, from)(from, ld, rows, to, ldt, depth)
#define fastopt_transpose_out(from, ld, rows, to, ldt, depth, relu) BOTH(transpose_out, from)(from, ld, rows, to, ldt, depth, relu)
#define fastopt_dot_wide(a, b, n) BOTH(dot_wide, a)(a, b, n)
#define fastopt_column_moments(like, sums) BOTH(column_moments, like)(sums)
#define fastopt_column_scale(like, map) BOTH(column_scale, like)(map)
#define fastopt_column_scale_add(like, map) BOTH(column_scale_add, like)(map)
#define fastopt_depthwise_line(like, line) BOTH(depthwise_line, like)(line)
#define fastopt_depthwise_gradient(like, sums) BOTH(depthwise_gradient, like)(sums)
#define fastopt_add_to_winners(like, winners) BOTH(add_to_winners, like)(winners)

/* The lines of the `size` bytes from p on are prefetched, as far as L2: a tile that reads several rows at
 * once is no stream that the hardware would follow. */
static inline void prefetch_lines(const void *p, ptrdiff_t size) {
    for (ptrdiff_t i = 0; i < size; i += 64) __builtin_prefetch((const char *)p + i, 0, 2);
}

/* Denormal results and operands become zero, or stay what they are, until the mode is put back. */
#if defined(__SSE2__)
static inline unsigned long flush_denormals(void) {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* FTZ and DAZ */
    return mode;
}
static inline unsigned long keep_denormals(void) {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode & ~0x8040u);
    return mode;
}
static inline void restore_denormals(unsigned long mode) { _mm_setcsr((unsigned)mode); }
#elif defined(__aarch64__)
static inline unsigned long flush_denormals(void) {
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1ul << 24)));
    return mode;
}
static inline unsigned long keep_denormals(void) {
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode & ~(1ul << 24)));
    return mode;
}
static inline void restore_denormals(unsigned long mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}
#else
static inline unsigned long flush_denormals(void) { return 0; }
static inline unsigned long keep_denormals(void) { return 0; }
static inline void restore_denormals(unsigned long mode) { (void)mode; }
#endif
#endif
#endif
