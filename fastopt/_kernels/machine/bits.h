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
#define FASTOPT_NOINLINE __attribute__((noinline, noclone))
#elif defined(__clang__)
#define FASTOPT_NOINLINE __attribute__((noinline))
#else
#define FASTOPT_NOINLINE
#endif

#define fastopt_abs(x) _Generic((x), float: fabsf, double: fabs)(x)
#define fastopt_sqrt(x) _Generic((x), float: sqrtf, double: sqrt)(x)
#define fastopt_quotient(a, b, max_divisor) \
    _Generic((a), float: fastopt_quotient_float, double: fastopt_quotient_double)(a, b, max_divisor)
#define fastopt_load_padded(block, x, n, padding) \
    _Generic(*(block), float: fastopt_load_padded_float, double: fastopt_load_padded_double)(block, x, n, padding)
#define fastopt_store_partial(x, block, n) \
    _Generic(*(block), float: fastopt_store_partial_float, double: fastopt_store_partial_double)(x, block, n)
#define fastopt_copysign(x, y) _Generic((x), float: copysignf, double: copysign)(x, y)
#define fastopt_minus_half_square(a, low) \
    _Generic((a), float: fastopt_minus_half_square_float, double: fastopt_minus_half_square_double)(a, low)
#define fastopt_power_from_low_bits(x) \
    _Generic((x), float: fastopt_power_from_low_bits_float, \
             double: fastopt_power_from_low_bits_double)(x)

/* The first n < 16 elements of x into a block of 16 whose others are padding, and from a block
 * back to x. A block written number by number could not be read as one vector at once. */
static inline void fastopt_load_padded_float(float *block, const float *x, ptrdiff_t n, float padding)
{
#ifdef __AVX512F__
    const __mmask16 mask = (__mmask16)((1u << n) - 1);
    _mm512_storeu_ps(block, _mm512_mask_loadu_ps(_mm512_set1_ps(padding), mask, x));
#else
    for (ptrdiff_t i = 0; i < 16; i++) block[i] = padding;
    for (ptrdiff_t i = 0; i < n; i++) block[i] = x[i];
#endif
}

static inline void fastopt_load_padded_double(double *block, const double *x, ptrdiff_t n, double padding)
{
#ifdef __AVX512F__
    const __m512d background = _mm512_set1_pd(padding);
    const unsigned mask = (1u << n) - 1;
    _mm512_storeu_pd(block, _mm512_mask_loadu_pd(background, (__mmask8)mask, x));
    _mm512_storeu_pd(block + 8, _mm512_mask_loadu_pd(background, (__mmask8)(mask >> 8), x + 8));
#else
    for (ptrdiff_t i = 0; i < 16; i++) block[i] = padding;
    for (ptrdiff_t i = 0; i < n; i++) block[i] = x[i];
#endif
}

static inline void fastopt_store_partial_float(float *x, const float *block, ptrdiff_t n)
{
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << n) - 1), _mm512_loadu_ps(block));
#else
    for (ptrdiff_t i = 0; i < n; i++) x[i] = block[i];
#endif
}

static inline void fastopt_store_partial_double(double *x, const double *block, ptrdiff_t n)
{
#ifdef __AVX512F__
    const unsigned mask = (1u << n) - 1;
    _mm512_mask_storeu_pd(x, (__mmask8)mask, _mm512_loadu_pd(block));
    _mm512_mask_storeu_pd(x + 8, (__mmask8)(mask >> 8), _mm512_loadu_pd(block + 8));
#else
    for (ptrdiff_t i = 0; i < n; i++) x[i] = block[i];
#endif
}

/* -a^2/2 and a low part that together are exact. Without fused products the square of the upper half
 * of a's significand, which is exact, and what is missing to all of a. */
#ifdef __FMA__
static inline float fastopt_minus_half_square_float(float a, float *low)
{
    const float half = -0.5f * a, square = half * a;
    *low = __builtin_fmaf(half, a, -square);
    return square;
}

static inline double fastopt_minus_half_square_double(double a, double *low)
{
    const double half = -0.5 * a, square = half * a;
    *low = __builtin_fma(half, a, -square);
    return square;
}
#else
static inline float fastopt_minus_half_square_float(float a, float *low)
{
    float upper = a;
    uint32_t bits;
    memcpy(&bits, &upper, sizeof bits);
    bits &= UINT32_C(0xfffff000);
    memcpy(&upper, &bits, sizeof upper);
    *low = -0.5f * (a - upper) * (a + upper);
    return -0.5f * upper * upper;
}

static inline double fastopt_minus_half_square_double(double a, double *low)
{
    double upper = a;
    uint64_t bits;
    memcpy(&bits, &upper, sizeof bits);
    bits &= UINT64_C(0xfffffffff8000000);
    memcpy(&upper, &bits, sizeof upper);
    *low = -0.5 * (a - upper) * (a + upper);
    return -0.5 * upper * upper;
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
#define FASTOPT_MAX_DIVISOR_FLOAT 0x1.e6238ep126f
#define FASTOPT_MAX_DIVISOR_DOUBLE 0x1.e623822fc16e6p1022
#define fastopt_quotient_most(x) _Generic((x), float: FASTOPT_MAX_DIVISOR_FLOAT, double: FASTOPT_MAX_DIVISOR_DOUBLE)
#ifdef __FMA__
static inline float fastopt_quotient_float(float a, float b, float max_divisor)
{
    uint32_t bits;
    float y, x;
    b = b > max_divisor ? max_divisor : b;
    memcpy(&bits, &b, sizeof bits);
    bits = UINT32_C(0x7ef311c7) - bits;
    memcpy(&y, &bits, sizeof y);
    y *= 2.0f - b * y;
    y *= 2.0f - b * y;
    x = a * y;
    return x + (a - b * x) * y;
}

static inline double fastopt_quotient_double(double a, double b, double max_divisor)
{
    uint64_t bits;
    double y, x;
    b = b > max_divisor ? max_divisor : b;
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
static inline float fastopt_quotient_float(float a, float b, float max_divisor) { return (void)max_divisor, a / b; }
static inline double fastopt_quotient_double(double a, double b,
                                             double max_divisor) { return (void)max_divisor, a / b; }
#endif

#endif
