// Sixteen lanes on AVX2 and FMA, as two registers.
#define OP TARGET __attribute__((always_inline)) static inline

struct F { __m256 a, b; };
struct I { __m256i a, b; };

#define BOTH(name, type, op) OP type name(type x, type y) { return {op(x.a, y.a), op(x.b, y.b)}; }
BOTH(fadd, F, _mm256_add_ps)
BOTH(fsub, F, _mm256_sub_ps)
BOTH(fmul, F, _mm256_mul_ps)
BOTH(fmax, F, _mm256_max_ps)
BOTH(iadd, I, _mm256_add_epi32)
BOTH(isub, I, _mm256_sub_epi32)
BOTH(imul, I, _mm256_mullo_epi32)
BOTH(imax, I, _mm256_max_epi32)
BOTH(imin, I, _mm256_min_epi32)
BOTH(ior, I, _mm256_or_si256)
#undef BOTH

OP F fset(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
OP F fload(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
OP void fstore(float* p, F v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
OP F fmadd(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
OP F fgather(const float* p, I at) { return {_mm256_i32gather_ps(p, at.a, 4), _mm256_i32gather_ps(p, at.b, 4)}; }
OP I iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
OP I iload(const void* p) {
    const __m256i* v = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
OP void istore(void* p, I v) {
    __m256i* at = static_cast<__m256i*>(p);
    _mm256_storeu_si256(at, v.a), _mm256_storeu_si256(at + 1, v.b);
}
OP I igather(const int32_t* p, I at) { return {_mm256_i32gather_epi32(p, at.a, 4), _mm256_i32gather_epi32(p, at.b, 4)}; }
// p[at[lane]] where every at is in 0..15.
OP I ipick(const int32_t* p, I at) { return igather(p, at); }
OP I ito(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
OP F fto(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
OP I ibits(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
OP __m256i order(__m256i x) { return _mm256_xor_si256(x, _mm256_srli_epi32(_mm256_srai_epi32(x, 31), 1)); }
// Bits above the sign are flipped where the sign is set: floats in order become integers in order, and back.
OP I iorder(I x) { return {order(x.a), order(x.b)}; }
template <int N>
OP I ishift(I x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
OP uint32_t at_least(I x, I y) {
    const __m256i a = _mm256_cmpgt_epi32(y.a, x.a), b = _mm256_cmpgt_epi32(y.b, x.b);
    return 0xffffu & ~(uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(a))) | uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(b))) << 8);
}
OP int32_t bits_set(uint32_t mask) { return __builtin_popcount(mask); }
// `count` plus one in the lanes where x is above y, and where (x, row_x) comes before (y, row_y).
OP I count_above(I count, I x, I y) {
    return {_mm256_sub_epi32(count.a, _mm256_cmpgt_epi32(x.a, y.a)), _mm256_sub_epi32(count.b, _mm256_cmpgt_epi32(x.b, y.b))};
}
OP __m256i before(__m256i x, __m256i row_x, __m256i y, __m256i row_y) {
    return _mm256_or_si256(_mm256_cmpgt_epi32(x, y), _mm256_and_si256(_mm256_cmpeq_epi32(x, y), _mm256_cmpgt_epi32(row_x, row_y)));
}
OP I count_before(I count, I x, I row_x, I y, I row_y) {
    return {_mm256_sub_epi32(count.a, before(x.a, row_x.a, y.a, row_y.a)), _mm256_sub_epi32(count.b, before(x.b, row_x.b, y.b, row_y.b))};
}
// The lanes of the mask, in order, written to p; up to 16 values are written.
OP void icompress(int32_t* p, uint32_t mask, I v) {
    alignas(32) int32_t lanes[16];
    istore(lanes, v);
    for (; mask; mask &= mask - 1) *p++ = lanes[__builtin_ctz(mask)];
}
OP void icompress_few(int32_t* p, uint32_t mask, I v) { icompress(p, mask, v); }
// a with its lowest four bits replaced.
OP __m256i low4(__m256i a, __m256i low) { return _mm256_or_si256(_mm256_andnot_si256(_mm256_set1_epi32(15), a), low); }
OP I ilow4(I x, I low) { return {low4(x.a, low.a), low4(x.b, low.b)}; }
OP int32_t ihmax(I x) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_max_epi32(x.a, x.b));
    return *std::max_element(lanes, lanes + 8);
}
OP int32_t ihmin(I x) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_min_epi32(x.a, x.b));
    return *std::min_element(lanes, lanes + 8);
}
// Loaded once: without it the compiler loads again for each use.
OP void hold(I& v) { __asm__("" : "+x"(v.a), "+x"(v.b)); }
OP I ilanes() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)}; }

OP __m256i dot4(__m256i sum, __m256i key, __m256i query) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(key, query), _mm256_set1_epi16(1)));
}
OP I dot4(I sum, I key, I query) { return {dot4(sum.a, key.a, query.a), dot4(sum.b, key.b, query.b)}; }

// Columns of the 8 x n matrix of 8 rows: out[i] for i < n <= 8.
OP void transpose8(const float* const* rows, int64_t column, int n, __m256* out) {
    __m256 a[8], b[8];
    if (n == 8) {
        UNROLL for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(rows[i] + column);
    } else {
        alignas(32) int32_t lane[8];
        for (int i = 0; i < 8; ++i) lane[i] = i < n ? -1 : 0;
        const __m256i mask = _mm256_load_si256(reinterpret_cast<const __m256i*>(lane));
        UNROLL for (int i = 0; i < 8; ++i) a[i] = _mm256_maskload_ps(rows[i] + column, mask);
    }
    UNROLL for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    UNROLL for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; ++i) {
        out[i] = _mm256_permute2f128_ps(a[i], a[4 + i], 0x20);
        out[4 + i] = _mm256_permute2f128_ps(a[i], a[4 + i], 0x31);
    }
}

// Column i of the 16 x n matrix whose rows are given: out[i] for i < n <= 16.
TARGET __attribute__((always_inline)) static inline void transpose(const float* const* rows, int64_t column, int n, F* out) {
    for (int half = 0; half < 2 && 8 * half < n; ++half) {
        __m256 low[8], high[8];
        const int some = n - 8 * half < 8 ? n - 8 * half : 8;
        transpose8(rows, column + 8 * half, some, low);
        transpose8(rows + 8, column + 8 * half, some, high);
        for (int i = 0; i < 8; ++i) out[8 * half + i] = {low[i], high[i]};
    }
}
