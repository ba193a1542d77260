// Stage 2 over the vector operations of one CPU level. No include guard: each rank_<level>.cpp defines TARGET, LANES, V and the v*
// operations in its anonymous namespace, then includes this there, so no code of one level can be linked into another.

#define INLINE TARGET __attribute__((always_inline)) inline
#define UNROLL _Pragma("GCC unroll 8")

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

template <class T>
TARGET void prepare(const RankCall& c, int64_t n, Kept& kept) {
    const int32_t* index = c.index + n * c.num_kept;
    const float* score = c.score + n * c.num_kept;
    int64_t count = 0;
    for (int64_t k = 0; k < c.num_kept; ++k) {
        const int32_t j = index[k];
        // Written always, kept only where valid: no branch to mispredict.
        kept.row[0][count] = j;
        kept.weight[count] = score[k];
        count += j >= 0;
    }
    kept.count = count;
    kept.mass = 0.0f;
    if (count == 0) return;
    for (int64_t k = 0; k < count; ++k) {
        const int32_t j = kept.row[0][k];
        kept.row[0][k] = c.behavior[0][j];
        kept.row[1][k] = c.behavior[1][j];
        kept.row[2][k] = c.behavior[2][j];
        const char* row = static_cast<const char*>(c.table[0]) + kept.row[0][k] * c.width[0] * int64_t(sizeof(T));
        for (int64_t byte = 0; byte < c.width[0] * int64_t(sizeof(T)); byte += 64) __builtin_prefetch(row + byte);
    }
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

template <class T>
TARGET void copy_row(const T* row, int64_t width, float* out) {
    int64_t at = 0;
    for (; at + LANES <= width; at += LANES) vstore(out + at, vload_row(row + at));
    if (at < width) vstore_n(out + at, vload_row_n(row + at, int(width - at)), int(width - at));
}

// The features of one target: [u_item u_category | h_item h_category h_recency | (u * h)_item (u * h)_category | mass | extra].
template <class T>
TARGET void fill_features(const RankCall& c, const Kept& kept, int64_t n, float* x) {
    const int64_t own = c.width[0] + c.width[1], recency = c.width[2];
    float *u = x, *h = x + own, *product = h + own + recency;
    int64_t at = 0;
    for (int t = 0; t < 3; ++t) {
        const T* table = static_cast<const T*>(c.table[t]);
        if (t < 2) copy_row(table + c.target[t][n] * c.width[t], c.width[t], u + at);
        pool_table(table, c.width[t], kept.row[t], kept.weight, kept.count, h + at);
        at += c.width[t];
    }
    for (int64_t r = 0; r < own; ++r) product[r] = u[r] * h[r];
    product[own] = kept.mass;
    for (int64_t e = 0; e < c.num_extra; ++e) product[own + 1 + e] = c.extra[n * c.num_extra + e];
}

// NV vectors of b and what each binned input adds: its bin's value at the threshold, and the slope times how far beyond the input is.
template <int NV>
INLINE void add_steps(int64_t count, int64_t stride, const float* const* step, const float* beyond, const float* b, float* out) {
    V sum[NV];
    UNROLL for (int j = 0; j < NV; ++j) sum[j] = vload(b + j * LANES);
    for (int64_t e = 0; e < count; ++e) {
        const float* p = step[e];
        const V d = vset(beyond[e]);
        UNROLL for (int j = 0; j < NV; ++j) sum[j] = vadd(sum[j], vfma(d, vload(p + stride + j * LANES), vload(p + j * LANES)));
    }
    UNROLL for (int j = 0; j < NV; ++j) vstore(out + j * LANES, sum[j]);
}

// b1 and what the binned inputs of one target add to it: [hidden1 padded].
TARGET void fill_base(const RankCall& c, int64_t n, const float** step, float* beyond, float* base) {
    const int64_t hidden = padded(c.hidden1), bins = c.num_thresholds + 1;
    for (int64_t e = 0; e < c.num_binned; ++e) {
        const float x = c.binned[n * c.num_binned + e];
        const float* threshold = c.thresholds + e * c.num_thresholds;
        int64_t bin = 0;
        for (int64_t t = 0; t < c.num_thresholds; ++t) bin += threshold[t] <= x;
        step[e] = c.steps + (e * bins + bin) * 2 * hidden;
        beyond[e] = x - threshold[bin > 0 ? bin - 1 : 0];
    }
    int64_t at = 0;
    for (; at + 4 * LANES <= hidden; at += 4 * LANES) {
        add_steps<4>(c.num_binned, hidden, step, beyond, c.b1 + at, base + at);
        for (int64_t e = 0; e < c.num_binned; ++e) step[e] += 4 * LANES;
    }
    for (; at < hidden; at += LANES) {
        add_steps<1>(c.num_binned, hidden, step, beyond, c.b1 + at, base + at);
        for (int64_t e = 0; e < c.num_binned; ++e) step[e] += LANES;
    }
}

// M rows by G groups of 16 columns of prelu(x w + b), accumulated in registers over all inputs; each row its own b, or all the same (stride 0).
template <int M, int G>
TARGET void layer_tile(const float* x, int64_t x_stride, const float* w, int64_t inputs, const float* b, int64_t b_stride, float slope, float* out,
                       int64_t out_stride) {
    constexpr int PER = kGroup / LANES, NV = G * PER;
    V sum[M][NV];
    UNROLL for (int m = 0; m < M; ++m) {
        UNROLL for (int j = 0; j < NV; ++j) sum[m][j] = vload(b + m * b_stride + j * LANES);
    }
    for (int64_t f = 0; f < inputs; ++f) {
        V w_v[NV];
        UNROLL for (int j = 0; j < NV; ++j) w_v[j] = vload(w + (j / PER * inputs + f) * kGroup + j % PER * LANES);
        UNROLL for (int m = 0; m < M; ++m) {
            const V x_v = vset(x[m * x_stride + f]);
            UNROLL for (int j = 0; j < NV; ++j) sum[m][j] = vfma(x_v, w_v[j], sum[m][j]);
        }
    }
    UNROLL for (int m = 0; m < M; ++m) {
        UNROLL for (int j = 0; j < NV; ++j) {
            const V y = vfma(vset(slope), vmin(sum[m][j], vset(0.0f)), vmax(sum[m][j], vset(0.0f)));
            vstore(out + m * out_stride + j * LANES, y);
        }
    }
}

template <int G>
TARGET void layer_panel(const float* x, int64_t x_stride, int64_t rows, const float* w, int64_t inputs, const float* b, int64_t b_stride, float slope,
                        float* out, int64_t out_stride) {
    int64_t m = 0;
    for (; m + MR <= rows; m += MR)
        layer_tile<MR, G>(x + m * x_stride, x_stride, w, inputs, b + m * b_stride, b_stride, slope, out + m * out_stride, out_stride);
    for (; m + MR / 2 <= rows; m += MR / 2)
        layer_tile<MR / 2, G>(x + m * x_stride, x_stride, w, inputs, b + m * b_stride, b_stride, slope, out + m * out_stride, out_stride);
    for (; m < rows; ++m) layer_tile<1, G>(x + m * x_stride, x_stride, w, inputs, b + m * b_stride, b_stride, slope, out + m * out_stride, out_stride);
}

TARGET void layer(const float* x, int64_t x_stride, int64_t rows, const float* w, int64_t inputs, const float* b, int64_t b_stride, float slope,
                  int64_t columns, float* out, int64_t out_stride) {
    int64_t groups = padded(columns) / kGroup;
    // Panels as even as they can be: 13 groups are 3 3 3 2 2, not 3 3 3 3 1.
    for (int64_t panels = (groups + NG - 1) / NG; panels > 0; --panels) {
        const int64_t g = (groups + panels - 1) / panels;
        if (g == 1) layer_panel<1>(x, x_stride, rows, w, inputs, b, b_stride, slope, out, out_stride);
        else if (NG > 2 && g == 2) layer_panel<NG < 2 ? NG : 2>(x, x_stride, rows, w, inputs, b, b_stride, slope, out, out_stride);
        else layer_panel<NG>(x, x_stride, rows, w, inputs, b, b_stride, slope, out, out_stride);
        groups -= g;
        w += g * inputs * kGroup;
        b += g * kGroup;
        out += g * kGroup;
    }
}

TARGET float last_layer(const RankCall& c, const float* y) {
    V sum = vset(0.0f);
    for (int64_t j = 0; j < c.hidden2; j += LANES) sum = vfma(vload(y + j), vload(c.w3 + j), sum);
    const float logit = vsum(sum) + c.b3, power = std::exp(-std::fabs(logit));
    return (logit >= 0 ? 1.0f : power) / (1.0f + power);
}

template <class T>
TARGET void rank_targets(const RankCall& c, int64_t first, int64_t last, float* scratch) {
    const int64_t xs = padded(c.features), s1 = padded(c.hidden1), s2 = padded(c.hidden2), kept_stride = padded(c.num_kept);
    float *x = scratch, *y1 = x + kBlock * xs, *y2 = y1 + kBlock * s1, *at = y2 + kBlock * s2;
    Kept kept[2];
    for (Kept& one : kept) {
        one.weight = at;
        for (int t = 0; t < 3; ++t) one.row[t] = reinterpret_cast<int32_t*>(at + (t + 1) * kept_stride);
        at += 4 * kept_stride;
    }
    const float** step = reinterpret_cast<const float**>(at);
    float *beyond = at + 2 * padded(c.num_binned), *base = beyond + 2 * padded(c.num_binned);
    // The rows of the next target are on their way while this one is pooled.
    if (first < last) prepare<T>(c, first, kept[first & 1]);
    for (int64_t start = first; start < last; start += kBlock) {
        const int64_t rows = last - start < kBlock ? last - start : kBlock;
        for (int64_t m = 0; m < rows; ++m) {
            const int64_t n = start + m;
            if (n + 1 < last) prepare<T>(c, n + 1, kept[(n + 1) & 1]);
            fill_features<T>(c, kept[n & 1], n, x + m * xs);
            c.mass[n] = kept[n & 1].mass;
            if (c.num_binned > 0) fill_base(c, n, step, beyond, base + m * s1);
        }
        if (c.num_binned > 0) layer(x, xs, rows, c.w1, c.features, base, s1, c.a1, c.hidden1, y1, s1);
        else layer(x, xs, rows, c.w1, c.features, c.b1, 0, c.a1, c.hidden1, y1, s1);
        layer(y1, s1, rows, c.w2, c.hidden1, c.b2, 0, c.a2, c.hidden2, y2, s2);
        for (int64_t m = 0; m < rows; ++m) c.probability[start + m] = last_layer(c, y2 + m * s2);
    }
}
