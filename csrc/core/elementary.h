// Logarithm and exponential of a few fixed operations, each rounded to float64: the same bits on every
// machine, which the C library's do not promise. Relative error below 1e-15.
//
// Static, so that kernels may use them too (see cpu/kernel_table.h); without branches, so that loops of them
// become vector code.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace salience {
namespace {

constexpr double kLn2High = 0x1.62e42fefa38p-1;  // trailing zeros: its products with exponents are exact
constexpr double kLn2Low = 0x1.ef35793c7673p-45;

// Of a positive, finite, normal number. log(2^e m) = e log 2 + 2 atanh(s), s = (m - 1) / (m + 1).
SALIENCE_HOST_DEVICE inline double fixed_log(double x) {
  int64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  // m from sqrt(1/2) to sqrt(2): the exponent counts from there.
  const int64_t exponent = (bits - 0x3fe6a09e667f3bcd) >> 52;
  const uint64_t shifted = static_cast<uint64_t>(bits) - (static_cast<uint64_t>(exponent) << 52);
  double m;
  std::memcpy(&m, &shifted, sizeof m);
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  constexpr double kTerms[] = {1.0 / 21.0, 1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0,
                               1.0 / 11.0, 1.0 / 9.0,  1.0 / 7.0,  1.0 / 5.0,  1.0 / 3.0};
  double sum = 1.0 / 23.0;
  for (const double term : kTerms) sum = sum * z + term;
  const double e = static_cast<double>(exponent), twice = 2.0 * s;
  return e * kLn2High + (twice + (twice * (sum * z) + e * kLn2Low));
}

// Of a number from -708 to 709. exp(n log 2 + r) = 2^n exp(r), |r| <= log(2) / 2.
SALIENCE_HOST_DEVICE inline double fixed_exp(double x) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves whole numbers
  const double shifted = x * 0x1.71547652b82fep0 + kRound, n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  constexpr double kTerms[] = {1.0 / 479001600.0,
                               1.0 / 39916800.0,
                               1.0 / 3628800.0,
                               1.0 / 362880.0,
                               1.0 / 40320.0,
                               1.0 / 5040.0,
                               1.0 / 720.0,
                               1.0 / 120.0,
                               1.0 / 24.0,
                               1.0 / 6.0,
                               0.5,
                               1.0,
                               1.0};
  double sum = 1.0 / 6227020800.0;
  for (const double term : kTerms) sum = sum * r + term;
  int64_t bits, zero;
  const double round = kRound;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&zero, &round, sizeof zero);
  const uint64_t scale = static_cast<uint64_t>(bits - zero + 1023) << 52;
  double power;
  std::memcpy(&power, &scale, sizeof power);
  return sum * power;
}

}  // namespace
}  // namespace salience
