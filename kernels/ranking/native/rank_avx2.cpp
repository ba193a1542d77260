// x86-64 with AVX2 and FMA: eight lanes.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "rank_call.hpp"

#define TARGET __attribute__((target("avx2,fma")))
namespace {
constexpr int LANES = 8, MR = 6, NG = 1, NS = 7;
using V = __m256;
#define OP TARGET __attribute__((always_inline)) static inline

alignas(32) const int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
OP __m256i first_lanes(int n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n)); }
OP V vset(float a) { return _mm256_set1_ps(a); }
OP V vload(const float* p) { return _mm256_loadu_ps(p); }
OP V vload_n(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
OP void vstore(float* p, V v) { _mm256_storeu_ps(p, v); }
OP void vstore_n(float* p, V v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
OP V widen(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
OP V vload_bf16(const uint16_t* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
OP V vload_bf16_n(const uint16_t* p, int n) {
    uint16_t some[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    std::memcpy(some, p, size_t(n) * sizeof(uint16_t));
    return vload_bf16(some);
}
// Of sixteen bf16 numbers in eight words, those in the lower and in the upper halves.
OP V vload_low(const uint16_t* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16)); }
OP V vload_high(const uint16_t* p) {
    const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm256_castsi256_ps(_mm256_and_si256(word, _mm256_set1_epi32(int32_t(0xffff0000))));
}
OP V vzip_first(V low, V high) { return _mm256_permute2f128_ps(_mm256_unpacklo_ps(low, high), _mm256_unpackhi_ps(low, high), 0x20); }
OP V vzip_last(V low, V high) { return _mm256_permute2f128_ps(_mm256_unpacklo_ps(low, high), _mm256_unpackhi_ps(low, high), 0x31); }
OP V vadd(V a, V b) { return _mm256_add_ps(a, b); }
OP V vsub(V a, V b) { return _mm256_sub_ps(a, b); }
OP V vmul(V a, V b) { return _mm256_mul_ps(a, b); }
OP V vfma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
OP V vmax(V a, V b) { return _mm256_max_ps(a, b); }
OP V vmin(V a, V b) { return _mm256_min_ps(a, b); }
OP V vround(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
OP V vscale(V a, V n) {
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
OP float vsum(V a) {
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
OP float vhmax(V a) {
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
OP V vdiv(V a, V b) { return _mm256_div_ps(a, b); }
// Of each lane, one of two, by whether a is x or less.
OP V vpick(V a, V x, V yes, V no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, x, _CMP_LE_OQ)); }

#include "rank_kernel.hpp"
}  // namespace

void rank_avx2(const RankCall& c, int64_t first, int64_t last, float* scratch) {
    if (c.bf16) rank_targets<uint16_t>(c, first, last, scratch);
    else rank_targets<float>(c, first, last, scratch);
}
#endif
