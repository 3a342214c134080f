// Pooling of products over a history (core/operations.h), candidate by candidate in vector code.
#pragma once

#include "core/elementary.h"
#include "cpu/kernel_table.h"

namespace {

void attend(const float* products, int64_t history, int64_t count, int64_t stride, const double* log_weights,
            double temperature, double smoothing, double* sums, double* weights, float* out) {
  for (int64_t i = 0; i < count; ++i) sums[i] = weights[i] = 0.0;
  for (int64_t j = 0; j < history; ++j) {
    const float* const row = products + j * stride;
    const double log_weight = log_weights == nullptr ? 0.0 : log_weights[j];
    for (int64_t i = 0; i < count; ++i) {
      const double product = static_cast<double>(row[i]);
      const double exponent = (product - 1.0) / temperature + log_weight;
      const double weight = salience::fixed_exp(exponent < -700.0 ? -700.0 : exponent);
      const bool looked_at = row[i] > salience::cpu::kNoProduct;
      sums[i] += looked_at ? weight * product : 0.0;
      weights[i] += looked_at ? weight : 0.0;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const double total = weights[i] > 0.0 ? weights[i] : 1.0;
    out[i] = static_cast<float>(sums[i] * salience::fixed_exp(-smoothing * salience::fixed_log(total)));
  }
}

}  // namespace
