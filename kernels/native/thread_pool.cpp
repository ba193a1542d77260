// A few threads that wait for work: starting one takes as long as a small search, and its memory would be fresh each time.
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "thread_pool.hpp"

namespace {

constexpr std::chrono::microseconds kPatience{100};

struct Job {
    void (*work)(void*);
    void* context;
    int64_t wanted, running;
};

class Pool {
  public:
    void run(Job& job) {
        const int64_t helpers = job.wanted;  // which those who come count down
        {
            const std::lock_guard<std::mutex> hold(lock_);
            while (threads_ < job.wanted && start()) {
            }
            jobs_.push_back(&job);
        }
        for (int64_t i = 0; i < helpers; ++i) work_.notify_one();
        job.work(job.context);
        std::unique_lock<std::mutex> hold(lock_);
        // Who has not come by now need not come: nothing is left to do.
        for (auto at = jobs_.begin(); at != jobs_.end(); ++at) {
            if (*at == &job) {
                jobs_.erase(at);
                break;
            }
        }
        // A helper that still works is about to end: sooner, as a rule, than this thread could fall asleep and be woken.
        const auto until = std::chrono::steady_clock::now() + kPatience;
        while (job.running && std::chrono::steady_clock::now() < until) {
            hold.unlock();
            std::this_thread::yield();
            hold.lock();
        }
        done_.wait(hold, [&job] { return job.running == 0; });
    }

  private:
    bool start() {
        try {
            std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            return false;  // no thread to be had: the caller does all of it
        }
        ++threads_;
        return true;
    }

    void serve() {
        std::unique_lock<std::mutex> hold(lock_);
        for (;;) {
            work_.wait(hold, [this] { return !jobs_.empty(); });
            Job* const job = jobs_.front();
            if (--job->wanted == 0) jobs_.pop_front();
            ++job->running;
            hold.unlock();
            job->work(job->context);
            hold.lock();
            if (--job->running == 0) done_.notify_all();
        }
    }

    std::mutex lock_;
    std::condition_variable work_, done_;
    std::deque<Job*> jobs_;
    int64_t threads_ = 0;
};

// Never destroyed: its threads outlive main. A forked child has none of them, so it gets a new one.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        pool = new Pool;
#if !defined(_WIN32)
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
    });
    return *pool;
}

}  // namespace

void run_with_helpers(void (*work)(void*), void* context, int64_t helpers) {
    Job job{work, context, helpers, 0};
    if (helpers <= 0) work(context);
    else the_pool().run(job);
}
