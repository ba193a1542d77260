// Features of a block of targets to click probabilities. No include guard, as rank_kernel.hpp.

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
