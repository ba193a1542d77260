// Features of a block of targets to click probabilities. No include guard, as rank_kernel.hpp.

// What binned inputs of a target add to the first layer, from row and within on: NV vectors of b (null: of nothing) and of the sum, from column `at` on.
template <int NV>
INLINE void add_steps(int64_t count, int64_t hidden, int64_t at, const float* const* row, const float* within, const float* b, float* out) {
    V sum[NV];
    UNROLL for (int j = 0; j < NV; ++j) sum[j] = b == nullptr ? vset(0.0f) : vload(b + at + j * LANES);
    for (int64_t e = 0; e < count; ++e) {
        const float *p = row[e] + at, *q = p + hidden;
        const V upper = vset(within[e]), lower = vset(1.0f - within[e]);
        UNROLL for (int j = 0; j < NV; ++j) sum[j] = vfma(upper, vload(q + j * LANES), vfma(lower, vload(p + j * LANES), sum[j]));
    }
    UNROLL for (int j = 0; j < NV; ++j) vstore(out + at + j * LANES, sum[j]);
}

template <int NV>
INLINE void add_some_steps(int64_t vectors, int64_t count, int64_t hidden, int64_t at, const float* const* row, const float* within, const float* b,
                           float* out) {
    if (vectors == NV) add_steps<NV>(count, hidden, at, row, within, b, out);
    else if constexpr (NV > 1) add_some_steps<NV - 1>(vectors, count, hidden, at, row, within, b, out);
}

// b (null: nothing) and what the inputs first..end - 1 of x add to it: [hidden1 padded]. Each lies between two rows of the table.
TARGET void add_inputs(const RankCall& c, const float* x, int64_t first, int64_t end, const float** row, float* within, const float* b, float* out) {
    const int64_t hidden = padded(c.hidden1), bins = c.num_steps - 1;
    for (int64_t e = first; e < end; ++e) {
        const float* threshold = c.thresholds + e * c.num_thresholds;
        int64_t bin = 0;
        for (int64_t t = 0; t < c.num_thresholds; t += kGroup) bin += vcount_up_to(threshold + t, x[e]);
        const float* place = c.bins + (e * bins + bin) * 2;
        within[e - first] = (x[e] - place[0]) / place[1];
        row[e - first] = c.steps + (e * c.num_steps + bin) * hidden;
    }
    int64_t left = hidden / LANES, at = 0;
    for (int64_t panels = (left + NS - 1) / NS; panels > 0; --panels) {
        const int64_t vectors = (left + panels - 1) / panels;
        add_some_steps<NS>(vectors, end - first, hidden, at, row, within, b, out);
        at += vectors * LANES;
        left -= vectors;
    }
}

// What of the first layer is looked up: b1, the target's folded category, its binned inputs. [hidden1 padded]. A run's sum is remembered by its values.
TARGET void fill_base(const RankCall& c, int64_t n, float* memo, const float** row, float* within, float* base) {
    const int64_t hidden = padded(c.hidden1);
    const float *x = c.extra + n * c.num_binned, *from = c.category_base == nullptr ? c.b1 : c.category_base + c.target[1][n] * hidden;
    uint8_t* filled = reinterpret_cast<uint8_t*>(memo);
    memo += c.num_runs * kSlots / 4;
    int64_t first = 0;
    for (int64_t r = 0; r < c.num_runs; ++r) {
        const int64_t end = c.run_end[r], length = end - first, key_floats = padded(length);
        uint32_t hash = 0, bits;
        for (int64_t e = first; e < end; ++e) {
            std::memcpy(&bits, x + e, sizeof bits);
            hash = (hash ^ bits) * 0x9e3779b1u;
            hash ^= hash >> 15;
        }
        const uint32_t slot = hash % kSlots;
        float *key = memo + slot * (key_floats + hidden), *sum = key + key_floats;
        if (!filled[slot] || std::memcmp(key, x + first, size_t(length) * sizeof(float)) != 0) {
            add_inputs(c, x, first, end, row, within, nullptr, sum);
            std::memcpy(key, x + first, size_t(length) * sizeof(float));
            filled[slot] = 1;
        }
        for (int64_t j = 0; j < hidden; j += LANES) vstore(base + j, vadd(vload(from + j), vload(sum + j)));
        from = base;
        memo += kSlots * (key_floats + hidden);
        filled += kSlots;
        first = end;
    }
    if (first < c.num_binned || from != base) add_inputs(c, x, first, c.num_binned, row, within, from, base);
}

// M rows by G groups of 16 columns of prelu(x w + b), accumulated in registers over all inputs; each row its own b, or all the same (stride 0).
template <int M, int G>
TARGET void layer_tile(const float* x, int64_t x_stride, const float* w, int64_t inputs, const float* b, int64_t b_stride, float slope, float* out,
                       int64_t out_stride, Ahead& ahead) {
    constexpr int PER = kGroup / LANES, NV = G * PER;
    V sum[M][NV];
    UNROLL for (int m = 0; m < M; ++m) {
        UNROLL for (int j = 0; j < NV; ++j) sum[m][j] = vload(b + m * b_stride + j * LANES);
    }
    for (int64_t f = 0; f < inputs; ++f) {
        ask(ahead);
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
                        float* out, int64_t out_stride, Ahead& ahead) {
    int64_t m = 0;
    for (; m + MR <= rows; m += MR)
        layer_tile<MR, G>(x + m * x_stride, x_stride, w, inputs, b + m * b_stride, b_stride, slope, out + m * out_stride, out_stride, ahead);
    for (; m + MR / 2 <= rows; m += MR / 2)
        layer_tile<MR / 2, G>(x + m * x_stride, x_stride, w, inputs, b + m * b_stride, b_stride, slope, out + m * out_stride, out_stride, ahead);
    for (; m < rows; ++m) layer_tile<1, G>(x + m * x_stride, x_stride, w, inputs, b + m * b_stride, b_stride, slope, out + m * out_stride, out_stride, ahead);
}

TARGET void layer(const float* x, int64_t x_stride, int64_t rows, const float* w, int64_t inputs, const float* b, int64_t b_stride, float slope,
                  int64_t columns, float* out, int64_t out_stride, Ahead& ahead) {
    int64_t groups = padded(columns) / kGroup;
    // Panels as even as they can be: 13 groups are 3 3 3 2 2, not 3 3 3 3 1.
    for (int64_t panels = (groups + NG - 1) / NG; panels > 0; --panels) {
        const int64_t g = (groups + panels - 1) / panels;
        if (g == 1) layer_panel<1>(x, x_stride, rows, w, inputs, b, b_stride, slope, out, out_stride, ahead);
        else if (NG > 2 && g == 2) layer_panel<NG < 2 ? NG : 2>(x, x_stride, rows, w, inputs, b, b_stride, slope, out, out_stride, ahead);
        else layer_panel<NG>(x, x_stride, rows, w, inputs, b, b_stride, slope, out, out_stride, ahead);
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
