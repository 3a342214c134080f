// Threads that help the calls of this process. They sleep between calls, on the CPU where they worked last: a
// thread that is started anew often shares the CPU of its parent for milliseconds, where the machine had been
// idle. A forked child begins without any.
#pragma once

#include <sched.h>

#include <atomic>
#include <functional>

namespace salience {

// A call's wish for help: run(1) .. run(count), each on a helper of its own as far as helpers come in time.
class Help {
 public:
  Help(int count, const std::function<void(int)>& run);
  // Takes back what no helper has begun and waits for the rest.
  ~Help();
  Help(const Help&) = delete;
  Help& operator=(const Help&) = delete;

 private:
  friend class Helpers;
  const std::function<void(int)>& run_;
  const int count_;
  int begun_ = 0;
  std::atomic<int> running_{0};
  bool has_cpus_;
  cpu_set_t cpus_;  // where the caller may run, and so its helpers
};

}  // namespace salience
