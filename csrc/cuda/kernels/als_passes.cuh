// Passes of a block over observations of one row: the factors of some of them are gathered once into shared
// memory, where every pass that follows reads them.
//
// Gathers are of 16 bits (als_losses.cuh says how they are scaled) or of 32. Staged rows are an odd number of
// words apart, so that 32 threads, each at an observation of its own, meet 32 banks.
#pragma once

#include "core/operations.h"
#include "cuda/segments.h"
#include "cuda/simt.cuh"

namespace salience::cuda {

inline constexpr int kAlsThreads = 256;  // most of a block
inline constexpr int kPassSums = 3;      // most sums that one pass makes

// What a half-step reads, on the device. Rows are numbered from 0 in what is there of them at a time.
struct AlsView {
  const int64_t* indptr = nullptr;
  const int32_t* indices = nullptr;
  const float* values = nullptr;
  Matrix<const float> design;
  const uint16_t* halves = nullptr;  // null: gathers of 32 bits
  const float* scales = nullptr;     // of columns: element = half * scale
  const float* shift = nullptr;      // null: implicit feedback
  float alpha = 1.0f;
};

struct Weighed {
  float weight;
  float target;
};

SALIENCE_DEVICE Weighed weigh(const AlsView& data, int64_t entry) {
  const float value = data.values[entry];
  if (data.shift != nullptr) return {1.0f, value - data.shift[data.indices[entry]]};
  return {data.alpha * (value < 0.0f ? -value : value), value > 0.0f ? 1.0f : 0.0f};
}

inline int64_t staged_words(bool half, int64_t stride) { return half ? stride / 2 : stride; }

// Where a block keeps what its passes share.
struct PassMemory {
  float* scaled;        // stride: the vector of a pass, times the columns' scales
  float* partial;       // sums x parts x stride
  float* coefficients;  // sums x capacity
  uint32_t* words;      // capacity x pitch
  int64_t stride;
  int64_t pitch;
  int64_t capacity;  // observations
  int parts;         // groups of threads that share a sum
};

inline int pass_parts(int threads, int64_t words) {
  const int64_t each = (words + 31) / 32 * 32;
  return each >= threads ? 1 : static_cast<int>(threads / each);
}

inline int64_t pass_bytes(bool half, int64_t stride, int64_t capacity, int threads) {
  const int64_t words = staged_words(half, stride);
  return 4 * (stride + kPassSums * pass_parts(threads, words) * stride + kPassSums * capacity +
              capacity * (words + 1));
}

template <bool Half>
SALIENCE_DEVICE PassMemory pass_memory(float* memory, int64_t stride, int64_t capacity, int parts) {
  const int64_t words = Half ? stride / 2 : stride;
  PassMemory found;
  found.scaled = memory;
  found.partial = memory + stride;
  found.coefficients = found.partial + kPassSums * parts * stride;
  found.words = reinterpret_cast<uint32_t*>(found.coefficients + kPassSums * capacity);
  found.stride = stride;
  found.pitch = words + 1;
  found.capacity = capacity;
  found.parts = parts;
  return found;
}

SALIENCE_DEVICE float scale_of(const AlsView& data, int64_t column) {
  return data.halves == nullptr ? 1.0f : data.scales[column];
}

// Brings the factors of observations begin .. begin + count; a warp takes four at a time, so that loads
// overlap.
template <bool Half>
SALIENCE_DEVICE void stage(const AlsView& data, int64_t begin, int64_t count, const PassMemory& m) {
  constexpr int kAtOnce = 4;
  const int64_t words = m.pitch - 1;
  const auto* const from = Half ? reinterpret_cast<const uint32_t*>(data.halves)
                                : reinterpret_cast<const uint32_t*>(data.design.data);
  for (int64_t first = kAtOnce * warp(); first < count; first += kAtOnce * (threads() / 32)) {
    const uint32_t* rows[kAtOnce];
    SALIENCE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t k = first + i < count ? first + i : first;
      rows[i] = from + data.indices[begin + k] * words;
    }
    for (int64_t w = lane(); w < words; w += 32) {
      uint32_t read[kAtOnce];
      SALIENCE_UNROLL
      for (int i = 0; i < kAtOnce; ++i) read[i] = rows[i][w];
      SALIENCE_UNROLL
      for (int i = 0; i < kAtOnce; ++i)
        if (first + i < count) m.words[(first + i) * m.pitch + w] = read[i];
    }
  }
}

// The elements of a staged word: two of 16 bits, or one of 32.
template <bool Half>
SALIENCE_DEVICE float element_of(uint32_t word, int which) {
  if constexpr (Half) return half_value(static_cast<uint16_t>(which == 0 ? word : word >> 16));
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// put(k, product of staged row k with m.scaled): a thread for each row, or where these are few, a warp.
template <bool Half, class Put>
SALIENCE_DEVICE void multiply_staged(const PassMemory& m, int64_t count, Put put) {
  constexpr int kElements = Half ? 2 : 1;
  const int64_t words = m.pitch - 1;
  const bool by_warp = words >= 32 && 4 * count <= threads();
  const int step = by_warp ? 32 : 1, start = by_warp ? lane() : 0;
  const int64_t first = by_warp ? warp() : thread(), stride = by_warp ? threads() / 32 : threads();
  for (int64_t k = first; k < count; k += stride) {
    const uint32_t* const row = m.words + k * m.pitch;
    float sums[2] = {};
    for (int64_t w = start; w < words; w += step) {
      const uint32_t word = row[w];
      SALIENCE_UNROLL
      for (int i = 0; i < kElements; ++i)
        sums[i] = multiply_add(element_of<Half>(word, i), m.scaled[w * kElements + i], sums[i]);
    }
    float total = sums[0] + sums[1];
    if (by_warp)
      for (int mask = 16; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
    if (start == 0) put(k, total);
  }
}

// Adds to m.partial, for each of Sums, coefficient k times staged row k. Every element of m.partial belongs
// to one thread.
template <bool Half, int Sums>
SALIENCE_DEVICE void add_staged(const PassMemory& m, int64_t count) {
  constexpr int kElements = Half ? 2 : 1;
  const int64_t words = m.pitch - 1;
  const int across = threads() / m.parts, part = thread() / across;
  if (part >= m.parts) return;
  for (int64_t w = thread() % across; w < words; w += across) {
    float sums[Sums][kElements];
    SALIENCE_UNROLL
    for (int s = 0; s < Sums; ++s) SALIENCE_UNROLL
    for (int i = 0; i < kElements; ++i)
      sums[s][i] = m.partial[(s * m.parts + part) * m.stride + w * kElements + i];
    for (int64_t k = part; k < count; k += m.parts) {
      const uint32_t word = m.words[k * m.pitch + w];
      SALIENCE_UNROLL
      for (int i = 0; i < kElements; ++i) {
        const float y = element_of<Half>(word, i);
        SALIENCE_UNROLL
        for (int s = 0; s < Sums; ++s) {
          const float square = Sums == kPassSums && s == 0 ? y * y : y;
          sums[s][i] = multiply_add(m.coefficients[s * m.capacity + k], square, sums[s][i]);
        }
      }
    }
    SALIENCE_UNROLL
    for (int s = 0; s < Sums; ++s) SALIENCE_UNROLL
    for (int i = 0; i < kElements; ++i)
      m.partial[(s * m.parts + part) * m.stride + w * kElements + i] = sums[s][i];
  }
}

// Clears what add_staged adds to, each element by the thread that it belongs to.
template <bool Half, int Sums>
SALIENCE_DEVICE void clear_sums(const PassMemory& m) {
  constexpr int kElements = Half ? 2 : 1;
  const int across = threads() / m.parts, part = thread() / across;
  if (part >= m.parts) return;
  for (int64_t w = thread() % across; w < m.pitch - 1; w += across)
    for (int s = 0; s < Sums; ++s)
      for (int i = 0; i < kElements; ++i)
        m.partial[(s * m.parts + part) * m.stride + w * kElements + i] = 0.0f;
}

SALIENCE_DEVICE float sum_of(const PassMemory& m, int sum, int64_t column) {
  float total = 0.0f;
  for (int part = 0; part < m.parts; ++part) total += m.partial[(sum * m.parts + part) * m.stride + column];
  return total;
}

// What a pass is for. prepare: sums of w y y, w t y and w (t - y.x) y for x in m.scaled; apply: of w (y.d) y.
enum class Pass { prepare, apply };

template <Pass P>
inline constexpr int kSumsOf = P == Pass::prepare ? kPassSums : 1;

// One pass over staged observations, from m.scaled to m.partial: those are there after a barrier, and before
// one may be written again.
template <bool Half, Pass P>
SALIENCE_DEVICE void pass_over(const AlsView& data, int64_t begin, int64_t count, const PassMemory& m) {
  multiply_staged<Half>(m, count, [&](int64_t k, float product) {
    const Weighed w = weigh(data, begin + k);
    if constexpr (P == Pass::apply) {
      m.coefficients[k] = w.weight * product;
    } else {
      m.coefficients[k] = w.weight;
      m.coefficients[m.capacity + k] = w.weight * w.target;
      m.coefficients[2 * m.capacity + k] = w.weight * (w.target - product);
    }
  });
  block_barrier();  // the coefficients are there
  add_staged<Half, kSumsOf<P>>(m, count);
}

// How a row ended.
struct RowResult {
  float residual;  // relative; negative where the row was solved exactly
  int32_t steps;
  RowOutcome outcome;
};

// The systems of a half-step: for row u, diag(diagonal) + ridge_u I + sum of w y y^T.
struct AlsSystems {
  AlsView data;
  const float* diagonal = nullptr;  // stride
  const float* ridge = nullptr;     // one for each row
  Matrix<const float> prior;        // null: zero
  Matrix<float> solution;
  float relaxation = 1.0f;
  RowResult* results = nullptr;
};

SALIENCE_DEVICE float prior_of(const AlsSystems& s, int64_t row, int64_t column) {
  return s.prior.data == nullptr ? 0.0f : s.prior.row(row)[column];
}

SALIENCE_DEVICE bool is_finite(float x) { return x - x == 0.0f; }

// start + relaxation * (solved - start).
SALIENCE_DEVICE float relaxed(const AlsSystems& s, float start, float solved) {
  return s.relaxation == 1.0f ? solved : multiply_add(s.relaxation, solved - start, start);
}

// Sums of one value of every thread, the same for all: within warps, then over these. Each use between two
// other barriers has a `slot` of its own.
inline constexpr int kSumSlots = 3;
struct BlockSums {
  float values[kSumSlots][kPassSums][kAlsThreads / 32];
};

template <int Count>
SALIENCE_DEVICE void sum_over_block(float (&values)[Count], BlockSums& shared, int slot) {
  SALIENCE_UNROLL
  for (int n = 0; n < Count; ++n)
    for (int mask = 16; mask > 0; mask /= 2) values[n] += shuffle_xor(values[n], mask);
  if (lane() == 0)
    for (int n = 0; n < Count; ++n) shared.values[slot][n][warp()] = values[n];
  block_barrier();  // so are the sums of all warps
  SALIENCE_UNROLL
  for (int n = 0; n < Count; ++n) {
    values[n] = 0.0f;
    for (int w = 0; w < threads() / 32; ++w) values[n] += shared.values[slot][n][w];
  }
}

}  // namespace salience::cuda
