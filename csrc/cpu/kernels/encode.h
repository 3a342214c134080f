// From floats to the 16 bits that the scan reads, with the rounding error measured on the way.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/pairs.h"

namespace {

using salience::cpu::EncodeArguments;
using salience::cpu::EncodeBytesArguments;

// Calls step(j, the eight elements from j of weight * row - centre) for j = 0, 8, ..; zeros pad the last.
template <class Step>
inline __attribute__((always_inline)) void for_each_centred(const EncodeArguments& a, int64_t row,
                                                            Step step) {
  const F64x8 weight = broadcast8(a.weights[row]);
  const float* const x = a.rows[row];
  int64_t j = 0;
  for (; j + 8 <= a.dimensions; j += 8)
    step(j, subtract8(multiply8(widen8(x + j), weight), load8(a.centre + j)));
  if (j < a.dimensions)
    step(j, subtract8(multiply8(widen8(x + j, a.dimensions - j), weight), load8(a.centre + j)));
}

void centred_squares(const EncodeArguments& a) {
  for (int64_t r = 0; r < a.count; ++r) {
    F64x8 sum = zero8();
    for_each_centred(a, r, [&](int64_t, F64x8 x) { sum = add8(sum, multiply8(x, x)); });
    a.squares[r] = lane_tree(sum);
  }
}

void largest_squares(const EncodeArguments& a) {
  for (int64_t r = 0; r < a.count; ++r) {
    F64x8 most = zero8();
    if (a.weights[r] == a.weights[r])
      for_each_centred(a, r, [&](int64_t, F64x8 x) { most = larger8(most, multiply8(x, x)); });
    double squares[8];
    store8(squares, most);
    for (int i = 1; i < 8; ++i)
      if (squares[i] > squares[0]) squares[0] = squares[i];
    a.squares[r] = squares[0];
  }
}

// Rows by store(place, eight scaled elements), which returns what it stored.
template <class Element, class Store>
inline void encode_rows(const EncodeArguments& a, const double* scales, int64_t scale_step, Element* rows,
                        Store store) {
  if (a.depth == 0) {
    for (int64_t r = 0; r < a.count; ++r) a.squares[r] = 0.0;
    return;
  }
  const int64_t written = (a.dimensions + 7) / 8 * 8;
  for (int64_t r = 0; r < a.count; ++r) {
    Element* const out = rows + r * a.depth;
    const F64x8 scale = broadcast8(scales[r * scale_step]);
    F64x8 sum = zero8();
    if (a.weights[r] == a.weights[r]) {
      for_each_centred(a, r, [&](int64_t j, F64x8 x) {
        const F64x8 scaled = multiply8(x, scale);
        const F64x8 lost = subtract8(scaled, store(out + j, scaled));
        sum = add8(sum, multiply8(lost, lost));
      });
      std::memset(out + written, 0, static_cast<size_t>(a.depth - written) * sizeof(Element));
    } else {
      std::memset(out, 0, static_cast<size_t>(a.depth) * sizeof(Element));
    }
    a.squares[r] = lane_tree(sum);
  }
}

void encode(const EncodeArguments& a) {
  encode_rows(a, &a.scale, 0, a.out, [](uint16_t* out, F64x8 x) { return store_encoded(out, x); });
}

void encode_fixed(const EncodeArguments& a) {
  encode_rows(a, &a.scale, 0, a.out, [](uint16_t* out, F64x8 x) { return store_fixed(out, x); });
}

void encode_bytes(const EncodeBytesArguments& a) {
  encode_rows(a.rows, a.scales, 1, a.out, [](int8_t* out, F64x8 x) { return store_bytes(out, x); });
}

inline float widened_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, rest = bits & 0x7FFFu;
  uint32_t wide;
  float value;
  if (rest >= 0x7C00) {
    wide = sign | 0x7F800000u | (rest & 0x3FFu) << 13;  // infinity, NaN
  } else if (rest >= 0x400) {
    wide = sign | ((rest << 13) + (112u << 23));
  } else {
    value = static_cast<float>(rest) * 0x1.0p-24f;  // exact
    std::memcpy(&wide, &value, sizeof wide);
    wide |= sign;
  }
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void widen_half(const uint16_t* row, int64_t count, float* out) {
  int64_t j = 0;
#if defined(__F16C__)
  for (; j + 8 <= count; j += 8)
    _mm256_storeu_ps(out + j, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + j))));
#endif
  for (; j < count; ++j) out[j] = widened_half(row[j]);
}

void widen_bfloat(const uint16_t* row, int64_t count, float* out) {
  for (int64_t j = 0; j < count; ++j) {
    const uint32_t wide = static_cast<uint32_t>(row[j]) << 16;
    std::memcpy(out + j, &wide, sizeof wide);
  }
}

}  // namespace
