// The threads that all operations share.
#pragma once

#include <cstdint>

// Calls work(context) on this thread and on up to `helpers` others, and returns when all of them have. It must share the work out itself, do all of
// it where no helper comes, and not throw.
void run_with_helpers(void (*work)(void*), void* context, int64_t helpers);
