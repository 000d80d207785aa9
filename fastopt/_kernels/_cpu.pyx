"""What this processor is: its instruction-set levels, its vendor, its cache; asked before a level is loaded."""

cdef extern from "machine/cpu.h":
    int fastopt_level()

cdef extern from *:
    """
    static const char *fastopt_vendor(void) {
    #if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_is("intel")) return "Intel";
        if (__builtin_cpu_is("amd")) return "AMD";
    #endif
        return "";
    }
    #include <unistd.h>
    static long fastopt_l2_bytes(void) {
    #if defined(_SC_LEVEL2_CACHE_SIZE)
        return sysconf(_SC_LEVEL2_CACHE_SIZE);
    #else
        return 0;
    #endif
    }
    """
    const char* fastopt_vendor()
    long fastopt_l2_bytes()


def levels():
    """Level names this processor runs, best first."""
    cdef int level = fastopt_level()
    if level == 0:
        return ("baseline",)
    return ("v4", "v3", "v2")[4 - level:] if level > 1 else ()


def vendor():
    """Intel, AMD, or an empty text for all others."""
    return fastopt_vendor().decode()


def l2_bytes():
    """Bytes of the second-level cache of a core; 0 where the system does not say."""
    return max(0, fastopt_l2_bytes())
