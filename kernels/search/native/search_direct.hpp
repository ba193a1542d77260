// Exact scores in fp32: every dot is one chain of fused multiply-adds in the order of the dimensions, whatever the path, so that a
// behavior's score never depends on how it was found. No include guard: see search_kernel.hpp.

constexpr int64_t kTile = 64;  // rows whose scores a tile of targets computes at once

// The dots of 16 rows given by address.
INLINE F dot_rows(const float* const* rows, const float* query, int64_t width) {
    F sum = fset(0.0f);
    for (int64_t column = 0; column < width; column += 16) {
        F dims[16];
        if (width - column >= 16) {
            transpose(rows, column, 16, dims);
            UNROLL for (int i = 0; i < 16; ++i) sum = fmadd(dims[i], fset(query[column + i]), sum);
        } else {
            const int n = int(width - column);
            transpose(rows, column, n, dims);
            for (int i = 0; i < n; ++i) sum = fmadd(dims[i], fset(query[column + i]), sum);
        }
    }
    return sum;
}

// Returns the largest magnitude.
TARGET static float widen_rows(const float* key, const int32_t* row, int64_t groups, int64_t width, float* wide) {
    static const float zeros[16] = {};
    F most = fset(0.0f);
    for (int64_t g = 0; g < groups; ++g, wide += 16 * width) {
        for (int64_t column = 0; column < width; column += 16) {
            const int n = int(width - column < 16 ? width - column : 16);
            const float* rows[16];
            for (int i = 0; i < 16; ++i) {
                const int32_t r = row[16 * g + i];
                rows[i] = r < 0 ? zeros : key + r * width + column;
            }
            F dims[16];
            transpose(rows, 0, n, dims);
            for (int i = 0; i < n; ++i) {
                fstore(wide + 16 * (column + i), dims[i]);
                most = fmax(most, fmax(dims[i], fsub(fset(0.0f), dims[i])));
            }
        }
    }
    alignas(64) float lanes[16];
    fstore(lanes, most);
    return *std::max_element(lanes, lanes + 16);
}

// What is added to dots, per row: null pointers add nothing. `score` is the target's row of category scores.
struct Added {
    const float* bias;
    const int32_t* category;
};

INLINE I finished(F sum, const Added& added, int64_t at, const float* category_score) {
    if (added.bias) sum = fadd(sum, fload(added.bias + at));
    if (added.category) sum = fadd(sum, fgather(category_score, iload(added.category + at)));
    // Minus zero equals zero.
    return iorder(ibits(fadd(sum, fset(0.0f))));
}

// The scores of V groups of rows for T targets: score[t][16 V], and the maximum over the groups, best[t][16].
template <int T, int V>
INLINE void score_tile(const float* wide, int64_t width, const float* const* query, const Added& added, int64_t at,
                       const float* const* category_score, int32_t* const* score, int32_t* const* best) {
    F sum[T][V];
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int v = 0; v < V; ++v) sum[t][v] = fset(0.0f);
    for (int64_t d = 0; d < width; ++d) {
        F key[V];
        UNROLL for (int v = 0; v < V; ++v) key[v] = fload(wide + 16 * (v * width + d));
        UNROLL for (int t = 0; t < T; ++t) {
            const F q = fset(query[t][d]);
            UNROLL for (int v = 0; v < V; ++v) sum[t][v] = fmadd(key[v], q, sum[t][v]);
        }
    }
    UNROLL for (int t = 0; t < T; ++t) {
        I most = iset(INT32_MIN);
        UNROLL for (int v = 0; v < V; ++v) {
            const I one = finished(sum[t][v], added, at + 16 * v, category_score[t]);
            istore(score[t] + 16 * v, one);
            most = imax(most, one);
        }
        const I known = iload(best[t]);
        istore(best[t], imax(known, most));
    }
}

// Scores of `groups` groups of rows (a multiple of 4) for up to 4 targets: score[t][16 groups], best[t][4 groups].
TARGET static void score_rows(int targets, const float* wide, int64_t groups, int64_t width, const float* const* query, const Added& added,
                              const float* const* category_score, int32_t* const* score, int32_t* const* best) {
    constexpr int V = DIRECT_VECTORS;
    for (int t = 0; t < targets; ++t)
        for (int64_t g = 0; g < groups; g += 4) istore(best[t] + 4 * g, iset(INT32_MIN));
    for (int64_t g = 0; g < groups; g += V) {
        int t = 0;
        const float* const w = wide + 16 * g * width;
        for (; t + DIRECT_TARGETS <= targets; t += DIRECT_TARGETS) {
            int32_t *s[DIRECT_TARGETS], *b[DIRECT_TARGETS];
            for (int i = 0; i < DIRECT_TARGETS; ++i) s[i] = score[t + i] + 16 * g, b[i] = best[t + i] + 16 * (g / 4);
            score_tile<DIRECT_TARGETS, V>(w, width, query + t, added, 16 * g, category_score + t, s, b);
        }
        for (; t < targets; ++t) {
            int32_t *s = score[t] + 16 * g, *b = best[t] + 16 * (g / 4);
            score_tile<1, V>(w, width, query + t, added, 16 * g, category_score + t, &s, &b);
        }
    }
}

// Adds the bonus of target n to the scores of the rows first..first + rows, and repairs the maxima.
TARGET static void add_bonus(const SearchCall& c, int64_t n, int64_t first, int64_t rows, int32_t* score, int32_t* best) {
    for (int64_t i = c.bonus_start[n]; i < c.bonus_start[n + 1]; ++i) {
        const int64_t at = c.bonus_index[i] - first;
        if (at < 0 || at >= rows) continue;
        const float sum = score_of(score[at]) + c.bonus_value;
        int32_t bits;
        const float canonical = sum + 0.0f;
        std::memcpy(&bits, &canonical, sizeof bits);
        score[at] = bits ^ int32_t(uint32_t(bits >> 31) >> 1);
        const int64_t tile = at / kTile;
        I most = iset(INT32_MIN);
        for (int v = 0; v < 4; ++v) most = imax(most, iload(score + kTile * tile + 16 * v));
        istore(best + 16 * tile, most);
    }
}

// Adds rows that can be among the k best: of `tiles` tiles, the newest first. `floor` is the least value that can, and rises.
TARGET static void collect(Found& found, int64_t k, int32_t* floor, const int32_t* score, const int32_t* best, int64_t tiles, int64_t first,
                           int32_t* scratch, float* guess) {
    const int64_t most = found.room;
    const bool merged = 16 * tiles >= 2 * k;
    const int32_t bound = merged ? bound_of_best(best, tiles, k, k / 8 + 1, scratch, guess) : bound_of_best(score, 4 * tiles, k, k / 8 + 1, scratch, guess);
    if (bound > *floor) *floor = bound;
    const I lanes = ilanes();
    I least = iset(*floor);
    for (int64_t tile = tiles - 1; tile >= 0; --tile) {
        if (!at_least(iload(best + 16 * tile), least)) continue;
        for (int v = 3; v >= 0; --v) {
            const int64_t at = kTile * tile + 16 * v;
            const I value = iload(score + at);
            const uint32_t mask = at_least(value, least);
            if (!mask) continue;
            icompress(found.value + found.size, mask, value);
            icompress(found.row + found.size, mask, iadd(iset(int32_t(first + at)), lanes));
            found.size += bits_set(mask);
            if (found.size > most) {
                // What remains is older: it must be better than the worst kept.
                *floor = shrink(found, k, reinterpret_cast<uint64_t*>(scratch)) + 1;
                least = iset(*floor);
            }
        }
    }
}
