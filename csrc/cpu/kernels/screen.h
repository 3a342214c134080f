// The scan: fp32 inner products of a block of items with a panel of queries in lanes, compared with
// the queries' thresholds while still in registers. Only the positions that pass are written.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::cpu::Screen;
using salience::cpu::ScreenArguments;

template <Screen Kind>
inline F32 screened(F32 product, float item_term) {
  if (Kind == Screen::scaled) return multiply(product, broadcast(item_term));
  if (Kind == Screen::shifted) return subtract(product, broadcast(item_term));
  return product;
}

template <Screen Kind, int Rows, int Vectors>
inline uint32_t* screen_tile(const ScreenArguments& a, int64_t row, uint32_t* out) {
  F32 acc[Rows][Vectors];
  tile_product<Rows, Vectors>(a.items + row * a.row_stride, a.row_stride, 1, a.panel, Vectors * kLanes,
                              a.dimensions, acc);
  for (int i = 0; i < Rows; ++i) {
    const float term = Kind == Screen::product ? 0.0f : a.item_terms[row + i];
    for (int v = 0; v < Vectors; ++v) {
      uint32_t mask = not_below(screened<Kind>(acc[i][v], term), load(a.thresholds + v * kLanes));
      for (; mask != 0; mask &= mask - 1) {
        const uint32_t lane = static_cast<uint32_t>(v * kLanes + __builtin_ctz(mask));
        *out++ = lane << 16 | static_cast<uint32_t>(row + i);
      }
    }
  }
  return out;
}

template <Screen Kind, int Vectors>
inline int64_t screen_rows(const ScreenArguments& a) {
  uint32_t* out = a.survivors;
  int64_t row = 0;
  for (; row + kScreenRows <= a.rows; row += kScreenRows)
    out = screen_tile<Kind, kScreenRows, Vectors>(a, row, out);
  for (; row < a.rows; ++row) out = screen_tile<Kind, 1, Vectors>(a, row, out);
  return out - a.survivors;
}

template <int Vectors>
inline int64_t screen_kind(const ScreenArguments& a) {
  switch (a.screen) {
    case Screen::scaled:
      return screen_rows<Screen::scaled, Vectors>(a);
    case Screen::shifted:
      return screen_rows<Screen::shifted, Vectors>(a);
    case Screen::product:
      break;
  }
  return screen_rows<Screen::product, Vectors>(a);
}

int64_t screen(const ScreenArguments& a) { return a.vectors == 1 ? screen_kind<1>(a) : screen_kind<2>(a); }

}  // namespace
