// The C ABI of stage 1: choose the level, make the plan that the threads of a call share, run it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "cpu_level.hpp"
#include "search_call.hpp"

namespace {

// A helper is worth waking for so many multiplications (about 30 microseconds).
constexpr double kWorkPerThread = 4e6;
constexpr int64_t kMostTask = 32;

const SearchLevel* level_of(int32_t level) {
    if (!cpu_runs(level)) return nullptr;
#if defined(__x86_64__)
    if (level == kAvx512Vnni) return &kSearchAvx512Vnni;
    if (level == kAvx512) return &kSearchAvx512;
    if (level == kAvx2) return &kSearchAvx2;
#endif
    return &kSearchScalar;
}

// Memory of one plan, kept by the calling thread.
struct PlanMemory {
    std::vector<float> bias, best, member, blocked, grouped, extra_bias, extra_wide;
    std::vector<int32_t> extra_row, extra_category, order;
};

float most_of(const float* value, int64_t count) {
    int32_t most = 0, bits;
    for (int64_t i = 0; i < count; ++i) {
        std::memcpy(&bits, value + i, sizeof bits);
        bits &= 0x7fffffff;
        most = most > bits ? most : bits;
    }
    float found;
    std::memcpy(&found, &most, sizeof found);
    return found;
}

// The bias of each row, -inf where it is not valid.
void plan_bias(const SearchCall& c, SearchPlan& p, PlanMemory& m) {
    if (c.bias == nullptr && c.valid == nullptr && c.hidden == 0) return;
    m.bias.resize(size_t(c.hidden + (c.length + 63) / 64 * 64));
    std::fill(m.bias.begin(), m.bias.begin() + c.hidden, -INFINITY);
    float* const bias = m.bias.data() + c.hidden;
    if (c.bias) std::copy(c.bias, c.bias + c.length, bias);
    else std::fill(bias, bias + c.length, 0.0f);
    if (c.valid)
        for (int64_t i = 0; i < c.length; ++i) bias[i] = c.valid[i] ? bias[i] : -INFINITY;
    p.bias_L = bias;
    p.bias_most = c.bias ? most_of(c.bias, c.length) : 0;
}

// Of equal rows that share a slot the highest bias stands for all.
void plan_best(const SearchCall& c, SearchPlan& p, PlanMemory& m) {
    p.best_L = p.bias_L;
    const PreparedKeys& core = *p.core;
    if (!core.merged) return;
    m.best.assign(m.bias.begin(), m.bias.end());
    m.member.resize(size_t(core.merged + 16));
    const int32_t *const member = core.at<int32_t>(core.member), *const newest = core.at<int32_t>(core.newest);
    for (int64_t i = 0; i < core.merged; ++i) {
        const float bias = m.bias[size_t(member[i])];
        float& best = m.best[size_t(newest[member[i]])];
        m.member[size_t(i)] = bias;
        best = bias > best ? bias : best;
    }
    p.best_L = m.best.data() + c.hidden;
    p.bias_member = m.member.data();
}

// Whether what is added to dots could carry an fp32 sum beyond all numbers.
bool sums_overflow(const SearchCall& c, double bias_most) {
    double most = bias_most;
    if (c.category_score) most += most_of(c.category_score, c.num_targets * c.num_categories);
    if (c.bonus_start) most += std::fabs(double(c.bonus_value)) * double(c.bonus_start[c.num_targets]);
    return !(most <= 1e38);
}

// Rows that no group holds: outliers, and those appended since the keys were prepared.
void plan_extra(const SearchCall& c, SearchPlan& p, PlanMemory& m, const SearchLevel& level, float* key_most) {
    const PreparedKeys& core = *p.core;
    m.extra_row.clear();
    for (int64_t i = 0; i < core.outliers; ++i)
        if (core.outlier[i] >= c.hidden) m.extra_row.push_back(int32_t(core.outlier[i] - c.hidden));
    for (int64_t i = std::max<int64_t>(0, core.length - c.hidden); i < c.length; ++i) m.extra_row.push_back(int32_t(i));
    const size_t count = m.extra_row.size(), all = (count + 63) / 64 * 64;
    *key_most = std::max(*key_most, float(core.key_most));
    if (count == 0) return;
    m.extra_row.resize(all, -1);
    m.extra_bias.assign(all, -INFINITY);
    m.extra_category.assign(all, 0);
    m.extra_wide.resize(all * size_t(c.width));
    for (size_t i = 0; i < count; ++i) {
        const int32_t row = m.extra_row[i];
        m.extra_bias[i] = p.bias_L ? p.bias_L[row] : 0;
        if (c.category_score) m.extra_category[i] = c.category[row];
    }
    *key_most = std::max(*key_most, level.widen(c.key, m.extra_row.data(), int64_t(all / 16), c.width, m.extra_wide.data()));
    p.extra_groups = int64_t(all / 16);
    p.extra_wide = m.extra_wide.data();
    p.extra_row = m.extra_row.data();
    p.extra_bias = m.extra_bias.data();
    p.extra_category = c.category_score ? m.extra_category.data() : nullptr;
}

// Targets of like magnitude one after another: a task shares one unit of the integer dot where there is a bias.
void plan_order(const SearchCall& c, const SearchPlan& p, PlanMemory& m) {
    m.order.resize(size_t(c.num_targets));
    if (!p.core || !p.bias_L || c.num_targets <= 4) {
        for (int64_t n = 0; n < c.num_targets; ++n) m.order[size_t(n)] = int32_t(n);
        return;
    }
    // Exponent and three bits of the mantissa.
    std::vector<int32_t> start(2049, 0), bin(size_t(c.num_targets), 0);
    for (int64_t n = 0; n < c.num_targets; ++n) {
        const float most = most_of(c.target + n * c.width, c.width);
        int32_t bits;
        std::memcpy(&bits, &most, sizeof bits);
        bin[size_t(n)] = bits >> 20;
        ++start[size_t(bin[size_t(n)]) + 1];
    }
    for (size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
    for (int64_t n = 0; n < c.num_targets; ++n) m.order[size_t(start[size_t(bin[size_t(n)])]++)] = int32_t(n);
}

// Whether the hidden rows of the prepared keys are of categories that have no score.
bool unknown_categories(const SearchCall& c, const PreparedKeys& core) {
    return c.hidden && c.category_score && core.at<int32_t>(core.category)[core.distinct - 1] >= c.num_categories;
}

void search(const SearchCall& c, const SearchLevel& level, bool first_pass_only);

void search_without_core(const SearchCall& c, const SearchLevel& level) {
    SearchCall plain = c;
    plain.core = nullptr;
    plain.hidden = 0;
    search(plain, level, false);
}

void search(const SearchCall& c, const SearchLevel& level, bool first_pass_only) {
    static thread_local PlanMemory memory;
    std::atomic<int64_t> next{0};
    std::atomic<bool> overflow{false}, no_memory{false};
    SearchPlan p{};
    p.call = &c;
    p.core = static_cast<const PreparedKeys*>(c.core);
    if (p.core && unknown_categories(c, *p.core)) return search_without_core(c, level);
    p.next = &next;
    p.overflow = &overflow;
    p.no_memory = &no_memory;
    p.first_pass_only = first_pass_only;
    p.key_limit = 1e37f / (most_of(c.target, c.num_targets * c.width) * float(c.width) + 1e-30f);
    plan_bias(c, p, memory);
    if (sums_overflow(c, p.bias_most)) return search_wide_range(c);
    if (p.core) {
        float key_most = 0;
        plan_extra(c, p, memory, level, &key_most);
        // It may be a hidden row that is so large.
        if (!(key_most <= p.key_limit)) return c.hidden ? search_without_core(c, level) : search_wide_range(c);
        if (p.bias_L) {
            const size_t slots = size_t(kBlock * p.core->blocks);
            memory.grouped.resize(slots);
            memory.blocked.resize(slots);
            plan_best(c, p, memory);
            level.spread(*p.core, p.best_L - c.hidden, memory.grouped.data(), memory.blocked.data());
            p.bias_grouped = memory.grouped.data();
            p.bias_blocked = memory.blocked.data();
        }
    }
    plan_order(c, p, memory);
    p.order = memory.order.data();
    const double rows = p.core ? double(kGroup * p.core->groups) : 3 * double(c.length);
    const double work = double(c.num_targets) * rows * double(c.width);
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(c.num_threads, int64_t(work / kWorkPerThread)));
    const int64_t share = c.num_targets / (threads == 1 ? 1 : 3 * threads);
    p.task = std::min(kMostTask, std::max<int64_t>(4, share / 4 * 4));
    const int64_t tasks = (c.num_targets + p.task - 1) / p.task;
    run_shared(level.search, p, std::min(threads, tasks) - 1);
    if (no_memory) throw std::bad_alloc();
    if (overflow) search_wide_range(c);
}

}  // namespace

void search_wide_range(const SearchCall& c) {
    std::vector<double> score(size_t(c.length), 0.0);
    std::vector<int32_t> row;
    for (int64_t n = 0; n < c.num_targets; ++n) {
        row.clear();
        for (int64_t i = 0; i < c.length; ++i) {
            double sum = 0;
            for (int64_t d = 0; d < c.width; ++d) sum += double(c.target[n * c.width + d]) * c.key[i * c.width + d];
            if (c.bias) sum += c.bias[i];
            if (c.category_score) sum += c.category_score[n * c.num_categories + c.category[i]];
            score[size_t(i)] = sum;
            if (!c.valid || c.valid[i]) row.push_back(int32_t(i));
        }
        if (c.bonus_start)
            for (int64_t i = c.bonus_start[n]; i < c.bonus_start[n + 1]; ++i) score[size_t(c.bonus_index[i])] += c.bonus_value;
        const int64_t k = std::min<int64_t>(c.kept, int64_t(row.size()));
        std::partial_sort(row.begin(), row.begin() + k, row.end(), [&score](int32_t a, int32_t b) {
            return score[size_t(a)] != score[size_t(b)] ? score[size_t(a)] > score[size_t(b)] : a > b;
        });
        for (int64_t i = 0; i < c.kept; ++i) {
            c.index[n * c.kept + i] = i < k ? row[size_t(i)] : -1;
            c.score[n * c.kept + i] = i < k ? float(score[size_t(row[size_t(i)])]) : -INFINITY;
        }
    }
}

// Fills call->index and call->score; `first_pass_only`: leaves them as they are after the pass over all prepared keys.
static int searched(const SearchCall* call, bool first_pass_only) {
    if (call->struct_bytes != int64_t(sizeof(SearchCall))) return kWrongVersion;
    const SearchLevel* const level = level_of(call->level);
    if (level == nullptr) return kNoSuchLevel;
    if (call->core && call->width > kWidest) return kTooWide;
    if (call->num_targets == 0) return kDone;
    if (call->length == 0 || call->width == 0) {
        search_wide_range(*call);
        return kDone;
    }
    try {
        search(*call, *level, first_pass_only);
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
    return kDone;
}

DARE_EXPORT int dare_search(const SearchCall* call) { return searched(call, false); }

// To measure the hot loop by itself.
DARE_EXPORT int dare_search_first_pass(const SearchCall* call) { return searched(call, true); }

// Sets call->core_bytes and call->body_bytes where call->core is null, else fills both.
DARE_EXPORT int dare_search_prepare(PrepareCall* call) {
    if (call->struct_bytes != int64_t(sizeof(PrepareCall))) return kWrongVersion;
    const SearchLevel* const level = level_of(call->level);
    if (level == nullptr) return kNoSuchLevel;
    if (call->width > kWidest) return kTooWide;
    try {
        if (call->older) return extend_keys(*call, *level);
        if (call->core) prepare_keys(*call, *level);
        call->core_bytes = int64_t(sizeof(PreparedKeys));
        if (call->core == nullptr) {
            call->slots = find_equal(*call);
            call->body_bytes = prepared_bytes(*call);
        }
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
    return kDone;
}
