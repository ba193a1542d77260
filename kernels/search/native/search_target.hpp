// One target's answer from the maxima of its groups. No include guard: see search_kernel.hpp.

// What integer scores say of one target.
struct Look {
    Found dots;                   // rows of its best groups, and their integer scores
    int32_t* row;                 // those to score exactly first
    int64_t first, groups;        // how many, and in how many groups
    int32_t bound, start, least;  // integer scores: of these groups, of the first rows, of any row worth a look
};

// Memory of the filter for one task.
struct FilterMemory {
    Query query[kMostTask];
    Maxima maxima;
    int32_t *extra[kMostTask], *extra_best[4], *scratch, *groups, *stamp;
    Look look[2];
    Found found;
    int64_t most_groups;

    FilterMemory(Parts& parts, const SearchPlan& p, int64_t targets) {
        const SearchCall& c = *p.call;
        const PreparedKeys& core = *p.core;
        const int64_t all = 16 * core.blocks;
        most_groups = core.groups / 4 < 4 * c.kept ? 4 * c.kept : core.groups / 4;
        most_groups = most_groups < core.groups ? most_groups : core.groups;
        for (int64_t t = 0; t < targets; ++t) {
            query[t].dims = parts.take<int32_t>(core.quads);
            query[t].category = c.category_score ? parts.take<int32_t>(core.distinct + 32) : nullptr;
            maxima.best[t] = parts.take<int32_t>(all);
            maxima.second[t] = finds_second(p) ? parts.take<int32_t>(all) : nullptr;
            extra[t] = parts.take<int32_t>(16 * p.extra_groups);
        }
        for (int t = 0; t < 4; ++t) extra_best[t] = parts.take<int32_t>(4 * p.extra_groups);
        groups = parts.take<int32_t>(all);
        const int64_t most_rows = 16 * most_groups + 32;
        for (Look& one : look) {
            one.dots = Found{parts.take<int32_t>(most_rows), parts.take<int32_t>(most_rows), 0, most_rows};
            one.row = parts.take<int32_t>(most_rows);
        }
        // The bonus can name any number of rows.
        const int64_t most_found = core.merged ? (kMostEqual * most_rows < c.length ? kMostEqual * most_rows : c.length) : most_rows;
        const int64_t room = most_found + 16 * p.extra_groups + (c.bonus_start ? c.length : 0) + 64;
        found = Found{parts.take<int32_t>(room), parts.take<int32_t>(room), 0, room};
        scratch = parts.take<int32_t>(2 * (room + 64) + 3 * kRankByCounting + all);
        stamp = c.bonus_start ? parts.take<int32_t>(2 * c.length) : nullptr;
    }
};

// Where bounds were found for the target before: of the groups, of integer scores, of exact scores. `slots`: how many slots, as a share of
// K, held K rows.
struct Guess {
    float group = 0.9f, dot = 0.5f, exact = 0.2f, slots = 1;
};

// Has rows on their way before they are scored.
inline void fetch_rows(const SearchCall& c, const int32_t* rows, int64_t count) {
    const int64_t bytes = 4 * c.width;
    for (int64_t i = 0; i < count; ++i) {
        const char* const key = reinterpret_cast<const char*>(c.key + int64_t(rows[i]) * c.width);
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(key + byte);
    }
}

// Adds the rows of those slots, of 16, that are in `several`, whose exact score is at least `floor`. `equal`: as the prepared keys say it.
INLINE void add_equal(const SearchPlan& p, uint32_t several, F dot, I equal, int32_t floor, Found& found) {
    alignas(64) float dots[16];
    alignas(64) int32_t places[16];
    fstore(dots, dot);
    istore(places, equal);
    const int32_t* const member = p.core->at<int32_t>(p.core->member);
    const float* const bias = p.bias_member;
    int32_t *const value = found.value, *const row = found.row;
    const I least = iset(floor), gone = iset(int32_t(p.call->hidden));
    int64_t n = found.size;
    for (; several; several &= several - 1) {
        const int lane = __builtin_ctz(several);
        const uint32_t place = uint32_t(places[lane]), first = place / 32, rows = place % 32;
        F sum = fset(dots[lane]);
        if (bias) sum = fadd(sum, fload(bias + first));
        const I one = iorder(ibits(fadd(sum, fset(0.0f))));
        const uint32_t mask = at_least(one, least) & ((2u << (rows - 1)) - 1u);
        icompress(value + n, mask, one);
        icompress(row + n, mask, isub(iload(member + first), gone));
        n += bits_set(mask);
    }
    found.size = n;
}

// Adds the rows whose exact score is at least `floor`. `times`: how often each gets the bonus, or null. Several: `rows` are those of slots that
// may hold others, which are scored too. 16 more rows can be written.
template <bool Several>
TARGET static void score_exactly_of(const SearchPlan& p, int64_t n, int32_t* rows, int64_t count, int32_t floor, const int32_t* times, Found& found) {
    if (count == 0) return;
    const SearchCall& c = *p.call;
    const float* const target = c.target + n * c.width;
    istore(rows + count, iset(rows[0]));
    for (int64_t i = 0; i < count; i += 16) {
        const float* key[16];
        for (int j = 0; j < 16; ++j) key[j] = c.key + int64_t(rows[i + j]) * c.width;
        if (i + 16 < count) fetch_rows(c, rows + i + 16, 16);
        const F dot = dot_rows(key, target, c.width);
        F sum = dot;
        const I row = iload(rows + i);
        if (p.bias_L) sum = fadd(sum, fgather(Several ? p.best_L : p.bias_L, row));
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
        uint32_t mask = at_least(value, iset(floor)) & ((2u << (some - 1)) - 1u);
        if (Several) {
            const I equal = igather(p.core->at<int32_t>(p.core->equal) + c.hidden, row);
            const uint32_t several = at_least(equal, iset(1)) & mask;
            mask &= ~several;
            add_equal(p, several, dot, equal, floor, found);
        }
        icompress(found.value + found.size, mask, value);
        icompress(found.row + found.size, mask, row);
        found.size += bits_set(mask);
    }
}

TARGET static void score_exactly(const SearchPlan& p, int64_t n, int32_t* rows, int64_t count, int32_t floor, const int32_t* times, Found& found) {
    if (p.core->merged && !times) score_exactly_of<true>(p, n, rows, count, floor, times, found);
    else score_exactly_of<false>(p, n, rows, count, floor, times, found);
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

// Takes rows that got their bonus out again, from `first` on: they were found with it.
void keep_others(const int32_t* stamp, int64_t n, int64_t first, Found& found) {
    int64_t left = first;
    for (int64_t i = first; i < found.size; ++i) {
        const int32_t row = found.row[i];
        found.row[left] = row;
        found.value[left] = found.value[i];
        left += stamp[2 * row] != int32_t(n);
    }
    found.size = left;
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

// Appends the rows whose values are in low..high to `rows`, counted from the first that is not hidden; 16 more can be written. Returns how many.
TARGET static int64_t rows_within(const Found& from, int32_t low, int32_t high, int64_t hidden, int32_t* rows) {
    int64_t n = 0;
    const I gone = iset(int32_t(hidden));
    istore(from.value + from.size, iset(INT32_MIN));
    for (int64_t i = 0; i < from.size; i += 16) {
        const I value = iload(from.value + i);
        const uint32_t mask = at_least(value, iset(low)) & at_least(iset(high), value);
        icompress(rows + n, mask, isub(iload(from.row + i), gone));
        n += bits_set(mask);
    }
    return n;
}

TARGET static void keep_at_least(Found& found, int32_t floor) {
    int64_t n = 0;
    istore(found.value + found.size, iset(INT32_MIN));
    for (int64_t i = 0; i < found.size; i += 16) {
        const I value = iload(found.value + i), row = iload(found.row + i);
        const uint32_t mask = at_least(value, iset(floor));
        icompress(found.value + n, mask, value);
        icompress(found.row + n, mask, row);
        n += bits_set(mask);
    }
    found.size = n;
}

// Adds the outliers and appended rows whose exact score is at least `floor` and that got no bonus.
TARGET static void add_extra(const SearchPlan& p, FilterMemory& m, int64_t t, int64_t n, int32_t floor, bool bonus) {
    for (int64_t g = 0; g < p.extra_groups; ++g) {
        const I value = iload(m.extra[t] + 16 * g);
        uint32_t mask = at_least(value, iset(floor));
        if (!mask) continue;
        const int32_t* const row = p.extra_row + 16 * g;
        if (bonus)
            for (int j = 0; j < 16; ++j)
                if (row[j] >= 0 && m.stamp[2 * row[j]] == int32_t(n)) mask &= ~(1u << j);
        icompress(m.found.value + m.found.size, mask, value);
        icompress(m.found.row + m.found.size, mask, iload(row));
        m.found.size += bits_set(mask);
    }
}

// How many groups that reach a bound hold K rows that do, whatever they are.
int64_t groups_needed(const SearchPlan& p, int64_t n) {
    const SearchCall& c = *p.call;
    int64_t k = c.kept;
    if (!(c.bonus_value < 0)) return k;
    // A row that a bonus makes worse cannot stand for its group, nor the slot that it shares.
    const int32_t* const newest = p.core->merged ? p.core->at<int32_t>(p.core->newest) + c.hidden : nullptr;
    int32_t last = -1;
    for (int64_t i = c.bonus_start[n]; i < c.bonus_start[n + 1]; ++i) {
        const int32_t row = c.bonus_index[i], slot = newest && row + c.hidden < p.core->length ? newest[row] : int32_t(row + c.hidden);
        k += !newest || slot != last;
        last = slot;
    }
    return k;
}

// Finds rows of target n that are enough, by their integer scores, and fetches them; not `sure`: that are likely enough. Returns false where
// they are too many.
TARGET static bool first_look(const SearchPlan& p, FilterMemory& m, int64_t t, int64_t n, bool sure, Guess& guess, Look& look) {
    const SearchCall& c = *p.call;
    const Query& query = m.query[t];
    const int64_t k = sure ? groups_needed(p, n) : int64_t(guess.slots * float(c.kept)) + 1;
    const int32_t *const best = m.maxima.best[t], *const second = m.maxima.second[t];
    // The bits of slots are no part of a score.
    const int32_t grain = second ? ~15 : ~0;
    // Where groups are few, all are looked at.
    look.bound = k >= p.core->groups ? kSurelyValid : grain & bound_of_best(best, p.core->blocks, k, k / 8 + 1, m.scratch, &guess.group);
    if (look.bound < kSurelyValid) return false;
    look.groups = groups_within(best, p.core->blocks, look.bound, INT32_MAX, m.groups);
    if (look.groups > m.most_groups) return false;
    // No exact score of those kept is lower than that of a row at the bound can be; and that a row at `least` can be as high.
    const double lowest = double(look.bound) - 2 * query.error / query.unit - 1;
    look.least = grain & (lowest < kSurelyValid ? kSurelyValid : int32_t(std::floor(lowest)));
    look.dots.size = 0;
    if (second) rows_known(p, query, best, second, m.groups, look.groups, look.least, look.dots);
    else rows_reaching(p, query, m.groups, look.groups, look.least, look.dots);
    // Where the best rows share groups, many reach the bound; so few as can be are scored first.
    look.start = look.bound;
    if (count_at_least_of(look.dots, look.bound) > k + k / 4 + 8)
        look.start = bound_of_best(look.dots.value, (look.dots.size + 15) / 16, k, k / 8 + 1, m.scratch, &guess.dot);
    look.first = rows_within(look.dots, look.start, INT32_MAX, c.hidden, look.row);
    fetch_rows(c, look.row, look.first);
    return true;
}

// Finds the k best of target n after a look. Returns false where too many rows could be among them.
TARGET static bool finish(const SearchPlan& p, FilterMemory& m, int64_t t, int64_t n, bool sure, Guess& guess, Look& look) {
    const SearchCall& c = *p.call;
    const Query& query = m.query[t];
    const bool bonus = c.bonus_start && c.bonus_start[n + 1] > c.bonus_start[n];
    int32_t floor = order_at_most(query.unit * double((look.start & ~15) - query.offset) - query.error);
    m.found.size = 0;
    int32_t* const rows = m.scratch;
    if (bonus) {
        int32_t* const times = m.scratch + c.length + 16;
        const int64_t distinct = bonus_rows(c, n, m.stamp, rows, times);
        score_exactly(p, n, rows, distinct, floor, times, m.found);
    }
    add_extra(p, m, t, n, floor, bonus);
    const int64_t named = m.found.size;
    score_exactly(p, n, look.row, look.first, floor, nullptr, m.found);
    if (bonus) keep_others(m.stamp, n, named, m.found);
    if (m.found.size < c.kept) {
        if (sure) return false;
        // More slots, until as many are surely enough.
        guess.slots = guess.slots < 0.75f ? guess.slots * 1.3f : 1;
        if (bonus)
            for (int64_t i = c.bonus_start[n]; i < c.bonus_start[n + 1]; ++i) m.stamp[2 * c.bonus_index[i]] = -1;
        return first_look(p, m, t, n, true, guess, look) && finish(p, m, t, n, true, guess, look);
    }
    if (!sure) {
        const float enough = 1.15f * float(look.first) / float(m.found.size);
        guess.slots += 0.25f * ((enough < 1 ? enough : 1) - guess.slots);
    }

    // Exact scores give a higher floor: their k-th best.
    istore(m.found.value + m.found.size, iset(INT32_MIN));
    const int32_t exact = bound_of_best(m.found.value, (m.found.size + 15) / 16, c.kept, 1, m.scratch, &guess.exact);
    floor = exact > floor ? exact : floor;
    keep_at_least(m.found, floor);
    const double closest = (double(score_of(floor)) - query.error) / query.unit + double(query.offset) - 1;
    const int32_t *const best = m.maxima.best[t], *const second = m.maxima.second[t];
    const int32_t cut = closest < double(look.least) ? look.least : int32_t(std::floor(closest)) & (second ? ~15 : ~0);
    int64_t more = 0;
    if (cut < look.start) more = rows_within(look.dots, cut, look.start - 1, c.hidden, rows);
    if (cut < look.bound) {
        const int64_t groups = groups_within(best, p.core->blocks, cut, look.bound - 1, m.groups);
        if (look.groups + groups > m.most_groups) return false;
        look.dots.size = 0;
        if (second) rows_known(p, query, best, second, m.groups, groups, cut, look.dots);
        else rows_reaching(p, query, m.groups, groups, cut, look.dots);
        more += rows_within(look.dots, cut, INT32_MAX, c.hidden, rows + more);
    }
    fetch_rows(c, rows, more < 16 ? more : 16);
    const int64_t before = m.found.size;
    score_exactly(p, n, rows, more, floor, nullptr, m.found);
    if (bonus) keep_others(m.stamp, n, before, m.found);
    write_best(m.found, c.kept, c.index + n * c.kept, c.score + n * c.kept, m.scratch);
    return true;
}

// Finds the k best of `count` targets from the maxima of their groups; `left` gets the others. Returns how many those are.
TARGET static int64_t search_maxima(const SearchPlan& p, FilterMemory& m, const int32_t* targets, int64_t count, int32_t* left, Guess& guess) {
    int64_t failed = 0;
    // The rows of the next target are on their way while this one's are scored.
    const bool sure = p.core->merged == 0;
    bool found = first_look(p, m, 0, targets[0], sure, guess, m.look[0]);
    for (int64_t t = 0; t < count; ++t) {
        const bool here = found;
        if (t + 1 < count) found = first_look(p, m, t + 1, targets[t + 1], sure, guess, m.look[(t + 1) & 1]);
        if (!here || !finish(p, m, t, targets[t], sure, guess, m.look[t & 1])) left[failed++] = targets[t];
    }
    return failed;
}
