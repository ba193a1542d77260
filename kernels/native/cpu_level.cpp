#include "cpu_level.hpp"

bool cpu_runs(int32_t level) {
    if (level == kScalar) return true;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (level == kAvx2) return avx2;
    if (level == kAvx512) return avx512;
    if (level == kAvx512Vnni) return avx512 && __builtin_cpu_supports("avx512vnni");
#endif
    return false;
}

// 1 where this CPU runs `level`, else 0.
DARE_EXPORT int dare_cpu_runs(int32_t level) { return cpu_runs(level); }
