// The CPU levels, the same numbers in kernels/native_library.py.
#pragma once

#include <cstdint>

enum CpuLevel : int32_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Vnni = 3 };

#define DARE_EXPORT extern "C" __attribute__((visibility("default")))

// True where this CPU and its operating system run code of `level`.
bool cpu_runs(int32_t level);
