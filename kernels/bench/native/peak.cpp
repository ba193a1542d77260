// What one core can do at most, measured: multiply-adds that depend on nothing but themselves, as many as the latency needs.
#include <chrono>
#include <cstdint>

#include "cpu_level.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

namespace {

constexpr int kChains = 24;

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

#define MEASURE(NAME, TARGET, VECTOR, CHAINS, START, STEP, LANES)                                   \
    TARGET double NAME(int64_t rounds) {                                                            \
        VECTOR sum[CHAINS];                                                                         \
        VECTOR one = START;                                                                         \
        __asm__ volatile("" : "+x"(one));                                                           \
        for (VECTOR& chain : sum) chain = one;                                                      \
        const auto start = std::chrono::steady_clock::now();                                        \
        for (int64_t round = 0; round < rounds; ++round) {                                          \
            _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; ++i) {                             \
                sum[i] = STEP(sum[i], one);                                                         \
                __asm__ volatile("" : "+x"(sum[i]));                                                \
            }                                                                                       \
        }                                                                                           \
        return 2.0 * LANES * CHAINS * double(rounds) / seconds_since(start);                        \
    }

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define FMA8(a, b) _mm256_fmadd_ps(b, b, a)
#define FMA16(a, b) _mm512_fmadd_ps(b, b, a)
#define DOT64(a, b) _mm512_dpbusd_epi32(a, b, b)
// Twelve chains: sixteen registers must hold them.
MEASURE(fp32_avx2, AVX2, __m256, 12, _mm256_set1_ps(1e-3f), FMA8, 8)
MEASURE(fp32_avx512, AVX512, __m512, kChains, _mm512_set1_ps(1e-3f), FMA16, 16)
MEASURE(int8_vnni, VNNI, __m512i, kChains, _mm512_set1_epi8(1), DOT64, 64)

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
