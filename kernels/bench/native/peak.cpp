// What one core can do at most, measured: multiply-adds that depend on nothing but themselves, as many as the latency needs.
#include <chrono>
#include <cstdint>

#include "cpu_level.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Twelve chains in variables of their own: an array of them would be kept in memory.
#define EACH(DO) DO(s0) DO(s1) DO(s2) DO(s3) DO(s4) DO(s5) DO(s6) DO(s7) DO(s8) DO(s9) DO(s10) DO(s11)
#define HOLD(sum) __asm__ volatile("" : "+v"(sum));
#define MEASURE(NAME, TARGET, VECTOR, START, STEP, LANES)                                           \
    TARGET double NAME(int64_t rounds) {                                                            \
        VECTOR one = START;                                                                         \
        HOLD(one)                                                                                   \
        VECTOR s0 = one, s1 = one, s2 = one, s3 = one, s4 = one, s5 = one;                          \
        VECTOR s6 = one, s7 = one, s8 = one, s9 = one, s10 = one, s11 = one;                        \
        const auto start = std::chrono::steady_clock::now();                                        \
        for (int64_t round = 0; round < rounds; ++round) {                                          \
            EACH(STEP)                                                                              \
            EACH(HOLD)                                                                              \
        }                                                                                           \
        return 2.0 * LANES * 12 * double(rounds) / seconds_since(start);                            \
    }

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define FMA8(sum) sum = _mm256_fmadd_ps(one, one, sum);
#define FMA16(sum) sum = _mm512_fmadd_ps(one, one, sum);
#define DOT64(sum) sum = _mm512_dpbusd_epi32(sum, one, one);
MEASURE(fp32_avx2, AVX2, __m256, _mm256_set1_ps(1e-3f), FMA8, 8)
MEASURE(fp32_avx512, AVX512, __m512, _mm512_set1_ps(1e-3f), FMA16, 16)
MEASURE(int8_vnni, VNNI, __m512i, _mm512_set1_epi8(1), DOT64, 64)

}  // namespace
#endif

// Operations per second (a multiply-add is two) of one thread over `rounds` rounds; `kind` 0 fp32, 1 int8 dots. 0 where `level` has none.
DARE_EXPORT double dare_peak(int32_t level, int32_t kind, int64_t rounds) {
    if (!cpu_runs(level) || rounds < 1) return 0.0;
#if defined(__x86_64__)
    if (kind == 0 && level >= kAvx512) return fp32_avx512(rounds);
    if (kind == 0 && level == kAvx2) return fp32_avx2(rounds);
    if (kind == 1 && level == kAvx512Vnni) return int8_vnni(rounds);
#endif
    (void)kind;
    return 0.0;
}
