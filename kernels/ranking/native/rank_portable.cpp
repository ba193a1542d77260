// Any CPU: four lanes of the compiler's own vector type (SSE2 on x86-64, NEON on aarch64, plain code elsewhere).
#include <cmath>
#include <cstring>

#include "rank_call.hpp"

#define TARGET
namespace {
constexpr int LANES = 4, MR = 2, NG = 1, NS = 4;
typedef float V __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
#define OP static inline

OP V vset(float a) { return V{a, a, a, a}; }
OP V vload(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
OP V vload_n(const float* p, int n) { V v = vset(0.0f); for (int i = 0; i < n; ++i) v[i] = p[i]; return v; }
OP void vstore(float* p, V v) { std::memcpy(p, &v, sizeof v); }
OP void vstore_n(float* p, V v, int n) { for (int i = 0; i < n; ++i) p[i] = v[i]; }
OP V vload_bf16_n(const uint16_t* p, int n) {
    I v = I{0, 0, 0, 0};
    for (int i = 0; i < n; ++i) v[i] = int32_t(uint32_t(p[i]) << 16);
    return (V)v;
}
// Of eight bf16 numbers in four words, those in the lower and in the upper halves.
OP V vload_low(const uint16_t* p) { I v; std::memcpy(&v, p, sizeof v); return (V)(v << 16); }
OP V vload_high(const uint16_t* p) { I v; std::memcpy(&v, p, sizeof v); return (V)(v & int32_t(0xffff0000)); }
OP V vzip_first(V low, V high) { return V{low[0], high[0], low[1], high[1]}; }
OP V vzip_last(V low, V high) { return V{low[2], high[2], low[3], high[3]}; }
OP V vload_bf16(const uint16_t* p) { return vload_bf16_n(p, 4); }
OP V vadd(V a, V b) { return a + b; }
OP V vsub(V a, V b) { return a - b; }
OP V vmul(V a, V b) { return a * b; }
OP V vfma(V a, V b, V c) { return a * b + c; }
OP V vselect(I mask, V a, V b) { return (V)((mask & (I)a) | (~mask & (I)b)); }
OP V vmax(V a, V b) { return vselect(a > b, a, b); }
OP V vmin(V a, V b) { return vselect(a < b, a, b); }
// x <= 0 here, so half away from zero is a subtraction before truncation.
OP V vround(V a) { return __builtin_convertvector(__builtin_convertvector(a - 0.5f, I), V); }
OP V vscale(V a, V n) { return a * (V)((__builtin_convertvector(n, I) + 127) << 23); }
OP float vsum(V a) { return (a[0] + a[2]) + (a[1] + a[3]); }
OP float vhmax(V a) { a = vmax(a, V{a[2], a[3], a[0], a[1]}); return a[0] > a[1] ? a[0] : a[1]; }
OP V vdiv(V a, V b) { return a / b; }
// Of each lane, one of two, by whether a is x or less.
OP V vpick(V a, V x, V yes, V no) { return vselect(a <= x, yes, no); }

#include "rank_kernel.hpp"
}  // namespace

void rank_portable(const RankCall& c, int64_t first, int64_t last, float* scratch) {
    if (c.bf16) rank_targets<uint16_t>(c, first, last, scratch);
    else rank_targets<float>(c, first, last, scratch);
}
