// Stage 1 over the vector operations of one CPU level. No include guard: each search_<level>.cpp defines TARGET, F, I and the operations
// in its anonymous namespace, then includes this there, so that no code of one level can be linked into another.

#define INLINE TARGET __attribute__((always_inline)) inline

constexpr int64_t kMostTask = 32;

#include "search_select.hpp"

#include "search_direct.hpp"

#include "search_filter.hpp"

#include "search_quantise.hpp"

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

#include "search_target.hpp"

// Searches one task; `left` gets the targets that the fp32 path must search. Returns how many.
TARGET static int64_t search_filtered(const SearchPlan& p, FilterMemory& m, const int32_t* targets, int64_t count, int32_t* left, Guess& guess) {
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
    if (p.first_pass_only) return 0;
    for (int64_t t = 0; t < count && p.extra_groups; t += 4) {
        const int some = int(count - t < 4 ? count - t : 4);
        const float *query[4], *category_score[4];
        targets_of(c, targets + t, some, query, category_score);
        score_rows(some, p.extra_wide, p.extra_groups, c.width, query, Added{p.extra_bias, p.extra_category}, category_score, m.extra + t, m.extra_best);
    }
    return search_maxima(p, m, targets, count, left, guess);
}

TARGET static void search_tasks(const SearchPlan& p) {
    const SearchCall& c = *p.call;
    thread_local Arena arena, direct_arena;
    thread_local Guess guess;
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
