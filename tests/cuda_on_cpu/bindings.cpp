// The emulator's own functions, and kernels with mistakes that it must find.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/runtime.h"
#include "cuda/simt.cuh"
#include "emulator.h"

namespace py = pybind11;

namespace salience::cuda {
namespace {

// Which mistake a kernel makes, and its memory: reads and writes one value per thread.
struct MistakeArguments {
  int mistake;
  const float* in;
  float* out;
  int64_t count;
};

enum Mistake : int {
  kNone,
  kNoBarrier,
  kOffByOne,
  kDivergentBarrier,
  kEarlyExit,
  kDivergentWarp,
  kUnwaitedCopy
};

// Reverses every block of 64 values through shared memory.
SALIENCE_KERNEL(64, 1) reverse_blocks(MistakeArguments a) {
  auto& shared = shared_memory<float[64]>();
  const int64_t first = block() * 64;
  shared[thread()] = a.in[first + thread()];
  if (a.mistake != kNoBarrier) block_barrier();
  a.out[first + thread() + (a.mistake == kOffByOne ? 1 : 0)] = shared[63 - thread()];
}

// Meets in ways that only some lanes come to.
SALIENCE_KERNEL(64, 1) meet_badly(MistakeArguments a) {
  if (a.mistake == kDivergentBarrier) {
    if (thread() < 32) {
      block_barrier();
    } else {
      block_barrier();
    }
  }
  if (a.mistake == kEarlyExit && thread() == 5) return;
  if (a.mistake == kDivergentWarp && thread() < 16) warp_barrier();
  block_barrier();
  a.out[block() * 64 + thread()] = shuffle_xor(a.in[block() * 64 + thread()], 1);
}

// Copies blocks of 64 values asynchronously.
SALIENCE_KERNEL(32, 1) copy_blocks(MistakeArguments a) {
  auto& shared = shared_memory<float[64]>();
  if (thread() < 16) copy_async(&shared[4 * thread()], a.in + block() * 64 + 4 * thread());
  copy_async_commit();
  if (a.mistake != kUnwaitedCopy) copy_async_wait<0>();
  block_barrier();
  for (int i = thread(); i < 64; i += 32) a.out[block() * 64 + i] = shared[i];
}

py::object run_mistake(const std::string& kernel, int mistake, const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  Array<float> in(count, nullptr, "values"), out(count, nullptr, "values");
  copy(in.data(), values.data(), in.bytes(), nullptr);
  const MistakeArguments arguments{mistake, in.data(), out.data(), count};
  const LaunchShape shape{count / 64, kernel == "copy_blocks" ? 32 : 64, 64 * 4};
  if (kernel == "reverse_blocks") {
    SALIENCE_LAUNCH(reverse_blocks, shape, nullptr, arguments);
  } else if (kernel == "meet_badly") {
    SALIENCE_LAUNCH(meet_badly, shape, nullptr, arguments);
  } else {
    SALIENCE_LAUNCH(copy_blocks, shape, nullptr, arguments);
  }
  std::vector<float> result(values.size());
  copy(result.data(), out.data(), out.bytes(), nullptr);
  return py::cast(result);
}

// a (16 x 16) times b (8 x 16) transposed, from halves in row-major order through load_matrices.
struct ProductArguments {
  const uint16_t* a;
  const uint16_t* b;
  float* out;
};
SALIENCE_KERNEL(32, 1) multiply_once(ProductArguments p) {
  auto& shared = shared_memory<uint16_t[24 * 16]>();
  for (int i = lane(); i < 256; i += 32) shared[i] = p.a[i];
  for (int i = lane(); i < 128; i += 32) shared[256 + i] = p.b[i];
  block_barrier();
  uint32_t a[4], b[4];
  load_matrices(a, &shared[lane() % 16 * 16 + lane() / 16 * 8]);
  load_matrices(b, &shared[256 + lane() % 8 * 16 + lane() / 8 % 2 * 8]);
  float sum[4] = {};
  multiply_accumulate(sum, a, b[0], b[1]);
  for (int part = 0; part < 4; ++part)
    p.out[(lane() / 4 + part / 2 * 8) * 8 + lane() % 4 * 2 + part % 2] = sum[part];
}

std::vector<float> multiply(const std::vector<float>& a, const std::vector<float>& b) {
  const auto halves = [](const std::vector<float>& values) {
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(half_bits(value));
    return bits;
  };
  const auto left = halves(a), right = halves(b);
  Array<uint16_t> da(256, nullptr, "a"), db(128, nullptr, "b");
  Array<float> out(128, nullptr, "out");
  copy(da.data(), left.data(), da.bytes(), nullptr);
  copy(db.data(), right.data(), db.bytes(), nullptr);
  SALIENCE_LAUNCH(multiply_once, (LaunchShape{1, 32, 24 * 16 * 2}), nullptr,
                  (ProductArguments{da.data(), db.data(), out.data()}));
  std::vector<float> result(128);
  copy(result.data(), out.data(), out.bytes(), nullptr);
  return result;
}

}  // namespace
}  // namespace salience::cuda

void bind_emulator(py::module_& module) {
  using namespace salience::cuda;
  module.def(
      "configure",
      [](uint64_t seed, int64_t memory, int64_t shared_bytes, int multiprocessors, const std::string& skipped,
         bool noise, int64_t launches, int64_t calls, int64_t allocations) {
        emulator::configure(
            {seed, memory, shared_bytes, multiprocessors, skipped, noise, launches, calls, allocations});
      },
      py::arg("seed") = 0, py::arg("memory") = int64_t{1} << 30, py::arg("shared_bytes") = 99 << 10,
      py::arg("multiprocessors") = 2, py::arg("skipped") = "", py::arg("noise") = true,
      py::arg("launches") = -1, py::arg("calls") = -1, py::arg("allocations") = -1);
  module.def("settings", [] {
    const emulator::Settings& now = emulator::settings();
    return py::dict(py::arg("launches") = now.launches, py::arg("calls") = now.calls,
                    py::arg("allocations") = now.allocations);
  });
  module.def("allocated", emulator::allocated);
  module.def("barrier_sites", emulator::barrier_sites);
  module.def("take_launches", [] {
    py::list rows;
    for (const emulator::Launch& launch : emulator::take_launches())
      rows.append(py::make_tuple(launch.kernel, launch.blocks, launch.threads,
                                 reinterpret_cast<uintptr_t>(launch.stream)));
    return rows;
  });
  module.def("run_mistake", run_mistake);
  module.def("multiply", multiply);
  module.def("half_bits", half_bits);
  emulator::configure({});
}
