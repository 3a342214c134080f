#include "cpu/scan.h"

#include <cstring>
#include <numeric>

namespace salience::cpu {
namespace {

constexpr int64_t kCachedBytes = 16 << 20;
constexpr int64_t kRunBlocks = 8;               // neighbours that a scan of a few queries reads together
constexpr int64_t kRescoreBatch = 32;           // two of them stay in the first-level cache
constexpr int64_t kPieceRows = kBlockRows / 2;  // of a sample: whole tiles of every instruction set
constexpr int64_t kKeptBytes = 768 << 10;       // of a sample's values: they stay in the second-level cache
constexpr double kRatioRounding = 0x1.0p-20;    // of gated scores: more than their roundings to fp32 together
constexpr double kQuotientSlack = 0x1.0p-148;   // and where they fall below fp32, which loses 2^-149 of each
constexpr double kLargestNumerator = 0x1.0p126;  // beyond it fp32 may overflow
constexpr int64_t kLeastLimit = 1024;            // survivors of one query before they are rescored early

int64_t survivor_limit(int64_t k) { return std::max(16 * k, kLeastLimit); }

// Blocks are visited in golden-ratio strides: items sorted by popularity, say, would otherwise show
// each threshold its best items last.
int64_t coprime_step(int64_t blocks) {
  int64_t step = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(blocks) * 0.6180339887));
  while (std::gcd(step, blocks) != 1) ++step;
  return blocks > 1 ? step : 1;
}

// How the queries of a scan are encoded: what meets 8 bits is always in fixed point.
Encoding query_encoding(Path path) {
  return path == Path::bytes ? Encoding::fixed_point : kernels().encoding;
}

// The accumulation of core/screening_bound.h.
double accumulation_error(Path path, int64_t dimensions) {
  if (path == Path::bytes) return 0x1.0p-20;
  if (kernels().encoding == Encoding::fixed_point) return 0x1.0p-24;
  return 1.01 * (static_cast<double>(dimensions) + 2.0) * 0x1.0p-23;
}

// Rows without a 16-bit form are stored as zeros, which may pass the scan; they are scored apart.
bool is_irregular(const PackedBlock& packed, int64_t row) {
  return !packed.irregular.empty() &&
         std::binary_search(packed.irregular.begin(), packed.irregular.end(), static_cast<uint16_t>(row));
}

// Of `wanted` items that reach a value, fewer than so many are in a sample of that share, but for one time in
// tens of thousands: the sample's value of this rank is lower.
int64_t rank_in_sample(double share, int64_t wanted) {
  const double expected = share * static_cast<double>(wanted);
  return static_cast<int64_t>(expected + 4.0 * std::sqrt(expected) + 3.0);
}

class TileRegisters {
 public:
  TileRegisters() { kernels().enter_scan(); }
  ~TileRegisters() { kernels().leave_scan(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

}  // namespace

uint64_t Survivors::key(double lower, int64_t position) {
  uint64_t bits;
  std::memcpy(&bits, &lower, sizeof bits);
  bits = bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
  return (bits & 0xFFFFFFFF00000000u) | static_cast<uint64_t>(position);
}

double Survivors::lower(uint64_t key) {
  uint64_t bits = key & 0xFFFFFFFF00000000u;
  bits = bits >> 63 ? bits ^ uint64_t{1} << 63 : ~bits;
  double lower;
  std::memcpy(&lower, &bits, sizeof lower);
  return lower;
}

GatedBlend prepare(const Blend& blend, const Catalogue& catalogue, const uint8_t* allowed) {
  GatedBlend prepared{blend, blend.query_gates.columns, {}, {}, allowed};
  const int64_t gates = prepared.gates;
  prepared.smallest.assign(static_cast<size_t>(catalogue.blocks() * gates),
                           std::numeric_limits<float>::max());
  prepared.largest.assign(prepared.smallest.size(), 0.0f);
  for (int64_t position = 0; gates > 0 && position < catalogue.rows; ++position) {
    const float* const row = blend.item_gates.row(catalogue.id(position));
    float* const low = prepared.smallest.data() + position / kBlockRows * gates;
    float* const high = prepared.largest.data() + position / kBlockRows * gates;
    for (int64_t g = 0; g < gates; ++g) {
      low[g] = std::min(low[g], row[g]);
      high[g] = std::max(high[g], row[g]);
    }
  }
  return prepared;
}

GroupScan::GroupScan(const Request& request, int64_t first, int64_t count)
    : request_(request),
      catalogue_(*request.catalogue),
      first_(first),
      count_(count),
      bound_(catalogue_.metric, accumulation_error(request.path, catalogue_.columns), catalogue_.centre_norm),
      queries_(static_cast<size_t>(count)),
      best_(static_cast<size_t>(count), Reservoir<Key>(request.k)),
      path_(request.path) {
  canonical_.assign(request.queries, first, count);
  if (request.gated()) gates_.assign(request.blend->given.query_gates, first, count);
}

void GroupScan::scan(const Share& share, Worker& worker) {
  take(share);
  // Before the scan, since what has an addition is likely to be among the best.
  if (path_ == Path::exact) {
    for (int64_t q = 0; q < count_; ++q) score_additions(q);
    for (int64_t block; (block = next_block()) >= 0 && !worker.should_stop();) score_block(block);
    return;
  }
  encode_queries();
  for (int64_t q = 0; q < count_; ++q)
    if (!queries_[static_cast<size_t>(q)].exhaustive) score_additions(q);
  if (!catalogue_.packed.empty() && path_ == Path::panels) guess_levels();
  screen(worker);
}

void GroupScan::scan_again(const Share& share, const std::vector<int64_t>& queries, Worker& worker) {
  take(share);
  encode_queries();
  for (int64_t q = 0; q < count_; ++q) {
    Query& query = queries_[static_cast<size_t>(q)];
    if (!std::binary_search(queries.begin(), queries.end(), q)) {
      query.exhaustive = false;
      levels_[static_cast<size_t>(q)] = ScreeningBound::kInfinity;
    } else if (!query.exhaustive) {
      score_additions(q);
    }
  }
  screen(worker);
}

void GroupScan::screen(Worker& worker) {
  sweep(worker);
  score_exhaustively(worker);
  // Other scans, which live until all are done, find this memory again while it is warm.
  found_ = {};
  values_ = {};
  panels_ = {};
}

bool GroupScan::part(const std::unique_ptr<GroupScan>* scans, int64_t count, int64_t host, int64_t q) {
  if (scans[0]->path_ == Path::exact) return true;
  if (count > 1) {
    scans[host]->queries_[static_cast<size_t>(q)].survivors = part_together(scans, count, q);
  } else {
    scans[0]->part(q);
  }
  return std::none_of(scans, scans + count, [&](const auto& scan) { return scan->is_guessed(q); });
}

std::vector<Key> GroupScan::best(const std::unique_ptr<GroupScan>* scans, int64_t count, int64_t host,
                                 int64_t q, int64_t next) {
  scans[host]->rescore(q, next);
  std::vector<Key> keys;
  for (int64_t s = 0; s < count; ++s) {
    const std::vector<Key>& found = scans[s]->best_[static_cast<size_t>(q)].keys();
    keys.insert(keys.end(), found.begin(), found.end());
  }
  return keys;
}

std::vector<uint64_t> GroupScan::part_together(const std::unique_ptr<GroupScan>* scans, int64_t count,
                                               int64_t q) {
  const auto n = static_cast<size_t>(q), k = static_cast<size_t>(scans[0]->request_.k);
  std::vector<uint64_t> survivors;
  const auto gather = [&](const GroupScan& scan) {
    const std::vector<uint64_t>& own = scan.queries_[n].survivors;
    survivors.insert(survivors.end(), own.begin(), own.end());
  };
  for (int64_t r = 0; r < count; ++r) gather(*scans[r]);
  double lower = -ScreeningBound::kInfinity;
  if (survivors.size() >= k) {
    partition_largest(survivors.data(), survivors.size(), k);
    lower = Survivors::lower(survivors[k - 1]);
  }
  survivors.clear();
  for (int64_t r = 0; r < count; ++r) {
    GroupScan& scan = *scans[r];
    scan.adopt_level(q);
    scan.raise_level_to_survivors(q, lower);
    scan.drop(q, 0);
    gather(scan);
  }
  return survivors;
}

void GroupScan::encode_queries() {
  const int64_t lanes = kernels().lanes;
  panel_lanes_ = path_ == Path::panels ? 2 * lanes : kFewQueries;
  const auto padded = static_cast<size_t>((count_ + panel_lanes_ - 1) / panel_lanes_ * panel_lanes_);
  levels_.assign(padded, ScreeningBound::kInfinity);
  for (auto* lane : {&constant_, &norm_, &residual_, &stored_, &scale_, &inverse_scale_})
    lane->assign(padded, 0.0);
  thresholds_.resize(static_cast<size_t>(panel_lanes_));
  factors_.assign(static_cast<size_t>(panel_lanes_), 0.0f);
  slack_.assign(static_cast<size_t>(panel_lanes_), 0.0f);
  errors_.resize(static_cast<size_t>(panel_lanes_));
  found_.resize(static_cast<size_t>((panel_lanes_ + lanes) * (kBlockRows + 1)));
  values_.resize(found_.size());
  for (int64_t q = 0; q < count_; ++q) {
    Query& query = queries_[static_cast<size_t>(q)];
    query.zero = catalogue_.metric != Metric::euclidean && canonical_.norms[static_cast<size_t>(q)] == 0.0;
    query.exhaustive = query.zero;
    query.capacity = static_cast<size_t>(request_.k + std::max<int64_t>(64, request_.k));
    if (!query.exhaustive) levels_[static_cast<size_t>(q)] = -ScreeningBound::kInfinity;
  }
  encode_vectors();
}

// The queries' vectors for path_, and what the bound makes of them.
void GroupScan::encode_vectors() {
  const int64_t depth = catalogue_.depth(), columns = catalogue_.columns;
  const bool euclidean = catalogue_.metric == Metric::euclidean;
  const Encoding encoding = query_encoding(path_);
  const auto encode = encoding == kernels().encoding ? kernels().encode : kernels().encode_fixed;
  const std::vector<double> origin(catalogue_.centre.size(), 0.0);
  const double* const centre = euclidean ? catalogue_.centre.data() : origin.data();
  std::vector<uint16_t> rows(static_cast<size_t>(count_ * depth), 0);
  for (int64_t q = 0; q < count_; ++q) {
    Query& query = queries_[static_cast<size_t>(q)];
    if (query.exhaustive) continue;
    const auto lane = static_cast<size_t>(q);
    const float* const row = request_.queries.row(first_ + q);
    const double weight = weight_of(catalogue_.metric, row, columns);
    double squares;
    EncodeArguments arguments{&row,    &weight, centre, 1, columns, depth, 1.0, rows.data() + q * depth,
                              &squares};
    kernels().centred_squares(arguments);
    query.exhaustive = !choose_scale(squares, encoding, query.encoded);
    if (query.exhaustive) {
      levels_[lane] = ScreeningBound::kInfinity;
      continue;
    }
    arguments.scale = 1.0 / query.encoded.scale;
    encode(arguments);
    query.encoded.residual = std::sqrt(squares) * query.encoded.scale * (1.0 + 0x1.0p-40);
    query.coefficients = bound_.coefficients(query.encoded);
    query.offset = 0.0;
    if (!euclidean)
      for (int64_t j = 0; j < columns; ++j)
        query.offset += weight * row[j] * catalogue_.centre[static_cast<size_t>(j)];
    constant_[lane] = query.coefficients.constant;
    norm_[lane] = query.coefficients.norm;
    residual_[lane] = query.coefficients.residual;
    stored_[lane] = query.encoded.norm + query.encoded.residual;
    scale_[lane] = query.encoded.scale;
    inverse_scale_[lane] = arguments.scale;
  }
  if (path_ == Path::panels) {
    pack_panels(rows);
  } else {
    panels_ = std::move(rows);
  }
}

// Queries go to lanes, pairs of dimensions side by side. A panel of at most `lanes` queries is half as
// wide as the others.
void GroupScan::pack_panels(const std::vector<uint16_t>& rows) {
  const int64_t lanes = kernels().lanes, pairs = catalogue_.depth() / 2;
  panels_.assign(levels_.size() * static_cast<size_t>(2 * pairs), 0);
  for (int64_t q = 0; q < count_; ++q) {
    const int64_t panel = q / panel_lanes_, members = std::min(panel_lanes_, count_ - panel * panel_lanes_);
    const int64_t width = members <= lanes ? lanes : panel_lanes_;
    uint16_t* const lane = panels_.data() + (panel * panel_lanes_ * pairs + q % panel_lanes_) * 2;
    for (int64_t j = 0; j < pairs; ++j)
      std::memcpy(lane + j * width * 2, rows.data() + (q * pairs + j) * 2, 2 * sizeof(uint16_t));
  }
}

void GroupScan::take(const Share& share) {
  share_ = share;
  // Reading is what a few queries wait for, and goes better in long runs.
  run_ = path_ == Path::panels ? 1 : std::clamp<int64_t>(catalogue_.blocks(), 1, kRunBlocks);
  runs_ = catalogue_.blocks() / run_;
  step_ = path_ == Path::exact ? 1 : coprime_step(runs_);
  blocks_.assign(static_cast<size_t>(path_ == Path::exact ? 0 : catalogue_.blocks()), {});
  sampled_.assign(blocks_.size(), -1);
}

int64_t GroupScan::block_of_turn(int64_t turn) const {
  if (turn >= runs_ * run_) return turn;  // what is left over
  return turn / run_ * step_ % runs_ * run_ + turn % run_;
}

// The next block for this scan, or -1.
int64_t GroupScan::next_block() {
  const auto dealt = static_cast<int64_t>(visited_.size());
  int64_t turn = share_.index + dealt * share_.count;
  if (dealt >= sampled_turns_) {
    if (turn_ == turn_end_) {
      turn_ = share_.count * sampled_turns_ + share_.taken->fetch_add(run_, std::memory_order_relaxed);
      turn_end_ = turn_ + run_;
    }
    turn = turn_++;
  }
  if (turn >= catalogue_.blocks()) return -1;
  visited_.push_back(block_of_turn(turn));
  return visited_.back();
}

void GroupScan::sweep(Worker& worker) {
  const TileRegisters registers;
  const int64_t elements = kBlockRows * catalogue_.depth();
  const bool stored = !catalogue_.packed.empty();
  // A matrix-vector product of what the last-level cache holds does better without prefetches.
  const int64_t read = catalogue_.blocks() * elements * (path_ == Path::bytes ? 1 : 2);
  const bool prefetch = stored && (path_ == Path::panels || read > kCachedBytes);
  PackedMemory memory(stored ? 32 : elements);
  PackedBlock scratch;
  for (int64_t block = next_block(), following; block >= 0 && !worker.should_stop(); block = following) {
    following = next_block();
    const Piece piece = unscreened(block);
    if (!stored) pack_block(catalogue_, block, rows_, memory.data(), scratch);
    const PackedBlock& packed = stored ? *catalogue_.packed[static_cast<size_t>(block)] : scratch;
    const ByteBlock* const bytes = path_ == Path::bytes ? &bytes_of(block, packed) : nullptr;
    blocks_[static_cast<size_t>(block)] =
        bytes ? Scanned{bytes->encoded, bytes->scales.data()} : Scanned{packed.encoded, nullptr};
    screen_piece(piece, packed, bytes,
                 prefetch && following >= 0 ? stored_data(unscreened(following)) : nullptr);
    if (crowded_) widen();
  }
}

// The block, less the half of it that was in a sample.
GroupScan::Piece GroupScan::unscreened(int64_t block) const {
  const int64_t sampled = sampled_[static_cast<size_t>(block)];
  if (sampled < 0) return {block, 0, catalogue_.block_rows(block)};
  return {block, kPieceRows - sampled, kPieceRows};
}

// The block in 8 bits: the one that is there already, or one that is made now.
const ByteBlock& GroupScan::bytes_of(int64_t block, const PackedBlock& packed) {
  if (!request_.bytes.empty()) return *request_.bytes[static_cast<size_t>(block)];
  made_bytes_.resize(static_cast<size_t>(kBlockRows * catalogue_.depth()));
  made_blocks_.push_back(std::make_unique<ByteBlock>());
  pack_bytes(catalogue_, block, packed, rows_, made_bytes_.data(), *made_blocks_.back());
  return *made_blocks_.back();
}

// What the scan will read of a block that is packed already.
const void* GroupScan::stored_data(const Piece& piece) const {
  const auto b = static_cast<size_t>(piece.block);
  if (path_ != Path::bytes) return catalogue_.packed[b]->data + piece.row * catalogue_.depth();
  return request_.bytes.empty() ? nullptr : request_.bytes[b]->data;
}

// 8 bits part too few of these items: the rest of the scan is one in 16 bits.
void GroupScan::widen() {
  crowded_ = false;
  path_ = Path::rows;
  for (int64_t q = 0; q < count_; ++q) {
    Query& query = queries_[static_cast<size_t>(q)];
    if (query.exhaustive) continue;
    settle(q);
    query.rescored = 0;
  }
  bound_ = {catalogue_.metric, accumulation_error(path_, catalogue_.columns), catalogue_.centre_norm};
  encode_vectors();
}

// A first level for every query, before anything survives: without it most survivors would come from the
// first few percent of the items. It is guessed from a sample of half blocks, so that rather more than k
// items of all scans should reach it, and holds once k have: see part. What counts are the maxima of cells, a
// few to a half block: where a query's best items are neighbours, one half block must not decide. The scan
// leaves out what is kept of the sample.
void GroupScan::guess_levels() {
  if (request_.allowed != nullptr) return;
  const TileRegisters registers;
  const int64_t blocks = catalogue_.blocks() / share_.count;
  const int64_t piece_values = kPieceRows * panel_lanes_;
  const int64_t most_kept = kKeptBytes / (piece_values * static_cast<int64_t>(sizeof(float)));
  // What is kept costs little, but more than the same in the scan; the rest is computed twice.
  const int64_t enough_pieces = 2 * std::max<int64_t>(8, request_.k / 6);
  const int64_t kept = std::min({most_kept, 2 * enough_pieces, blocks / 2});
  sampled_turns_ = std::max(kept, std::min(enough_pieces, blocks / 4));
  Sample sample;
  for (int64_t n = 0; n < sampled_turns_; ++n) {
    const int64_t block = block_of_turn(share_.index + n * share_.count);
    const PackedBlock& packed = *catalogue_.packed[static_cast<size_t>(block)];
    // Rows that are no items, or are stored as zeros, must not pass for maxima.
    if (packed.rows < kBlockRows || !packed.irregular.empty()) continue;
    sample.pieces.push_back({block, n % 2 * kPieceRows, kPieceRows});
    blocks_[static_cast<size_t>(block)] = {packed.encoded, nullptr};
    if (sample.kept < kept) {
      sampled_[static_cast<size_t>(block)] = sample.pieces.back().row;
      ++sample.kept;
    }
  }
  if (sample.pieces.empty()) return;
  for (int64_t q = 0; q < count_; ++q) adopt_level(q);
  const auto pieces = static_cast<int64_t>(sample.pieces.size());
  const int64_t tiles = kPieceRows / kernels().tile_rows;
  sample.share = static_cast<double>(pieces * kPieceRows) / static_cast<double>(catalogue_.rows);
  const int64_t enough = 4 * rank_in_sample(sample.share, request_.k);
  while (sample.cells < tiles && (tiles % sample.cells != 0 || sample.cells * pieces < enough))
    ++sample.cells;
  sample.maxima.resize(static_cast<size_t>(pieces * tiles * panel_lanes_));
  sample.values.resize(static_cast<size_t>(sample.kept * piece_values));
  for (int64_t first = 0; first < count_; first += panel_lanes_) {
    guess_levels_of_panel(first, sample);
    sift_panel(first, sample);
  }
}

ScreenArguments GroupScan::sample_arguments(int64_t first, Sample& sample, int64_t n) {
  const Piece& piece = sample.pieces[static_cast<size_t>(n)];
  const PackedBlock& packed = *catalogue_.packed[static_cast<size_t>(piece.block)];
  ScreenArguments arguments = panel_arguments(first, piece, packed, nullptr);
  arguments.maxima = sample.maxima.data() + n * (kPieceRows / kernels().tile_rows) * panel_lanes_;
  if (n < sample.kept) arguments.kept = sample.values.data() + n * kPieceRows * panel_lanes_;
  return arguments;
}

void GroupScan::guess_levels_of_panel(int64_t first, Sample& sample) {
  const int64_t lanes = std::min(panel_lanes_, count_ - first), cells = sample.cells;
  const int64_t width = lanes <= kernels().lanes ? kernels().lanes : panel_lanes_;
  const auto found = static_cast<int64_t>(sample.pieces.size()) * cells;
  sample.lowers.resize(static_cast<size_t>(found * width));
  // What stays below a threshold that other scans have raised is not written.
  std::fill(sample.maxima.begin(), sample.maxima.end(), -std::numeric_limits<float>::infinity());
  for (size_t n = 0; n < sample.pieces.size(); ++n) {
    const int64_t block = sample.pieces[n].block;
    set_thresholds(first, block, catalogue_.packed[static_cast<size_t>(block)]->encoded, false);
    ScreenArguments arguments = sample_arguments(first, sample, static_cast<int64_t>(n));
    if (n + 1 < sample.pieces.size()) arguments.next = stored_data(sample.pieces[n + 1]);
    screen_panel(arguments);
    lower_cells(first, block, arguments.maxima, width, cells,
                sample.lowers.data() + static_cast<int64_t>(n) * cells * width);
  }
  std::vector<float> own(static_cast<size_t>(found));
  for (int64_t lane = 0; lane < lanes; ++lane) {
    for (int64_t n = 0; n < found; ++n)
      own[static_cast<size_t>(n)] = sample.lowers[static_cast<size_t>(n * width + lane)];
    guess_level(first + lane, own, sample.share);
  }
}

// From the maxima of one piece's tiles: about how much S of the best of each cell and lane is at least, by
// the thresholds that were set last.
void GroupScan::lower_cells(int64_t first, int64_t block, const float* maxima, int64_t width, int64_t cells,
                            float* lowers) const {
  const double scale = catalogue_.packed[static_cast<size_t>(block)]->encoded.scale;
  const int64_t tiles = kPieceRows / kernels().tile_rows;
  for (int64_t c = 0; c < cells; ++c, lowers += width) {
    std::copy_n(maxima + c * tiles / cells * width, width, lowers);
    for (int64_t t = c * tiles / cells + 1; t < (c + 1) * tiles / cells; ++t)
      for (int64_t l = 0; l < width; ++l) lowers[l] = std::max(lowers[l], maxima[t * width + l]);
    for (int64_t l = 0; l < width; ++l) {
      const auto unit = static_cast<float>(scale_[static_cast<size_t>(first + l)] * scale);
      const float lower = lowers[l] * unit - static_cast<float>(errors_[static_cast<size_t>(l)]);
      lowers[l] = lower == lower ? lower : -std::numeric_limits<float>::infinity();
    }
    if (!request_.gated()) continue;
    for (int64_t l = 0; l < std::min(width, count_ - first); ++l)
      if (lowers[l] > -std::numeric_limits<float>::infinity())
        lowers[l] = static_cast<float>(gated_lower(first + l, static_cast<double>(lowers[l]), block));
  }
}

// What is kept of the sample, judged by the levels that were guessed from it.
void GroupScan::sift_panel(int64_t first, Sample& sample) {
  for (int64_t n = 0; n < sample.kept; ++n) {
    const Piece& piece = sample.pieces[static_cast<size_t>(n)];
    const PackedBlock& packed = *catalogue_.packed[static_cast<size_t>(piece.block)];
    if (!set_thresholds(first, piece.block, packed.encoded, false)) continue;
    consider_found(first, kernels().sift(sample_arguments(first, sample, n)), piece, packed, nullptr);
  }
}

// From what the best of each cell has at least. Where a query leaves items out, they may all be better than
// the rest.
void GroupScan::guess_level(int64_t q, std::vector<float>& lowers, double share) {
  Query& query = queries_[static_cast<size_t>(q)];
  const int64_t id = first_ + q;
  const int64_t wanted = request_.k +
                         (request_.exclude == nullptr ? 0 : request_.exclude[id + 1] - request_.exclude[id]) +
                         (request_.blend == nullptr ? 0 : request_.blend->addition_count(id));
  const auto rank = static_cast<size_t>(rank_in_sample(share, wanted));
  if (query.exhaustive || 2 * rank > lowers.size()) return;
  partition_largest(lowers.data(), lowers.size(), rank);
  const auto lower = static_cast<double>(lowers[rank - 1]);
  if (!(std::abs(lower) < ScreeningBound::kInfinity)) return;
  const double level = bound_.level_of_screened(lower, offset_of_level(query), query.encoded.norm);
  double& current = levels_[static_cast<size_t>(q)];
  if (level > current) current = query.guess = level;
}

void GroupScan::screen_piece(const Piece& piece, const PackedBlock& packed, const ByteBlock* bytes,
                             const void* next) {
  if (!packed.irregular.empty()) score_irregular(piece.block, packed);
  for (int64_t q = 0; q < count_; ++q) adopt_level(q);
  for (int64_t first = 0; first < count_; first += panel_lanes_) {
    if (!set_thresholds(first, piece.block, bytes ? bytes->encoded : packed.encoded, bytes != nullptr))
      continue;
    ScreenArguments arguments = panel_arguments(first, piece, packed, bytes);
    arguments.next = next;
    next = nullptr;
    consider_found(first, screen_panel(arguments), piece, packed, bytes);
  }
}

void GroupScan::consider_found(int64_t first, int64_t found, const Piece& piece, const PackedBlock& packed,
                               const ByteBlock* bytes) {
  visit_found(first, found, piece, packed, bytes, [&](int64_t q, const Screened& item, int64_t position) {
    consider(q, item.lower, item.error, position);
  });
}

// Calls visit(query, item, position) for each of `found` entries of found_ and values_ that is an item of the
// scan: neither padding nor stored as zeros.
template <class Visit>
void GroupScan::visit_found(int64_t first, int64_t found, const Piece& piece, const PackedBlock& packed,
                            const ByteBlock* bytes, Visit visit) {
  const int64_t lanes = std::min(panel_lanes_, count_ - first);
  for (int64_t n = 0; n < found; ++n) {
    const uint32_t place = found_[static_cast<size_t>(n)];
    const int64_t lane = place >> 16, row = piece.row + (place & 0xFFFF);
    if (lane >= lanes || row >= packed.rows || is_irregular(packed, row)) continue;
    const auto value = static_cast<double>(values_[static_cast<size_t>(n)]);
    visit(first + lane, screened(first + lane, value, row, packed, bytes), piece.block * kBlockRows + row);
  }
}

// A value that passed, of an item of the block whose thresholds were set last.
GroupScan::Screened GroupScan::screened(int64_t query, double value, int64_t row, const PackedBlock& packed,
                                        const ByteBlock* bytes) const {
  const size_t q = static_cast<size_t>(query), lane = static_cast<size_t>(query % panel_lanes_);
  double error = errors_[lane], scale = packed.encoded.scale;
  if (bytes != nullptr) {
    const double share = bytes->scales[static_cast<size_t>(row)];
    value -= share * static_cast<double>(slack_[lane]);
    error += share * residual_[q] * bytes->encoded.residual;
    scale = bytes->encoded.scale;
  }
  return {value * scale_[q] * scale - error, error};
}

// What a kernel needs to leave in found_ and values_ what passes the thresholds.
ScreenArguments GroupScan::panel_arguments(int64_t first, const Piece& piece, const PackedBlock& packed,
                                           const ByteBlock* bytes) {
  const bool euclidean = catalogue_.metric == Metric::euclidean;
  ScreenArguments arguments{};
  arguments.items =
      bytes ? static_cast<const void*>(bytes->data) : packed.data + piece.row * catalogue_.depth();
  arguments.rows = piece.rows;
  arguments.depth = catalogue_.depth();
  arguments.panel = panels_.data() + first * catalogue_.depth();
  arguments.queries = std::min(panel_lanes_, count_ - first);
  arguments.thresholds = thresholds_.data();
  arguments.terms = euclidean ? packed.terms.data() + piece.row : nullptr;
  arguments.factors = factors_.data();
  arguments.positions = found_.data();
  arguments.values = values_.data();
  arguments.scales = bytes ? bytes->scales.data() : nullptr;
  arguments.slack = slack_.data();
  return arguments;
}

int64_t GroupScan::screen_panel(const ScreenArguments& arguments) const {
  if (path_ == Path::bytes) return kernels().screen_bytes(arguments);
  return path_ == Path::rows ? kernels().screen_few(arguments) : kernels().screen(arguments);
}

void GroupScan::probe(double* values, double* errors, double* offsets, double* norms) {
  const TileRegisters registers;
  encode_queries();
  const int64_t blocks = catalogue_.blocks(), items = catalogue_.rows;
  PackedMemory memory(kBlockRows * catalogue_.depth());
  PackedBlock packed;
  for (int64_t q = 0; q < count_; ++q) {
    offsets[q] = queries_[static_cast<size_t>(q)].offset;
    norms[q] = queries_[static_cast<size_t>(q)].encoded.norm;
  }
  std::fill(values, values + count_ * items, 0.0);
  std::fill(errors, errors + count_ * items, ScreeningBound::kInfinity);
  for (int64_t block = 0; block < blocks; ++block) {
    pack_block(catalogue_, block, rows_, memory.data(), packed);
    const ByteBlock* const bytes = path_ == Path::bytes ? &bytes_of(block, packed) : nullptr;
    const Piece piece{block, 0, packed.rows};
    for (int64_t first = 0; first < count_; first += panel_lanes_) {
      set_thresholds(first, block, bytes ? bytes->encoded : packed.encoded, bytes != nullptr);
      const int64_t found = screen_panel(panel_arguments(first, piece, packed, bytes));
      visit_found(first, found, piece, packed, bytes, [&](int64_t q, const Screened& item, int64_t position) {
        if (queries_[static_cast<size_t>(q)].exhaustive) return;
        values[q * items + position] = item.lower + item.error;
        errors[q * items + position] = item.error;
      });
    }
  }
}

// Thresholds of one panel against one block, in units of the computed values. False where no item of the
// block can reach any query's level. Where rows are scaled, slack_ has what the residual adds, before the
// scale.
bool GroupScan::set_thresholds(int64_t first, int64_t number, const Encoded& block, bool scaled) {
  const bool euclidean = catalogue_.metric == Metric::euclidean;
  const double inverse_scale = 1.0 / block.scale, reach = block.norm + block.residual;
  const double squared = euclidean ? bound_.squared_norm_coefficient() : 0.0;
  const double shared = squared * block.norm * block.norm;
  int reachable = 0;
  for (int64_t lane = 0; lane < panel_lanes_; ++lane) {
    const auto q = static_cast<size_t>(first + lane), l = static_cast<size_t>(lane);
    const double lost = residual_[q] * block.residual, unit = inverse_scale_[q] * inverse_scale;
    const double error = constant_[q] + norm_[q] * block.norm + shared + (scaled ? 0.0 : lost);
    errors_[l] = error;
    if (scaled) slack_[l] = static_cast<float>(lost * unit * (1.0 + 0x1.0p-22));
    const double level = request_.gated() && static_cast<int64_t>(q) < count_
                             ? level_in_block(static_cast<int64_t>(q), number, stored_[q] * reach)
                             : levels_[q];
    reachable |= level - error - (scaled ? lost : 0.0) <= stored_[q] * reach;
    thresholds_[l] = ScreeningBound::threshold(level, error, unit);
  }
  if (euclidean) {
    const double square = block.norm * block.norm;
    for (int64_t lane = 0; lane < panel_lanes_; ++lane) {
      const auto q = static_cast<size_t>(first + lane), l = static_cast<size_t>(lane);
      const double factor = square * inverse_scale_[q] * inverse_scale;
      factors_[l] = static_cast<float>(std::min(factor, 0x1.0p100));
      if (factor <= 0x1.0p100 || levels_[q] == ScreeningBound::kInfinity) continue;
      // |z| dwarfs |v|, and their difference would leave fp32.
      give_up(static_cast<int64_t>(q));
      thresholds_[l] = std::numeric_limits<float>::max();
    }
  }
  return reachable != 0;
}

// The computed value less its error is `lower`: an item that may be among the best k of query q.
void GroupScan::consider(int64_t q, double lower, double error, int64_t position) {
  Query& query = queries_[static_cast<size_t>(q)];
  if (request_.gated()) {
    const Screened ratio = gate(q, lower, error, catalogue_.id(position));
    lower = ratio.lower;
    error = ratio.error;
  }
  if (lower + 2.0 * error < levels_[static_cast<size_t>(q)]) return;
  if (!request_.scans(first_ + q, catalogue_.id(position))) return;
  if (query.survivors.capacity() == 0) query.survivors.reserve(query.capacity);
  query.survivors.push_back(Survivors::key(lower, position));
  if (query.survivors.size() >= query.capacity) compact(q);
}

void GroupScan::raise_level(int64_t q, double level) {
  prove_level(q, level);
  // A store that another thread undoes costs time, never correctness: every level is valid for all.
  if (request_.levels == nullptr) return;
  std::atomic<double>& shared = request_.levels[first_ + q];
  if (level > shared.load(std::memory_order_relaxed)) shared.store(level, std::memory_order_relaxed);
}

void GroupScan::adopt_level(int64_t q) {
  if (request_.levels != nullptr) prove_level(q, request_.levels[first_ + q].load(std::memory_order_relaxed));
}

// k items are known to reach `level`.
void GroupScan::prove_level(int64_t q, double level) {
  double& current = levels_[static_cast<size_t>(q)];
  double& guess = queries_[static_cast<size_t>(q)].guess;
  if (level >= guess) guess = -ScreeningBound::kInfinity;
  current = std::max(current, level);
}

bool GroupScan::is_guessed(int64_t q) const {
  const Query& query = queries_[static_cast<size_t>(q)];
  return query.guess > -ScreeningBound::kInfinity && !query.exhaustive;
}

double GroupScan::error_at(int64_t q, double lower, int64_t position) const {
  const Scanned& block = blocks_[static_cast<size_t>(position / kBlockRows)];
  Encoded row = block.encoded;
  if (block.scales != nullptr) row.residual *= static_cast<double>(block.scales[position % kBlockRows]);
  const double error = queries_[static_cast<size_t>(q)].coefficients.error(row);
  if (!request_.gated()) return error;
  const double ratio = error / request_.blend->denominator(first_ + q, catalogue_.id(position));
  return ratio + kRatioRounding * (std::abs(lower) + ratio) + kQuotientSlack;
}

// Where scores are gated, levels and survivors are in terms of the score (a quotient) in place of S. Its own
// rounding, and that of the quotients here, is less than kRatioRounding of it and kQuotientSlack.
GroupScan::Screened GroupScan::gate(int64_t q, double lower, double error, int64_t id) const {
  const double denominator = request_.blend->denominator(first_ + q, id);
  const double value = (lower + error + queries_[static_cast<size_t>(q)].offset) / denominator;
  const double ratio = error / denominator;
  const double off = ratio + kRatioRounding * (std::abs(value) + ratio) + kQuotientSlack;
  return {value - off, off};
}

// A lower bound on the score of some item of the block, whose S is at least `lower`.
double GroupScan::gated_lower(int64_t q, double lower, int64_t block) const {
  const double numerator = lower + queries_[static_cast<size_t>(q)].offset;
  const GatedBlend& blend = *request_.blend;
  const float* const edge = (numerator >= 0.0 ? blend.largest : blend.smallest).data() + block * blend.gates;
  const double value = numerator / blend.product(first_ + q, edge);
  return value - kRatioRounding * std::abs(value);
}

// What the level, a score, says about S of the items of a block: the least that any of them must have.
double GroupScan::level_in_block(int64_t q, int64_t block, double reach) {
  const double level = levels_[static_cast<size_t>(q)] - kQuotientSlack,
               offset = queries_[static_cast<size_t>(q)].offset;
  if (level == ScreeningBound::kInfinity) return level;
  const GatedBlend& blend = *request_.blend;
  const float* const low = blend.smallest.data() + block * blend.gates;
  const float* const high = blend.largest.data() + block * blend.gates;
  // Outside of these, scores may be infinite, or denominators have few digits in fp32.
  if (reach + std::abs(offset) > kLargestNumerator ||
      blend.product(first_ + q, low) < 1.0 / kLargestNumerator ||
      blend.product(first_ + q, high) > kLargestNumerator) {
    give_up(q);
    return levels_[static_cast<size_t>(q)];
  }
  if (level == -ScreeningBound::kInfinity) return level;
  const float* const edge = level >= 0.0 ? low : high;
  const double numerator = level * blend.product(first_ + q, edge);
  return numerator - kRatioRounding * (std::abs(numerator) + std::abs(offset)) - offset;
}

// The level that a score says: S is the score less the query's offset, but where scores are gated.
double GroupScan::offset_of_level(const Query& query) const { return request_.gated() ? 0.0 : query.offset; }

// Raises the level to what k survivors reach and drops those that cannot reach it.
void GroupScan::part(int64_t q) {
  std::vector<uint64_t>& survivors = queries_[static_cast<size_t>(q)].survivors;
  const auto k = static_cast<size_t>(request_.k);
  size_t kept = 0;
  if (survivors.size() >= k) {
    partition_largest(survivors.data(), survivors.size(), k);
    raise_level_to_survivors(q, Survivors::lower(survivors[k - 1]));
    kept = k;  // the k best by lower bound stay: each of them may be
  }
  drop(q, kept);
}

// Makes room among the survivors.
void GroupScan::compact(int64_t q) {
  part(q);
  Query& query = queries_[static_cast<size_t>(q)];
  const size_t kept = query.survivors.size();
  if (kept <= query.capacity / 2) return;
  const auto limit = static_cast<size_t>(survivor_limit(request_.k));
  if (query.capacity < limit) {
    query.capacity = std::min(limit, 2 * query.capacity);
  } else if (kept > query.capacity - query.capacity / 4) {
    tighten(q);
  }
}

// Raises the level to what k survivors, whose S is at least `lower`, reach.
void GroupScan::raise_level_to_survivors(int64_t q, double lower) {
  const Query& query = queries_[static_cast<size_t>(q)];
  raise_level(q, bound_.level_of_screened(lower, offset_of_level(query), query.encoded.norm));
}

// Drops the survivors that cannot reach the level, the first `kept` of them excepted.
void GroupScan::drop(int64_t q, size_t kept) {
  std::vector<uint64_t>& survivors = queries_[static_cast<size_t>(q)].survivors;
  const double level = levels_[static_cast<size_t>(q)];
  const auto reaches_level = [&](uint64_t survivor) {
    const double lower = Survivors::lower(survivor), rounding = std::abs(lower) * 0x1.0p-19;
    return lower >= level ||
           !(lower + rounding + 2.0 * error_at(q, lower, Survivors::position(survivor)) < level);
  };
  for (size_t n = kept; n < survivors.size(); ++n)
    if (reaches_level(survivors[n])) survivors[kept++] = survivors[n];
  survivors.resize(kept);
}

// Too many survivors for the bound to part: their canonical scores part them. A query for which even
// that does not end is scored exhaustively.
void GroupScan::tighten(int64_t q) {
  Query& query = queries_[static_cast<size_t>(q)];
  query.rescored += static_cast<int64_t>(query.survivors.size());
  if (query.rescored > 4 * survivor_limit(request_.k)) return give_up(q);
  crowded_ = path_ == Path::bytes;
  settle(q);
}

// Scores the survivors and raises the level to what k of them reach.
void GroupScan::settle(int64_t q) {
  const Query& query = queries_[static_cast<size_t>(q)];
  rescore(q, -1);
  Reservoir<Key>& best = best_[static_cast<size_t>(q)];
  best.compact();
  if (best.full()) {
    const float score = request_.sign * Ranking::score(best.bound());
    raise_level(q, bound_.level_of_score(score, offset_of_level(query), query.encoded.norm));
  }
}

void GroupScan::give_up(int64_t q) {
  Query& query = queries_[static_cast<size_t>(q)];
  query.exhaustive = true;
  query.survivors = {};
  levels_[static_cast<size_t>(q)] = ScreeningBound::kInfinity;
  best_[static_cast<size_t>(q)] = Reservoir<Key>(request_.k);
}

// Scores the survivors of query q canonically and offers them. Meanwhile rows of those that follow are
// fetched, at the end some of query `next` (-1: none).
void GroupScan::rescore(int64_t q, int64_t next) {
  std::vector<uint64_t>& survivors = queries_[static_cast<size_t>(q)].survivors;
  const auto total = static_cast<int64_t>(survivors.size());
  const int64_t batches = (total + kRescoreBatch - 1) / kRescoreBatch;
  int64_t positions[kRescoreBatch];
  const char* rows_ahead[kRescoreBatch];
  for (int64_t b = 0, start = 0; b < batches; ++b) {
    const int64_t end = total * (b + 1) / batches, count = end - start;
    const auto position = [](uint64_t survivor) { return Survivors::position(survivor); };
    std::transform(survivors.begin() + start, survivors.begin() + end, positions, position);
    Ahead ahead{rows_ahead, 0, element_bytes(catalogue_.type)};
    const auto look_ahead = [&](const std::vector<uint64_t>& others, int64_t from) {
      ahead.count = std::min(count, static_cast<int64_t>(others.size()) - from);
      for (int64_t n = 0; n < ahead.count; ++n)
        rows_ahead[n] = reinterpret_cast<const char*>(
            catalogue_.source(catalogue_.id(position(others[static_cast<size_t>(from + n)]))));
    };
    if (end < total) {
      look_ahead(survivors, end);
    } else if (next >= 0) {
      look_ahead(queries_[static_cast<size_t>(next)].survivors, 0);
    }
    const float* const* rows = rows_.at(catalogue_, count, [&](int64_t n) { return positions[n]; });
    score(q, 1, rows, count, positions, ahead);
    start = end;
  }
  survivors.clear();
}

void GroupScan::score_irregular(int64_t block, const PackedBlock& packed) {
  const auto count = static_cast<int64_t>(packed.irregular.size());
  std::vector<int64_t> positions(static_cast<size_t>(count));
  for (int64_t n = 0; n < count; ++n)
    positions[static_cast<size_t>(n)] = block * kBlockRows + packed.irregular[static_cast<size_t>(n)];
  FloatRows memory;
  const float* const* rows =
      memory.at(catalogue_, count, [&](int64_t n) { return positions[static_cast<size_t>(n)]; });
  for (int64_t q = 0; q < count_; ++q)
    if (levels_[static_cast<size_t>(q)] < ScreeningBound::kInfinity)
      score(q, 1, rows, count, positions.data());
}

void GroupScan::score_block(int64_t block) {
  const int64_t count = catalogue_.block_rows(block);
  int64_t positions[kBlockRows];
  std::iota(positions, positions + count, block * kBlockRows);
  score(0, count_, rows_.block(catalogue_, block), count, positions);
}

void GroupScan::score_exhaustively(Worker& worker) {
  std::vector<int64_t> pending;
  for (int64_t q = 0; q < count_; ++q)
    if (queries_[static_cast<size_t>(q)].exhaustive) pending.push_back(q);
  for (const int64_t q : pending) score_additions(q);
  if (!pending.empty()) std::sort(visited_.begin(), visited_.end());
  for (const int64_t block : visited_) {
    if (pending.empty() || worker.should_stop()) break;
    const int64_t count = catalogue_.block_rows(block);
    int64_t positions[kBlockRows];
    std::iota(positions, positions + count, block * kBlockRows);
    const float* const* rows = rows_.block(catalogue_, block);
    for (const int64_t q : pending) score(q, 1, rows, count, positions);
    // Every finite item scores 0 with a zero query: the first k of them cannot be beaten.
    const auto done = [&](int64_t q) {
      const std::vector<Key>& keys = best_[static_cast<size_t>(q)].keys();
      const Key zero = Ranking::key(0.0f, kMaxItems);
      return queries_[static_cast<size_t>(q)].zero && request_.blend == nullptr &&
             std::count_if(keys.begin(), keys.end(), [&](Key key) { return key >= zero; }) >= request_.k;
    };
    pending.erase(std::remove_if(pending.begin(), pending.end(), done), pending.end());
  }
}

// Canonical scores of queries first .. first + count with rows, offered where the filters admit them.
void GroupScan::score(int64_t first, int64_t count, const float* const* rows, int64_t row_count,
                      const int64_t* positions, const Ahead& ahead) {
  const bool cosine = catalogue_.metric == Metric::cosine;
  norms_.resize(static_cast<size_t>(row_count));
  scores_.resize(static_cast<size_t>(count * row_count));
  for (int64_t r = 0; cosine && r < row_count; ++r)
    kernels().squared_norms(rows[r], catalogue_.columns, 1, catalogue_.columns,
                            &norms_[static_cast<size_t>(r)]);
  kernels().canonical({catalogue_.metric, canonical_.values.data() + first * canonical_.stride,
                       canonical_.stride, count, canonical_.norms.data() + first, rows, norms_.data(),
                       row_count, catalogue_.columns, scores_.data(), row_count, ahead});
  if (request_.gated())
    divide(first, count, row_count, [&](int64_t r) { return catalogue_.id(positions[r]); });
  for (int64_t q = 0; q < count; ++q) {
    Reservoir<Key>& best = best_[static_cast<size_t>(first + q)];
    for (int64_t r = 0; r < row_count; ++r) {
      const int64_t id = catalogue_.id(positions[r]);
      const Key key =
          Ranking::key(request_.sign * scores_[static_cast<size_t>(q * row_count + r)], label(id));
      if (best.full() && key <= best.bound()) continue;
      if (request_.scans(first_ + first + q, id)) best.offer(key);
    }
  }
}

int64_t GroupScan::label(int64_t id) const {
  return request_.blend == nullptr ? id : request_.blend->label(id);
}

// Divides scores_ by the gates' products.
template <class Ids>
void GroupScan::divide(int64_t first, int64_t count, int64_t row_count, Ids ids) {
  const GatedBlend& blend = *request_.blend;
  gate_rows_.resize(static_cast<size_t>(row_count));
  denominators_.resize(scores_.size());
  for (int64_t r = 0; r < row_count; ++r)
    gate_rows_[static_cast<size_t>(r)] = blend.given.item_gates.row(ids(r));
  kernels().canonical({Metric::dot, gates_.values.data() + first * gates_.stride, gates_.stride, count,
                       gates_.norms.data() + first, gate_rows_.data(), nullptr, row_count, blend.gates,
                       denominators_.data(), row_count});
  for (size_t n = 0; n < static_cast<size_t>(count * row_count); ++n)
    scores_[n] = scores_[n] / denominators_[n] + 0.0f;
}

// Scores what has an addition to query q canonically, and offers it. Of several scans only the first does:
// the others learn of it by the level.
void GroupScan::score_additions(int64_t q) {
  const GatedBlend* const blend = request_.blend;
  if (blend == nullptr || share_.index != 0) return;
  const Csr& additions = blend->given.additions;
  const int64_t query = first_ + q;
  if (blend->addition_count(query) == 0) return;
  Reservoir<Key>& best = best_[static_cast<size_t>(q)];
  const float* rows[kRescoreBatch];
  int64_t ids[kRescoreBatch];
  float values[kRescoreBatch];
  for (int64_t at = additions.indptr[query], end = additions.indptr[query + 1]; at < end;) {
    int64_t count = 0;
    for (; at < end && count < kRescoreBatch; ++at) {
      const int64_t id = additions.indices[at];
      if (blend->allowed != nullptr && blend->allowed[id] == 0) continue;
      if (!request_.admits_by_exclusion(query, id)) continue;
      ids[count] = id;
      values[count++] = additions.values[at];
    }
    if (count == 0) continue;
    rows_.of_ids(catalogue_, count, [&](int64_t n) { return ids[n]; }, rows);
    scores_.resize(static_cast<size_t>(count));
    kernels().canonical({catalogue_.metric, canonical_.values.data() + q * canonical_.stride,
                         canonical_.stride, 1, canonical_.norms.data() + q, rows, nullptr, count,
                         catalogue_.columns, scores_.data(), count});
    for (int64_t n = 0; n < count; ++n) scores_[static_cast<size_t>(n)] += values[n];
    if (blend->gates > 0) divide(q, 1, count, [&](int64_t n) { return ids[n]; });
    for (int64_t n = 0; n < count; ++n)
      best.offer(Ranking::key(scores_[static_cast<size_t>(n)], blend->label(ids[n])));
  }
  best.compact();
  const Query& asked = queries_[static_cast<size_t>(q)];
  if (path_ != Path::exact && !asked.exhaustive && best.full())
    raise_level(
        q, bound_.level_of_score(Ranking::score(best.bound()), offset_of_level(asked), asked.encoded.norm));
}

}  // namespace salience::cpu
