#include "core/parallel_for.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <exception>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>

#include "core/helpers.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace salience {
namespace {

// Below this many operations a second thread, which has to wake, costs more than it saves.
constexpr double kOperationsPerWorker = 2e5;

int affinity_cores() {
  // The mask may be larger than cpu_set_t on big machines: grow it until the kernel accepts it.
  for (int cpus = 1024; cpus <= (1 << 20); cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(cpus);
    CPU_ZERO_S(size, set);
    const int failed = sched_getaffinity(0, size, set);
    const int count = failed ? 0 : CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

// Cores granted by a "<quota> <period>" pair; infinite where there is no limit.
double granted(const std::string& quota, const std::string& period) {
  try {
    const double q = std::stod(quota);
    const double p = std::stod(period);
    if (q > 0 && p > 0) return q / p;
  } catch (const std::exception&) {  // "max", empty, absent: no limit
  }
  return HUGE_VAL;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double group_limit(const std::string& folder, bool version_2) {
  if (!version_2) {
    return granted(first_line(folder + "/cpu.cfs_quota_us"), first_line(folder + "/cpu.cfs_period_us"));
  }
  std::istringstream line(first_line(folder + "/cpu.max"));
  std::string quota, period;
  line >> quota >> period;
  return granted(quota, period);
}

// The tightest limit on the way from this process's group up to the root. /proc/self/cgroup names the
// group; inside a container it often names one that only the host can see, so the root counts too.
double cgroup_cores() {
  double limit = HUGE_VAL;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool version_2 = controllers == ",,";
    if (!version_2 && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::string path = line.substr(second + 1);; path.erase(path.find_last_of('/'))) {
      if (path == "/") path.clear();
      limit = std::min(limit, group_limit(root + path, version_2));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return limit;
}

// IEEE defaults for as long as it lives: a caller (or a library it loaded with -ffast-math) may have
// switched on flush-to-zero, which would change canonical scores.
class DefaultFloatingPoint {
 public:
#if defined(__SSE2__)
  DefaultFloatingPoint() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultFloatingPoint() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  DefaultFloatingPoint() {}
  ~DefaultFloatingPoint() {}

 public:
#endif
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;
};

}  // namespace

int usable_cores() {
  const double cores = std::min<double>(affinity_cores(), std::ceil(cgroup_cores()));
  return std::max(1, static_cast<int>(cores));
}

// As of the last tick of the system, a few milliseconds ago at most.
int64_t Worker::coarse_milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

bool Worker::should_stop() {
  if (index_ == 0 && context_.interrupted) {
    const int64_t now = coarse_milliseconds();
    if (now - asked_ > 50) {
      asked_ = now;
      if (context_.interrupted()) stop_.store(true, std::memory_order_relaxed);
    }
  }
  return stop_.load(std::memory_order_relaxed);
}

int worker_count(const Context& context, int64_t units, double operations) {
  const int64_t threads = context.threads > 0 ? context.threads : usable_cores();
  const double worthwhile = std::max(1.0, operations / kOperationsPerWorker);
  const int64_t useful =
      worthwhile < static_cast<double>(threads) ? static_cast<int64_t>(worthwhile) : threads;
  return static_cast<int>(std::max<int64_t>(1, std::min(useful, units)));
}

Status parallel_for(const Context& context, int workers, int64_t units,
                    const std::function<void(int64_t, Worker&)>& work) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr failure;
  std::mutex failure_mutex;

  const std::function<void(int)> run = [&](int index) {
    const DefaultFloatingPoint guard;
    Worker worker(index, context, stop);
    try {
      while (!worker.should_stop()) {
        const int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
        if (unit >= units) break;
        work(unit, worker);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
      stop.store(true, std::memory_order_relaxed);
    }
  };

  {
    const Help help(workers - 1, run);
    run(0);
  }
  if (failure) std::rethrow_exception(failure);
  if (stop.load()) return Status::interrupted();
  return {};
}

}  // namespace salience
