// Passes over the observations of a row, eight or four at a time: so many inner products overlap, and a sum
// over the row is loaded and stored once for all of them. The factors are read where they lie: a row's are
// still in the cache when the next pass wants them, and copying them together costs more than it saves.
//
// N is the number of vectors in a row of factors where that is known when compiling (sums then stay in
// registers), else 0.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::AlsObservations;
using salience::Feedback;

// Narrow rows spend more on the sums of their inner products than on the factors.
template <int N>
constexpr bool is_narrow() {
  return N > 0 && N * kLanes <= 64;
}

constexpr int kMostHeld = 8;  // vectors of a row whose sum registers can hold

template <int I, int N, class Function>
inline __attribute__((always_inline)) void unrolled(Function& function) {
  if constexpr (I < N) {
    function(int64_t{I});
    unrolled<I + 1, N>(function);
  }
}

// function(v) for each vector v of a row. Rows of more vectors than registers hold stay loops: unrolled,
// they are too much for GCC to inline, and what the functions sum up goes to memory.
template <int N, class Function>
inline __attribute__((always_inline)) void for_vectors(int64_t stride, Function function) {
  if constexpr (N > 0 && N <= kMostHeld) {
    unrolled<0, N>(function);
  } else {
    const int64_t vectors = N > 0 ? N : stride / kLanes;
    for (int64_t v = 0; v < vectors; ++v) function(v);
  }
}

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

// Observations that are taken together; missing ones have weight 0 and factors 0.
template <int E>
struct Entries {
  const float* rows[E];
  float weights[E];
  float targets[E];
};

template <int E>
inline Entries<E> entries_at(const AlsObservations& data, int64_t entry, int64_t end, const float* zeros) {
  Entries<E> entries;
  for (int i = 0; i < E; ++i) {
    if (entry + i < end) {
      entries.rows[i] = factors_of(data, entry + i);
      weigh(data, entry + i, entries.weights[i], entries.targets[i]);
    } else {
      entries.rows[i] = zeros;
      entries.weights[i] = entries.targets[i] = 0.0f;
    }
  }
  return entries;
}

template <int N>
struct Constant {
  static constexpr int value = N;
};

// function(Constant<E>, entry) along a row. A four ends it where that suffices: missing observations cost as
// much as others.

template <int N, class Function>
inline __attribute__((always_inline)) void for_entries(int64_t begin, int64_t end, Function function) {
  constexpr int kMost = is_narrow<N>() ? 4 : 8;
  int64_t e = begin;
  for (; end - e > kMost - 4; e += kMost) function(Constant<kMost>{}, e);
  if (e < end) function(Constant<4>{}, e);
}

// The factors that later observations will want. Fetched a cache line at a time between the arithmetic: a
// burst would fill the queue of outstanding loads and stall.
template <int E>
struct Ahead {
  const float* rows[E];
};

// Of an entry, or zeros past the last.
inline const float* factors_ahead(const AlsObservations& data, int64_t entry, const float* zeros) {
  return entry < data.observations.entries ? factors_of(data, entry) : zeros;
}

template <int N, int E>
inline Ahead<E> ahead_of(const AlsObservations& data, int64_t entry, const float* zeros) {
  constexpr int64_t kDistance = is_narrow<N>() ? 16 : 8;  // across the ends of rows, which are short
  Ahead<E> ahead;
  for (int i = 0; i < E; ++i) ahead.rows[i] = factors_ahead(data, entry + kDistance + i, zeros);
  return ahead;
}

template <int E>
inline void prefetch(const Ahead<E>& ahead, int64_t c) {
  for (int i = 0; i < E; ++i) __builtin_prefetch(ahead.rows[i] + c);
}

template <int N, int E>
inline void products(const Entries<E>& entries, const float* x, int64_t stride, float (&out)[E]) {
  F32 sums[E / 4][4];
  for (int i = 0; i < E; ++i) sums[i / 4][i % 4] = zero();
  for_vectors<N>(stride, [&](int64_t v) __attribute__((always_inline)) {
    const F32 xv = load(x + v * kLanes);
    for (int i = 0; i < E; ++i)
      sums[i / 4][i % 4] = multiply_add(load(entries.rows[i] + v * kLanes), xv, sums[i / 4][i % 4]);
  });
  for (int i = 0; i < E; i += 4) sum_four(sums[i / 4], out + i);
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
  void clear() {
    static_assert(N > 0);
    for (F32& v : held) v = zero();
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
  for_entries<N>(begin, end, [&](auto count, int64_t e) {
    constexpr int E = decltype(count)::value;
    const Ahead<E> ahead = ahead_of<N, E>(data, e, zeros);
    const Entries<E> entries = entries_at<E>(data, e, end, zeros);
    float found[E];
    products<N>(entries, x, stride, found);
    F32 weight[E], pull[E], error[E];
    for (int i = 0; i < E; ++i) {
      weight[i] = broadcast(entries.weights[i]);
      pull[i] = broadcast(entries.weights[i] * entries.targets[i]);
      error[i] = broadcast(entries.weights[i] * (entries.targets[i] - found[i]));
    }
    for_vectors<N>(stride, [&](int64_t v) __attribute__((always_inline)) {
      const int64_t c = v * kLanes;
      if (c % 16 == 0) prefetch(ahead, c);
      F32 s = squares.get(v), b = rights.get(v), r = residuals.get(v);
      for (int i = 0; i < E; ++i) {
        const F32 y = load(entries.rows[i] + c);
        s = multiply_add(multiply(weight[i], y), y, s);
        b = multiply_add(pull[i], y, b);
        r = multiply_add(error[i], y, r);
      }
      squares.set(v, s);
      rights.set(v, b);
      residuals.set(v, r);
    });
  });
  squares.keep();
  rights.keep();
  residuals.keep();
}

// Returns the sum of w (y . direction)^2: of narrow rows, which have more observations than vectors, as the
// product of the direction and what is added to its image.
template <int N>
inline float apply_pass(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                        const float* direction, float* image) {
  constexpr int kHeld = N <= kMostHeld ? N : 0;
  constexpr bool kNarrow = is_narrow<N>() && kHeld > 0;
  const int64_t stride = data.design.row_stride;
  RowSums<kHeld> sums(image);
  if constexpr (kNarrow) sums.clear();
  float energy = 0.0f;
  for_entries<N>(begin, end, [&](auto count, int64_t e) __attribute__((always_inline)) {
    constexpr int E = decltype(count)::value;
    const Entries<E> entries = entries_at<E>(data, e, end, zeros);
    float found[E];
    products<N>(entries, direction, stride, found);
    F32 scale[E];
    for (int i = 0; i < E; ++i) {
      const float weighed = found[i] * entries.weights[i];
      scale[i] = broadcast(weighed);
      if constexpr (!kNarrow) energy += weighed * found[i];
    }
    for_vectors<N>(stride, [&](int64_t v) __attribute__((always_inline)) {
      F32 total = sums.get(v);
      for (int i = 0; i < E; ++i) total = multiply_add(load(entries.rows[i] + v * kLanes), scale[i], total);
      sums.set(v, total);
    });
  });
  if constexpr (kNarrow) {
    F32 total = zero();
    for_vectors<N>(stride, [&](int64_t v) __attribute__((always_inline)) {
      const int64_t c = v * kLanes;
      total = multiply_add(load(direction + c), sums.get(v), total);
      sums.set(v, add(load(image + c), sums.get(v)));
    });
    energy = sum(total);
  }
  sums.keep();
  return energy;
}

template <int N>
inline double loss_pass(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                        const float* x) {
  double total = 0.0;
  for_entries<N>(begin, end, [&](auto count, int64_t e) {
    constexpr int E = decltype(count)::value;
    const Entries<E> entries = entries_at<E>(data, e, end, zeros);
    float found[E];
    products<N>(entries, x, data.design.row_stride, found);
    for (int i = 0; i < E; ++i) {
      const double error = static_cast<double>(entries.targets[i]) - static_cast<double>(found[i]);
      total += static_cast<double>(entries.weights[i]) * error * error;
    }
  });
  return total;
}

// Calls function(Constant<N>) for the number of vectors in a row.
template <class Function>
inline auto with_width(int64_t stride, Function function) {
  if (stride == 4 * kLanes) return function(Constant<4>{});
  if (stride == 8 * kLanes) return function(Constant<8>{});
  if (kLanes > 4 && stride == 16 * kLanes) return function(Constant<16>{});
  return function(Constant<0>{});
}

void als_prepare(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros, const float* x,
                 float* square, float* right, float* residual) {
  with_width(data.design.row_stride, [&](auto width) {
    prepare_pass<decltype(width)::value>(data, begin, end, zeros, x, square, right, residual);
  });
}

float als_apply(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                const float* direction, float* image) {
  return with_width(data.design.row_stride, [&](auto width) {
    return apply_pass<decltype(width)::value>(data, begin, end, zeros, direction, image);
  });
}

double als_loss(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros, const float* x) {
  return with_width(data.design.row_stride, [&](auto width) {
    return loss_pass<decltype(width)::value>(data, begin, end, zeros, x);
  });
}

}  // namespace
