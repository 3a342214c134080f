// Threads for one call, the caller's and helpers that sleep between calls (helpers.h): none spins, but the
// caller's for some microseconds at the end, and none is still at a call's work when it returns.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/status.h"

namespace salience {

// The cores this process may use: its affinity mask, lowered to its cgroup's CPU quota (v1 or v2,
// rounded up). At least 1. Asked anew on every call, because both can change.
int usable_cores();

// What a call brings with it. `threads` 0 means usable_cores(). `interrupted` (may be empty) is asked
// about twenty times a second, from the calling thread only.
struct Context {
  int threads = 0;
  std::function<bool()> interrupted;
};

// One thread's place in a parallel_for.
class Worker {
 public:
  Worker(int index, const Context& context, std::atomic<bool>& stop)
      : index_(index), context_(context), stop_(stop), asked_(coarse_milliseconds()) {}

  int index() const { return index_; }  // 0 is the calling thread

  // Whether to give up. Long work units ask now and then; it costs a load (and on the calling thread
  // some nanoseconds for a look at the clock).
  bool should_stop();

 private:
  static int64_t coarse_milliseconds();

  int index_;
  const Context& context_;
  std::atomic<bool>& stop_;
  int64_t asked_;
};

// How many workers parallel_for uses for `units` work units of `operations` operations in all: one
// where the work is too small to be worth a second thread.
int worker_count(const Context& context, int64_t units, double operations);

// Runs work(unit, worker) for units 0 .. units in any order on `workers` threads, the caller's among
// them. Floating-point control is IEEE default inside (no flush to zero), whatever the caller set.
// Returns `interrupted` if the caller asked to stop; rethrows the first exception of any unit.
Status parallel_for(const Context& context, int workers, int64_t units,
                    const std::function<void(int64_t unit, Worker& worker)>& work);

}  // namespace salience
