// What happens to the survivors of a scan: levels from their lower bounds, canonical scores, the best k.
#pragma once

#include "cuda/kernels/screen.cuh"

namespace salience::cuda {

// Which queries a launch is for.
enum class Turn {
  first,   // those that are screened
  second,  // those whose survivors found no room in the first turn
};

SALIENCE_DEVICE bool takes_part(Turn turn, uint32_t flags) {
  if ((flags & kExhaustive) != 0) return false;
  return turn == Turn::first || (flags & kOverflowed) != 0;
}

struct BoundArguments {
  Metric metric;
  Turn turn;
  const double* scale;  // T
  const uint32_t* irregular_count;
  QueryFacts* facts;
  uint32_t* flags;
  QueryBound* bounds;  // padded
  uint32_t* counts;
  uint32_t* lost;
  int64_t query_count;
  int64_t padded;
  bool gated;
};

inline constexpr double kLargestNumerator = 0x1.0p126;  // of a quotient; beyond it scores may be infinite

// s T of items of scale `scale`, for levels.
SALIENCE_DEVICE double level_unit(const QueryFacts& facts, double scale) {
  return facts.scale * scale / facts.gate_scale;
}

SALIENCE_DEVICE float level_in_units(const QueryFacts& facts, double scale, bool gated) {
  return float_down((facts.level - (gated ? kQuotientSlack : 0.0)) / level_unit(facts, scale));
}

// Facts in the units of these items, a thread per query. Closes those that take no part.
SALIENCE_KERNEL(kSelectThreads, 2) set_bounds(BoundArguments a) {
  const int64_t q = block() * kSelectThreads + thread();
  if (q >= a.padded) return;
  const float infinity = bits_to_float(0x7F800000u);
  a.bounds[q] = {infinity, 0.0f, 0.0f, 0.0f, 0.0f};
  if (q >= a.query_count) return;
  if (a.turn == Turn::first) a.flags[q] &= ~static_cast<uint32_t>(kOverflowed);
  if (*a.irregular_count > kMostIrregular) a.flags[q] |= kExhaustive;
  const QueryFacts& facts = a.facts[q];
  const double unit = facts.scale * *a.scale, factor = *a.scale / facts.scale;
  const bool euclidean = a.metric == Metric::euclidean;
  // Beyond this |z| dwarfs |v|, and their difference would leave float32.
  if (euclidean && factor > kLargestFactor) a.flags[q] |= kExhaustive;
  // No item is longer than 256 T.
  if (a.gated && facts.norm * 256.0 * *a.scale > kLargestNumerator) a.flags[q] |= kExhaustive;
  if (!takes_part(a.turn, a.flags[q])) return;
  a.bounds[q] = {level_in_units(facts, *a.scale, a.gated), float_up(facts.error.constant / unit),
                 float_up(facts.error.norm / facts.scale), float_up(facts.error.residual / facts.scale),
                 euclidean ? float_rn(factor) : 0.0f};
  a.counts[q] = a.lost[q] = 0;
}

struct CompactArguments {
  Metric metric;
  Turn turn;
  bool sample;
  Visits visits;  // of the sample
  PackedView items;
  Filters filters;
  BlendView blend;
  int64_t k;
  int64_t capacity;
  int64_t stride;
  uint64_t* survivors;
  uint32_t* counts;
  uint32_t* lost;
  QueryFacts* facts;
  uint32_t* flags;
  QueryBound* bounds;
};

struct CompactShared {
  SelectShared<uint64_t> select;
  uint32_t kept_before;
  uint32_t kept[kSelectThreads / 32];
};

// Lower bounds of a sample as those of quotients.
SALIENCE_DEVICE void divide_sample(const CompactArguments& a, int64_t query, int64_t count, uint64_t* keys) {
  for (int64_t i = thread(); i < count; i += kSelectThreads) {
    if (keys[i] == 0) continue;
    const float lower = survivor_lower(keys[i]);
    const float* const edge = edge_of(a.blend, a.visits.tile(i / kSamplesPerTile), !(lower < 0.0f));
    keys[i] = survivor_key(lower_quotient(a.blend, lower, denominator(a.blend, query, edge)), 0);
  }
}

// A block takes a query: raises its level to what k survivors reach and drops those that cannot reach it.
SALIENCE_KERNEL(kSelectThreads, 2) compact_survivors(CompactArguments a) {
  auto& shared = shared_memory<CompactShared>();
  const int64_t q = block();
  if (!takes_part(a.turn, a.flags[q])) return;
  uint64_t* const keys = a.survivors + q * a.stride;
  const uint32_t passed = a.counts[q];
  const bool overflowed = !a.sample && (passed > a.capacity || a.lost[q] != 0);
  const int64_t sampled = a.visits.count * kSamplesPerTile;
  const int64_t count = a.sample ? sampled : passed > a.capacity ? a.capacity : passed;
  const bool gated = a.blend.ranges != nullptr;
  if (a.sample && gated) divide_sample(a, q, count, keys);
  // As many more groups of a sample may owe their maxima to items that this query leaves out.
  const int64_t left_out =
      a.sample && a.filters.exclude != nullptr ? a.filters.exclude[q + 1] - a.filters.exclude[q] : 0;
  const int64_t rank = a.k + left_out;
  QueryBound bound = a.bounds[q];
  const QueryFacts facts = a.facts[q];
  // The first thread will write to what all have read by now; and a sample is divided.
  block_barrier();
  const uint64_t best =
      count >= rank ? kth_largest<uint64_t>([&](int64_t i) { return keys[i]; }, count, rank, shared.select)
                    : 0;
  if (best != 0) {
    const double lower = static_cast<double>(survivor_lower(best)) * level_unit(facts, *a.items.scale);
    const ScreeningBound screening(a.metric, 0.0, 0.0);
    QueryFacts raised = facts;
    raised.level = screening.level_of_screened(lower, 0.0, facts.norm);
    // Also where `best`, the upper digits of a key of -infinity, stands for no number.
    if (!(raised.level >= facts.level)) raised.level = facts.level;
    bound.level = level_in_units(raised, *a.items.scale, gated);
    if (thread() == 0) {
      a.facts[q].level = raised.level;
      a.bounds[q].level = bound.level;
    }
  }
  if (a.sample) return;
  if (overflowed && thread() == 0) {
    a.lost[q] = 0;
    a.flags[q] |= a.turn == Turn::first ? kOverflowed : kExhaustive;
    a.bounds[q].level = a.turn == Turn::first ? bound.level : bits_to_float(0x7F800000u);
  }
  if (thread() == 0) shared.kept_before = 0;
  // In place: what a round writes lies no later than what it has read.
  for (int64_t start = 0; start < count; start += kSelectThreads) {
    const int64_t i = start + thread();
    const uint64_t key = i < count ? keys[i] : 0;
    bool keep = i < count && key >= best;
    if (!keep && i < count && !overflowed) {
      const int64_t item = survivor_item(key);
      const float p = gated ? denominator(a.blend, q, a.blend.item_gates.row(item)) : 1.0f;
      keep = may_reach(a.blend, bound, a.items.bounds[item / kTileRows], survivor_lower(key), p);
    }
    const uint32_t votes = ballot(keep);
    if (lane() == 0) shared.kept[warp()] = static_cast<uint32_t>(count_bits(votes));
    block_barrier();
    uint32_t place = shared.kept_before + static_cast<uint32_t>(count_bits(votes & ((1u << lane()) - 1u)));
    uint32_t all = shared.kept_before;
    for (int w = 0; w < kSelectThreads / 32; ++w) {
      if (w < warp()) place += shared.kept[w];
      all += shared.kept[w];
    }
    if (keep) keys[place] = key;
    block_barrier();
    if (thread() == 0) shared.kept_before = all;
  }
  if (thread() == 0) a.counts[q] = shared.kept_before;
}

struct RescoreArguments {
  Matrix<const float> queries;
  VectorsView items;
  Metric metric;
  Turn turn;
  bool tighten;  // only raise levels, from the canonical scores of what is held, and let go of it
  PackedView packed;
  Filters filters;
  BlendView blend;
  int64_t k;
  int64_t stride;
  uint64_t* survivors;  // becomes keys
  uint32_t* counts;
  QueryFacts* facts;
  const uint32_t* flags;
  bool has_best;
  uint64_t* best;     // k per query, of earlier items and then of all; sorted, 0 where there is none
  uint64_t* scratch;  // power_of_two(k) per query where k > kSharedKeys
};

// Whether the second turn is for this query, or the first and it needs no second.
SALIENCE_DEVICE bool is_rescored(Turn turn, uint32_t flags) {
  if ((flags & kExhaustive) != 0) return false;
  return (turn == Turn::second) == ((flags & kOverflowed) != 0);
}

template <bool Euclidean>
SALIENCE_DEVICE void rescore_all(const RescoreArguments& a, int64_t q, int64_t held, int64_t total) {
  const bool cosine = a.metric == Metric::cosine;
  uint64_t* const keys = a.survivors + q * a.stride;
  const float* const query = a.queries.row(q);
  for (int64_t start = 0; start < total; start += kSelectThreads / 8) {
    const int64_t i = start + thread() / 8;
    const bool valid = i < total;
    const bool irregular = i >= held;
    int64_t item = 0;
    if (valid) item = irregular ? static_cast<int64_t>(a.packed.irregular[i - held]) : survivor_item(keys[i]);
    const double sum = group_total<Euclidean>(query, a.items, item, valid);
    if (!valid || (lane() & 7) != 0) continue;
    const float score =
        canonical_score(a.metric, sum, a.facts[q].squares, cosine ? a.packed.norms[item] : 0.0);
    keys[i] = irregular && !admits(a.filters, q, item)
                  ? 0
                  : blended_key(a.blend, a.metric, score, q, item, a.filters.first_item);
  }
}

// A block takes a query: scores its survivors, merges them with the best of earlier items.
template <bool Euclidean>
SALIENCE_KERNEL(kSelectThreads, 2)
rescore_survivors(RescoreArguments a) {
  auto& shared = shared_memory<SelectShared<uint64_t>>();
  const int64_t q = block();
  if (!is_rescored(a.turn, a.flags[q])) return;
  const int64_t held = a.counts[q], total = held + (a.tighten ? 0 : *a.packed.irregular_count);
  rescore_all<Euclidean>(a, q, held, total);
  // The keys are seen by all at the first barrier of the selection.
  const uint64_t* const keys = a.survivors + q * a.stride;
  uint64_t* const best = a.best + q * a.k;
  const auto key_at = [&](int64_t i) { return i < total ? keys[i] : best[i - total]; };
  const int64_t count = total + (a.has_best && !a.tighten ? a.k : 0);
  uint64_t* const scratch = a.k <= kSharedKeys ? nullptr : a.scratch + q * power_of_two(a.k);
  const uint64_t* const sorted = select_sorted<uint64_t>(key_at, count, a.k, scratch, shared);
  const int64_t found = shared.found;
  for (int64_t j = thread(); j < a.k && !a.tighten; j += kSelectThreads) best[j] = j < found ? sorted[j] : 0;
  if (thread() != 0) return;
  if (found == a.k) {
    const double level = level_of_key(a.metric, sorted[a.k - 1], a.facts[q]);
    if (level > a.facts[q].level) a.facts[q].level = level;
  }
  if (a.tighten) a.counts[q] = 0;
}

struct AdditionArguments {
  Matrix<const float> queries;
  VectorsView items;
  AdditionsView additions;
  const uint8_t* allowed;  // or null
  int64_t first_item;
  BlendView blend;
  int64_t k;
  bool has_best;
  uint64_t* keys;     // one per addition
  uint64_t* best;     // as in RescoreArguments
  uint64_t* scratch;  // likewise
};

// A block takes a query: scores the items that have an addition, merges them with the best of earlier items.
SALIENCE_KERNEL(kSelectThreads, 2) score_additions(AdditionArguments a) {
  auto& shared = shared_memory<SelectShared<uint64_t>>();
  const int64_t q = block(), begin = a.additions.pointers[q], count = a.additions.pointers[q + 1] - begin;
  uint64_t* const keys = a.keys + begin;
  for (int64_t start = 0; start < count; start += kSelectThreads / 8) {
    const int64_t i = start + thread() / 8;
    const int64_t item = i < count ? a.additions.items[begin + i] - a.first_item : -1;
    const bool valid = item >= 0 && item < a.items.rows && (a.allowed == nullptr || a.allowed[item] != 0);
    const double total = group_total<false>(a.queries.row(q), a.items, item, valid);
    if (i >= count || (lane() & 7) != 0) continue;
    const float score = add_floats(canonical_float(total), a.additions.values[begin + i]);
    keys[i] = valid ? blended_key(a.blend, Metric::dot, score, q, item, a.first_item) : 0;
  }
  // The keys are seen by all at the first barrier of the selection.
  uint64_t* const best = a.best + q * a.k;
  const auto key_at = [&](int64_t i) { return i < count ? keys[i] : best[i - count]; };
  uint64_t* const scratch = a.k <= kSharedKeys ? nullptr : a.scratch + q * power_of_two(a.k);
  const uint64_t* const sorted =
      select_sorted<uint64_t>(key_at, count + (a.has_best ? a.k : 0), a.k, scratch, shared);
  const int64_t found = shared.found;
  for (int64_t j = thread(); j < a.k; j += kSelectThreads) best[j] = j < found ? sorted[j] : 0;
}

struct SelectBestArguments {
  const uint64_t* keys;  // row_count x stride
  int64_t stride;
  int64_t count;         // of a row
  const uint32_t* rows;  // the queries that the rows are of; null: in order
  int64_t k;
  bool has_best;
  uint64_t* best;
  uint64_t* scratch;  // power_of_two(k) per row where k > kSharedKeys
};

// A block takes a row of keys and merges it with its query's best.
SALIENCE_KERNEL(kSelectThreads, 2) select_best(SelectBestArguments a) {
  auto& shared = shared_memory<SelectShared<uint64_t>>();
  const int64_t r = block(), q = a.rows == nullptr ? r : a.rows[r];
  const uint64_t* const keys = a.keys + r * a.stride;
  uint64_t* const best = a.best + q * a.k;
  const auto key_at = [&](int64_t i) { return i < a.count ? keys[i] : best[i - a.count]; };
  uint64_t* const scratch = a.k <= kSharedKeys ? nullptr : a.scratch + r * power_of_two(a.k);
  const uint64_t* const sorted =
      select_sorted<uint64_t>(key_at, a.count + (a.has_best ? a.k : 0), a.k, scratch, shared);
  const int64_t found = shared.found;
  for (int64_t j = thread(); j < a.k; j += kSelectThreads) best[j] = j < found ? sorted[j] : 0;
}

struct WriteArguments {
  const uint64_t* best;
  int64_t k;
  int64_t query_count;
  Metric metric;
  Matrix<int64_t> ids;
  Matrix<float> scores;
};

SALIENCE_KERNEL(kSelectThreads, 2) write_results(WriteArguments a) {
  const int64_t n = block() * kSelectThreads + thread();
  if (n >= a.query_count * a.k) return;
  const int64_t q = n / a.k, j = n % a.k;
  const uint64_t key = a.best[n];
  const bool euclidean = a.metric == Metric::euclidean;
  float score = key == 0 ? -bits_to_float(0x7F800000u) : Rank<float>::score(key);
  score = score == score ? (euclidean ? -score : score) + 0.0f : bits_to_float(0x7FC00000u);
  a.ids.row(q)[j] = key == 0 ? -1 : Rank<float>::item(key);
  a.scores.row(q)[j] = score;
}

}  // namespace salience::cuda
