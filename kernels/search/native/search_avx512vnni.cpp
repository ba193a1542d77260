// x86-64 with AVX-512 and its integer dot product: four products a lane in one instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "search_call.hpp"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")))
#define UNROLL _Pragma("GCC unroll 16")
namespace {
constexpr int TILE_TARGETS = 4, TILE_VECTORS = 4, NARROW_VECTORS = 2, DIRECT_TARGETS = 4, DIRECT_VECTORS = 4, MOST_QUERY = 127;

#include "search_ops_avx512.hpp"

// In assembly, as compilers copy registers around the intrinsic in loops that they do not unroll.
OP I dot4(I sum, I key, I query) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(key), "v"(query));
    return sum;
}

#include "search_kernel.hpp"
}  // namespace

const SearchLevel kSearchAvx512Vnni = {search_tasks, widen_rows, measure_rows, quantise_rows, try_block, spread_rows};
#endif
