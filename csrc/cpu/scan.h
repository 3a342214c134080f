// The scan of one group of queries over a share of the blocks of items, and the keys of their best items.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/canonical_queries.h"
#include "cpu/catalogue.h"
#include "cpu/ranking.h"
#include "cpu/topk.h"

namespace salience::cpu {

using Ranking = Rank<float>;
using Key = Ranking::Key;

// Blend of core/operations.h with what the scan derives from it.
struct GatedBlend {
  Blend given;
  int64_t gates = 0;            // columns of the gates
  std::vector<float> smallest;  // of every block of the catalogue and every gate
  std::vector<float> largest;
  const uint8_t* allowed = nullptr;  // as the caller gave it

  bool adds(int64_t query, int64_t id) const {
    const Csr& a = given.additions;
    return a.indptr != nullptr &&
           std::binary_search(a.indices + a.indptr[query], a.indices + a.indptr[query + 1],
                              static_cast<int32_t>(id));
  }
  int64_t addition_count(int64_t query) const {
    const Csr& a = given.additions;
    return a.indptr == nullptr ? 0 : a.indptr[query + 1] - a.indptr[query];
  }
  int64_t label(int64_t id) const { return given.labels == nullptr ? id : given.labels[id]; }
  // The denominator, up to rounding in float64.
  double denominator(int64_t query, int64_t id) const { return product(query, given.item_gates.row(id)); }
  double product(int64_t query, const float* gates_of_items) const {
    const float* const row = given.query_gates.row(query);
    double sum = 0.0;
    for (int64_t g = 0; g < gates; ++g) sum += static_cast<double>(row[g]) * gates_of_items[g];
    return sum;
  }
};

// Derives the ranges of the gates over the blocks of `catalogue`.
GatedBlend prepare(const Blend& blend, const Catalogue& catalogue, const uint8_t* allowed);

// What is asked, the same for all groups.
struct Request {
  const Catalogue* catalogue = nullptr;
  Matrix<const float> queries;
  int64_t k = 0;
  Path path = Path::exact;
  float sign = 1.0f;                  // keys hold sign * score, so that larger is better
  const uint8_t* allowed = nullptr;   // one flag per id; null where the catalogue holds only allowed rows
  const int64_t* exclude = nullptr;   // row pointers into `excluded`
  const int32_t* excluded = nullptr;  // ids, each row ascending
  const GatedBlend* blend = nullptr;

  // For Path::bytes: one per block, or none: then blocks are packed when scanned.
  std::vector<const ByteBlock*> bytes;

  // Where several scans share the queries: one level each, which any of them may raise.
  std::atomic<double>* levels = nullptr;

  // Whether the filters leave the item in.
  bool admits(int64_t query, int64_t id) const {
    return (allowed == nullptr || allowed[id] != 0) && admits_by_exclusion(query, id);
  }
  bool admits_by_exclusion(int64_t query, int64_t id) const {
    return exclude == nullptr || !std::binary_search(excluded + exclude[query], excluded + exclude[query + 1],
                                                     static_cast<int32_t>(id));
  }
  // Whether the scan has to find the item: what has an addition is scored apart.
  bool scans(int64_t query, int64_t id) const {
    return admits(query, id) && (blend == nullptr || !blend->adds(query, id));
  }
  bool gated() const { return blend != nullptr && blend->gates > 0; }
};

// A scan is one of `count` that share the blocks: each takes some while there are any, counted by `taken`.
struct Share {
  int64_t index = 0;
  int64_t count = 1;
  std::atomic<int64_t>* taken = nullptr;
};

// Survivors of one query's scan, known by a lower bound on their screened value S.
//
// A key holds the upper half of that bound's bits, made to sort (and so rounded down), over the position.
class Survivors {
 public:
  static uint64_t key(double lower, int64_t position);
  static double lower(uint64_t key);
  static int64_t position(uint64_t key) { return static_cast<int64_t>(key & 0xFFFFFFFFu); }
};

class GroupScan {
 public:
  GroupScan(const Request& request, int64_t first, int64_t count);

  // Screens every item of its share of the blocks; once per object.
  void scan(const Share& share, Worker& worker);

  // For tests of the bound: what the scan computes for every pair instead of scanning, and how far off it
  // may be (infinite where a pair is always scored exactly).
  //   values, errors: count x items, in terms of S; offsets, norms: count.
  void probe(double* values, double* errors, double* offsets, double* norms);

  // The same for some of the queries alone, with no level guessed.
  void scan_again(const Share& share, const std::vector<int64_t>& queries, Worker& worker);

  // What `count` scans that share the blocks found for query first + q: its k best, perhaps among others, in
  // no order. Two steps, once each for every q, in memory of scan `host`: survivors are judged by a level for
  // all scans before they are scored, since each scan by itself would score about k of its own. The first is
  // false where a level was guessed too high: the query has to be scanned again. The second fetches rows of
  // query `next` (-1: none), for which the first step is done.
  static bool part(const std::unique_ptr<GroupScan>* scans, int64_t count, int64_t host, int64_t q);
  static std::vector<Key> best(const std::unique_ptr<GroupScan>* scans, int64_t count, int64_t host,
                               int64_t q, int64_t next);

 private:
  // What the scan says about an item: its S is within `error` of lower + error.
  struct Screened {
    double lower;
    double error;
  };
  // Rows of a block.
  struct Piece {
    int64_t block;
    int64_t row;
    int64_t rows;
  };
  // Half blocks from which first levels are guessed, and what is computed of them for one panel at a time.
  struct Sample {
    std::vector<Piece> pieces;
    int64_t kept = 0;           // of the pieces: their values are kept for the scan
    int64_t cells = 1;          // of a piece
    double share = 0.0;         // of all items
    std::vector<float> maxima;  // of every tile and lane
    std::vector<float> lowers;  // of every cell and lane: S of its best is about so much at least
    std::vector<float> values;
  };
  // A block as it was scanned: in 8 bits each row has a scale, and as much less of the residual.
  struct Scanned {
    Encoded encoded;
    const float* scales = nullptr;
  };
  struct Query {
    Encoded encoded;
    ErrorCoefficients coefficients;
    double offset = 0.0;                        // score - S
    bool exhaustive = false;                    // the scan cannot help: score all items
    bool zero = false;                          // scores 0 with every finite item
    double guess = -ScreeningBound::kInfinity;  // the level, until k items are known to reach it
    size_t capacity = 0;                        // of `survivors`
    int64_t rescored = 0;
    std::vector<uint64_t> survivors;
  };

  void encode_queries();
  void encode_vectors();
  void widen();
  void pack_panels(const std::vector<uint16_t>& rows);
  void take(const Share& share);
  int64_t block_of_turn(int64_t turn) const;
  int64_t next_block();
  void screen(Worker& worker);
  void sweep(Worker& worker);
  void guess_levels();
  void guess_levels_of_panel(int64_t first, Sample& sample);
  void lower_cells(int64_t first, int64_t block, const float* maxima, int64_t width, int64_t cells,
                   float* lowers) const;
  void sift_panel(int64_t first, Sample& sample);
  void guess_level(int64_t q, std::vector<float>& lowers, double share);
  const ByteBlock& bytes_of(int64_t block, const PackedBlock& packed);
  Piece unscreened(int64_t block) const;
  const void* stored_data(const Piece& piece) const;
  void screen_piece(const Piece& piece, const PackedBlock& packed, const ByteBlock* bytes, const void* next);
  bool set_thresholds(int64_t first, int64_t block, const Encoded& encoded, bool scaled);
  ScreenArguments panel_arguments(int64_t first, const Piece& piece, const PackedBlock& packed,
                                  const ByteBlock* bytes);
  ScreenArguments sample_arguments(int64_t first, Sample& sample, int64_t n);
  int64_t screen_panel(const ScreenArguments& arguments) const;
  template <class Visit>
  void visit_found(int64_t first, int64_t found, const Piece& piece, const PackedBlock& packed,
                   const ByteBlock* bytes, Visit visit);
  void consider_found(int64_t first, int64_t found, const Piece& piece, const PackedBlock& packed,
                      const ByteBlock* bytes);
  Screened screened(int64_t query, double value, int64_t row, const PackedBlock& packed,
                    const ByteBlock* bytes) const;
  void consider(int64_t q, double lower, double error, int64_t position);
  void raise_level(int64_t q, double level);
  void adopt_level(int64_t q);
  void prove_level(int64_t q, double level);
  bool is_guessed(int64_t q) const;
  double error_at(int64_t q, double lower, int64_t position) const;
  void part(int64_t q);
  static std::vector<uint64_t> part_together(const std::unique_ptr<GroupScan>* scans, int64_t count,
                                             int64_t q);
  void compact(int64_t q);
  void raise_level_to_survivors(int64_t q, double lower);
  void drop(int64_t q, size_t kept);
  void tighten(int64_t q);
  void settle(int64_t q);
  void rescore(int64_t q, int64_t next);
  void give_up(int64_t q);
  Screened gate(int64_t q, double lower, double error, int64_t id) const;
  double gated_lower(int64_t q, double lower, int64_t block) const;
  double level_in_block(int64_t q, int64_t block, double reach);
  double offset_of_level(const Query& query) const;
  int64_t label(int64_t id) const;
  template <class Ids>
  void divide(int64_t first, int64_t count, int64_t row_count, Ids ids);
  void score_additions(int64_t q);
  void score_irregular(int64_t block, const PackedBlock& packed);
  void score_block(int64_t block);
  void score_exhaustively(Worker& worker);
  void score(int64_t first, int64_t count, const float* const* rows, int64_t row_count,
             const int64_t* positions, const Ahead& ahead = {});

  const Request& request_;
  const Catalogue& catalogue_;
  int64_t first_;
  int64_t count_;
  Share share_;
  // The order in which all scans visit blocks: in runs of neighbours. The first turns are dealt to the scans,
  // so that each has a sample; the others are taken.
  int64_t run_ = 1;
  int64_t runs_ = 1;
  int64_t step_ = 1;           // from one run to the next
  int64_t sampled_turns_ = 0;  // of each scan
  int64_t turn_ = 0;
  int64_t turn_end_ = 0;
  std::vector<int64_t> visited_;
  ScreeningBound bound_;
  CanonicalQueries canonical_;
  CanonicalQueries gates_;
  std::vector<Query> queries_;
  std::vector<Reservoir<Key>> best_;
  std::vector<Scanned> blocks_;                          // those that were visited
  std::vector<int64_t> sampled_;                         // where the screened half of each begins, or -1
  std::vector<std::unique_ptr<ByteBlock>> made_blocks_;  // where the request has none
  std::vector<int8_t> made_bytes_;                       // of the last of them
  Path path_;
  bool crowded_ = false;  // 8 bits leave too many survivors

  // One entry per lane of every panel; a level of infinity keeps padding silent.
  int64_t panel_lanes_ = 0;
  std::vector<double> levels_, constant_, norm_, residual_, stored_, scale_, inverse_scale_;
  std::vector<uint16_t> panels_;
  std::vector<float> thresholds_, factors_, slack_;
  std::vector<double> errors_;
  std::vector<uint32_t> found_;
  std::vector<float> values_;

  FloatRows rows_;
  std::vector<double> norms_;
  std::vector<float> scores_;
  std::vector<float> denominators_;
  std::vector<const float*> gate_rows_;
};

}  // namespace salience::cpu
