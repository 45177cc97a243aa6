// A pool of threads for short parallel loops.
#pragma once

#include <cstdint>

namespace paretoserve {

using Task = void (*)(void* context, int64_t index);

// Calls `task(context, index)` for all indices below `count`, on up to `threads` threads, and
// returns when all calls have returned. Threads take the next index when they are free.
//
// The caller is one of the threads. If another caller uses the pool, or no thread can be created,
// it does all the work. A thread that wakes too late is not waited for. Safe after a fork: the
// child starts a new pool.
void parallel_for(int64_t count, int threads, Task task, void* context);

}  // namespace paretoserve
