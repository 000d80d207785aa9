/* The instruction-set level of this processor, as a number: 1 to 4 of x86-64, 0 elsewhere. _cpu.pyx asks at import, setup.py
 * when it builds for this machine alone. */
#ifndef FASTOPT_CPU_H
#define FASTOPT_CPU_H

static int fastopt_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) return 1;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2")) return 2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl")) return 3;
    return 4;
#else
    return 0;
#endif
}
#endif
