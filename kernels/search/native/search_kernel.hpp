// Stage 1 over the vector operations of one CPU level. No include guard: each search_<level>.cpp defines TARGET, F, I and the operations
// in its anonymous namespace, then includes this there, so that no code of one level can be linked into another.

#define INLINE TARGET __attribute__((always_inline)) inline

#include "search_select.hpp"

#include "search_direct.hpp"

#include "search_filter.hpp"

#include "search_quantise.hpp"

constexpr int64_t kMostTask = 32;
constexpr int64_t kWideBytes = 256 << 10;  // of rows made wide at a time, so that they stay in the second-level cache

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Hands out parts of an arena, each aligned to a cache line and followed by room for one vector more.
struct Parts {
    char* at;
    template <class T>
    T* take(int64_t count) {
        T* const part = reinterpret_cast<T*>(at);
        at += padded(count * int64_t(sizeof(T)), 64) + 64;
        return part;
    }
};

// Rows that are made wide at a time.
int64_t chunk_rows(const SearchCall& c) {
    int64_t rows = kWideBytes / (4 * c.width) / kTile * kTile;
    rows = rows < 4 * kTile ? 4 * kTile : rows;
    const int64_t all = padded(c.length, kTile);
    return rows < all ? rows : all;
}

int64_t found_room(const SearchCall& c) {
    const int64_t k = c.kept < c.length ? c.kept : c.length;
    return 2 * k + 128;
}

// Memory of the fp32 path for one task.
struct DirectMemory {
    float* wide;
    int32_t *row, *category, *score[4], *best[4], *scratch;
    Found found[kMostTask];
    int32_t floor[kMostTask];

    DirectMemory(Parts& parts, const SearchCall& c, int64_t targets) {
        const int64_t rows = chunk_rows(c), room = found_room(c);
        wide = parts.take<float>(rows * c.width);
        row = parts.take<int32_t>(rows);
        category = parts.take<int32_t>(rows);
        for (int t = 0; t < 4; ++t) score[t] = parts.take<int32_t>(rows), best[t] = parts.take<int32_t>(rows / 4);
        scratch = parts.take<int32_t>(2 * (room + 64) + 3 * kRankByCounting + rows);
        for (int64_t t = 0; t < targets; ++t) found[t] = Found{parts.take<int32_t>(room + 64), parts.take<int32_t>(room + 64), 0, room};
    }
};

void targets_of(const SearchCall& c, const int32_t* targets, int count, const float** query, const float** category_score) {
    for (int i = 0; i < count; ++i) {
        query[i] = c.target + int64_t(targets[i]) * c.width;
        category_score[i] = c.category_score ? c.category_score + int64_t(targets[i]) * c.num_categories : nullptr;
    }
}

// Takes the rows from `here` on out of a chunk whose last tile they are in.
TARGET static void close(int32_t* score, int32_t* best, int64_t here, int64_t all) {
    for (int64_t i = here; i < all; ++i) score[i] = INT32_MIN;
    I most = iset(INT32_MIN);
    for (int64_t i = all - kTile; i < all; i += 16) most = imax(most, iload(score + i));
    istore(best + (all - kTile) / 4, most);
}

// Searches targets in fp32: chunks of rows from the newest to the oldest. `kept_wide`: the wide rows of the last call still hold.
TARGET static void search_direct(const SearchPlan& p, DirectMemory& m, const int32_t* targets, int64_t count, bool* kept_wide) {
    const SearchCall& c = *p.call;
    const int64_t rows = chunk_rows(c), k = c.kept < c.length ? c.kept : c.length;
    const int64_t chunks = (c.length + rows - 1) / rows;
    float guess = 0.9f;
    for (int64_t t = 0; t < count; ++t) m.found[t].size = 0, m.floor[t] = kLowest;
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        const int64_t first = chunk * rows, here = c.length - first < rows ? c.length - first : rows, all = padded(here, kTile);
        if (!(chunks == 1 && *kept_wide)) {
            for (int64_t i = 0; i < all; ++i) m.row[i] = i < here ? int32_t(first + i) : -1;
            if (!(widen_rows(c.key, m.row, all / 16, c.width, m.wide) <= p.key_limit)) {
                p.overflow->store(true);
                return;
            }
            if (c.category_score)
                for (int64_t i = 0; i < all; ++i) m.category[i] = i < here ? c.category[first + i] : 0;
            *kept_wide = chunks == 1;
        }
        const Added added{p.bias_L ? p.bias_L + first : nullptr, c.category_score ? m.category : nullptr};
        for (int64_t t = 0; t < count; t += 4) {
            const int some = int(count - t < 4 ? count - t : 4);
            const float *query[4], *category_score[4];
            targets_of(c, targets + t, some, query, category_score);
            score_rows(some, m.wide, all / 16, c.width, query, added, category_score, m.score, m.best);
            for (int i = 0; i < some; ++i) {
                if (here < all) close(m.score[i], m.best[i], here, all);
                if (c.bonus_start) add_bonus(c, targets[t + i], first, here, m.score[i], m.best[i]);
                collect(m.found[t + i], k, &m.floor[t + i], m.score[i], m.best[i], all / kTile, first, m.scratch, &guess);
                if (chunk > 0 && m.found[t + i].size > k)
                    m.floor[t + i] = shrink(m.found[t + i], k, reinterpret_cast<uint64_t*>(m.scratch)) + 1;
            }
        }
    }
    for (int64_t t = 0; t < count; ++t)
        write_best(m.found[t], c.kept, c.index + targets[t] * c.kept, c.score + targets[t] * c.kept, m.scratch);
}

// Memory of the filter for one task.
struct FilterMemory {
    Query query[kMostTask];
    int32_t *maxima[kMostTask], *extra[kMostTask], *extra_best[4], *scratch, *groups, *rows, *stamp;
    Found found;
    int64_t most_groups, most_rows;

    FilterMemory(Parts& parts, const SearchPlan& p, int64_t targets) {
        const SearchCall& c = *p.call;
        const PreparedKeys& core = *p.core;
        const int64_t all = 16 * core.blocks;
        most_groups = core.groups / 4 < 4 * c.kept ? 4 * c.kept : core.groups / 4;
        most_groups = most_groups < core.groups ? most_groups : core.groups;
        most_rows = 16 * most_groups;
        for (int64_t t = 0; t < targets; ++t) {
            query[t].dims = parts.take<int32_t>(core.quads);
            query[t].category = c.category_score ? parts.take<int32_t>(core.distinct + 32) : nullptr;
            maxima[t] = parts.take<int32_t>(all);
            extra[t] = parts.take<int32_t>(16 * p.extra_groups);
        }
        for (int t = 0; t < 4; ++t) extra_best[t] = parts.take<int32_t>(4 * p.extra_groups);
        groups = parts.take<int32_t>(all);
        rows = parts.take<int32_t>(most_rows + 16);
        // The bonus can name any number of rows.
        int64_t room = most_rows + 16 * p.extra_groups + (c.bonus_start ? c.length : 0) + 64;
        found = Found{parts.take<int32_t>(room), parts.take<int32_t>(room), 0, room};
        scratch = parts.take<int32_t>(2 * (room + 64) + 3 * kRankByCounting + all);
        stamp = c.bonus_start ? parts.take<int32_t>(2 * c.length) : nullptr;
    }
};

// Adds the rows whose exact score is at least `floor`. `times`: how often each gets the bonus, or null. 16 more rows can be written.
TARGET static void score_exactly(const SearchPlan& p, int64_t n, int32_t* rows, int64_t count, int32_t floor, const int32_t* times, Found& found) {
    if (count == 0) return;
    const SearchCall& c = *p.call;
    const float* const target = c.target + n * c.width;
    istore(rows + count, iset(rows[0]));
    for (int64_t j = 0; j < 16 && j < count; ++j) __builtin_prefetch(c.key + int64_t(rows[j]) * c.width);
    for (int64_t i = 0; i < count; i += 16) {
        const float* key[16];
        for (int j = 0; j < 16; ++j) key[j] = c.key + int64_t(rows[i + j]) * c.width;
        if (i + 16 < count)
            for (int j = 0; j < 16; ++j) __builtin_prefetch(c.key + int64_t(rows[i + 16 + j]) * c.width);
        F sum = dot_rows(key, target, c.width);
        const I row = iload(rows + i);
        if (p.bias_L) sum = fadd(sum, fgather(p.bias_L, row));
        if (c.category_score) sum = fadd(sum, fgather(c.category_score + n * c.num_categories, igather(c.category, row)));
        const int some = int(count - i < 16 ? count - i : 16);
        if (times) {
            alignas(64) float each[16];
            fstore(each, fadd(sum, fset(0.0f)));
            for (int j = 0; j < some; ++j)
                for (int32_t time = 0; time < times[i + j]; ++time) each[j] += c.bonus_value;
            sum = fload(each);
        }
        const I value = iorder(ibits(fadd(sum, fset(0.0f))));
        const uint32_t mask = at_least(value, iset(floor)) & ((2u << (some - 1)) - 1u);
        icompress(found.value + found.size, mask, value);
        icompress(found.row + found.size, mask, row);
        found.size += bits_set(mask);
    }
}

// The rows of target n that get a bonus, each once, with how often. Returns how many.
int64_t bonus_rows(const SearchCall& c, int64_t n, int32_t* stamp, int32_t* rows, int32_t* times) {
    int64_t count = 0;
    for (int64_t i = c.bonus_start[n]; i < c.bonus_start[n + 1]; ++i) {
        const int32_t row = c.bonus_index[i];
        if (stamp[2 * row] == int32_t(n)) {
            ++times[stamp[2 * row + 1]];
        } else {
            stamp[2 * row] = int32_t(n);
            stamp[2 * row + 1] = int32_t(count);
            rows[count] = row;
            times[count++] = 1;
        }
    }
    return count;
}

int32_t order_at_most(double x) {
    float y = float(x);
    if (double(y) > x) y = std::nextafterf(y, -INFINITY);
    int32_t bits;
    y += 0.0f;
    std::memcpy(&bits, &y, sizeof bits);
    bits ^= int32_t(uint32_t(bits >> 31) >> 1);
    return bits < kLowest ? kLowest : bits;
}

// A bound that k rows of the few best groups reach: where the best rows are neighbors, as those of one category are, it is far above the
// bound that k groups reach.
TARGET static int32_t bound_within_groups(const SearchPlan& p, FilterMemory& m, int64_t t, int64_t k, float* guess) {
    const int32_t cut = bound_of_best(m.maxima[t], p.core->blocks, k / 6 + 1, m.scratch, guess);
    if (cut < kSurelyValid) return INT32_MIN;
    const int64_t groups = groups_reaching(m.maxima[t], p.core->blocks, cut, m.groups);
    if (groups > m.most_groups) return INT32_MIN;
    const int64_t rows = rows_reaching(p, m.query[t], m.groups, groups, kSurelyValid, m.rows, m.found.value);
    if (rows < k) return INT32_MIN;
    istore(m.found.value + rows, iset(INT32_MIN));
    return bound_of_best(m.found.value, (rows + 15) / 16, k, m.scratch, guess + 1);
}

// Finds the k best of target n from the maxima of its groups. Returns false where too many rows could be among them.
TARGET static bool search_target(const SearchPlan& p, FilterMemory& m, int64_t t, int64_t n, float* guess) {
    const SearchCall& c = *p.call;
    const PreparedKeys& core = *p.core;
    const Query& query = m.query[t];
    const int64_t bonus_count = c.bonus_start ? c.bonus_start[n + 1] - c.bonus_start[n] : 0;
    // A row that a bonus makes worse cannot stand for its group.
    const int64_t k = c.kept + (c.bonus_value < 0 ? bonus_count : 0);
    int32_t bound = bound_of_best(m.maxima[t], core.blocks, k, m.scratch, guess);
    if (query.category) {
        const int32_t closer = bound_within_groups(p, m, t, k, guess + 1);
        bound = closer > bound ? closer : bound;
    }
    if (bound < kSurelyValid) return false;
    const double margin = 2 * query.error / query.unit + 1;
    const double lowest = double(bound) - margin;
    const int32_t cut = lowest < kSurelyValid ? kSurelyValid : int32_t(std::floor(lowest));
    const int32_t floor = order_at_most(query.unit * double(bound - query.offset) - query.error);
    const int64_t groups = groups_reaching(m.maxima[t], core.blocks, cut, m.groups);
    if (groups > m.most_groups) return false;
    int64_t rows = rows_reaching(p, query, m.groups, groups, cut, m.rows, nullptr);
    m.found.size = 0;
    if (bonus_count) {
        int64_t left = 0;
        int32_t *const named = m.scratch, *const times = m.scratch + c.length + 16;
        const int64_t distinct = bonus_rows(c, n, m.stamp, named, times);
        for (int64_t i = 0; i < rows; ++i)
            if (m.stamp[2 * m.rows[i]] != int32_t(n)) m.rows[left++] = m.rows[i];
        rows = left;
        score_exactly(p, n, named, distinct, floor, times, m.found);
    }
    score_exactly(p, n, m.rows, rows, floor, nullptr, m.found);
    for (int64_t g = 0; g < p.extra_groups; ++g) {
        const I value = iload(m.extra[t] + 16 * g);
        uint32_t mask = at_least(value, iset(floor));
        if (!mask) continue;
        const int32_t* const row = p.extra_row + 16 * g;
        if (bonus_count)
            for (int j = 0; j < 16; ++j)
                if (row[j] >= 0 && m.stamp[2 * row[j]] == int32_t(n)) mask &= ~(1u << j);
        icompress(m.found.value + m.found.size, mask, value);
        icompress(m.found.row + m.found.size, mask, iload(row));
        m.found.size += bits_set(mask);
    }
    write_best(m.found, c.kept, c.index + n * c.kept, c.score + n * c.kept, m.scratch);
    return true;
}

// Searches one task; `left` gets the targets that the fp32 path must search. Returns how many.
TARGET static int64_t search_filtered(const SearchPlan& p, FilterMemory& m, const int32_t* targets, int64_t count, int32_t* left, float* guess) {
    const SearchCall& c = *p.call;
    double unit = 0;
    if (p.bias_L) unit = p.bias_most / kMostAdded;
    for (int64_t t = 0; t < count; ++t) quantise_query(p, targets[t], unit, m.query[t]);
    if (p.bias_L) {
        // One bias in integers serves the task.
        for (int64_t t = 0; t < count; ++t) unit = m.query[t].unit > unit ? m.query[t].unit : unit;
        for (int64_t t = 0; t < count; ++t)
            if (m.query[t].unit != unit) quantise_query(p, targets[t], unit, m.query[t]);
    }
    group_maxima(p, m.query, int(count), m.maxima);
    for (int64_t t = 0; t < count && p.extra_groups; t += 4) {
        const int some = int(count - t < 4 ? count - t : 4);
        const float *query[4], *category_score[4];
        targets_of(c, targets + t, some, query, category_score);
        score_rows(some, p.extra_wide, p.extra_groups, c.width, query, Added{p.extra_bias, p.extra_category}, category_score, m.extra + t, m.extra_best);
    }
    int64_t failed = 0;
    for (int64_t t = 0; t < count; ++t)
        if (!search_target(p, m, t, targets[t], guess)) left[failed++] = targets[t];
    return failed;
}

TARGET static void search_tasks(const SearchPlan& p) {
    const SearchCall& c = *p.call;
    thread_local Arena arena, direct_arena;
    thread_local float guess[3] = {0.9f, 0.9f, 0.5f};
    int32_t left[kMostTask];
    bool kept_wide = false, stamped = false;
    const int64_t tasks = (c.num_targets + p.task - 1) / p.task;
    for (;;) {
        const int64_t task = p.next->fetch_add(1, std::memory_order_relaxed);
        if (task >= tasks) return;
        const int64_t first = task * p.task, count = c.num_targets - first < p.task ? c.num_targets - first : p.task;
        const int32_t* targets = p.order + first;
        int64_t failed = count;
        if (p.core) {
            Parts measured{nullptr};
            (void)FilterMemory(measured, p, p.task);
            arena.reserve(size_t(measured.at - static_cast<char*>(nullptr)));
            Parts parts{arena.data};
            FilterMemory memory(parts, p, p.task);
            if (memory.stamp && !stamped)
                for (int64_t i = 0; i < c.length; ++i) memory.stamp[2 * i] = -1;
            stamped = true;
            failed = search_filtered(p, memory, targets, count, left, guess);
            targets = left;
        }
        if (failed == 0) continue;
        Parts measured{nullptr};
        (void)DirectMemory(measured, c, p.task);
        direct_arena.reserve(size_t(measured.at - static_cast<char*>(nullptr)));
        Parts parts{direct_arena.data};
        DirectMemory memory(parts, c, p.task);
        search_direct(p, memory, targets, failed, &kept_wide);
    }
}
