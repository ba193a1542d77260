// The head's extra inputs of one request. All arguments of logarithms and exponentials of a block of candidates are written into
// columns first, so that one loop without branches computes them for several candidates at once.
#include "features_call.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu_level.hpp"

namespace {

constexpr double kDay = 86400.0;
constexpr int kBlock = 32;
constexpr int kLogs = 2 * 10 + kDecays + 2;     // relation and age over interval, twice; popularity
constexpr int kExps = 2 * (kDecays + 1) + kDecays;
constexpr int kLanes = 8;

#define INLINE __attribute__((always_inline)) inline

INLINE double from_bits(uint64_t bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint64_t bits_of(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// 1.5 * 2^52: adding it leaves a small integer in the low bits of the sum, and subtracting it again the rounded number.
constexpr double kRound = 6755399441055744.0;

// exp(x), relative error under 1e-11; x is held within what a double can be.
INLINE double exponential(double x) {
    x = std::min(std::max(x, -700.0), 700.0);
    const double shifted = x * 1.4426950408889634 + kRound;
    const double n = shifted - kRound;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double p = 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return p * from_bits((bits_of(shifted) + 1023) << 52);
}

// log(x) of a positive normal number, absolute error under 1e-11: 2 atanh((m - 1) / (m + 1)) with m in sqrt(1/2)..sqrt(2).
INLINE double logarithm(double x) {
    constexpr uint64_t kRootHalf = 0x3fe6a09e667f3bcd, kMantissa = 0x000fffffffffffff;
    const uint64_t bits = bits_of(x) - kRootHalf;
    const double m = from_bits((bits & kMantissa) + kRootHalf);
    // The exponent plus 1024 in the low bits of kRound.
    const double e = from_bits(((bits + (uint64_t(1024) << 52)) >> 52) + bits_of(kRound)) - kRound - 1024.0;
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    p = p * z + 1.0;
    return 2.0 * s * p + e * 0.6931471805599453;
}

struct Block {
    double exps[kExps][kBlock];
    double logs[kLogs][kBlock];
    double count[2][kBlock];
    double decayed[2][kDecays][kBlock];
    double popular[kDecays][kBlock];
    double dot[kProfiles + 1][kBlock];  // with the profiles, and with itself
};

// Candidates of the block that starts at `first`, which may lie beyond the last.
INLINE int block_size(const FeaturesCall& c, int64_t first) { return int(std::max<int64_t>(0, std::min<int64_t>(kBlock, c.num_candidates - first))); }

INLINE int64_t known(const FeaturesCall& c, int64_t i) {
    const int64_t place = c.place[i];
    return place >= 0 && place < c.items->size ? place : c.items->size;
}

INLINE const float* statistic_of(const FeaturesCall& c, int64_t item) {
    return c.items->newest == nullptr ? c.items->statistic + item * kStatistics : c.items->newest[item].statistic;
}

// What record `place` of `records` needs: columns 10 r.. of the logarithms and 4 r.. of the exponentials.
INLINE void relate(const FeaturesCall& c, const Records& records, int64_t place, double typical, int r, int j, Block& b) {
    double(*logs)[kBlock] = b.logs + 10 * r;
    double(*exps)[kBlock] = b.exps + (kDecays + 1) * r;
    double count = 0, age = 0, interval = 0, since = 0, decayed[kDecays] = {};
    bool repeated = false;
    if (place >= 0) {
        count = records.count[place];
        age = std::max(c.now_s - records.newest_s[place], 0.0) / kDay;
        repeated = count > 1.5;
        if (repeated) interval = (records.newest_s[place] - records.first_s[place]) / (count - 1) / kDay;
        since = std::max(c.history->length + c.history->first - records.position[place] - 1, 0.0);
        for (int d = 0; d < kDecays; ++d) decayed[d] = records.decayed[place * kDecays + d];
    }
    b.count[r][j] = count;
    for (int d = 0; d < kDecays; ++d) {
        b.decayed[r][d][j] = decayed[d];
        exps[d][j] = -age / c.items->decay_days[d];
    }
    exps[kDecays][j] = typical;
    logs[0][j] = 1 + count;
    logs[1][j] = 1 + age;
    logs[2][j] = 1 + since;
    logs[6][j] = 1 + interval;
    logs[7][j] = repeated ? (age + 0.5) / (interval + 0.5) : 1.0;
    logs[8][j] = (count + 0.5) / (c.history->length + 1.0);
    logs[9][j] = age + 0.5;
}

// Asks for the rows of `size` candidates from `first` on, and for where each item's days are.
INLINE void ask_for_rows(const FeaturesCall& c, int64_t first, int size) {
    const Items& items = *c.items;
    for (int j = 0; j < size; ++j) {
        const int64_t item = known(c, first + j), record = c.item_place[first + j];
        for (int64_t t = 0; t < items.taste_width; t += 16) __builtin_prefetch(items.taste + item * items.taste_width + t);
        const char* statistic = reinterpret_cast<const char*>(statistic_of(c, item));
        __builtin_prefetch(statistic);
        if (items.newest == nullptr) {
            __builtin_prefetch(statistic + kStatistics * sizeof(float) - 1);
            __builtin_prefetch(items.popularity_start + item);
        }
        if (record < 0) continue;
        const Records& records = c.history->item;
        for (const double* column : {records.count, records.first_s, records.newest_s, records.position}) __builtin_prefetch(column + record);
        __builtin_prefetch(records.decayed + record * kDecays);
        __builtin_prefetch(records.decayed + record * kDecays + kDecays - 1);
    }
}

// Asks for the last day of each item, which is the one that a request of now looks for.
INLINE void ask_for_days(const FeaturesCall& c, int64_t first, int size) {
    if (c.items->newest != nullptr) return;
    for (int j = 0; j < size; ++j) {
        const int64_t item = known(c, first + j), last = item < c.items->size ? c.items->popularity_start[item + 1] - 1 : -1;
        if (last < 0) continue;
        __builtin_prefetch(c.items->popularity_key + last);
        __builtin_prefetch(c.items->popularity_decayed + last * kDecays);
        __builtin_prefetch(c.items->popularity_count + last);
    }
}

// Where an item was last taken before `today`: its place among the keys, -1 for never.
INLINE int64_t last_taken(const FeaturesCall& c, int64_t item, int64_t today) {
    if (item >= c.items->size) return -1;
    const int64_t start = c.items->popularity_start[item], end = c.items->popularity_start[item + 1], *key = c.items->popularity_key;
    const int64_t wanted = item << 16 | today;
    if (end > start && key[end - 1] < wanted) return end - 1;
    const int64_t found = std::lower_bound(key + start, key + end, wanted) - key;
    return found > start ? found - 1 : -1;
}

// The newest popularity of an item before `today`.
INLINE void popular(const FeaturesCall& c, int64_t item, int64_t today, int j, Block& b) {
    static constexpr float kNone[kDecays] = {};
    const float *decayed = kNone, *count = kNone;
    double day = double(c.items->first_day - 1);
    const Newest* newest = c.items->newest == nullptr ? nullptr : c.items->newest + item;
    if (newest != nullptr && newest->day < float(today)) {
        if (newest->day >= 0) day = newest->day, decayed = newest->decayed, count = &newest->count;
    } else if (const int64_t place = last_taken(c, item, today); place >= 0) {
        day = double(c.items->popularity_key[place] & 0xffff);
        decayed = c.items->popularity_decayed + place * kDecays;
        count = c.items->popularity_count + place;
    }
    const double gap = double(today) - day;
    for (int d = 0; d < kDecays; ++d) {
        b.exps[2 * (kDecays + 1) + d][j] = -gap / c.items->popularity_days[d];
        b.popular[d][j] = double(decayed[d]);
    }
    b.logs[20 + kDecays][j] = 1 + gap;
    b.logs[20 + kDecays + 1][j] = 1 + double(*count);
}

using Doubles = double __attribute__((vector_size(kLanes * sizeof(double))));
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));

INLINE double sum_of(Doubles v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

INLINE void taste(const FeaturesCall& c, const float* vector, int j, Block& b) {
    const int64_t width = c.items->taste_width, whole = width - width % kLanes;
    Doubles sum[kProfiles + 1] = {};
    for (int64_t t = 0; t < whole; t += kLanes) {
        Floats narrow;
        std::memcpy(&narrow, vector + t, sizeof narrow);
        const Doubles v = __builtin_convertvector(narrow, Doubles);
        for (int p = 0; p < kProfiles; ++p) {
            Doubles profile;
            std::memcpy(&profile, c.history->profile + p * width + t, sizeof profile);
            sum[p] += v * profile;
        }
        sum[kProfiles] += v * v;
    }
    for (int p = 0; p <= kProfiles; ++p) b.dot[p][j] = sum_of(sum[p]);
    for (int64_t t = whole; t < width; ++t) {
        const double v = vector[t];
        for (int p = 0; p < kProfiles; ++p) b.dot[p][j] += v * c.history->profile[p * width + t];
        b.dot[kProfiles][j] += v * v;
    }
}

struct Request {
    double total[kDecays];  // decayed behaviors of all items, the prior included, per item
    double norm[kProfiles];
    float user[kUser];
    int64_t today;
};

Request request_of(const FeaturesCall& c) {
    Request q{};
    const int64_t last = c.items->first_day + c.items->num_days;
    q.today = std::min(std::max(int64_t(std::floor(c.now_s / kDay)), c.items->first_day), last);
    const double items = double(std::max<int64_t>(c.items->size, 1));
    for (int d = 0; d < kDecays; ++d) {
        const int64_t day = q.today - c.items->first_day;
        const double yesterday = day > 0 ? double(c.items->popularity_total[(day - 1) * kDecays + d]) : 0.0;
        q.total[d] = (yesterday * std::exp(-1.0 / c.items->popularity_days[d]) + c.items->prior * items) / items;
    }
    for (int p = 0; p < kProfiles; ++p) {
        double sum = 0;
        for (int64_t t = 0; t < c.items->taste_width; ++t) sum += c.history->profile[p * c.items->taste_width + t] * c.history->profile[p * c.items->taste_width + t];
        q.norm[p] = std::sqrt(sum);
    }
    const double idle = c.history->length > 0 ? std::max(c.now_s - c.history->newest_s, 0.0) / kDay : 0.0;
    q.user[0] = float(std::log1p(c.history->length));
    q.user[1] = float(std::log1p(idle));
    for (int d = 0; d < 2; ++d) q.user[2 + d] = float(std::log1p(c.history->activity[d] * std::exp(-idle / c.items->decay_days[d])));
    q.user[4] = float(c.history->distinct / std::max(c.history->length, 1.0));
    return q;
}

// The features of candidate `first + j` from its columns, in the order of the head's inputs.
INLINE void write(const FeaturesCall& c, const Request& q, const Block& b, int64_t first, int j) {
    float* out = c.feature + (first + j) * kFeatures;
    for (int r = 0; r < 2; ++r) {
        const double(*logs)[kBlock] = b.logs + 10 * r;
        *out++ = b.count[r][j] > 0 ? 1.0f : 0.0f;
        for (int column = 0; column < 6; ++column) *out++ = float(logs[column][j]);
        *out++ = b.count[r][j] > 1.5 ? 1.0f : 0.0f;
        for (int column = 6; column < 9; ++column) *out++ = float(logs[column][j]);
    }
    for (int u = 0; u < kUser; ++u) *out++ = q.user[u];
    const float* statistic = statistic_of(c, known(c, first + j));
    for (int s = 0; s < kStatistics; ++s) *out++ = statistic[s];
    for (int r = 0; r < 2; ++r) *out++ = b.count[r][j] > 0 ? float(b.logs[10 * r + 9][j]) : 0.0f;
    const double own = std::sqrt(b.dot[kProfiles][j]);
    for (int p = 0; p < kProfiles; ++p) {
        const double norm = own * q.norm[p];
        *out++ = norm > 1e-9 ? float(b.dot[p][j] / norm) : 0.0f;
    }
    for (int column = 20; column < kLogs; ++column) *out++ = float(b.logs[column][j]);
}

INLINE void features_of(const FeaturesCall& c) {
    const Request q = request_of(c);
    Block b{};
    for (int k = 0; k < kLogs; ++k) std::fill_n(b.logs[k], kBlock, 1.0);
    for (int64_t first : {0, kBlock}) ask_for_rows(c, first, block_size(c, first));
    ask_for_days(c, 0, block_size(c, 0));
    for (int64_t first = 0; first < c.num_candidates; first += kBlock) {
        const int size = block_size(c, first);
        ask_for_rows(c, first + 2 * kBlock, block_size(c, first + 2 * kBlock));
        ask_for_days(c, first + kBlock, block_size(c, first + kBlock));
        for (int j = 0; j < size; ++j) {
            const int64_t item = known(c, first + j);
            const float* statistic = statistic_of(c, item);
            relate(c, c.history->item, c.item_place[first + j], statistic[c.items->interval_column], 0, j, b);
            relate(c, c.history->category, c.category_place[first + j], statistic[c.items->category_interval_column], 1, j, b);
            taste(c, c.items->taste + item * c.items->taste_width, j, b);
            popular(c, item, q.today, j, b);
        }
        for (int k = 0; k < kExps; ++k)
            for (int j = 0; j < kBlock; ++j) b.exps[k][j] = exponential(b.exps[k][j]);
        for (int r = 0; r < 2; ++r) {
            const double(*exps)[kBlock] = b.exps + (kDecays + 1) * r;
            double(*logs)[kBlock] = b.logs + 10 * r;
            for (int d = 0; d < kDecays; ++d)
                for (int j = 0; j < kBlock; ++j) logs[3 + d][j] = 1 + b.decayed[r][d][j] * exps[d][j];
            for (int j = 0; j < kBlock; ++j) logs[9][j] /= exps[kDecays][j] - 0.5;
        }
        for (int d = 0; d < kDecays; ++d)
            for (int j = 0; j < kBlock; ++j)
                b.logs[20 + d][j] = (b.popular[d][j] * b.exps[2 * (kDecays + 1) + d][j] + c.items->prior) / q.total[d];
        for (int k = 0; k < kLogs; ++k)
            for (int j = 0; j < kBlock; ++j) b.logs[k][j] = logarithm(b.logs[k][j]);
        for (int j = 0; j < size; ++j) write(c, q, b, first, j);
    }
}

void features_portable(const FeaturesCall& c) { features_of(c); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void features_avx2(const FeaturesCall& c) { features_of(c); }
__attribute__((target("avx512f,avx512dq,avx512vl"))) void features_avx512(const FeaturesCall& c) { features_of(c); }
#endif

}  // namespace

// Fills call->feature. The caller has checked that all places lie in their arrays.
DARE_EXPORT int dare_features(const FeaturesCall* call) {
    const FeaturesCall& c = *call;
    if (c.struct_bytes != int64_t(sizeof(FeaturesCall) + sizeof(Items) + sizeof(History))) return 1;
    if (!cpu_runs(c.level)) return 2;
#if defined(__x86_64__)
    if (c.level >= kAvx512) return features_avx512(c), 0;
    if (c.level == kAvx2) return features_avx2(c), 0;
#endif
    return features_portable(c), 0;
}
