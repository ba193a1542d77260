// Any CPU: sixteen lanes of the compiler's own vector type (SSE2 on x86-64, NEON on aarch64, plain code elsewhere).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "search_call.hpp"

// Nothing here is called from code compiled for other vectors.
#pragma GCC diagnostic ignored "-Wpsabi"

#define TARGET
#define UNROLL _Pragma("GCC unroll 4")
namespace {
constexpr int TILE_TARGETS = 1, TILE_VECTORS = 1, NARROW_VECTORS = 1, DIRECT_TARGETS = 2, DIRECT_VECTORS = 1, MOST_QUERY = 127;

#define OP __attribute__((always_inline)) static inline

typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));

OP F fset(float x) { return x - F{}; }
OP I iset(int32_t x) { return x - I{}; }
OP F fload(const float* p) { F v; std::memcpy(&v, p, sizeof v); return v; }
OP I iload(const void* p) { I v; std::memcpy(&v, p, sizeof v); return v; }
OP void fstore(float* p, F v) { std::memcpy(p, &v, sizeof v); }
OP void istore(void* p, I v) { std::memcpy(p, &v, sizeof v); }
OP F fadd(F x, F y) { return x + y; }
OP F fsub(F x, F y) { return x - y; }
OP F fmul(F x, F y) { return x * y; }
OP F fmadd(F x, F y, F z) { return x * y + z; }
OP F fmax(F x, F y) { return x > y ? x : y; }
OP I iadd(I x, I y) { return x + y; }
OP I isub(I x, I y) { return (I)((U)x - (U)y); }  // wraps around, as vector instructions do
OP I imul(I x, I y) { return x * y; }
OP I imax(I x, I y) { return x > y ? x : y; }
OP I imin(I x, I y) { return x < y ? x : y; }
OP I ior(I x, I y) { return x | y; }
template <int N>
OP I ishift(I x) { return x << N; }
OP F fgather(const float* p, I at) { F v; for (int i = 0; i < 16; ++i) v[i] = p[at[i]]; return v; }
OP I igather(const int32_t* p, I at) { I v; for (int i = 0; i < 16; ++i) v[i] = p[at[i]]; return v; }
OP I ipick(const int32_t* p, I at) { return igather(p, at); }
// To the nearest integer; below -2^30, as minus infinity is, -2^30.
OP I ito(F x) { I v; for (int i = 0; i < 16; ++i) v[i] = x[i] < -1073741824.0f ? -1073741824 : int32_t(std::lrint(x[i])); return v; }
OP F fto(I x) { return __builtin_convertvector(x, F); }
OP I ibits(F x) { return (I)x; }
OP I iorder(I x) { return x ^ ((x >> 31) & 0x7fffffff); }
OP uint32_t at_least(I x, I y) { uint32_t mask = 0; for (int i = 0; i < 16; ++i) mask |= uint32_t(x[i] >= y[i]) << i; return mask; }
OP int32_t bits_set(uint32_t mask) { return __builtin_popcount(mask); }
OP I count_above(I count, I x, I y) { return count - (x > y); }
OP I count_before(I count, I x, I row_x, I y, I row_y) { return count - ((x > y) | ((x == y) & (row_x > row_y))); }
OP void icompress(int32_t* p, uint32_t mask, I v) { for (int i = 0; i < 16; ++i) if (mask >> i & 1) *p++ = v[i]; }
OP void icompress_few(int32_t* p, uint32_t mask, I v) { icompress(p, mask, v); }
// a with its lowest four bits replaced.
OP I ilow4(I x, I low) { return (x & ~15) | low; }
OP int32_t ihmax(I x) { int32_t most = x[0]; for (int i = 1; i < 16; ++i) most = x[i] > most ? x[i] : most; return most; }
OP int32_t ihmin(I x) { int32_t least = x[0]; for (int i = 1; i < 16; ++i) least = x[i] < least ? x[i] : least; return least; }
// Loaded once: without it the compiler loads again for each use.
OP void hold(I&) {}
OP I ilanes() { return I{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
OP I dot4(I sum, I key, I query) {
    for (int byte = 0; byte < 4; ++byte) sum += ((key >> 8 * byte) & 255) * ((query << (24 - 8 * byte)) >> 24);
    return sum;
}
OP void transpose(const float* const* rows, int64_t column, int n, F* out) {
    for (int i = 0; i < n; ++i) for (int lane = 0; lane < 16; ++lane) out[i][lane] = rows[lane][column + i];
}

#include "search_kernel.hpp"
}  // namespace

const SearchLevel kSearchScalar = {search_tasks, widen_rows, measure_rows, quantise_rows, try_block, spread_rows};
