/* The few operations on the bits of a REAL that Cython cannot say, and what passes between an array
 * and a vector, or a block of 16, that it does not fill. Included by simd.h per dtype.
 *
 * Every function is branch-free and compiles to vector instructions from SSE2 on: integers keep the
 * width of the floating type and are never converted to it or from it.
 */
enum { NAME(LANES) = VECTOR_BYTES / sizeof(REAL) };

ALWAYS_INLINE NAME(bits) NAME(bits_of)(REAL x) {
    NAME(bits) bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
ALWAYS_INLINE REAL NAME(from_bits)(NAME(bits) bits) {
    REAL x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The first n elements of p as a vector whose others are zeros, and back. */
ALWAYS_INLINE VEC NAME(load_partial)(const REAL *p, ptrdiff_t n) {
#if VECTOR_BYTES == 64
    return NAME(MASKED_LOAD)((VEC){0}, (1u << n) - 1, p);
#elif VECTOR_BYTES == 32
    return NAME(LOAD_FIRST)(p, n);
#else
    VEC v = {0};
    for (ptrdiff_t i = 0; i < n; i++) ((REAL *)&v)[i] = p[i];
    return v;
#endif
}
ALWAYS_INLINE void NAME(store_partial)(REAL *p, VEC v, ptrdiff_t n) {
#if VECTOR_BYTES == 64
    NAME(MASKED_STORE)(p, (1u << n) - 1, v);
#else
    for (ptrdiff_t i = 0; i < n; i++) p[i] = ((REAL *)&v)[i];
#endif
}

/* The first n < 16 elements of x into a block of 16 whose others are padding, and from a block
 * back to x. A block written number by number could not be read as one vector at once. */
ALWAYS_INLINE void NAME(load_padded)(REAL *block, const REAL *x, ptrdiff_t n, REAL padding) {
#if VECTOR_BYTES == 64
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += NAME(LANES))
        *(VEC *)(block + i) = NAME(MASKED_LOAD)((VEC){0} + padding, ((1u << n) - 1) >> i, x + i);
#else
    for (ptrdiff_t i = 0; i < 16; i++) block[i] = padding;
    for (ptrdiff_t i = 0; i < n; i++) block[i] = x[i];
#endif
}
ALWAYS_INLINE void NAME(store_padded)(REAL *x, const REAL *block, ptrdiff_t n) {
#if VECTOR_BYTES == 64
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += NAME(LANES))
        NAME(MASKED_STORE)(x + i, ((1u << n) - 1) >> i, *(const VEC *)(block + i));
#else
    for (ptrdiff_t i = 0; i < n; i++) x[i] = block[i];
#endif
}

/* a^2 + b without rounding a^2. Where products cannot be fused, the square of the upper half of a's significand is exact, and
 * what it lacks is added last. */
ALWAYS_INLINE REAL NAME(square_plus)(REAL a, REAL b) {
#ifdef __FMA__
    return _Generic(a, float: fmaf, double: fma)(a, a, b);
#else
    const NAME(bits) all = -1, mask = all << (sizeof(REAL) == 4 ? 12 : 27);
    const REAL upper = NAME(from_bits)(NAME(bits_of)(a) & mask);
    return upper * upper + b + (a - upper) * (a + upper);
#endif
}

/* 2^k from a REAL whose lowest bits are the biased exponent k + bias, as those of
 * k + bias + 1.5 * 2^23 (1.5 * 2^52) are; the shift drops everything above them. */
ALWAYS_INLINE REAL NAME(power_from_low_bits)(REAL x) {
    return NAME(from_bits)(NAME(bits_of)(x) << (sizeof(REAL) == 4 ? 23 : 52));
}

/* a / b for a normal b > 0 or a b that is infinite or NaN, within one unit in the last place while
 * |a| > 1e-30 (float) and the quotient is normal. Roots and divisions share one slow unit, which a
 * loop with one of each waits for; where products and sums can be fused, a division is cheaper made
 * of them: an estimate of 1 / b from its bits, good to 5 %, whose error each step cubes, and the last one squares. The
 * largest b, MAX_DIVISOR, is the one whose estimate is 0: it stands for infinity. From a quarter of it
 * on, 1 / b is subnormal, so 0 where these are flushed. It comes as an argument: of a constant, the
 * compiler makes two compares instead of one minimum, and Adam loses a tenth. */
ALWAYS_INLINE REAL NAME(quotient)(REAL a, REAL b, REAL max_divisor) {
#ifdef __FMA__
    const NAME(bits) most = sizeof(REAL) == 4 ? 0x7ef311c7 : UINT64_C(0x7fde623822fc16e6);
    REAL y, x, error;
    b = b > max_divisor ? max_divisor : b;
    y = NAME(from_bits)(most - NAME(bits_of)(b));
#pragma GCC unroll 2
    for (size_t i = 0; i < sizeof(REAL) / 4; i++) {
        error = 1 - b * y;
        y += y * (error + error * error);
    }
    x = a * y;
    return x + (a - b * x) * y;
#else
    (void)max_divisor;
    return a / b;
#endif
}

/* c[0] x^(n - 1) + ... + c[n - 1] */
ALWAYS_INLINE REAL NAME(polynomial)(REAL x, const REAL *c, const size_t n) {
    REAL p = c[0];
#pragma GCC unroll 32
    for (size_t i = 1; i < n; i++) p = p * x + c[i];
    return p;
}
