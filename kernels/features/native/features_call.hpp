// What crosses the C ABI of the candidate features. Mirrored by kernels/features/native_backend.py.
#pragma once

#include <cstdint>

constexpr int kDecays = 3;      // time constants of the decayed counts, and of the popularities
constexpr int kProfiles = 3;    // taste profiles
constexpr int kStatistics = 9;  // frozen statistics of an item
constexpr int kRelation = 11;   // features about a candidate's item, and about its category
constexpr int kUser = 5;
constexpr int kFeatures = 2 * kRelation + kUser + kStatistics + 2 + kProfiles + kDecays + 2;

// What a history says about each of its keys.
struct Records {
    int64_t size;           // D
    const double* count;    // [D] behaviors
    const double* first_s;  // [D] unix seconds of the first
    const double* newest_s;
    const double* position;  // [D] place of the newest
    const double* decayed;   // [D, kDecays] decayed count as of the newest
};

// One user's history.
struct History {
    Records item, category;
    const double* activity;  // [kDecays] decayed number of behaviors as of newest_s
    const double* profile;   // [kProfiles, T]
    double length, newest_s;
    double distinct, first;  // different items; position of the oldest behavior
};

// What a request of now reads of an item beside its taste, in one line of memory.
struct Newest {
    float statistic[kStatistics];
    float decayed[kDecays];  // of the last day on which it was taken
    float count, day;        // day -1: never taken
    float unused[2];
};
static_assert(sizeof(Newest) == 64, "a cache line");

// What a model knows of its items. Item I, and every place outside 0..I, is the item nobody knows.
struct Items {
    int64_t size;         // I
    int64_t taste_width;  // T
    int64_t num_days;     // of total
    int64_t first_day;
    const Newest* newest;             // [I + 1], or null
    const float* statistic;           // [I + 1, kStatistics]
    const float* taste;               // [I + 1, T]
    const int64_t* popularity_key;    // [P] item << 16 | day, ascending
    const float* popularity_count;    // [P]
    const float* popularity_decayed;  // [P, kDecays]
    const int32_t* popularity_start;  // [I + 1] first key of each item, then P
    const float* popularity_total;    // [num_days, kDecays]
    const double* popularity_days;    // [kDecays]
    const double* decay_days;         // [kDecays]
    double prior;                     // decayed behaviors that every item is given
    int32_t interval_column, category_interval_column;  // of statistic: log1p of the typical days between behaviors
};

struct FeaturesCall {
    int64_t struct_bytes;  // the sizes of the three structs as the caller knows them: refuses a library of another version
    int64_t num_candidates;
    const Items* items;
    const History* history;
    const int32_t* place;           // [N] in the items
    const int32_t* item_place;      // [N] in history->item, -1: never seen
    const int32_t* category_place;  // [N] in history->category, -1: never seen
    float* feature;                 // [N, kFeatures] out
    double now_s;
    int32_t level;
};
