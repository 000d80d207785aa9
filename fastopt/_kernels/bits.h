/* The few operations on the bits of a float or double that Cython cannot say.
 * Each name is one macro over both types (C11 _Generic), so that fused Cython
 * code calls it without knowing its own type. Every function is branch-free
 * and compiles to vector instructions from SSE2 on: integers keep the width of
 * the floating type and are never converted to it or from it.
 */
#ifndef FASTOPT_BITS_H
#define FASTOPT_BITS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* One compiled body for every caller: inlined or specialised copies may contract
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
#define fastopt_quotient(a, b) \
    _Generic((a), float: fastopt_quotient_float, double: fastopt_quotient_double)(a, b)
#define FASTOPT_MOST_FLOAT 4e37f
#define FASTOPT_MOST_DOUBLE 1e306
#define fastopt_copysign(x, y) _Generic((x), float: copysignf, double: copysign)(x, y)
#define fastopt_head(x) \
    _Generic((x), float: fastopt_head_float, double: fastopt_head_double)(x)
#define fastopt_power_from_low_bits(x) \
    _Generic((x), float: fastopt_power_from_low_bits_float, \
             double: fastopt_power_from_low_bits_double)(x)

/* x cut to the upper half of its significand: the square of the result is exact. */
static inline float fastopt_head_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= UINT32_C(0xfffff000);
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline double fastopt_head_double(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= UINT64_C(0xfffffffff8000000);
    memcpy(&x, &bits, sizeof x);
    return x;
}

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

/* a / b for 0 < b <= FASTOPT_MOST_..., within one unit in the last place while |a| > 1e-30
 * (float) and the quotient is normal. Roots and divisions share one slow unit, which a loop with one of each waits for; where
 * products and sums can be fused, a division is cheaper made of them: an estimate of 1 / b from its
 * bits, good to 5 %, whose error each step squares. */
#ifdef __FMA__
static inline float fastopt_quotient_float(float a, float b)
{
    uint32_t bits;
    float y, x;
    memcpy(&bits, &b, sizeof bits);
    bits = UINT32_C(0x7ef311c7) - bits;
    memcpy(&y, &bits, sizeof y);
    y *= 2.0f - b * y;
    y *= 2.0f - b * y;
    x = a * y;
    return x + (a - b * x) * y;
}

static inline double fastopt_quotient_double(double a, double b)
{
    uint64_t bits;
    double y, x;
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
static inline float fastopt_quotient_float(float a, float b) { return a / b; }
static inline double fastopt_quotient_double(double a, double b) { return a / b; }
#endif

#endif
