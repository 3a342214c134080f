// The scan: every query against every item in halves, and the few pairs that the bound cannot rule out.
//
// screen_panels keeps 128 queries and lets the items of its range pass by, a tile of 128 at a time: matrix
// instructions over chunks of 32 dimensions that arrive asynchronously while earlier ones are multiplied.
// screen_few reads each item once for up to 64 queries, straight from memory to registers. Both compare sums
// with one threshold per query and tile, and note what passes; nothing is sorted here.
//
// The same kernels sample: instead of what passes they leave, for every query, the largest lower bound in
// each group of 16 items, from which compact_survivors takes the first level.
#pragma once

#include "cuda/kernels/blend.cuh"
#include "cuda/kernels/select.cuh"

namespace salience::cuda {

inline constexpr int kPanelQueries = 128;
inline constexpr int kPanelThreads = 128;
inline constexpr int kFewThreads = 256;
inline constexpr int64_t kFewQueries = 64;
inline constexpr int kSamplesPerTile = 8;           // groups of 16 items
inline constexpr int kStagedPairs = 1024;           // of a block, before they go to their queries
inline constexpr int kStagedMark = 256;             // from which on they go
inline constexpr int kChunkPitch = kDepthStep + 8;  // halves; an odd number of 16 bytes spares bank conflicts

// Tiles are visited in strides, so that items sorted by popularity look like any others.
struct Visits {
  int64_t first = 0;  // of this launch
  int64_t count = 0;
  int64_t step = 1;  // coprime to the number of tiles
  int64_t tiles = 0;

  SALIENCE_HOST_DEVICE int64_t tile(int64_t visit) const { return (first + visit) * step % tiles; }
};

struct ScreenArguments {
  PackedView items;
  const uint32_t* usable;    // as items.regular, less what is not allowed
  const uint16_t* queries;   // padded to whole panels
  const QueryBound* bounds;  // likewise; the padding is closed
  int64_t query_count;
  int64_t ranges;  // blocks that share the tiles
  Visits visits;
  bool sample;
  bool raw;          // survivors hold sums instead of lower bounds: for tests of the bound
  int64_t capacity;  // survivors of a query
  int64_t stride;    // from one query's survivors to the next
  uint64_t* survivors;
  uint32_t* counts;  // beyond the capacity where it did not suffice
  uint32_t* lost;    // not 0: a pair of the query found no room on its way
  Filters filters;
  BlendView blend;
};

// A closed query takes no part: nothing passes its level.
SALIENCE_DEVICE bool is_open(const QueryBound& query) { return query.level < bits_to_float(0x7F800000u); }

// The error e of core/screening_bound.h, rounded up.
SALIENCE_DEVICE float error_of(const QueryBound& query, const TileBound& tile) {
  const float error = query.constant + query.norm * tile.norm + query.residual * tile.residual +
                      0x1.0p-21f * query.factor * tile.norm * tile.norm;
  return error * (1.0f + 0x1.0p-20f);
}

// The sum below which an item of the tile cannot reach the query's level.
SALIENCE_DEVICE float threshold_of(const QueryBound& query, const TileBound& tile) {
  const float bound = (query.level - error_of(query, tile)) * tile.ratio;
  if (bound < -1e38f) return -bits_to_float(0x7F800000u);
  return (bound > 0.0f ? bound * (1.0f - 0x1.0p-20f) : bound * (1.0f + 0x1.0p-20f)) - 0x1.0p-100f;
}

// At least this much is the screened value S of an item whose sum is `sum`; at most 2 e more.
SALIENCE_DEVICE float lower_bound(float sum, const QueryBound& query, const TileBound& tile) {
  const float value = sum * tile.inverse_ratio, error = error_of(query, tile);
  const float size = (value < 0.0f ? -value : value) + error;
  return value - error - size * 0x1.0p-20f - 0x1.0p-100f;
}

// Whether an item may still reach the level, of which `lower` is a lower bound; p' is 1 where nothing is
// gated.
SALIENCE_DEVICE bool may_reach(const BlendView& blend, const QueryBound& query, const TileBound& tile,
                               float lower, float denominator) {
  // With what lower_bound takes off beside the error.
  const float error = divide_floats(error_of(query, tile) + 0x1.0p-92f, denominator);
  const float size = magnitude(lower) + error, rounding = 0x1.0p-18f + 2.0f * blend.rounding;
  return !(lower + 2.0f * error + size * rounding + 0x1.0p-90f < query.level);
}

// A survivor: its lower bound, made to sort, over its item.
SALIENCE_DEVICE uint64_t survivor_key(float lower, int64_t item) {
  uint32_t bits;
  std::memcpy(&bits, &lower, sizeof bits);
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(item);
}
SALIENCE_DEVICE float survivor_lower(uint64_t key) {
  const auto bits = static_cast<uint32_t>(key >> 32);
  return bits_to_float(bits >> 31 ? bits ^ 0x80000000u : ~bits);
}
SALIENCE_DEVICE int64_t survivor_item(uint64_t key) { return static_cast<int64_t>(key & 0xFFFFFFFFu); }

SALIENCE_DEVICE bool is_usable(const uint32_t* words, int64_t item) {
  return (words[item / 32] >> (item % 32) & 1u) != 0;
}

// The query with its level as one of the tile's S.
template <bool Gated>
SALIENCE_DEVICE QueryBound bound_in_tile(const ScreenArguments& a, QueryBound bound, int64_t query,
                                         int64_t tile) {
  if (Gated) bound.level = level_in_tile(a.blend, bound.level, query, tile);
  return bound;
}

// Notes a pair that passed, unless a filter leaves it out.
template <bool Gated>
SALIENCE_DEVICE void note_survivor(const ScreenArguments& a, int64_t query, const QueryBound& bound,
                                   int64_t item, float sum) {
  if (a.counts[query] > a.capacity)
    return;  // it overflowed: more of it says nothing, and must not wrap around
  if (!is_usable(a.usable, item) || is_excluded(a.filters, query, item)) return;
  const TileBound tile = a.items.bounds[item / kTileRows];
  float lower = a.raw ? sum : lower_bound(sum, bound, tile);
  if (Gated) {
    const float p = denominator(a.blend, query, a.blend.item_gates.row(item));
    lower = lower_quotient(a.blend, lower, p);
    if (!may_reach(a.blend, bound, tile, lower, p)) return;
  }
  const uint32_t slot = atomic_add(&a.counts[query], 1);
  if (slot >= a.capacity) return;
  a.survivors[query * a.stride + slot] = survivor_key(lower, item);
}

// --- Many queries ---

struct StagedPair {
  float sum;
  uint32_t place;  // visit << 14 | item of the tile << 7 | query of the panel
};

inline constexpr int64_t kMostVisits = 1 << 18;  // of a block: what StagedPair has bits for

struct PanelShared {
  float thresholds[kPanelQueries];
  float factors[kPanelQueries];
  QueryBound bounds[kPanelQueries];
  StagedPair staged[kStagedPairs];
  uint32_t lost[kPanelQueries];  // pairs that found no room
  uint32_t staged_count;
  uint32_t usable[kWordsPerTile];
  bool open[kPanelThreads / 32];  // a warp has a query that takes part
};

inline constexpr int64_t kPanelHeaderBytes = (static_cast<int64_t>(sizeof(PanelShared)) + 15) / 16 * 16;
inline constexpr int kResidentStages = 3;  // chunks of items under way where the panel stays in shared memory
inline constexpr int kPassingStages = 2;   // and where its chunks come along with the items'

inline int64_t panel_bytes(bool resident, int64_t depth) {
  const int64_t chunk = kTileRows * kChunkPitch * 2;
  return kPanelHeaderBytes +
         (resident ? kPanelQueries * (depth + 8) * 2 + kResidentStages * chunk : 2 * kPassingStages * chunk);
}

// Sends what is staged to its queries.
template <bool Gated>
SALIENCE_DEVICE void send_staged(const ScreenArguments& a, PanelShared& shared, int64_t panel,
                                 int64_t range) {
  const uint32_t staged = shared.staged_count < kStagedPairs ? shared.staged_count : kStagedPairs;
  for (uint32_t n = static_cast<uint32_t>(thread()); n < staged; n += kPanelThreads) {
    const StagedPair pair = shared.staged[n];
    const uint32_t q = pair.place & 127u, row = pair.place >> 7 & 127u;
    const int64_t tile = a.visits.tile(range + static_cast<int64_t>(pair.place >> 14) * a.ranges);
    note_survivor<Gated>(a, panel * kPanelQueries + q, shared.bounds[q], tile * kTileRows + row, pair.sum);
  }
  if (shared.lost[thread()] != 0) {
    a.lost[panel * kPanelQueries + thread()] = 1;
    shared.lost[thread()] = 0;
  }
  block_barrier();
  // Seen by all at the barrier that comes before the next pair is staged.
  if (thread() == 0) shared.staged_count = 0;
}

// Where the 32 x 64 x 64 sums of a warp lie: query and item of sum [m][n][part].
struct WarpPlace {
  int query;  // first of the warp's 64, plus lane / 4
  int item;   // first of the warp's 64, plus 2 (lane % 4)
};

SALIENCE_DEVICE WarpPlace warp_place() {
  return {warp() / 2 * 64 + lane() / 4, warp() % 2 * 64 + lane() % 4 * 2};
}

using WarpSums = float[4][8][4];

// Multiplies a chunk: 64 queries by 64 items over 32 dimensions.
SALIENCE_DEVICE void multiply_chunk(const uint16_t* queries, int query_pitch, const uint16_t* items,
                                    WarpSums& sums) {
  const uint16_t* const a_row = queries + (warp() / 2 * 64 + lane() % 16) * query_pitch + lane() / 16 * 8;
  const uint16_t* const b_row =
      items + (warp() % 2 * 64 + lane() / 16 * 8 + lane() % 8) * kChunkPitch + lane() / 8 % 2 * 8;
  SALIENCE_UNROLL
  for (int k = 0; k < kDepthStep; k += 16) {
    uint32_t a[4][4];
    SALIENCE_UNROLL
    for (int m = 0; m < 4; ++m) load_matrices(a[m], a_row + m * 16 * query_pitch + k);
    SALIENCE_UNROLL
    for (int n = 0; n < 8; n += 2) {
      uint32_t b[4];
      load_matrices(b, b_row + n * 8 * kChunkPitch + k);
      SALIENCE_UNROLL
      for (int m = 0; m < 4; ++m) {
        multiply_accumulate(sums[m][n], a[m], b[0], b[1]);
        multiply_accumulate(sums[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Euclidean: takes |z|^2 / 2 off every sum.
SALIENCE_DEVICE void take_squares(const float* squares, const PanelShared& shared, WarpSums& sums) {
  const WarpPlace place = warp_place();
  SALIENCE_UNROLL
  for (int n = 0; n < 8; ++n) {
    const float left = squares[place.item + n * 8], right = squares[place.item + n * 8 + 1];
    SALIENCE_UNROLL
    for (int m = 0; m < 4; ++m) {
      SALIENCE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float factor = shared.factors[place.query + m * 16 + half * 8];
        sums[m][n][half * 2] = multiply_add(-left, factor, sums[m][n][half * 2]);
        sums[m][n][half * 2 + 1] = multiply_add(-right, factor, sums[m][n][half * 2 + 1]);
      }
    }
  }
}

// Stages the pairs whose sums pass.
SALIENCE_DEVICE void stage_pairs(PanelShared& shared, uint32_t visit, const WarpSums& sums) {
  const WarpPlace place = warp_place();
  SALIENCE_UNROLL
  for (int m = 0; m < 4; ++m) {
    SALIENCE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int query = place.query + m * 16 + half * 8;
      const float threshold = shared.thresholds[query];
      float largest = sums[m][0][half * 2];
      SALIENCE_UNROLL
      for (int n = 0; n < 8; ++n) {
        largest = largest < sums[m][n][half * 2] ? sums[m][n][half * 2] : largest;
        largest = largest < sums[m][n][half * 2 + 1] ? sums[m][n][half * 2 + 1] : largest;
      }
      if (largest < threshold) continue;
      SALIENCE_UNROLL
      for (int n = 0; n < 16; ++n) {
        const float sum = sums[m][n / 2][half * 2 + n % 2];
        if (sum < threshold) continue;
        const auto row = static_cast<uint32_t>(place.item + n / 2 * 8 + n % 2);
        if (!is_usable(shared.usable, row)) continue;
        const uint32_t slot = atomic_add(&shared.staged_count, 1);
        if (slot < kStagedPairs) {
          shared.staged[slot] = {sum, visit << 14 | row << 7 | static_cast<uint32_t>(query)};
        } else {
          shared.lost[query] = 1;
        }
      }
    }
  }
}

// Leaves the largest lower bound of each thread's 16 items.
SALIENCE_DEVICE void sample_pairs(const ScreenArguments& a, const PanelShared& shared, int64_t panel,
                                  int64_t visit, int64_t tile, const WarpSums& sums) {
  const WarpPlace place = warp_place();
  uint32_t usable = 0;
  SALIENCE_UNROLL
  for (int n = 0; n < 16; ++n) {
    usable |= static_cast<uint32_t>(is_usable(shared.usable, place.item + n / 2 * 8 + n % 2)) << n;
  }
  const TileBound bound = a.items.bounds[tile];
  SALIENCE_UNROLL
  for (int m = 0; m < 4; ++m) {
    SALIENCE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int q = place.query + m * 16 + half * 8;
      float largest = -bits_to_float(0x7F800000u);
      SALIENCE_UNROLL
      for (int n = 0; n < 16; ++n) {
        const float sum = sums[m][n / 2][half * 2 + n % 2];
        if ((usable >> n & 1u) != 0 && largest < sum) largest = sum;
      }
      const int64_t query = panel * kPanelQueries + q;
      if (query >= a.query_count) continue;
      const bool some = largest > -bits_to_float(0x7F800000u);
      a.survivors[query * a.stride + visit * kSamplesPerTile + warp() % 2 * 4 + lane() % 4] =
          some ? survivor_key(lower_bound(largest, shared.bounds[q], bound), 0) : 0;
    }
  }
}

// Where a block is among the chunks of its tiles; divisions would cost as much as the products.
struct Walk {
  int tile;
  int number;  // of the tile among those of the block
  int chunk;
  int slot;  // of the stages

  template <int Stages>
  SALIENCE_DEVICE void advance(int chunks, int stride, int tiles) {
    slot = slot + 1 == Stages ? 0 : slot + 1;
    if (++chunk < chunks) return;
    chunk = 0;
    ++number;
    tile += stride;
    if (tile >= tiles) tile -= tiles;
  }
};

SALIENCE_DEVICE void clear(WarpSums& sums) {
  SALIENCE_UNROLL
  for (int n = 0; n < 128; ++n) sums[n / 32][n / 4 % 8][n % 4] = 0.0f;
}

// A block scans its range of the tiles for one panel of queries.
template <bool Resident, bool Gated>
SALIENCE_KERNEL(kPanelThreads, 2)
screen_panels(ScreenArguments a) {
  constexpr int kStages = Resident ? kResidentStages : kPassingStages;
  constexpr int kChunk = kTileRows * kChunkPitch;  // halves
  auto& shared = shared_memory<PanelShared>();
  uint16_t* const panel_memory =
      reinterpret_cast<uint16_t*>(reinterpret_cast<unsigned char*>(&shared) + kPanelHeaderBytes);
  const int depth = static_cast<int>(a.items.depth), panel_pitch = Resident ? depth + 8 : kChunkPitch;
  uint16_t* const item_memory = panel_memory + (Resident ? kPanelQueries * panel_pitch : kStages * kChunk);
  const int64_t panels = (a.query_count + kPanelQueries - 1) / kPanelQueries;
  const auto panel = static_cast<int>(block() % panels), range = static_cast<int>(block() / panels);
  const uint16_t* const queries = a.queries + int64_t{panel} * kPanelQueries * depth;

  const QueryBound mine = a.bounds[int64_t{panel} * kPanelQueries + thread()];
  shared.bounds[thread()] = mine;
  shared.lost[thread()] = 0;
  const bool open = any(is_open(mine));
  if (lane() == 0) shared.open[warp()] = open;
  if (thread() == 0) shared.staged_count = 0;
  block_barrier();
  if (!(shared.open[0] || shared.open[1] || shared.open[2] || shared.open[3])) return;

  if (Resident) {
    for (int n = thread(); n < kPanelQueries * depth / 8; n += kPanelThreads) {
      const int row = n / (depth / 8), part = n % (depth / 8);
      copy_async(panel_memory + row * panel_pitch + part * 8, queries + row * depth + part * 8);
    }
  }
  const int chunks = depth / kDepthStep;
  const int tiles = static_cast<int>(a.visits.tiles);
  const auto visits =
      static_cast<int>(a.visits.count > range ? (a.visits.count - range - 1) / a.ranges + 1 : 0);
  const auto stride = static_cast<int>(a.ranges * a.visits.step % tiles);
  Walk next{static_cast<int>(a.visits.tile(range)), 0, 0, 0}, here = next;
  const auto fetch = [&] {
    if (next.number < visits) {
      const int from = next.chunk * kDepthStep;
      const uint16_t* const items = a.items.halves + int64_t{next.tile} * kTileRows * depth + from;
      uint16_t* const to = item_memory + next.slot * kChunk;
      SALIENCE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = (thread() + i * kPanelThreads) / 4, part = (thread() + i * kPanelThreads) % 4;
        copy_async(to + row * kChunkPitch + part * 8, items + row * depth + part * 8);
        if (!Resident)
          copy_async(panel_memory + next.slot * kChunk + row * kChunkPitch + part * 8,
                     queries + row * depth + from + part * 8);
      }
    }
    copy_async_commit();
    next.advance<kStages>(chunks, stride, tiles);
  };
  for (int n = 0; n < kStages - 1; ++n) fetch();

  float sums[4][8][4];
  for (; here.number < visits; here.advance<kStages>(chunks, stride, tiles)) {
    copy_async_wait<kStages - 2>();
    block_barrier();
    fetch();
    if (here.chunk == 0) {
      // Nothing is staged between this barrier and the next, so all threads see the same count.
      if (shared.staged_count >= kStagedMark) send_staged<Gated>(a, shared, panel, range);
      const TileBound bound = a.items.bounds[here.tile];
      const int64_t query = int64_t{panel} * kPanelQueries + thread();
      shared.thresholds[thread()] =
          threshold_of(bound_in_tile<Gated>(a, shared.bounds[thread()], query, here.tile), bound);
      shared.factors[thread()] = shared.bounds[thread()].factor * bound.ratio;
      if (thread() < kWordsPerTile) shared.usable[thread()] = a.usable[here.tile * kWordsPerTile + thread()];
      clear(sums);
    }
    multiply_chunk(panel_memory + (Resident ? here.chunk * kDepthStep : here.slot * kChunk), panel_pitch,
                   item_memory + here.slot * kChunk, sums);
    if (here.chunk + 1 < chunks) continue;
    if (chunks == 1) block_barrier();  // the thresholds
    if (a.items.squares != nullptr)
      take_squares(a.items.squares + int64_t{here.tile} * kTileRows, shared, sums);
    if (a.sample) {
      sample_pairs(a, shared, panel, range + int64_t{here.number} * a.ranges, here.tile, sums);
    } else {
      stage_pairs(shared, static_cast<uint32_t>(here.number), sums);
    }
  }
  copy_async_wait<0>();
  block_barrier();
  send_staged<Gated>(a, shared, panel, range);
}

// --- Few queries ---

inline int64_t few_bytes(int64_t groups, int64_t depth) {
  return groups * 8 * ((depth + 8) * 2 + static_cast<int64_t>(sizeof(QueryBound)));
}

// One query of a group of eight against rows g and g + 8 of a strip of 16 items.
template <bool Gated>
SALIENCE_DEVICE void finish_few(const ScreenArguments& a, int64_t query, const QueryBound& bound,
                                const TileBound& tile, int64_t visit, int strip, int64_t item, float first,
                                float second) {
  if (a.items.squares != nullptr) {
    const float factor = bound.factor * tile.ratio;
    first = multiply_add(-a.items.squares[item], factor, first);
    second = multiply_add(-a.items.squares[item + 8], factor, second);
  }
  if (a.sample) {
    const float none = -bits_to_float(0x7F800000u);
    if (!is_usable(a.usable, item)) first = none;
    if (!is_usable(a.usable, item + 8)) second = none;
    float largest = first < second ? second : first;
    for (int mask = 4; mask < 32; mask *= 2) {
      const float other = shuffle_xor(largest, mask);
      largest = largest < other ? other : largest;
    }
    if (lane() / 4 == 0 && query < a.query_count)
      a.survivors[query * a.stride + visit * kSamplesPerTile + strip] =
          largest > none ? survivor_key(lower_bound(largest, bound, tile), 0) : 0;
    return;
  }
  const float threshold = threshold_of(bound_in_tile<Gated>(a, bound, query, item / kTileRows), tile);
  if (!(first < threshold)) note_survivor<Gated>(a, query, bound, item, first);
  if (!(second < threshold)) note_survivor<Gated>(a, query, bound, item + 8, second);
}

// A warp takes strips of 16 items for 8 `Groups` queries. A lane loads eight halves of rows g and g + 8 at a
// time and gives them to two matrix instructions in the order in which it holds them; the queries come in the
// same order, and the order of a sum's terms is free.
template <int Groups, bool Gated>
SALIENCE_KERNEL(kFewThreads, 2)
screen_few(ScreenArguments a) {
  constexpr int kQueries = Groups * 8;
  const int64_t depth = a.items.depth, pitch = depth + 8;
  uint16_t* const rows = &shared_memory<uint16_t>();
  auto* const bounds = reinterpret_cast<QueryBound*>(rows + kQueries * pitch);
  for (int64_t n = thread(); n < kQueries * depth / 8; n += kFewThreads) {
    const int64_t row = n / (depth / 8), part = n % (depth / 8);
    copy_async(rows + row * pitch + part * 8, a.queries + row * depth + part * 8);
  }
  copy_async_commit();
  for (int n = thread(); n < kQueries; n += kFewThreads) bounds[n] = a.bounds[n];
  copy_async_wait<0>();
  block_barrier();

  const int g = lane() / 4, t = lane() % 4;
  const int64_t warps = blocks() * (kFewThreads / 32);
  for (int64_t n = block() * (kFewThreads / 32) + warp(); n < a.visits.count * kSamplesPerTile; n += warps) {
    const int64_t visit = n / kSamplesPerTile, tile = a.visits.tile(visit);
    const int strip = static_cast<int>(n % kSamplesPerTile);
    const int64_t item = tile * kTileRows + strip * 16 + g;
    const uint16_t* const upper = a.items.halves + item * depth + t * 8;
    const uint16_t* const lower = upper + 8 * depth;
    float sums[Groups][4] = {};
    SALIENCE_UNROLL_BY(Groups == 1 ? 4 : 2)
    for (int64_t k = 0; k < depth; k += kDepthStep) {
      const Words4 x = load_streaming(upper + k), y = load_streaming(lower + k);
      SALIENCE_UNROLL
      for (int group = 0; group < Groups; ++group) {
        const Words4 q = load_words(rows + (group * 8 + g) * pitch + k + t * 8);
        multiply_accumulate(sums[group], {x.x, y.x, x.y, y.y}, q.x, q.y);
        multiply_accumulate(sums[group], {x.z, y.z, x.w, y.w}, q.z, q.w);
      }
    }
    const TileBound bound = a.items.bounds[tile];
    SALIENCE_UNROLL
    for (int group = 0; group < Groups; ++group) {
      const int query = group * 8 + 2 * t;
      finish_few<Gated>(a, query, bounds[query], bound, visit, strip, item, sums[group][0], sums[group][2]);
      finish_few<Gated>(a, query + 1, bounds[query + 1], bound, visit, strip, item, sums[group][1],
                        sums[group][3]);
    }
  }
}

// --- For tests of the bound ---

struct ProbeArguments {
  PackedView items;
  const uint64_t* survivors;  // of a scan that nothing could stop
  const uint32_t* counts;
  int64_t stride;
  const QueryBound* bounds;
  const QueryFacts* facts;
  int64_t query_count;
  double* values;  // query_count x items.rows
  double* errors;
};

// From raw sums to values and errors, in terms of S. A block takes a query.
SALIENCE_KERNEL(kSelectThreads, 2) probe_bounds(ProbeArguments a) {
  const int64_t query = block();
  const double unit = a.facts[query].scale * *a.items.scale;
  for (int64_t n = thread(); n < a.counts[query]; n += kSelectThreads) {
    const uint64_t key = a.survivors[query * a.stride + n];
    const int64_t item = survivor_item(key);
    const TileBound tile = a.items.bounds[item / kTileRows];
    const int64_t at = query * a.items.rows + item;
    a.values[at] = static_cast<double>(survivor_lower(key)) * tile.inverse_ratio * unit;
    a.errors[at] = error_of(a.bounds[query], tile) * unit;
  }
}

}  // namespace salience::cuda
