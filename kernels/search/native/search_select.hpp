// Choosing the best of many values, over the lanes of one CPU level. No include guard: see search_kernel.hpp.

// Found so far for one target: values in the order of floats (iorder), and rows. 16 more than `room` can be written.
struct Found {
    int32_t *value, *row;
    int64_t size, room;
};

constexpr int32_t kLowest = -2139095040;  // iorder(-FLT_MAX) - 0: every finite score reaches it, -inf does not
constexpr int64_t kRankByCounting = 256;

INLINE int64_t count_at_least(const int32_t* value, int64_t vectors, int32_t bound) {
    const I b = iset(bound);
    int64_t even = 0, odd = 0, i = 0;
    for (; i + 2 <= vectors; i += 2) {
        even += bits_set(at_least(iload(value + kGroup * i), b));
        odd += bits_set(at_least(iload(value + kGroup * (i + 1)), b));
    }
    if (i < vectors) even += bits_set(at_least(iload(value + kGroup * i), b));
    return even + odd;
}

INLINE int64_t count_at_least_of(const Found& found, int32_t bound) {
    istore(found.value + found.size, iset(INT32_MIN));
    return count_at_least(found.value, (found.size + kGroup - 1) / kGroup, bound);
}

// A bound that at least k of the values reach, and at most `slack` more where they differ. Merges `value` first, as long as
// there remain several times k values: the maximum of some values stands for all of them, so the bound only gets lower.
// Returns INT32_MIN where there are fewer than k values other than INT32_MIN. `guess` is where the bound was found last, as a share of the range.
TARGET static int32_t bound_of_best(const int32_t* value, int64_t vectors, int64_t k, int64_t slack, int32_t* merged, float* guess) {
    if (vectors * kGroup < k) return INT32_MIN;
    int64_t step = vectors * kGroup / (4 * k);
    step = step < 1 ? 1 : step;
    int64_t n = 0;
    I high = iset(INT32_MIN), low = iset(INT32_MAX);
    for (int64_t i = 0; i < vectors; i += step, ++n) {
        const int64_t end = i + step < vectors ? i + step : vectors;
        I best = iload(value + kGroup * i);
        for (int64_t j = i + 1; j < end; ++j) best = imax(best, iload(value + kGroup * j));
        istore(merged + kGroup * n, best);
        high = imax(high, best);
        // INT32_MIN stands for no value, and wraps around.
        low = imin(low, isub(best, iset(1)));
    }
    // At least k values reach `reached`, `above` of them; fewer reach `missed`, `below` of them.
    int64_t reached = ihmin(low), missed = int64_t(ihmax(high)) + 1, below = 0;
    int64_t above = count_at_least(merged, n, int32_t(reached));
    if (above < k) return INT32_MIN;
    const int64_t bottom = reached, range = missed - reached;
    int64_t middle = reached + int64_t(*guess * float(range));
    for (int tries = 0; missed - reached > 1; ++tries) {
        middle = middle <= reached ? reached + 1 : middle >= missed ? missed - 1 : middle;
        const int64_t count = count_at_least(merged, n, int32_t(middle));
        if (count >= k) {
            reached = middle, above = count;
            if (count <= k + slack) break;
        } else {
            missed = middle, below = count;
        }
        // Where the counts say, a few times, then halves: counts of equal values say nothing.
        const float share = tries < 4 ? (float(above - k) - 0.5f * float(slack)) / float(above - below) : 0.5f;
        middle = reached + int64_t(share * float(missed - reached));
    }
    *guess = float(reached - bottom) / float(range);
    return int32_t(reached);
}

inline uint64_t sort_key(int32_t value, int32_t row) { return uint64_t(uint32_t(value) ^ 0x80000000u) << 32 | uint32_t(row); }

// Keeps the k best, ties to the higher row, in no order. Returns the lowest value kept.
static int32_t shrink(Found& found, int64_t k, uint64_t* keys) {
    for (int64_t i = 0; i < found.size; ++i) keys[i] = sort_key(found.value[i], found.row[i]);
    std::nth_element(keys, keys + (k - 1), keys + found.size, std::greater<uint64_t>());
    for (int64_t i = 0; i < k; ++i) {
        found.value[i] = int32_t(uint32_t(keys[i] >> 32) ^ 0x80000000u);
        found.row[i] = int32_t(uint32_t(keys[i]));
    }
    found.size = k;
    return found.value[k - 1];
}

inline float score_of(int32_t value) {
    const int32_t bits = value ^ int32_t(uint32_t(value >> 31) >> 1);
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
}

// How many of the found are better than each of 16 V. Returns the sum.
template <int V>
INLINE int64_t count_places(const Found& found, int64_t first, int32_t* place) {
    I value[V], count[V];
    UNROLL for (int v = 0; v < V; ++v) {
        value[v] = iload(found.value + first + kGroup * v);
        count[v] = iset(0);
    }
    for (int64_t j = 0; j < found.size; ++j) {
        const I a = iset(found.value[j]);
        UNROLL for (int v = 0; v < V; ++v) count[v] = count_above(count[v], a, value[v]);
    }
    UNROLL for (int v = 0; v < V; ++v) istore(place + first + kGroup * v, count[v]);
    int64_t sum = 0;
    const int64_t last = first + kGroup * V < found.size ? first + kGroup * V : found.size;
    for (int64_t i = first; i < last; ++i) sum += place[i];
    return sum;
}

// Gives equal ones, which share a place, the places after it, the higher row first. `taken` holds as many integers.
void part_ties(const Found& found, int32_t* place, int32_t* taken) {
    for (int64_t i = 0; i < found.size; ++i) taken[i] = -1;
    for (int64_t i = 0; i < found.size; ++i) {
        int32_t at = place[i], one = int32_t(i);
        // Those that are there already are in order: the first with a lower row moves on, and so do all after it.
        while (taken[at] >= 0 && found.row[taken[at]] > found.row[one]) ++at;
        while (taken[at] >= 0) std::swap(taken[at++], one);
        taken[at] = one;
    }
    for (int64_t i = 0; i < found.size; ++i) place[taken[i]] = int32_t(i);
}

TARGET static void all_places(const Found& found, int32_t* place, int32_t* taken) {
    int64_t sum = 0, first = 0;
    for (; first + 2 * kGroup < found.size; first += 4 * kGroup) sum += count_places<4>(found, first, place);
    for (; first < found.size; first += 2 * kGroup) sum += count_places<2>(found, first, place);
    // Places that are all different add up to this; with ties they add up to less.
    if (sum != found.size * (found.size - 1) / 2) part_ties(found, place, taken);
}

// Writes the k best, best first, ties to the higher row; -1 and -inf where there are fewer. `scratch` holds 2 (room + 64) + 768 integers.
TARGET static void write_best(Found& found, int64_t k, int32_t* index, float* score, int32_t* scratch) {
    const int64_t n = found.size;
    if (n > kRankByCounting) {
        uint64_t* keys = reinterpret_cast<uint64_t*>(scratch);
        for (int64_t i = 0; i < n; ++i) keys[i] = sort_key(found.value[i], found.row[i]);
        if (n > k) std::nth_element(keys, keys + k, keys + n, std::greater<uint64_t>());
        std::sort(keys, keys + (n < k ? n : k), std::greater<uint64_t>());
        for (int64_t i = 0; i < n && i < k; ++i) {
            index[i] = int32_t(uint32_t(keys[i]));
            score[i] = score_of(int32_t(uint32_t(keys[i] >> 32) ^ 0x80000000u));
        }
    } else {
        // Sorted beside, without a branch, then the best copied.
        int32_t *const row = scratch + kRankByCounting, *const value = row + kRankByCounting;
        all_places(found, scratch, row);
        for (int64_t i = 0; i < n; ++i) {
            row[scratch[i]] = found.row[i];
            value[scratch[i]] = found.value[i];
        }
        for (int64_t i = 0; i < n && i < k; ++i) {
            index[i] = row[i];
            score[i] = score_of(value[i]);
        }
    }
    for (int64_t i = n; i < k; ++i) {
        index[i] = -1;
        score[i] = -INFINITY;
    }
}
