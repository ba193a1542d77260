// What of the first layer is looked up: rows of tables, weighed and added. No include guard, as rank_kernel.hpp.

// Rows to be added in this order, with their weights.
struct Rows {
    const float** row;
    float* weight;
    int64_t count;
};

// Written always, kept only where it adds something: no branch to mispredict.
INLINE void put(Rows& rows, const float* row, float weight) {
    rows.row[rows.count] = row;
    rows.weight[rows.count] = weight;
    rows.count += weight != 0.0f;
}

// NV vectors of the sum, from column `at` on.
template <int NV>
INLINE void add_columns(const Rows& rows, int64_t at, float* out) {
    V sum[NV];
    UNROLL for (int j = 0; j < NV; ++j) sum[j] = vset(0.0f);
    for (int64_t i = 0; i < rows.count; ++i) {
        const float* p = rows.row[i] + at;
        const V weight = vset(rows.weight[i]);
        UNROLL for (int j = 0; j < NV; ++j) sum[j] = vfma(weight, vload(p + j * LANES), sum[j]);
    }
    UNROLL for (int j = 0; j < NV; ++j) vstore(out + at + j * LANES, sum[j]);
}

template <int NV>
INLINE void add_some_columns(int64_t vectors, const Rows& rows, int64_t at, float* out) {
    if (vectors == NV) add_columns<NV>(rows, at, out);
    else if constexpr (NV > 1) add_some_columns<NV - 1>(vectors, rows, at, out);
}

// The sum of the rows: [hidden1 padded].
TARGET void add(const RankCall& c, const Rows& rows, float* out) {
    int64_t left = padded(c.hidden1) / LANES, at = 0;
    for (int64_t panels = (left + NS - 1) / NS; panels > 0; --panels) {
        const int64_t vectors = (left + panels - 1) / panels;
        add_some_columns<NS>(vectors, rows, at, out);
        at += vectors * LANES;
        left -= vectors;
    }
}

// Where the sums of one thread are made, and what it remembers of the runs.
struct Sums {
    Rows all, of_run;
    RunSlots* slots;  // [num_runs]
    float* kept;      // of each run kSums times its values, padded, and their sum
    float* sum;       // [num_runs, hidden1 padded] of runs that are not remembered
    // Of a target's binned inputs in the order of the tables, [num_binned padded]: the values, the bin of each, and where in it, from below, from above.
    float *value, *bin, *lower, *upper;
};

// The bins of a target's inputs, all at once: each is in as many as it reaches thresholds.
TARGET void find_bins(const RankCall& c, const float* x, Sums& s) {
    const int64_t inputs = padded(c.num_binned);
    for (int64_t e = 0; e < c.num_binned; ++e) s.value[e] = x[c.input[e]];
    for (int64_t e = c.num_binned; e < inputs; ++e) s.value[e] = 0.0f;
    for (int64_t e = 0; e < inputs; e += LANES) {
        const V value = vload(s.value + e);
        V bin = vset(0.0f), point = vload(c.points + e), width = vload(c.widths + e);
        for (int64_t t = 1; t < c.num_steps - 1; ++t) {
            const V threshold = vload(c.points + t * inputs + e);
            bin = vadd(bin, vpick(threshold, value, vset(1.0f), vset(0.0f)));
            point = vpick(threshold, value, threshold, point);
            width = vpick(threshold, value, vload(c.widths + t * inputs + e), width);
        }
        const V within = vdiv(vsub(value, point), width);
        vstore(s.bin + e, bin);
        vstore(s.upper + e, within);
        vstore(s.lower + e, vsub(vset(1.0f), within));
    }
}

// Of inputs first..end - 1, whose bins are found: the two rows between which each lies.
INLINE void put_inputs(const RankCall& c, int64_t first, int64_t end, const Sums& s, Rows& rows) {
    const int64_t hidden = padded(c.hidden1);
    Rows added = rows;  // in registers
    for (int64_t e = first; e < end; ++e) {
        const float* row = c.steps + (e * c.num_steps + int32_t(s.bin[e])) * hidden;
        put(added, row, s.lower[e]);
        put(added, row + hidden, s.upper[e]);
    }
    rows.count = added.count;
}

INLINE Sums sums_of(const RankCall& c, float*& at) {
    Sums s;
    const int64_t inputs = 2 * c.num_binned, rows = padded(1 + c.num_runs + inputs);
    s.slots = reinterpret_cast<RunSlots*>(at);
    s.kept = at + slots_bytes(c) / int64_t(sizeof(float));
    s.value = s.kept + kept_floats(c);
    s.bin = s.value + padded(c.num_binned);
    s.lower = s.bin + padded(c.num_binned);
    s.upper = s.lower + padded(c.num_binned);
    s.sum = s.upper + padded(c.num_binned);
    s.all = {reinterpret_cast<const float**>(s.sum + c.num_runs * padded(c.hidden1)), nullptr, 0};
    s.of_run = {s.all.row + rows, nullptr, 0};
    s.all.weight = reinterpret_cast<float*>(s.of_run.row + rows);
    s.of_run.weight = s.all.weight + rows;
    at = s.of_run.weight + rows;
    return s;
}

// What the inputs first..end - 1 of run r add: remembered from the second time on that values come, as many come once only. The same values
// always give the same sum, made by itself.
TARGET const float* sum_of_run(const RankCall& c, int64_t r, int64_t first, int64_t end, float* kept, Sums& s) {
    const int64_t length = end - first, key_floats = padded(length), hidden = padded(c.hidden1);
    const float* value = s.value + first;
    uint32_t hash = 0, bits;
    for (int64_t i = 0; i < length; ++i) {
        std::memcpy(&bits, value + i, sizeof bits);
        hash += bits * (0x9e3779b1u * uint32_t(2 * i + 1));
    }
    hash ^= hash >> 15;
    RunSlots& slots = s.slots[r];
    const uint32_t slot = hash % kSlots, tag = hash | 1;
    const bool again = slots.tag[slot] == tag;
    float *key, *sum = s.sum + r * hidden;
    if (slots.place[slot] > 0) {
        key = kept + (slots.place[slot] - 1) * (key_floats + hidden);
        if (again && std::memcmp(key, value, size_t(length) * sizeof(float)) == 0) return key + key_floats;
    } else if (again && slots.used < kSums) {
        slots.place[slot] = uint16_t(++slots.used);
        key = kept + (slots.used - 1) * (key_floats + hidden);
        std::memcpy(key, value, size_t(length) * sizeof(float));
        sum = key + key_floats;
    } else {
        slots.tag[slot] = tag;
    }
    s.of_run.count = 0;
    put_inputs(c, first, end, s, s.of_run);
    add(c, s.of_run, sum);
    return sum;
}

// b1, the target's folded category and its binned inputs: [hidden1 padded].
TARGET void fill_base(const RankCall& c, int64_t n, Sums& s, float* base) {
    const int64_t hidden = padded(c.hidden1);
    find_bins(c, c.extra + n * c.num_binned, s);
    s.all.count = 0;
    put(s.all, c.category_base == nullptr ? c.b1 : c.category_base + c.target[1][n] * hidden, 1.0f);
    int64_t first = 0;
    float* kept = s.kept;
    for (int64_t r = 0; r < c.num_runs; ++r) {
        put(s.all, sum_of_run(c, r, first, c.run_end[r], kept, s), 1.0f);
        kept += kSums * (padded(c.run_end[r] - first) + hidden);
        first = c.run_end[r];
    }
    put_inputs(c, first, c.num_binned, s, s.all);
    add(c, s.all, base);
}
