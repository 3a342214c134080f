#include "cpu/limits.h"

#include <algorithm>
#include <chrono>

#include "core/random.h"
#include "cpu/catalogue.h"

namespace salience::cpu {
namespace {

constexpr int64_t kSteps = 2'000'000;
constexpr int64_t kRead = 64ll << 20;  // elements of each thread: beyond any cache

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

MachineLimits measure_limits(int threads) {
  std::vector<float> normal(4096);
  random_normal(7, 0, 0, 4096, normal.data());
  std::vector<uint16_t> data(4096);
  // Numbers both encodings take for ordinary ones: bfloat16 of about 0.01 to 3.
  for (size_t i = 0; i < data.size(); ++i) {
    uint32_t bits;
    std::copy_n(reinterpret_cast<const char*>(&normal[i]), sizeof bits, reinterpret_cast<char*>(&bits));
    data[i] = static_cast<uint16_t>(bits >> 16);
  }
  PackedMemory memory(threads * kRead + 4096);
  std::fill_n(memory.data(), threads * kRead + 4096, uint16_t{1});
  std::vector<int64_t> done(static_cast<size_t>(threads));
  MachineLimits limits;
  const auto on_all = [&](const std::function<void(int64_t)>& work) {
    return seconds([&] {
      const Status status =
          parallel_for({threads, {}}, threads, threads, [&](int64_t unit, Worker&) { work(unit); });
      static_cast<void>(status);
    });
  };
  for (int round = 0; round < 4; ++round) {
    const double computing = on_all([&](int64_t unit) {
      kernels().enter_scan();
      done[static_cast<size_t>(unit)] = kernels().bare_products(data.data(), kSteps);
      kernels().leave_scan();
    });
    const double products = static_cast<double>(done[0]) * threads;
    const double reading =
        on_all([&](int64_t unit) { kernels().bare_read(memory.data() + unit * kRead, kRead); });
    limits.products_per_second = std::max(limits.products_per_second, products / computing);
    limits.bytes_per_second =
        std::max(limits.bytes_per_second, static_cast<double>(2 * kRead * threads) / reading);
  }
  return limits;
}

}  // namespace salience::cpu
