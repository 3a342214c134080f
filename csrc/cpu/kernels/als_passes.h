// Passes over the observations of a row, four at a time, so that four horizontal sums overlap. The factors
// are read where they lie: a row's are still in the cache when the next pass wants them, and copying them
// together costs more than it saves.
//
// N is the number of vectors in a row of factors where that is known when compiling (sums then stay in
// registers), else 0.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::AlsObservations;
using salience::Feedback;

constexpr int kEntriesAtOnce = 4;
constexpr int64_t kPrefetchAhead = 16;  // entries; across the ends of rows, which are short

template <int I, int N, class Function>
inline __attribute__((always_inline)) void unrolled(Function& function) {
  if constexpr (I < N) {
    function(int64_t{I});
    unrolled<I + 1, N>(function);
  }
}

// function(v) for each vector v of a row.
template <int N, class Function>
inline __attribute__((always_inline)) void for_vectors(int64_t stride, Function function) {
  if constexpr (N > 0) {
    unrolled<0, N>(function);
  } else {
    for (int64_t v = 0; v < stride / kLanes; ++v) function(v);
  }
}

// Four observations; missing ones have weight 0 and factors 0.
struct Four {
  const float* rows[kEntriesAtOnce];
  float weights[kEntriesAtOnce];
  float targets[kEntriesAtOnce];
};

inline void weigh(const AlsObservations& data, int64_t entry, float& weight, float& target) {
  const float value = data.observations.values[entry];
  if (data.feedback == Feedback::explicit_feedback) {
    weight = 1.0f;
    target = data.shift == nullptr ? value : value - data.shift[data.observations.indices[entry]];
  } else {
    weight = data.alpha * __builtin_fabsf(value);
    target = value > 0.0f ? 1.0f : 0.0f;
  }
}

inline const float* factors_of(const AlsObservations& data, int64_t entry) {
  return data.design.data + data.observations.indices[entry] * data.design.row_stride;
}

inline Four four_at(const AlsObservations& data, int64_t entry, int64_t end, const float* zeros) {
  Four four;
  for (int i = 0; i < kEntriesAtOnce; ++i) {
    const bool there = entry + i < end;
    four.rows[i] = there ? factors_of(data, entry + i) : zeros;
    if (there) {
      weigh(data, entry + i, four.weights[i], four.targets[i]);
    } else {
      four.weights[i] = four.targets[i] = 0.0f;
    }
  }
  return four;
}

// The factors that a later four will want. Fetched a cache line at a time between this four's arithmetic: a
// burst would fill the queue of outstanding loads and stall.
struct Ahead {
  const float* rows[kEntriesAtOnce];
};

inline Ahead ahead_of(const AlsObservations& data, int64_t entry, const float* zeros) {
  Ahead ahead;
  for (int i = 0; i < kEntriesAtOnce; ++i) {
    const int64_t e = entry + kPrefetchAhead + i;
    ahead.rows[i] = e < data.observations.entries ? factors_of(data, e) : zeros;
  }
  return ahead;
}

inline void prefetch(const Ahead& ahead, int64_t c) {
  for (int i = 0; i < kEntriesAtOnce; ++i) __builtin_prefetch(ahead.rows[i] + c, 0, 2);
}

template <int N>
inline void products(const Four& four, const float* x, int64_t stride, float (&out)[kEntriesAtOnce]) {
  F32 sums[kEntriesAtOnce];
  for (int i = 0; i < kEntriesAtOnce; ++i) sums[i] = zero();
  for_vectors<N>(stride, [&](int64_t v) {
    const F32 xv = load(x + v * kLanes);
    for (int i = 0; i < kEntriesAtOnce; ++i)
      sums[i] = multiply_add(load(four.rows[i] + v * kLanes), xv, sums[i]);
  });
  sum_four(sums, out);
}

// Sums over a row of observations, a vector of each for every vector of factors: in registers where N says
// that they fit, else in memory.
template <int N>
struct RowSums {
  float* memory;
  F32 held[N > 0 ? N : 1];

  explicit RowSums(float* where) : memory(where) {
    if constexpr (N > 0)
      for (int v = 0; v < N; ++v) held[v] = load(where + v * kLanes);
  }
  F32 get(int64_t v) const {
    if constexpr (N > 0) return held[v];
    return load(memory + v * kLanes);
  }
  void set(int64_t v, F32 x) {
    if constexpr (N > 0)
      held[v] = x;
    else
      store(memory + v * kLanes, x);
  }
  void keep() const {
    if constexpr (N > 0)
      for (int v = 0; v < N; ++v) store(memory + v * kLanes, held[v]);
  }
};

template <int N>
inline void prepare_pass(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                         const float* x, float* square, float* right, float* residual) {
  constexpr int kHeld = N <= 4 && kLanes == 16 ? N : 0;  // three sums: they fit where one would leave room
  const int64_t stride = data.design.row_stride;
  RowSums<kHeld> squares(square), rights(right), residuals(residual);
  for (int64_t e = begin; e < end; e += kEntriesAtOnce) {
    const Ahead ahead = ahead_of(data, e, zeros);
    const Four four = four_at(data, e, end, zeros);
    float found[kEntriesAtOnce];
    products<N>(four, x, stride, found);
    F32 weight[kEntriesAtOnce], pull[kEntriesAtOnce], error[kEntriesAtOnce];
    for (int i = 0; i < kEntriesAtOnce; ++i) {
      weight[i] = broadcast(four.weights[i]);
      pull[i] = broadcast(four.weights[i] * four.targets[i]);
      error[i] = broadcast(four.weights[i] * (four.targets[i] - found[i]));
    }
    for_vectors<N>(stride, [&](int64_t v) {
      const int64_t c = v * kLanes;
      if (c % 16 == 0) prefetch(ahead, c);
      F32 s = squares.get(v), b = rights.get(v), r = residuals.get(v);
      for (int i = 0; i < kEntriesAtOnce; ++i) {
        const F32 y = load(four.rows[i] + c);
        s = multiply_add(multiply(weight[i], y), y, s);
        b = multiply_add(pull[i], y, b);
        r = multiply_add(error[i], y, r);
      }
      squares.set(v, s);
      rights.set(v, b);
      residuals.set(v, r);
    });
  }
  squares.keep();
  rights.keep();
  residuals.keep();
}

template <int N>
inline void apply_pass(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                       const float* direction, float* image) {
  const int64_t stride = data.design.row_stride;
  RowSums<N> sums(image);
  for (int64_t e = begin; e < end; e += kEntriesAtOnce) {
    const Four four = four_at(data, e, end, zeros);
    float found[kEntriesAtOnce];
    products<N>(four, direction, stride, found);
    F32 scale[kEntriesAtOnce];
    for (int i = 0; i < kEntriesAtOnce; ++i) scale[i] = broadcast(found[i] * four.weights[i]);
    for_vectors<N>(stride, [&](int64_t v) {
      F32 total = sums.get(v);
      for (int i = 0; i < kEntriesAtOnce; ++i)
        total = multiply_add(load(four.rows[i] + v * kLanes), scale[i], total);
      sums.set(v, total);
    });
  }
  sums.keep();
}

template <int N>
inline double loss_pass(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                        const float* x) {
  double total = 0.0;
  for (int64_t e = begin; e < end; e += kEntriesAtOnce) {
    const Four four = four_at(data, e, end, zeros);
    float found[kEntriesAtOnce];
    products<N>(four, x, data.design.row_stride, found);
    for (int i = 0; i < kEntriesAtOnce; ++i) {
      const double error = static_cast<double>(four.targets[i]) - static_cast<double>(found[i]);
      total += static_cast<double>(four.weights[i]) * error * error;
    }
  }
  return total;
}

// Calls function(std-less integral constant N) for the number of vectors in a row.
template <int N>
struct Width {
  static constexpr int value = N;
};

template <class Function>
inline auto with_width(int64_t stride, Function function) {
  if (stride == 4 * kLanes) return function(Width<4>{});
  if (stride == 8 * kLanes) return function(Width<8>{});
  return function(Width<0>{});
}

void als_prepare(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros, const float* x,
                 float* square, float* right, float* residual) {
  with_width(data.design.row_stride, [&](auto width) {
    prepare_pass<decltype(width)::value>(data, begin, end, zeros, x, square, right, residual);
  });
}

void als_apply(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
               const float* direction, float* image) {
  with_width(data.design.row_stride, [&](auto width) {
    apply_pass<decltype(width)::value>(data, begin, end, zeros, direction, image);
  });
}

double als_loss(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros, const float* x) {
  return with_width(data.design.row_stride, [&](auto width) {
    return loss_pass<decltype(width)::value>(data, begin, end, zeros, x);
  });
}

}  // namespace
