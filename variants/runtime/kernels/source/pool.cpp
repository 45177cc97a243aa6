#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

namespace paretoserve {
namespace {

// Threads sleep between loops: whoever calls may have other work for the processors.
class Pool {
 public:
  // Returns false if another caller uses the pool.
  bool try_run(int64_t count, int threads, Task task, void* context) {
    std::unique_lock<std::mutex> caller(caller_, std::try_to_lock);
    if (!caller.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < threads - 1 && add_worker()) {
      }
      task_ = task;
      context_ = context;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      places_ = threads - 1;
      ++loop_;
    }
    for (int i = 1; i < threads; ++i) wake_.notify_one();
    take();
    std::unique_lock<std::mutex> lock(mutex_);
    places_ = 0;
    done_.wait(lock, [this] { return active_ == 0; });
    return true;
  }

 private:
  bool add_worker() {
    try {
      std::thread([this] { work(); }).detach();
    } catch (const std::exception&) {  // no memory, or too many threads
      return false;
    }
    ++workers_;
    return true;
  }

  void work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return places_ > 0 && loop_ != seen; });
      seen = loop_;
      --places_;
      ++active_;
      lock.unlock();
      take();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  void take() {
    for (;;) {
      const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      task_(context_, index);
    }
  }

  std::mutex caller_;  // held while a loop runs
  std::mutex mutex_;   // protects what follows, except `next_`
  std::condition_variable wake_, done_;
  int workers_ = 0;    // threads that exist
  int places_ = 0;     // workers that may still join the loop
  int active_ = 0;     // workers in the loop
  uint64_t loop_ = 0;
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
};

std::atomic<Pool*> pool{nullptr};

// A child has none of the threads, and perhaps a locked mutex. Its copy of the pool is not freed.
void forget_pool() { pool.store(nullptr, std::memory_order_relaxed); }

// The pool lives as long as the process, because its threads do.
Pool* current_pool() {
  Pool* current = pool.load(std::memory_order_acquire);
  if (current) return current;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  Pool* created = new (std::nothrow) Pool;
  if (created && !pool.compare_exchange_strong(current, created, std::memory_order_acq_rel)) {
    delete created;
    return current;
  }
  return created;
}

}  // namespace

void parallel_for(int64_t count, int threads, Task task, void* context) {
  if (threads > count) threads = static_cast<int>(count);
  if (threads > 1) {
    Pool* shared = current_pool();
    if (shared && shared->try_run(count, threads, task, context)) return;
  }
  for (int64_t index = 0; index < count; ++index) task(context, index);
}

}  // namespace paretoserve
