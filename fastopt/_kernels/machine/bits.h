/* The few operations on the bits of a float or double that Cython cannot say.
 * Each name is one macro over both types (C11 _Generic), so that fused Cython
 * code calls it without knowing its own type. Every function is branch-free
 * and compiles to vector instructions from SSE2 on: integers keep the width of
 * the floating type and are never converted to it or from it.
 */
#ifndef FASTOPT_BITS_H
#define FASTOPT_BITS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* One compiled body for every caller: inlined or specialized copies may contract
 * a * b + c differently and give different bits. */
#if defined(__GNUC__) && !defined(__clang__)
#define FASTOPT_ONE_BODY __attribute__((noinline, noclone))
#elif defined(__clang__)
#define FASTOPT_ONE_BODY __attribute__((noinline))
#else
#define FASTOPT_ONE_BODY
#endif

#define fastopt_abs(x) _Generic((x), float: fabsf, double: fabs)(x)
#define fastopt_sqrt(x) _Generic((x), float: sqrtf, double: sqrt)(x)
#define fastopt_quotient(a, b, most) \
    _Generic((a), float: fastopt_quotient_float, double: fastopt_quotient_double)(a, b, most)
#define fastopt_fill(block, x, n, padding) \
    _Generic(*(block), float: fastopt_fill_float, double: fastopt_fill_double)(block, x, n, padding)
#define fastopt_spill(x, block, n) \
    _Generic(*(block), float: fastopt_spill_float, double: fastopt_spill_double)(x, block, n)
#define fastopt_copysign(x, y) _Generic((x), float: copysignf, double: copysign)(x, y)
#define fastopt_minus_half_square(a, rest) \
    _Generic((a), float: fastopt_minus_half_square_float, double: fastopt_minus_half_square_double)(a, rest)
#define fastopt_power_from_low_bits(x) \
    _Generic((x), float: fastopt_power_from_low_bits_float, \
             double: fastopt_power_from_low_bits_double)(x)

/* The first n < 16 elements of x into a block of 16 whose others are padding, and from a block
 * back to x. A block written number by number could not be read as one vector at once. */
static inline void fastopt_fill_float(float *block, const float *x, ptrdiff_t n, float padding)
{
#ifdef __AVX512F__
    const __mmask16 mask = (__mmask16)((1u << n) - 1);
    _mm512_storeu_ps(block, _mm512_mask_loadu_ps(_mm512_set1_ps(padding), mask, x));
#else
    for (ptrdiff_t i = 0; i < 16; i++) block[i] = padding;
    for (ptrdiff_t i = 0; i < n; i++) block[i] = x[i];
#endif
}

static inline void fastopt_fill_double(double *block, const double *x, ptrdiff_t n, double padding)
{
#ifdef __AVX512F__
    const __m512d rest = _mm512_set1_pd(padding);
    const unsigned mask = (1u << n) - 1;
    _mm512_storeu_pd(block, _mm512_mask_loadu_pd(rest, (__mmask8)mask, x));
    _mm512_storeu_pd(block + 8, _mm512_mask_loadu_pd(rest, (__mmask8)(mask >> 8), x + 8));
#else
    for (ptrdiff_t i = 0; i < 16; i++) block[i] = padding;
    for (ptrdiff_t i = 0; i < n; i++) block[i] = x[i];
#endif
}

static inline void fastopt_spill_float(float *x, const float *block, ptrdiff_t n)
{
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << n) - 1), _mm512_loadu_ps(block));
#else
    for (ptrdiff_t i = 0; i < n; i++) x[i] = block[i];
#endif
}

static inline void fastopt_spill_double(double *x, const double *block, ptrdiff_t n)
{
#ifdef __AVX512F__
    const unsigned mask = (1u << n) - 1;
    _mm512_mask_storeu_pd(x, (__mmask8)mask, _mm512_loadu_pd(block));
    _mm512_mask_storeu_pd(x + 8, (__mmask8)(mask >> 8), _mm512_loadu_pd(block + 8));
#else
    for (ptrdiff_t i = 0; i < n; i++) x[i] = block[i];
#endif
}

/* -a^2/2 and a rest that together are exact. Without fused products the square of the upper half
 * of a's significand, which is exact, and what is missing to all of a. */
#ifdef __FMA__
static inline float fastopt_minus_half_square_float(float a, float *rest)
{
    const float half = -0.5f * a, square = half * a;
    *rest = __builtin_fmaf(half, a, -square);
    return square;
}

static inline double fastopt_minus_half_square_double(double a, double *rest)
{
    const double half = -0.5 * a, square = half * a;
    *rest = __builtin_fma(half, a, -square);
    return square;
}
#else
static inline float fastopt_minus_half_square_float(float a, float *rest)
{
    float head = a;
    uint32_t bits;
    memcpy(&bits, &head, sizeof bits);
    bits &= UINT32_C(0xfffff000);
    memcpy(&head, &bits, sizeof head);
    *rest = -0.5f * (a - head) * (a + head);
    return -0.5f * head * head;
}

static inline double fastopt_minus_half_square_double(double a, double *rest)
{
    double head = a;
    uint64_t bits;
    memcpy(&bits, &head, sizeof bits);
    bits &= UINT64_C(0xfffffffff8000000);
    memcpy(&head, &bits, sizeof head);
    *rest = -0.5 * (a - head) * (a + head);
    return -0.5 * head * head;
}
#endif

/* 2^k from a float whose lowest bits are the biased exponent k + bias, as those of
 * k + bias + 1.5 * 2^23 (1.5 * 2^52) are; the shift drops everything above them. */
static inline float fastopt_power_from_low_bits_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits <<= 23;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline double fastopt_power_from_low_bits_double(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits <<= 52;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* x = m 2^k with 0.7 < m < 1.42, for x >= 1: returns k. The bits of k become a double by those of 2^52. */
static inline double fastopt_log_parts(double x, double *m)
{
    const uint64_t low = UINT64_C(0x3fe6a09e667f3bcd), one = UINT64_C(0x3ff0000000000000);
    uint64_t bits, k;
    double whole;
    memcpy(&bits, &x, sizeof bits);
    k = (bits + (one - low)) >> 52;
    bits -= (k << 52) - one;
    k |= UINT64_C(0x4330000000000000);
    memcpy(m, &bits, sizeof bits);
    memcpy(&whole, &k, sizeof k);
    return whole - (4503599627370496.0 + 1023.0);
}

/* a / b for a normal b > 0 or a b that is infinite or NaN, within one unit in the last place while
 * |a| > 1e-30 (float) and the quotient is normal. Roots and divisions share one slow unit, which a
 * loop with one of each waits for; where products and sums can be fused, a division is cheaper made
 * of them: an estimate of 1 / b from its bits, good to 5 %, whose error each step squares. The
 * largest b is the one whose estimate is 0: it stands for infinity. From a quarter of it on, 1 / b
 * is subnormal, so 0 where these are flushed. It comes as an argument: of a constant, the compiler
 * makes two compares instead of one minimum, and Adam loses a tenth. */
#define FASTOPT_MOST_FLOAT 0x1.e6238ep126f
#define FASTOPT_MOST_DOUBLE 0x1.e623822fc16e6p1022
#define fastopt_quotient_most(x) _Generic((x), float: FASTOPT_MOST_FLOAT, double: FASTOPT_MOST_DOUBLE)
#ifdef __FMA__
static inline float fastopt_quotient_float(float a, float b, float most)
{
    uint32_t bits;
    float y, x;
    b = b > most ? most : b;
    memcpy(&bits, &b, sizeof bits);
    bits = UINT32_C(0x7ef311c7) - bits;
    memcpy(&y, &bits, sizeof y);
    y *= 2.0f - b * y;
    y *= 2.0f - b * y;
    x = a * y;
    return x + (a - b * x) * y;
}

static inline double fastopt_quotient_double(double a, double b, double most)
{
    uint64_t bits;
    double y, x;
    b = b > most ? most : b;
    memcpy(&bits, &b, sizeof bits);
    bits = UINT64_C(0x7fde623822fc16e6) - bits;
    memcpy(&y, &bits, sizeof y);
    y *= 2.0 - b * y;
    y *= 2.0 - b * y;
    y *= 2.0 - b * y;
    x = a * y;
    return x + (a - b * x) * y;
}
#else
static inline float fastopt_quotient_float(float a, float b, float most) { return (void)most, a / b; }
static inline double fastopt_quotient_double(double a, double b, double most) { return (void)most, a / b; }
#endif

#endif
