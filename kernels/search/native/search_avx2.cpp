// x86-64 with AVX2 and FMA: sixteen lanes in two registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "search_call.hpp"

#define TARGET __attribute__((target("avx2,fma,popcnt")))
#define UNROLL _Pragma("GCC unroll 16")
namespace {
// A query in -64..64 keeps the sum of two products within 16 bits.
constexpr int TILE_TARGETS = 2, TILE_VECTORS = 2, NARROW_VECTORS = 2, DIRECT_TARGETS = 2, DIRECT_VECTORS = 2, MOST_QUERY = 64;

#include "search_ops_avx2.hpp"

#include "search_kernel.hpp"
}  // namespace

const SearchLevel kSearchAvx2 = {search_tasks, widen_rows, measure_rows, quantise_rows, try_block, spread_rows};
#endif
