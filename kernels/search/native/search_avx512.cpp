// x86-64 with AVX-512 (F, BW, DQ, VL) without the integer dot product.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "search_call.hpp"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt")))
#define UNROLL _Pragma("GCC unroll 16")
namespace {
// A query in -64..64 keeps the sum of two products within 16 bits.
constexpr int TILE_TARGETS = 4, TILE_VECTORS = 4, NARROW_VECTORS = 2, DIRECT_TARGETS = 4, DIRECT_VECTORS = 4, MOST_QUERY = 64;

#include "search_ops_avx512.hpp"

OP I dot4(I sum, I key, I query) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(key, query), _mm512_set1_epi16(1)));
}

#include "search_kernel.hpp"
}  // namespace

const SearchLevel kSearchAvx512 = {search_tasks, widen_rows, measure_rows, quantise_rows, try_block, spread_rows};
#endif
