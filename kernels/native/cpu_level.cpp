#include "cpu_level.hpp"

#if defined(__x86_64__)
#include <cpuid.h>

namespace {

// Asked of the CPU itself: __builtin_cpu_supports() finds nothing in libraries that Zig links.
int32_t best_level() {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return kScalar;
    const bool fma = c >> 12 & 1, xsave = c >> 27 & 1;
    if (!fma || !xsave || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return kScalar;
    uint32_t saved, high;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    const auto all = [](uint32_t word, uint32_t bits) { return (word & bits) == bits; };
    // What the operating system saves: SSE and AVX registers, then masks and the two kinds of AVX-512 registers.
    if (!all(saved, 0x06) || !all(b, 1u << 5)) return kScalar;
    // F, DQ, BW, VL
    if (!all(saved, 0xe6) || !all(b, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)) return kAvx2;
    return c >> 11 & 1 ? kAvx512Vnni : kAvx512;
}

}  // namespace

bool cpu_runs(int32_t level) {
    static const int32_t best = best_level();
    return kScalar <= level && level <= best;
}
#else
bool cpu_runs(int32_t level) { return level == kScalar; }
#endif

// 1 where this CPU runs `level`, else 0.
DARE_EXPORT int dare_cpu_runs(int32_t level) { return cpu_runs(level); }

// What the sources held that this library was built from (setup.py).
DARE_EXPORT const char* dare_sources() { return DARE_SOURCES; }
