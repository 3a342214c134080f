// The limits of this machine, measured: what benchmarks compare the scan with.
#pragma once

#include "core/parallel_for.h"

namespace salience::cpu {

struct MachineLimits {
  double products_per_second = 0.0;  // 16-bit multiply-adds in registers, random data, all threads
  double bytes_per_second = 0.0;     // read from memory, all threads
};

// The best of a few rounds of some 0.1 s each.
MachineLimits measure_limits(int threads);

}  // namespace salience::cpu
