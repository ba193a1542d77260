// The pass over everything in 8-bit integers: the maximum of every group of 16 rows, and what a maximum proves. See ../README.md for
// the bound. No include guard: see search_kernel.hpp.

constexpr int32_t kInvalid = -(1 << 29);  // added to the dot of a row that must not compete: less than any dot
constexpr int32_t kSurelyValid = -(1 << 28);
constexpr int64_t kQuadsForSecond = 8;  // from so wide keys on the second best of a group are found too
constexpr int64_t kNearBytes = 256 << 10;  // bytes of keys that a second-level cache holds beside everything else
constexpr double kMostAdded = double(1 << 20);  // of a bias or a category score, in units of the integer dot
constexpr double kAddedError = 0.7;             // of each, in the same units: rounding to an integer, and of the product in fp32

// One target in integers. `unit` is the score of one unit of the dot; `margin` bounds the error of a score, in score.
struct Query {
    double unit, error;
    int64_t offset;     // dots are this too high: keys are stored with 128 added
    int32_t* dims;      // [quads], four signed bytes each
    int32_t* category;  // [distinct padded to 16 more], or null
    float inverse_unit;
};

// Quantises a target. `least_unit` is a lower limit for the unit, so that targets of a task can share one.
TARGET static void quantise_query(const SearchPlan& p, int64_t n, double least_unit, Query& query) {
    const SearchCall& c = *p.call;
    const PreparedKeys& core = *p.core;
    const float* const target = c.target + n * c.width;
    const double* const scale = core.at<double>(core.scale);
    const int32_t* const ids = core.at<int32_t>(core.category);
    const float* const category_score = c.category_score ? c.category_score + n * c.num_categories : nullptr;
    double most = 0, size = 0, target_size = 0, residue = 0, category_most = 0;
    for (int64_t d = 0; d < c.width; ++d) {
        const double y = target[d] * scale[d];
        most = std::fabs(y) > most ? std::fabs(y) : most;
        size += y * y;
        target_size += double(target[d]) * target[d];
    }
    if (category_score) {
        float best = 0;
        for (int64_t i = 0; i < core.distinct; ++i) best = std::fabs(category_score[ids[i]]) > best ? std::fabs(category_score[ids[i]]) : best;
        category_most = best;
    }
    double unit = most / MOST_QUERY;
    unit = category_most / kMostAdded > unit ? category_most / kMostAdded : unit;
    unit = least_unit > unit ? least_unit : unit;
    // Its inverse must be a float where something is multiplied by it.
    if (unit == 0 || ((p.bias_L || category_score) && unit < 1e-30)) unit = 1e-30;
    const double inverse = 1 / unit;
    int64_t sum = 0;
    int8_t* const dims = reinterpret_cast<int8_t*>(query.dims);
    for (int64_t d = 0; d < 4 * core.quads; ++d) {
        const double y = d < c.width ? target[d] * scale[d] : 0;
        const double rounded = std::rint(y * inverse);
        const double left = y - unit * rounded;
        dims[d] = int8_t(rounded);
        sum += int64_t(rounded);
        residue += left * left;
    }
    query.unit = unit;
    query.inverse_unit = float(inverse);
    query.offset = 128 * sum;
    const double added = (p.bias_L ? p.bias_most : 0) + category_most;
    const double fp32 = double(c.width + 8) * ((std::sqrt(target_size) * core.key_norm + added) * 0x1p-24 + 0x1p-148);
    query.error = (std::sqrt(size) * core.residue_norm + std::sqrt(residue) * core.integer_norm + fp32) * 1.0001 +
                  unit * kAddedError * ((p.bias_L ? 1 : 0) + (category_score ? 1 : 0));
    if (category_score) {
        for (int64_t i = 0; i < core.distinct; i += 16) {
            const I id = iload(ids + i);  // padded
            istore(query.category + i, ito(fmul(fgather(category_score, id), fset(query.inverse_unit))));
        }
    }
}

INLINE I added_units(const float* bias, float inverse_unit) {
    return imax(ito(fmul(fload(bias), fset(inverse_unit))), iset(kInvalid));
}

// The maxima of the 16 groups of one block for T targets. Q: the quads where they are known when compiled, else 0. With S, the lowest four
// bits are those of the slot, and `second` gets the second best of each group.
template <int T, int Q, bool S>
INLINE void block_maxima(const uint8_t* blocked, int64_t known_quads, const Query* query, const int32_t* bias, I* best, I* second) {
    // With few quads the targets stay in registers, else more keys do.
    constexpr int V = Q == 4 ? NARROW_VECTORS : TILE_VECTORS;
    const int64_t quads = Q ? Q : known_quads;
    UNROLL for (int t = 0; t < T; ++t) best[t] = second[t] = iset(INT32_MIN);
    const int32_t* dims[T];
    UNROLL for (int t = 0; t < T; ++t) dims[t] = query[t].dims;
    for (int64_t first = 0; first < 16; first += V) {
        const uint8_t* const keys = blocked + first * quads * 64;
        I sum[T][V];
        UNROLL for (int v = 0; v < V; ++v) {
            const I start = bias ? iload(bias + 16 * (first + v)) : iset(0);
            UNROLL for (int t = 0; t < T; ++t) sum[t][v] = start;
        }
        for (int64_t quad = 0; quad < quads; ++quad) {
            I key[V];
            UNROLL for (int v = 0; v < V; ++v) {
                key[v] = iload(keys + (v * quads + quad) * 64);
                hold(key[v]);
            }
            UNROLL for (int t = 0; t < T; ++t) {
                const I q = iset(dims[t][quad]);
                UNROLL for (int v = 0; v < V; ++v) sum[t][v] = dot4(sum[t][v], key[v], q);
            }
        }
        UNROLL for (int v = 0; v < V; ++v) {
            const I slot = iset(int32_t(first) + v);
            UNROLL for (int t = 0; t < T; ++t) {
                const I one = S ? ilow4(sum[t][v], slot) : sum[t][v];
                if (S) second[t] = imax(second[t], imin(best[t], one));
                best[t] = imax(best[t], one);
            }
        }
    }
}

// What is added to the maxima of a block: the category scores of its groups.
INLINE I group_added(const PreparedKeys& core, const Query& query, int64_t block) {
    const int32_t* const place = core.at<int32_t>(core.group_place) + 16 * block;
    const I first = iset(place[0]);
    // Categories of the groups of a block are neighbors, one place apart at the most.
    return ipick(query.category + place[0], isub(iload(place), first));
}

// Where the maxima of the groups go for each target, and the second best, or null.
struct Maxima {
    int32_t *best[kMostTask], *second[kMostTask];
};

template <int T, int Q, bool S>
INLINE void search_block(const PreparedKeys& core, const Query* query, int64_t block, const int32_t* bias, const Maxima& maxima, int t) {
    I best[T], second[T];
    block_maxima<T, Q, S>(core.at<uint8_t>(core.blocked) + block * kBlock * 4 * core.quads, core.quads, query + t, bias, best, second);
    UNROLL for (int i = 0; i < T; ++i) {
        if (!S && query[t + i].category) best[i] = iadd(best[i], group_added(core, query[t + i], block));
        istore(maxima.best[t + i] + 16 * block, best[i]);
        if (S) istore(maxima.second[t + i] + 16 * block, second[i]);
    }
}

// Maxima of all groups for `targets` targets.
template <int Q, bool S>
TARGET static void group_maxima_of(const SearchPlan& p, const Query* query, int targets, const Maxima& maxima) {
    const PreparedKeys& core = *p.core;
    alignas(64) int32_t bias[kBlock];
    for (int64_t block = 0; block < core.blocks; ++block) {
        if (p.bias_blocked)
            for (int i = 0; i < 16; ++i) istore(bias + 16 * i, added_units(p.bias_blocked + kBlock * block + 16 * i, query[0].inverse_unit));
        const int32_t* const add = p.bias_blocked ? bias : nullptr;
        int t = 0;
        for (; t + TILE_TARGETS <= targets; t += TILE_TARGETS) search_block<TILE_TARGETS, Q, S>(core, query, block, add, maxima, t);
        for (; t < targets; ++t) search_block<1, Q, S>(core, query, block, add, maxima, t);
    }
    // Groups that do not exist.
    for (int t = 0; t < targets; ++t)
        for (int64_t g = core.groups; g < 16 * core.blocks; ++g) {
            maxima.best[t][g] = INT32_MIN;
            if (S) maxima.second[t][g] = INT32_MIN;
        }
}

// Whether the second best are found too: free beside wide dots, and a group with one good row need not be looked at again. Category scores,
// which are added to a group's maximum, would disturb the bits of its slot.
bool finds_second(const SearchPlan& p) { return p.core->quads >= kQuadsForSecond && !p.call->category_score; }

TARGET static void group_maxima(const SearchPlan& p, const Query* query, int targets, const Maxima& maxima) {
    const int64_t quads = p.core->quads;
    if (finds_second(p)) {
        if (quads == 8) group_maxima_of<8, true>(p, query, targets, maxima);
        else if (quads == 16) group_maxima_of<16, true>(p, query, targets, maxima);
        else group_maxima_of<0, true>(p, query, targets, maxima);
    } else if (quads == 4) group_maxima_of<4, false>(p, query, targets, maxima);
    else if (quads == 8) group_maxima_of<8, false>(p, query, targets, maxima);
    else group_maxima_of<0, false>(p, query, targets, maxima);
}

// The groups whose maximum is in low..high. Returns how many; 16 more can be written.
TARGET static int64_t groups_within(const int32_t* maxima, int64_t blocks, int32_t low, int32_t high, int32_t* groups) {
    int64_t n = 0;
    const I least = iset(low), most = iset(high);
    I group = ilanes();
    for (int64_t block = 0; block < blocks; ++block) {
        const I value = iload(maxima + 16 * block);
        const uint32_t mask = at_least(value, least) & at_least(most, value);
        icompress(groups + n, mask, group);
        group = iadd(group, iset(16));
        n += bits_set(mask);
    }
    return n;
}

// Adds the rows of these groups whose integer score is at least `cut`. 16 more can be written. P: prefetch, where the keys are larger than the
// second-level cache; elsewhere it only takes turns of the load unit.
template <int Q, bool P>
TARGET static void rows_reaching_of(const SearchPlan& p, const Query& query, const int32_t* groups, int64_t count, int32_t cut, Found& dots) {
    const PreparedKeys& core = *p.core;
    const int64_t quads = Q ? Q : core.quads;
    const uint8_t* const grouped = core.at<uint8_t>(core.grouped);
    const int32_t *const row = core.at<int32_t>(core.row), *const place = core.at<int32_t>(core.group_place);
    const uint16_t* const own = core.at<uint16_t>(core.own);
    const int32_t *const category = query.category, *const dims = query.dims;
    int32_t *const found_row = dots.row, *const found_value = dots.value;
    I held[Q ? Q : 1];
    UNROLL for (int quad = 0; quad < Q; ++quad) held[quad] = iset(dims[quad]);
    const I bound = iset(cut);
    int64_t n = dots.size;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t g = groups[i];
        const uint8_t* const keys = grouped + g * quads * 64;
        if (P) {
            const uint8_t* const later = grouped + groups[i + 8 < count ? i + 8 : i] * quads * 64;
            for (int64_t quad = 0; quad < quads; ++quad) __builtin_prefetch(later + quad * 64);
        }
        I sum = p.bias_grouped ? added_units(p.bias_grouped + 16 * g, query.inverse_unit) : iset(0);
        if (category) sum = iadd(sum, iset(category[place[g]]));
        if (Q) UNROLL for (int quad = 0; quad < Q; ++quad) sum = dot4(sum, iload(keys + quad * 64), held[quad]);
        else for (int64_t quad = 0; quad < quads; ++quad) sum = dot4(sum, iload(keys + quad * 64), iset(dims[quad]));
        const uint32_t mask = at_least(sum, bound) & own[g];
        icompress_few(found_row + n, mask, iload(row + 16 * g));
        icompress_few(found_value + n, mask, sum);
        n += bits_set(mask);
    }
    dots.size = n;
}

template <bool P>
TARGET static void rows_reaching_far(const SearchPlan& p, const Query& query, const int32_t* groups, int64_t count, int32_t cut, Found& dots) {
    if (p.core->quads == 4) rows_reaching_of<4, P>(p, query, groups, count, cut, dots);
    else if (p.core->quads == 8) rows_reaching_of<8, P>(p, query, groups, count, cut, dots);
    else if (p.core->quads == 16) rows_reaching_of<16, P>(p, query, groups, count, cut, dots);
    else rows_reaching_of<0, P>(p, query, groups, count, cut, dots);
}

TARGET static void rows_reaching(const SearchPlan& p, const Query& query, const int32_t* groups, int64_t count, int32_t cut, Found& dots) {
    const bool far = p.core->blocks * kBlock * 4 * p.core->quads > kNearBytes;
    if (far) rows_reaching_far<true>(p, query, groups, count, cut, dots);
    else rows_reaching_far<false>(p, query, groups, count, cut, dots);
}

// The same from the maxima and second best: groups with one such row name its slot. The integer scores of these may be 15 too high.
// `groups` gets out of order; `cut` is a multiple of 16.
TARGET static void rows_known(const SearchPlan& p, const Query& query, const int32_t* best, const int32_t* second, int32_t* groups, int64_t count,
                              int32_t cut, Found& dots) {
    const int32_t* const row = p.core->at<int32_t>(p.core->row);
    int64_t n = dots.size, left = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t g = groups[i], most = best[g];
        dots.row[n] = row[16 * int64_t(g) + (most & 15)];
        dots.value[n] = most | 15;
        groups[left] = g;
        n += second[g] < cut, left += second[g] >= cut;
    }
    dots.size = n;
    rows_reaching(p, query, groups, left, cut, dots);
}
