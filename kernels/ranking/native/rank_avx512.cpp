// x86-64 with AVX-512 (F, BW, DQ, VL): sixteen lanes, partial vectors by mask.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "rank_call.hpp"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
namespace {
constexpr int LANES = 16, MR = 8, NG = 3, NS = 13;
using V = __m512;
#define OP TARGET __attribute__((always_inline)) static inline

OP __mmask16 first_lanes(int n) { return __mmask16((1u << n) - 1u); }
OP V vset(float a) { return _mm512_set1_ps(a); }
OP V vload(const float* p) { return _mm512_loadu_ps(p); }
OP V vload_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
OP void vstore(float* p, V v) { _mm512_storeu_ps(p, v); }
OP void vstore_n(float* p, V v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
OP V widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
OP V vload_bf16(const uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
OP V vload_bf16_n(const uint16_t* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
// Of 32 bf16 numbers in sixteen words, those in the lower and in the upper halves.
OP V vload_low(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
OP V vload_high(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(int32_t(0xffff0000))));
}
OP V vzip_first(V low, V high) {
    return _mm512_permutex2var_ps(low, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), high);
}
OP V vzip_last(V low, V high) {
    return _mm512_permutex2var_ps(low, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), high);
}
OP V vadd(V a, V b) { return _mm512_add_ps(a, b); }
OP V vsub(V a, V b) { return _mm512_sub_ps(a, b); }
OP V vmul(V a, V b) { return _mm512_mul_ps(a, b); }
OP V vfma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
OP V vmax(V a, V b) { return _mm512_max_ps(a, b); }
OP V vmin(V a, V b) { return _mm512_min_ps(a, b); }
OP V vround(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
OP V vscale(V a, V n) { return _mm512_scalef_ps(a, n); }
OP float vsum(V a) { return _mm512_reduce_add_ps(a); }
OP float vhmax(V a) { return _mm512_reduce_max_ps(a); }
OP V vdiv(V a, V b) { return _mm512_div_ps(a, b); }
// Of each lane, one of two, by whether a is x or less.
OP V vpick(V a, V x, V yes, V no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, x, _CMP_LE_OQ), no, yes); }

#include "rank_kernel.hpp"
}  // namespace

void rank_avx512(const RankCall& c, int64_t first, int64_t last, float* scratch) {
    if (c.bf16) rank_targets<uint16_t>(c, first, last, scratch);
    else rank_targets<float>(c, first, last, scratch);
}
#endif
