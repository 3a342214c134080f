// What tests ask of the emulator; see simt_host.h for what it does.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace salience::cuda::emulator {

// A kernel did what a GPU would not forgive.
class Report : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Settings {
  uint64_t seed = 0;
  int64_t memory = int64_t{1} << 30;  // of the device, in bytes
  int64_t shared_bytes = 99 << 10;    // of a block
  int multiprocessors = 2;
  std::string skipped;  // a barrier that is ignored, as "file:line"
  bool noise = true;    // matrix products as far off as the hardware may be
  // How many succeed; negative: all. Then the device is lost or, at the next allocation, full.
  int64_t launches = -1, calls = -1, allocations = -1;
};

struct Launch {
  std::string kernel;
  int64_t blocks;
  int threads;
  void* stream;
};

void configure(const Settings& settings);
const Settings& settings();
int64_t allocated();                       // bytes in use
std::vector<Launch> take_launches();       // since the last call
std::vector<std::string> barrier_sites();  // seen so far, as "file:line"
bool is_device_memory(const void* pointer);

}  // namespace salience::cuda::emulator
