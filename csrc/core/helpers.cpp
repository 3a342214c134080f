#include "core/helpers.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace salience {
namespace {

void relax() {
#if defined(__SSE2__)
  _mm_pause();
#endif
}

}  // namespace

class Helpers {
 public:
  // Those of this process. Never destroyed: they sleep until it ends.
  static Helpers& ours() {
    Helpers* found = current_.load();
    if (found != nullptr) return *found;
    Helpers* const made = new Helpers;
    if (current_.compare_exchange_strong(found, made)) return *made;
    delete made;
    return *found;
  }

  void begin(Help& help) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wanted_.push_back(&help);
    int missing = -sleeping_;
    for (const Help* const other : wanted_) missing += other->count_ - other->begun_;
    try {
      for (; missing > 0; --missing) {
        std::thread(&Helpers::serve, this).detach();
        ++sleeping_;  // as good as: the first it does is to look for work
      }
    } catch (const std::exception&) {
      // The system has no more threads or memory to give: those that there are, and the caller, do the work.
    }
    for (int n = 0; n < help.count_; ++n) work_.notify_one();
  }

  void end(Help& help) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      wanted_.erase(std::remove(wanted_.begin(), wanted_.end(), &help), wanted_.end());
    }
    // Those at work mostly end within microseconds, and to be woken takes tens of them.
    const auto patience = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (help.running_ > 0 && std::chrono::steady_clock::now() < patience) relax();
    if (help.running_ == 0) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return help.running_ == 0; });
  }

 private:
  void serve() {
    pthread_setname_np(pthread_self(), "salience");
    cpu_set_t cpus;
    bool has_cpus = false;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return !wanted_.empty(); });
      --sleeping_;
      Help& help = *wanted_.front();
      const int index = ++help.begun_;
      ++help.running_;
      if (help.begun_ == help.count_) wanted_.pop_front();
      lock.unlock();
      if (help.has_cpus_ && !(has_cpus && CPU_EQUAL(&cpus, &help.cpus_))) {
        cpus = help.cpus_;
        has_cpus = pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus) == 0;
      }
      help.run_(index);
      lock.lock();
      ++sleeping_;
      if (--help.running_ == 0) done_.notify_all();  // the last word: help may be gone
    }
  }

  static std::atomic<Helpers*> current_;
  static const int forgotten_by_children_;

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Help*> wanted_;  // with work that nobody has begun
  int sleeping_ = 0;
};

std::atomic<Helpers*> Helpers::current_{nullptr};
const int Helpers::forgotten_by_children_ = pthread_atfork(nullptr, nullptr, [] { current_.store(nullptr); });

Help::Help(int count, const std::function<void(int)>& run)
    : run_(run), count_(count), has_cpus_(sched_getaffinity(0, sizeof cpus_, &cpus_) == 0) {
  if (count_ > 0) Helpers::ours().begin(*this);
}

Help::~Help() {
  if (count_ > 0) Helpers::ours().end(*this);
}

}  // namespace salience
