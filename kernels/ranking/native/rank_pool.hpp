// Kept behaviors to the features of a target. No include guard, as rank_kernel.hpp.

// exp for x <= 0 within 2 ulp; below -87 it is e^-87, which no sum of weights that holds a 1 can see.
INLINE V vexp(V x) {
    x = vmax(x, vset(-87.0f));
    const V n = vround(vmul(x, vset(1.44269504088896341f)));
    V r = vfma(n, vset(-0.693359375f), x);
    r = vfma(n, vset(2.12194440e-4f), r);
    V p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p, vmul(r, r), r);
    return vscale(vadd(p, vset(1.0f)), n);
}

INLINE V vload_row(const float* p) { return vload(p); }
INLINE V vload_row(const uint16_t* p) { return vload_bf16(p); }
INLINE V vload_row_n(const float* p, int n) { return vload_n(p, n); }
INLINE V vload_row_n(const uint16_t* p, int n) { return vload_bf16_n(p, n); }

// The kept of one target, compacted, with their weights.
struct Kept {
    int64_t count;
    float mass;
    float* weight;    // [K padded]
    int32_t* row[3];  // [K] rows of item, category, recency
};

// Lines of memory that will be read soon, to be asked for one by one while something else is computed.
struct Ahead {
    const char** line;
    int64_t count;
};

INLINE void ask(Ahead& ahead) {
    if (ahead.count > 0) __builtin_prefetch(ahead.line[--ahead.count], 0, 2);
}

template <class T>
TARGET void prepare(const RankCall& c, int64_t n, Kept& kept, Ahead& ahead) {
    const int32_t* index = c.index + n * c.num_kept;
    const float* score = c.score + n * c.num_kept;
    int32_t negative = 0;
    for (int64_t k = 0; k < c.num_kept; ++k) negative |= index[k];
    int64_t count = c.num_kept;
    if (negative >= 0) {
        std::memcpy(kept.weight, score, size_t(count) * sizeof(float));
    } else {
        count = 0;
        for (int64_t k = 0; k < c.num_kept; ++k) {
            // Written always, kept only where valid: no branch to mispredict.
            kept.row[2][count] = index[k];
            kept.weight[count] = score[k];
            count += index[k] >= 0;
        }
        index = kept.row[2];
    }
    kept.count = count;
    kept.mass = 0.0f;
    if (count == 0) return;
    // Everything in registers: a count in memory would cost more than all else here.
    const int32_t *item_of = c.behavior[0], *category_of = c.behavior[1], *recency_of = c.behavior[2];
    int32_t *item = kept.row[0], *category = kept.row[1], *recency = kept.row[2];
    for (int64_t k = 0; k < count; ++k) {
        const int32_t j = index[k];
        item[k] = item_of[j];
        category[k] = category_of[j];
        recency[k] = recency_of[j];
    }
    const char *table = static_cast<const char*>(c.table[0]), **line = ahead.line + ahead.count;
    const int64_t bytes = c.width[0] * int64_t(sizeof(T));
    for (int64_t byte = 0; byte < bytes; byte += 64) {
        for (int64_t k = 0; k < count; ++k) line[k] = table + item[k] * bytes + byte;
        line += count;
    }
    ahead.count = line - ahead.line;
    const int64_t end = (count + LANES - 1) / LANES * LANES;
    for (int64_t k = count; k < end; ++k) kept.weight[k] = -3.0e38f;
    V best_v = vload(kept.weight);
    for (int64_t k = LANES; k < end; k += LANES) best_v = vmax(best_v, vload(kept.weight + k));
    const float best = vhmax(best_v);
    V total_v = vset(0.0f);
    for (int64_t k = 0; k < end; k += LANES) {
        const V power = vexp(vsub(vload(kept.weight + k), vset(best)));
        vstore(kept.weight + k, power);
        total_v = vadd(total_v, power);
    }
    const float total = vsum(total_v);
    const V scale = vset(1.0f / total);
    for (int64_t k = 0; k < end; k += LANES) vstore(kept.weight + k, vmul(vload(kept.weight + k), scale));
    const float log_sum = best + std::log(total);
    kept.mass = (log_sum > 0 ? log_sum : 0.0f) + std::log1p(std::exp(-std::fabs(log_sum)));
}

// NV vectors of columns of sum_k weight_k row_k; few columns take several independent sums, or the additions wait for one another.
template <class T, int NV, bool TAIL>
INLINE void pool_columns(const T* table, int64_t width, const int32_t* row, const float* weight, int64_t count, int tail, float* out) {
    constexpr int WAYS = NV == 1 ? 4 : NV == 2 ? 2 : 1;
    V sum[WAYS][NV];
    UNROLL for (int w = 0; w < WAYS; ++w) {
        UNROLL for (int j = 0; j < NV; ++j) sum[w][j] = vset(0.0f);
    }
    int64_t k = 0;
    for (; k + WAYS <= count; k += WAYS) {
        UNROLL for (int w = 0; w < WAYS; ++w) {
            const T* p = table + row[k + w] * width;
            const V share = vset(weight[k + w]);
            UNROLL for (int j = 0; j < NV; ++j)
                sum[w][j] = vfma(TAIL && j == NV - 1 ? vload_row_n(p + j * LANES, tail) : vload_row(p + j * LANES), share, sum[w][j]);
        }
    }
    for (; k < count; ++k) {
        const T* p = table + row[k] * width;
        const V share = vset(weight[k]);
        UNROLL for (int j = 0; j < NV; ++j)
            sum[0][j] = vfma(TAIL && j == NV - 1 ? vload_row_n(p + j * LANES, tail) : vload_row(p + j * LANES), share, sum[0][j]);
    }
    UNROLL for (int w = 1; w < WAYS; ++w) {
        UNROLL for (int j = 0; j < NV; ++j) sum[0][j] = vadd(sum[0][j], sum[w][j]);
    }
    UNROLL for (int j = 0; j < NV; ++j) {
        if (TAIL && j == NV - 1) vstore_n(out + j * LANES, sum[0][j], tail);
        else vstore(out + j * LANES, sum[0][j]);
    }
}

// The same for bf16, 2 NP vectors: words are split into their halves without shuffling, and zipped once all rows are summed.
template <int NP>
INLINE void pool_words(const uint16_t* table, int64_t width, const int32_t* row, const float* weight, int64_t count, float* out) {
    constexpr int WAYS = NP == 1 ? 2 : 1;
    V low[WAYS][NP], high[WAYS][NP];
    UNROLL for (int w = 0; w < WAYS; ++w) {
        UNROLL for (int j = 0; j < NP; ++j) low[w][j] = high[w][j] = vset(0.0f);
    }
    int64_t k = 0;
    for (; k + WAYS <= count; k += WAYS) {
        UNROLL for (int w = 0; w < WAYS; ++w) {
            const uint16_t* p = table + row[k + w] * width;
            const V share = vset(weight[k + w]);
            UNROLL for (int j = 0; j < NP; ++j) {
                low[w][j] = vfma(vload_low(p + 2 * j * LANES), share, low[w][j]);
                high[w][j] = vfma(vload_high(p + 2 * j * LANES), share, high[w][j]);
            }
        }
    }
    for (; k < count; ++k) {
        const uint16_t* p = table + row[k] * width;
        const V share = vset(weight[k]);
        UNROLL for (int j = 0; j < NP; ++j) {
            low[0][j] = vfma(vload_low(p + 2 * j * LANES), share, low[0][j]);
            high[0][j] = vfma(vload_high(p + 2 * j * LANES), share, high[0][j]);
        }
    }
    UNROLL for (int j = 0; j < NP; ++j) {
        UNROLL for (int w = 1; w < WAYS; ++w) {
            low[0][j] = vadd(low[0][j], low[w][j]);
            high[0][j] = vadd(high[0][j], high[w][j]);
        }
        vstore(out + 2 * j * LANES, vzip_first(low[0][j], high[0][j]));
        vstore(out + (2 * j + 1) * LANES, vzip_last(low[0][j], high[0][j]));
    }
}

// Whole words first. Returns the columns done.
INLINE int64_t pool_wide(const uint16_t* table, int64_t width, const int32_t* row, const float* weight, int64_t count, float* out) {
    int64_t at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) pool_words<2>(table + at, width, row, weight, count, out + at);
    for (; at + 2 * LANES <= width; at += 2 * LANES) pool_words<1>(table + at, width, row, weight, count, out + at);
    return at;
}

INLINE int64_t pool_wide(const float* table, int64_t width, const int32_t* row, const float* weight, int64_t count, float* out) {
    int64_t at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) pool_columns<float, 4, false>(table + at, width, row, weight, count, 0, out + at);
    return at;
}

template <class T>
TARGET void pool_table(const T* table, int64_t width, const int32_t* row, const float* weight, int64_t count, float* out) {
    const int64_t at = pool_wide(table, width, row, weight, count, out), left = width - at;
    const int tail = int(left % LANES), vectors = int((left + LANES - 1) / LANES);
    switch (tail == 0 ? vectors : -vectors) {
        case 1: pool_columns<T, 1, false>(table + at, width, row, weight, count, 0, out + at); break;
        case 2: pool_columns<T, 2, false>(table + at, width, row, weight, count, 0, out + at); break;
        case 3: pool_columns<T, 3, false>(table + at, width, row, weight, count, 0, out + at); break;
        case -1: pool_columns<T, 1, true>(table + at, width, row, weight, count, tail, out + at); break;
        case -2: pool_columns<T, 2, true>(table + at, width, row, weight, count, tail, out + at); break;
        case -3: pool_columns<T, 3, true>(table + at, width, row, weight, count, tail, out + at); break;
        case -4: pool_columns<T, 4, true>(table + at, width, row, weight, count, tail, out + at); break;
        default: break;
    }
}

// What a target's own row adds to the features: u, where `u` is not null, and u * h.
template <class T>
TARGET void own_row(const T* row, int64_t width, const float* h, float* u, float* product) {
    int64_t at = 0;
    for (; at + LANES <= width; at += LANES) {
        const V v = vload_row(row + at);
        if (u != nullptr) vstore(u + at, v);
        vstore(product + at, vmul(v, vload(h + at)));
    }
    if (at < width) {
        const int left = int(width - at);
        const V v = vload_row_n(row + at, left);
        if (u != nullptr) vstore_n(u + at, v, left);
        vstore_n(product + at, vmul(v, vload_n(h + at, left)), left);
    }
}

// The features of one target: [u_item, u_category unless folded | h_item h_category h_recency | (u * h)_item (u * h)_category | mass | extra].
template <class T>
TARGET void fill_features(const RankCall& c, const Kept& kept, int64_t n, float* x) {
    const bool folded = c.category_base != nullptr;
    float *h = x + c.width[0] + (folded ? 0 : c.width[1]), *product = h + c.width[0] + c.width[1] + c.width[2];
    int64_t at = 0;
    for (int t = 0; t < 3; ++t) {
        const T* table = static_cast<const T*>(c.table[t]);
        pool_table(table, c.width[t], kept.row[t], kept.weight, kept.count, h + at);
        if (t < 2) own_row(table + c.target[t][n] * c.width[t], c.width[t], h + at, t == 1 && folded ? nullptr : x + at, product + at);
        at += c.width[t];
    }
    float* rest = product + c.width[0] + c.width[1];
    rest[0] = kept.mass - c.center[0];
    for (int64_t e = 0; e < c.num_extra; ++e) rest[1 + e] = c.extra[n * c.num_extra + e] - c.center[1 + e];
}
