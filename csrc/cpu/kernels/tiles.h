// The scan on matrix tiles (AMX): 32 items times 32 queries at a time, 32 dimensions to a step.
//
// Items are operand A as they lie; a panel of queries, pairs in lanes, is operand B. SALIENCE_TILES is
// 1 for the machine's tiles and 2 for a software twin of the instructions used, which lets the
// same kernel be tested on machines without them.
#pragma once

#include "cpu/kernels/screen.h"

namespace {

#if SALIENCE_TILES == 1

// Macros, because the compiler's own paste the tile's number into the instruction.
#define tile_clear(tile) _tile_zero(tile)
#define tile_read(tile, from, stride) _tile_loadd(tile, from, stride)
#define tile_write(tile, to, stride) _tile_stored(tile, to, stride)
#define tile_multiply_add(sums, a, b) _tile_dpbf16ps(sums, a, b)

struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Static, since the compiler's intrinsic owns up to reading 8 of its 64 bytes: stores to the others could
// be dropped as dead.
static constexpr TileConfiguration kTileConfiguration{};

void enter_scan() { _tile_loadconfig(&kTileConfiguration); }
void leave_scan() { _tile_release(); }

#else

static thread_local uint8_t software_tiles[8][kTileRows][64];

inline void tile_clear(int tile) { std::memset(software_tiles[tile], 0, sizeof software_tiles[tile]); }
inline void tile_read(int tile, const void* from, int64_t stride) {
  for (int r = 0; r < kTileRows; ++r)
    std::memcpy(software_tiles[tile][r], static_cast<const uint8_t*>(from) + r * stride, 64);
}
inline void tile_write(int tile, void* to, int64_t stride) {
  for (int r = 0; r < kTileRows; ++r)
    std::memcpy(static_cast<uint8_t*>(to) + r * stride, software_tiles[tile][r], 64);
}
inline void tile_multiply_add(int c, int a, int b) {
  for (int m = 0; m < kTileRows; ++m) {
    F32 sums = load(reinterpret_cast<const float*>(software_tiles[c][m]));
    for (int pair = 0; pair < 16; ++pair) {
      const Pairs item = broadcast_pair(reinterpret_cast<const uint16_t*>(software_tiles[a][m]) + 2 * pair);
      sums = add_products(sums, item, load_pairs(reinterpret_cast<const uint16_t*>(software_tiles[b][pair])));
    }
    store(reinterpret_cast<float*>(software_tiles[c][m]), sums);
  }
}

// Outside a scan the tiles hold nothing that may be relied on.
void enter_scan() { std::memset(software_tiles, 0xFF, sizeof software_tiles); }
void leave_scan() { std::memset(software_tiles, 0xFF, sizeof software_tiles); }

#endif

template <int Vectors>
inline void clear_block() {
  tile_clear(0);
  tile_clear(2);
  if (Vectors == 2) {
    tile_clear(1);
    tile_clear(3);
  }
}

// Adds to tile t 16 x 16 inner products: items 16 (t / 2) .., queries 16 (t % 2) ... Fetches as many items
// from `next`, where that is not null.
template <int Vectors>
inline void add_to_block(const uint16_t* items, const uint16_t* panel, int64_t depth, const uint16_t* next) {
  const int64_t item_stride = depth * 2, panel_stride = Vectors * 64;
  for (int64_t j = 0; j < depth; j += 32) {
    const uint16_t* const queries = panel + j * Vectors * kLanes;
    for (int i = 0; next != nullptr && i < 2 * kTileRows; ++i) fetch(next + i * depth + j);
    tile_read(4, items + j, item_stride);
    tile_read(6, queries, panel_stride);
    tile_multiply_add(0, 4, 6);
    tile_read(5, items + kTileRows * depth + j, item_stride);
    tile_multiply_add(2, 5, 6);
    if (Vectors == 2) {
      tile_read(7, queries + 2 * kLanes, panel_stride);
      tile_multiply_add(1, 4, 7);
      tile_multiply_add(3, 5, 7);
    }
  }
}

// 16 rows of `sums` for each t: items 16 (t / Vectors) .., queries 16 (t % Vectors) ...
template <int Vectors>
inline void write_block(float (*sums)[kLanes]) {
  tile_write(0, sums, 64);
  tile_write(2, sums + Vectors * kTileRows, 64);
  if (Vectors == 2) {
    tile_write(1, sums + kTileRows, 64);
    tile_write(3, sums + 3 * kTileRows, 64);
  }
}

template <bool Shifted, int Vectors>
int64_t screen_panel(const ScreenArguments& a) {
  static_assert(kBlockRows % (2 * kTileRows) == 0, "blocks are whole tiles");
  Passed passed{a.positions, a.values};
  alignas(64) float memory[2 * Vectors * kTileRows][kLanes];
  for (int64_t row = 0; row < a.rows; row += 2 * kTileRows) {
    const uint16_t* const items = static_cast<const uint16_t*>(a.items) + row * a.depth;
    clear_block<Vectors>();
    add_to_block<Vectors>(items, a.panel, a.depth, following(a, items));
    float (*const sums)[kLanes] = a.kept != nullptr ? kept_values<Vectors>(a, row, 0) : memory;
    write_block<Vectors>(sums);
    for (int t = 0; t < 2 * Vectors; ++t) {
      const int vector = t % Vectors;
      const int64_t first = row + t / Vectors * kTileRows;
      float (*const values)[kLanes] = sums + t * kTileRows;
      const F32 factors = Shifted ? load(a.factors + vector * kLanes) : zero();
      F32 best = broadcast(-__builtin_inff());
      for (int i = 0; i < kTileRows; ++i) {
        const F32 value = load(values[i]);
        best =
            larger(best, Shifted ? subtract(value, multiply(broadcast(a.terms[first + i]), factors)) : value);
      }
      if (__builtin_expect(not_below(best, load(a.thresholds + vector * kLanes)) == 0, 1)) continue;
      if (a.maxima != nullptr) {
        store(maxima_of<Vectors>(a, first, vector), best);
      } else {
        report<Shifted, kTileRows>(a, values, first, vector, passed);
      }
    }
  }
  return passed.values - a.values;
}

}  // namespace
