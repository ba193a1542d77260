// Sixteen lanes on AVX-512 (F, BW, DQ, VL). TARGET and dot4() come from the including level.
#define OP TARGET __attribute__((always_inline)) static inline

using F = __m512;
using I = __m512i;

OP F fset(float a) { return _mm512_set1_ps(a); }
OP F fload(const float* p) { return _mm512_loadu_ps(p); }
OP void fstore(float* p, F v) { _mm512_storeu_ps(p, v); }
OP F fsub(F a, F b) { return _mm512_sub_ps(a, b); }
OP F fadd(F a, F b) { return _mm512_add_ps(a, b); }
OP F fmul(F a, F b) { return _mm512_mul_ps(a, b); }
OP F fmadd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
OP F fmax(F a, F b) { return _mm512_max_ps(a, b); }
OP F fgather(const float* p, I at) { return _mm512_i32gather_ps(at, p, 4); }
OP I iset(int32_t a) { return _mm512_set1_epi32(a); }
OP I iload(const void* p) { return _mm512_loadu_si512(p); }
OP void istore(void* p, I v) { _mm512_storeu_si512(p, v); }
OP I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
OP I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
OP I imul(I a, I b) { return _mm512_mullo_epi32(a, b); }
OP I imax(I a, I b) { return _mm512_max_epi32(a, b); }
OP I imin(I a, I b) { return _mm512_min_epi32(a, b); }
OP I igather(const int32_t* p, I at) { return _mm512_i32gather_epi32(at, p, 4); }
// p[at[lane]] where every at is in 0..15.
OP I ipick(const int32_t* p, I at) { return _mm512_permutexvar_epi32(at, _mm512_loadu_si512(p)); }
OP I ito(F a) { return _mm512_cvtps_epi32(a); }
OP F fto(I a) { return _mm512_cvtepi32_ps(a); }
OP I ibits(F a) { return _mm512_castps_si512(a); }
OP F fbits(I a) { return _mm512_castsi512_ps(a); }
// Bits above the sign are flipped where the sign is set: floats in order become integers in order, and back.
OP I iorder(I a) { return _mm512_xor_si512(a, _mm512_srli_epi32(_mm512_srai_epi32(a, 31), 1)); }
OP uint32_t at_least(I a, I b) { return _mm512_cmpge_epi32_mask(a, b); }
// The mask must be in a register of 32 bits: short of registers, g++ 12 stores the 16 of a mask register and then counts 32 in memory.
OP int32_t bits_set(uint32_t mask) {
    __asm__("" : "+r"(mask));
    return __builtin_popcount(mask);
}
OP I ior(I a, I b) { return _mm512_or_si512(a, b); }
template <int N>
OP I ishift(I a) { return _mm512_slli_epi32(a, N); }
// `count` plus one in the lanes where a is above b, and where (a, row_a) comes before (b, row_b).
OP I count_above(I count, I a, I b) { return _mm512_mask_sub_epi32(count, _mm512_cmpgt_epi32_mask(a, b), count, _mm512_set1_epi32(-1)); }
OP I count_before(I count, I a, I row_a, I b, I row_b) {
    const __mmask16 tie = _mm512_mask_cmpgt_epi32_mask(_mm512_cmpeq_epi32_mask(a, b), row_a, row_b);
    return _mm512_mask_sub_epi32(count, __mmask16(_mm512_cmpgt_epi32_mask(a, b) | tie), count, _mm512_set1_epi32(-1));
}
// The lanes of the mask, in order, written to p; up to 16 values are written.
OP void icompress(int32_t* p, uint32_t mask, I v) { _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(__mmask16(mask), v)); }
// The same where few lanes are expected: a narrow store is quicker.
OP void icompress_few(int32_t* p, uint32_t mask, I v) {
    const I few = _mm512_maskz_compress_epi32(__mmask16(mask), v);
    if (__builtin_expect(bits_set(mask) <= 4, 1)) _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(few));
    else _mm512_storeu_si512(p, few);
}
// a with its lowest four bits replaced.
OP I ilow4(I a, I low) { return _mm512_ternarylogic_epi32(a, _mm512_set1_epi32(15), low, 0xba); }
OP int32_t ihmax(I a) { return _mm512_reduce_max_epi32(a); }
OP int32_t ihmin(I a) { return _mm512_reduce_min_epi32(a); }
// Loaded once: without it the compiler loads again for each use.
OP void hold(I& v) { __asm__("" : "+v"(v)); }
OP I ilanes() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
OP F fload_n(const float* p, int n) { return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1u), p); }

// Column i of the 16 x n matrix whose rows are given: out[i] for i < n <= 16.
TARGET __attribute__((always_inline)) static inline void transpose(const float* const* rows, int64_t column, int n, F* out) {
    __m512 a[16], b[16];
    if (n == 16) {
        UNROLL for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(rows[i] + column);
    } else {
        UNROLL for (int i = 0; i < 16; ++i) a[i] = fload_n(rows[i] + column, n);
    }
    UNROLL for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        const __m512d p0 = _mm512_castps_pd(b[i]), p1 = _mm512_castps_pd(b[i + 1]), p2 = _mm512_castps_pd(b[i + 2]), p3 = _mm512_castps_pd(b[i + 3]);
        a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p0, p2));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p0, p2));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(p1, p3));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(p1, p3));
    }
    UNROLL for (int i = 0; i < 4; ++i) {
        const __m512 x = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), y = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
        const __m512 z = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88), w = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        out[i] = _mm512_shuffle_f32x4(x, z, 0x88);
        out[4 + i] = _mm512_shuffle_f32x4(y, w, 0x88);
        out[8 + i] = _mm512_shuffle_f32x4(x, z, 0xdd);
        out[12 + i] = _mm512_shuffle_f32x4(y, w, 0xdd);
    }
}
