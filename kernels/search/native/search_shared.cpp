// What the threads of a search share: the work of a call, and memory that lives between calls.
#include <cstdlib>
#include <new>

#include "search_call.hpp"
#include "thread_pool.hpp"

void run_shared(void (*search)(const SearchPlan&), const SearchPlan& plan, int64_t helpers) {
    struct Task {
        void (*search)(const SearchPlan&);
        const SearchPlan* plan;
    } task{search, &plan};
    const auto work = [](void* context) {
        const Task& one = *static_cast<const Task*>(context);
        try {
            one.search(*one.plan);
        } catch (const std::bad_alloc&) {
            one.plan->no_memory->store(true);
        }
    };
    run_with_helpers(work, &task, helpers);
}

Arena::~Arena() { std::free(data); }

void Arena::reserve(size_t bytes) {
    if (bytes <= size) return;
    std::free(data);
    size = 0;
    const size_t wanted = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    data = static_cast<char*>(std::aligned_alloc(4096, wanted));
    if (data == nullptr) throw std::bad_alloc();
    size = wanted;
}
