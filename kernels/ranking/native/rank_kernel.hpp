// Stage 2 over the vector operations of one CPU level. No include guard: each rank_<level>.cpp defines TARGET, LANES, V and the v*
// operations in its anonymous namespace, then includes this there, so no code of one level can be linked into another.

#define INLINE TARGET __attribute__((always_inline)) inline
#define UNROLL _Pragma("GCC unroll 16")

#include "rank_pool.hpp"

#include "rank_bins.hpp"

#include "rank_head.hpp"

// The block of targets that starts at `start`; their rows are to be asked for.
template <class T>
TARGET void prepare_block(const RankCall& c, int64_t start, int64_t last, Kept* kept, Ahead& ahead) {
    ahead.count = 0;
    for (int64_t n = start; n < last && n < start + kBlock; ++n) prepare<T>(c, n, kept[n - start], ahead);
}

template <class T>
TARGET void rank_targets(const RankCall& c, int64_t first, int64_t last, float* scratch) {
    const int64_t xs = padded(c.features), s1 = padded(c.hidden1), s2 = padded(c.hidden2), kept_stride = padded(c.num_kept);
    Sums sums = sums_of(c, scratch);
    float *x = scratch, *y1 = x + kBlock * xs, *base = y1 + kBlock * s1, *y2 = base + kBlock * s1, *at = y2 + kBlock * s2;
    Kept kept[kBlock];
    for (Kept& one : kept) {
        one.weight = at;
        for (int t = 0; t < 3; ++t) one.row[t] = reinterpret_cast<int32_t*>(at + (t + 1) * kept_stride);
        at += 4 * kept_stride;
    }
    Ahead ahead{reinterpret_cast<const char**>(at), 0};
    prepare_block<T>(c, first, last, kept, ahead);
    while (ahead.count > 0) ask(ahead);
    for (int64_t start = first; start < last; start += kBlock) {
        const int64_t rows = last - start < kBlock ? last - start : kBlock;
        for (int64_t m = 0; m < rows; ++m) {
            fill_features<T>(c, kept[m], start + m, x + m * xs);
            c.mass[start + m] = kept[m].mass;
            fill_base(c, start + m, sums, base + m * s1);
        }
        // The rows of the next block are asked for while the head of this one is computed.
        prepare_block<T>(c, start + kBlock, last, kept, ahead);
        layer(x, xs, rows, c.w1, c.features, base, s1, c.a1, c.hidden1, y1, s1, ahead);
        layer(y1, s1, rows, c.w2, c.hidden1, c.b2, 0, c.a2, c.hidden2, y2, s2, ahead);
        for (int64_t m = 0; m < rows; ++m) c.probability[start + m] = last_layer(c, y2 + m * s2);
    }
}
