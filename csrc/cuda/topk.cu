// Exact top-k on the device: a scan in halves whose few survivors are scored canonically.
//
// A scan goes in rounds: a sample sets the first level of every query, then slices of the tiles follow, each
// so long that its survivors should fit their buffers, and between them levels rise and buffers are cleared.
// Where a buffer overflows all the same, the query's level is raised by canonical scores and all tiles are
// scanned once more for it; where that overflows too, and for queries that no bound can serve, every item is
// scored. Items with additions are scored before all others. Nothing of this changes the answer.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>

#include "core/validate.h"
#include "cuda/exclusions.h"
#include "cuda/feeder.h"
#include "cuda/gates.h"
#include "cuda/kernels/survivors.cuh"
#include "cuda/operations.h"

namespace salience::cuda {
namespace {

constexpr int64_t kLeastCapacity = 4096;
constexpr int64_t kLeastSample = 128;            // tiles
constexpr int64_t kSurvivorBytes = 512ll << 20;  // of one group of queries
constexpr int64_t kKeyBytes = 256ll << 20;       // of the exact path at a time
constexpr int64_t kFewestScreened = 4096;        // items
constexpr int64_t kFewestPacked = 4;             // queries for which packing pays within one call
constexpr int64_t kReservedShare = 32;  // one part in so many of the device's memory is left to others

int64_t blocks_of(int64_t count, int64_t per_block) { return (count + per_block - 1) / per_block; }

int64_t coprime_step(int64_t tiles) {
  int64_t step = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(tiles) * 0.6180339887));
  while (std::gcd(step, tiles) != 1) ++step;
  return step;
}

struct Block {
  VectorsView items;
  const PackedView* packed = nullptr;  // null: not packed yet
  const uint8_t* allowed = nullptr;
  int64_t first_item = 0;
};

// The best k for one group of queries, over one block of items after another.
class Search {
 public:
  Search(const TopKArguments& arguments, const SearchContext& context, const DeviceLimits& limits,
         const ItemBlend& blend, int64_t first, int64_t count)
      : arguments_(arguments),
        context_(context),
        stream_(context.stream),
        limits_(limits),
        queries_{arguments.queries.row(first), count, arguments.queries.columns,
                 arguments.queries.row_stride},
        count_(count),
        first_(first),
        exclusions_(arguments.exclude, arguments.blend.additions, first, count, stream_),
        blend_(blend),
        gates_(arguments.blend, blend, first, count, stream_),
        best_(count * arguments.k, stream_, "the best items"),
        scratch_(arguments.k > kSharedKeys ? count * power_of_two(arguments.k) : 0, stream_,
                 "the best items") {}

  void offer(const Block& block);
  void write();

 private:
  Path choose_path(const Block& block) const;
  void screen(const Block& block, const PackedView& packed, Path path);
  void plan(const PackedView& packed);
  void set_bounds_for(Turn turn, const PackedView& packed);
  void scan(const Block& block, const PackedView& packed, Path path, const Visits& visits, bool sample);
  template <bool Gated>
  void scan_with(Path path, ScreenArguments& a);
  void compact(const Block& block, const PackedView& packed, Turn turn, const Visits& visits, bool sample);
  void rescore(const Block& block, const PackedView& packed, Turn turn, bool tighten);
  BlendView blend_of(const Block& block) const;
  void add(const Block& block);
  std::vector<uint32_t> read_flags() const;
  void score_exactly(const Block& block, const std::vector<uint32_t>* rows, const double* item_squares);

  const TopKArguments& arguments_;
  const SearchContext& context_;
  Stream stream_;
  const DeviceLimits& limits_;
  Matrix<const float> queries_;
  int64_t count_, first_;
  Exclusions exclusions_;
  const ItemBlend& blend_;
  QueryGates gates_;
  Array<uint64_t> best_, scratch_;
  bool has_best_ = false;

  // Of the block under way.
  int64_t capacity_ = 0, stride_ = 0, sample_tiles_ = 0;
  EncodedQueries encoded_;
  Array<QueryBound> bounds_;
  Array<uint64_t> survivors_;
  Array<uint32_t> counts_, lost_, usable_;
  Array<float> ranges_;  // of the gates
};

// Tiles of the sample: four times as many groups of items as must be found, at most half the tiles.
int64_t sample_size(int64_t tiles, int64_t k, int64_t left_out) {
  const int64_t wanted = (4 * (k + left_out) + 64) / kSamplesPerTile;
  return std::min(std::max(wanted, kLeastSample), tiles / 2);
}

Path Search::choose_path(const Block& block) const {
  const int64_t items = block.items.rows, k = arguments_.k;
  if (items == 0 || block.items.columns == 0 || !blend_.scannable()) return Path::exact;
  if (arguments_.path == Path::exact) return Path::exact;
  const bool few = count_ <= kFewQueries &&
                   few_bytes(count_ <= 8 ? 1 : 8, depth_of(block.items.columns)) <= limits_.shared_bytes;
  if (arguments_.path == Path::rows && few) return Path::rows;
  if (arguments_.path != Path::automatic) return Path::panels;
  if (items < kFewestScreened || 8 * k >= items) return Path::exact;
  if (sample_size(tiles_of(items), k, 0) * kSamplesPerTile < k + 32) return Path::exact;
  if (block.packed == nullptr && count_ <= kFewestPacked) return Path::exact;
  return few ? Path::rows : Path::panels;
}

void Search::offer(const Block& block) {
  const Path path = choose_path(block);
  if (context_.report != nullptr) ++context_.report->blocks;
  if (exclusions_.addition_count() > 0) add(block);
  if (path == Path::exact) {
    score_exactly(block, nullptr, block.packed == nullptr ? nullptr : block.packed->norms);
  } else if (block.packed != nullptr) {
    screen(block, *block.packed, path);
  } else {
    const Packed packed = Packed::make(block.items, arguments_.metric, stream_);
    screen(block, packed.view(), path);
  }
  has_best_ = true;
}

BlendView Search::blend_of(const Block& block) const {
  BlendView view;
  if (blend_.gated()) {
    view.query_gates = gates_.gates();
    view.item_gates = blend_.gates(block.first_item, block.items.rows);
    view.scaled = gates_.scaled();
    view.ranges = ranges_.data();
    view.rounding = static_cast<float>(view.item_gates.columns + 16) * 0x1.0p-22f;
  }
  view.labels = blend_.labels(block.first_item);
  return view;
}

// Scores what has additions, so that the scan starts with the levels that they set.
void Search::add(const Block& block) {
  const Array<uint64_t> keys(exclusions_.addition_count(), stream_, "additions");
  SALIENCE_LAUNCH(score_additions, (LaunchShape{count_, kSelectThreads, sizeof(SelectShared<uint64_t>)}),
                  stream_,
                  (AdditionArguments{queries_, block.items, exclusions_.additions(), block.allowed,
                                     block.first_item, blend_of(block), arguments_.k, has_best_, keys.data(),
                                     best_.data(), scratch_.data()}));
  has_best_ = true;
}

void Search::plan(const PackedView& packed) {
  const int64_t k = arguments_.k, tiles = tiles_of(packed.rows);
  capacity_ =
      std::max(k, context_.tuning.capacity > 0 ? context_.tuning.capacity : std::max(4 * k, kLeastCapacity));
  capacity_ = std::min(capacity_, std::max(packed.rows, k));
  stride_ = capacity_ + kMostIrregular;
  sample_tiles_ = context_.tuning.sample_tiles >= 0 ? std::min(context_.tuning.sample_tiles, tiles)
                                                    : sample_size(tiles, k, exclusions_.longest());
  sample_tiles_ = std::min(sample_tiles_, stride_ / kSamplesPerTile);
}

void Search::screen(const Block& block, const PackedView& packed, Path path) {
  plan(packed);
  const int64_t tiles = tiles_of(packed.rows), step = coprime_step(tiles);
  encoded_ = encode(queries_, arguments_.metric, packed, has_best_ ? best_.data() : nullptr, arguments_.k,
                    gates_.scales(), stream_);
  if (blend_.gated()) {
    const Matrix<const float> gates = blend_.gates(block.first_item, block.items.rows);
    ranges_ = {2 * tiles * gates.columns, stream_, "item_gates"};
    SALIENCE_LAUNCH(find_ranges,
                    (LaunchShape{blocks_of(tiles * gates.columns, kPairThreads / 32), kPairThreads, 0}),
                    stream_, (RangeArguments{gates, ranges_.data()}));
  }
  bounds_ = {encoded_.padded, stream_, "the queries"};
  survivors_ = {count_ * stride_, stream_, "the survivors"};
  counts_ = {count_, stream_, "the survivors"};
  lost_ = {encoded_.padded, stream_, "the survivors"};
  counts_.fill_bytes(0);
  lost_.fill_bytes(0);
  usable_ = block.allowed == nullptr ? Array<uint32_t>() : usable_bits(packed, block.allowed, stream_);
  set_bounds_for(Turn::first, packed);
  const Visits sample{0, sample_tiles_, step, tiles};
  if (sample_tiles_ > 0) {
    scan(block, packed, path, sample, true);
    compact(block, packed, Turn::first, sample, true);
  }
  // What a slice lets pass, k times its share of what came before, should fill half the buffer.
  const double growth = static_cast<double>(capacity_) / 2.0 / (1.5 * static_cast<double>(arguments_.k));
  int64_t seen = sample_tiles_;
  for (int64_t first = 0; first < tiles;) {
    const auto fitting = static_cast<int64_t>(std::min(static_cast<double>(seen) * growth, 1e15));
    const int64_t slice = std::min(tiles - first, std::max({fitting, capacity_ / kTileRows, int64_t{1}}));
    scan(block, packed, path, {first, slice, step, tiles}, false);
    compact(block, packed, Turn::first, sample, false);
    first += slice;
    seen = std::max(seen, first);
  }
  rescore(block, packed, Turn::first, false);
  std::vector<uint32_t> flags = read_flags();
  const auto count_flagged = [&](uint32_t flag) {
    return std::count_if(flags.begin(), flags.end(), [&](uint32_t f) { return (f & flag) != 0; });
  };
  if (const auto again = count_flagged(kOverflowed); again > 0) {
    if (context_.report != nullptr) context_.report->second_turns += again;
    rescore(block, packed, Turn::second, true);
    set_bounds_for(Turn::second, packed);
    scan(block, packed, path, {0, tiles, step, tiles}, false);
    compact(block, packed, Turn::second, sample, false);
    rescore(block, packed, Turn::second, false);
    flags = read_flags();
  }
  std::vector<uint32_t> rows;
  for (size_t q = 0; q < flags.size(); ++q)
    if ((flags[q] & kExhaustive) != 0) rows.push_back(static_cast<uint32_t>(q));
  if (context_.report != nullptr) context_.report->exhaustive += static_cast<int64_t>(rows.size());
  if (!rows.empty()) score_exactly(block, &rows, packed.norms);
}

void Search::set_bounds_for(Turn turn, const PackedView& packed) {
  SALIENCE_LAUNCH(set_bounds, (LaunchShape{blocks_of(encoded_.padded, kSelectThreads), kSelectThreads, 0}),
                  stream_,
                  (BoundArguments{arguments_.metric, turn, packed.scale, packed.irregular_count,
                                  encoded_.facts.data(), encoded_.flags.data(), bounds_.data(),
                                  counts_.data(), lost_.data(), count_, encoded_.padded, blend_.gated()}));
}

void Search::scan(const Block& block, const PackedView& packed, Path path, const Visits& visits,
                  bool sample) {
  ScreenArguments a{};
  a.items = packed;
  a.usable = block.allowed == nullptr ? packed.regular : usable_.data();
  a.queries = encoded_.halves.data();
  a.bounds = bounds_.data();
  a.query_count = count_;
  a.visits = visits;
  a.sample = sample;
  a.capacity = capacity_;
  a.stride = stride_;
  a.survivors = survivors_.data();
  a.counts = counts_.data();
  a.lost = lost_.data();
  a.filters = exclusions_.filters(nullptr, block.first_item);
  a.blend = blend_of(block);
  if (blend_.gated()) {
    scan_with<true>(path, a);
  } else {
    scan_with<false>(path, a);
  }
}

template <bool Gated>
void Search::scan_with(Path path, ScreenArguments& a) {
  const int64_t processors = limits_.multiprocessors, visits = a.visits.count, depth = a.items.depth;
  if (path == Path::rows) {
    const int64_t groups = count_ <= 8 ? 1 : 8;
    const int64_t blocks = std::min(blocks_of(visits * kSamplesPerTile, kFewThreads / 32), 4 * processors);
    const LaunchShape shape{blocks, kFewThreads, few_bytes(groups, depth)};
    if (groups == 1) {
      SALIENCE_LAUNCH((screen_few<1, Gated>), shape, stream_, a);
    } else {
      SALIENCE_LAUNCH((screen_few<8, Gated>), shape, stream_, a);
    }
    return;
  }
  const bool resident = panel_bytes(true, depth) <= limits_.shared_bytes;
  const int64_t panels = blocks_of(count_, kPanelQueries);
  // As many blocks as the multiprocessors hold at once, and a few more where panels do not divide that.
  a.ranges = std::clamp<int64_t>(blocks_of(2 * processors, panels), 1, visits);
  a.ranges = std::max(a.ranges, blocks_of(visits, kMostVisits));
  const LaunchShape shape{panels * a.ranges, kPanelThreads, panel_bytes(resident, depth)};
  if (resident) {
    SALIENCE_LAUNCH((screen_panels<true, Gated>), shape, stream_, a);
  } else {
    SALIENCE_LAUNCH((screen_panels<false, Gated>), shape, stream_, a);
  }
}

void Search::compact(const Block& block, const PackedView& packed, Turn turn, const Visits& visits,
                     bool sample) {
  SALIENCE_LAUNCH(
      compact_survivors, (LaunchShape{count_, kSelectThreads, sizeof(CompactShared)}), stream_,
      (CompactArguments{arguments_.metric, turn, sample, visits, packed,
                        exclusions_.filters(nullptr, block.first_item), blend_of(block), arguments_.k,
                        capacity_, stride_, survivors_.data(), counts_.data(), lost_.data(),
                        encoded_.facts.data(), encoded_.flags.data(), bounds_.data()}));
}

void Search::rescore(const Block& block, const PackedView& packed, Turn turn, bool tighten) {
  const RescoreArguments a{queries_,
                           block.items,
                           arguments_.metric,
                           turn,
                           tighten,
                           packed,
                           exclusions_.filters(block.allowed, block.first_item),
                           blend_of(block),
                           arguments_.k,
                           stride_,
                           survivors_.data(),
                           counts_.data(),
                           encoded_.facts.data(),
                           encoded_.flags.data(),
                           has_best_,
                           best_.data(),
                           scratch_.data()};
  const LaunchShape shape{count_, kSelectThreads, sizeof(SelectShared<uint64_t>)};
  if (arguments_.metric == Metric::euclidean) {
    SALIENCE_LAUNCH(rescore_survivors<true>, shape, stream_, a);
  } else {
    SALIENCE_LAUNCH(rescore_survivors<false>, shape, stream_, a);
  }
}

std::vector<uint32_t> Search::read_flags() const {
  std::vector<uint32_t> flags(static_cast<size_t>(count_)), counts(flags.size());
  copy(flags.data(), encoded_.flags.data(), encoded_.flags.bytes(), stream_);
  if (context_.report != nullptr) copy(counts.data(), counts_.data(), counts_.bytes(), stream_);
  synchronize(stream_);
  if (context_.report != nullptr)
    context_.report->survivors = std::accumulate(counts.begin(), counts.end(), context_.report->survivors);
  return flags;
}

// Scores every item for all queries, or for `rows` of them.
void Search::score_exactly(const Block& block, const std::vector<uint32_t>* rows,
                           const double* item_squares) {
  const int64_t items = block.items.rows,
                wanted = rows == nullptr ? count_ : static_cast<int64_t>(rows->size());
  const bool cosine = arguments_.metric == Metric::cosine;
  const VectorsView queries{queries_.data, ElementType::float32, count_, queries_.columns,
                            queries_.row_stride};
  Array<double> query_squares, measured;
  if (cosine) query_squares = squared_norms(queries, stream_);
  if (cosine && item_squares == nullptr) {
    measured = squared_norms(block.items, stream_);
    item_squares = measured.data();
  }
  const int64_t at_a_time = std::min(
      wanted, std::max<int64_t>(1, kKeyBytes / (8 * std::max<int64_t>(items, 1)) / kPairRows * kPairRows));
  const Array<uint64_t> keys(at_a_time * items, stream_, "scores of every item");
  Array<uint32_t> order(wanted, stream_, "scores of every item");
  std::vector<uint32_t> numbers;
  if (rows == nullptr) {
    numbers.resize(static_cast<size_t>(wanted));
    std::iota(numbers.begin(), numbers.end(), 0u);
    rows = &numbers;
  }
  copy(order.data(), rows->data(), order.bytes(), stream_);
  synchronize(stream_);  // the numbers go
  for (int64_t start = 0; start < wanted; start += at_a_time) {
    const int64_t count = std::min(at_a_time, wanted - start);
    const KeyArguments pairs{{queries_,
                              block.items,
                              arguments_.metric,
                              query_squares.data(),
                              item_squares,
                              order.data() + start,
                              count,
                              {}},
                             blend_of(block),
                             keys.data(),
                             items,
                             exclusions_.filters(block.allowed, block.first_item)};
    const LaunchShape shape{pair_blocks(count, items), kPairThreads, sizeof(PairTile)};
    if (arguments_.metric == Metric::euclidean) {
      SALIENCE_LAUNCH(key_tile<true>, shape, stream_, pairs);
    } else {
      SALIENCE_LAUNCH(key_tile<false>, shape, stream_, pairs);
    }
    SALIENCE_LAUNCH(select_best, (LaunchShape{count, kSelectThreads, sizeof(SelectShared<uint64_t>)}),
                    stream_,
                    (SelectBestArguments{keys.data(), items, items, order.data() + start, arguments_.k,
                                         has_best_, best_.data(), scratch_.data()}));
  }
}

void Search::write() {
  Matrix<int64_t> ids = arguments_.ids;
  Matrix<float> scores = arguments_.scores;
  ids.data = ids.row(first_);
  scores.data = scores.row(first_);
  SALIENCE_LAUNCH(write_results,
                  (LaunchShape{blocks_of(count_ * arguments_.k, kSelectThreads), kSelectThreads, 0}), stream_,
                  (WriteArguments{best_.data(), arguments_.k, count_, arguments_.metric, ids, scores}));
}

// Queries that are searched at a time: their buffers share kSurvivorBytes.
int64_t group_size(int64_t k, int64_t queries) {
  const int64_t each = 8 * (std::max(4 * k, kLeastCapacity) + kMostIrregular + 3 * k);
  return std::min(queries, std::max<int64_t>(1, kSurvivorBytes / each / kPanelQueries) * kPanelQueries);
}

// --- Items that come from the host ---

// Brings block after block of items to the device.
class ItemFeeder {
 public:
  ItemFeeder(const Elements& items, int64_t block_rows, Stream stream)
      : items_(items), block_rows_(block_rows), stream_(stream), single_(block_rows >= items.rows) {
    const int64_t bytes = std::min(block_rows, items.rows) * items.columns * element_bytes(items.type);
    if (single_) {
      all_ = {bytes, stream, "a block of items"};
    } else {
      feeder_ = std::make_unique<Feeder>(bytes, stream, "a block of items");
    }
  }

  void send(int64_t first) {
    const Elements rows = block(first);
    if (single_) return upload(rows, all_.data(), stream_);
    feeder_->send([&](unsigned char* to) {
      const int64_t size = element_bytes(rows.type), bytes = rows.columns * size;
      for (int64_t r = 0; r < rows.rows; ++r)
        std::memcpy(to + r * bytes, static_cast<const unsigned char*>(rows.data) + r * rows.row_stride * size,
                    static_cast<size_t>(bytes));
      return rows.rows * bytes;
    });
  }

  VectorsView receive(int64_t first) const {
    const Elements rows = block(first);
    return {single_ ? all_.data() : feeder_->receive(), rows.type, rows.rows, rows.columns, rows.columns};
  }
  void done() {
    if (!single_) feeder_->done();
  }

 private:
  Elements block(int64_t first) const {
    Elements rows = items_;
    rows.data = static_cast<const unsigned char*>(items_.data) +
                first * items_.row_stride * element_bytes(items_.type);
    rows.rows = std::min(block_rows_, items_.rows - first);
    return rows;
  }

  Elements items_;
  int64_t block_rows_;
  Stream stream_;
  bool single_;
  Array<unsigned char> all_;
  std::unique_ptr<Feeder> feeder_;
};

// Rows of a block: all where they fit beside what a search needs, else as many as fit twice.
int64_t fitting_rows(const TopKArguments& arguments, const SearchContext& context) {
  const Elements& items = arguments.items;
  if (context.tuning.block_rows > 0) return context.tuning.block_rows;
  const DeviceDescription device = describe_device();
  const int64_t group = group_size(arguments.k, arguments.queries.rows), k = arguments.k;
  const int64_t search =
      group * (8 * (std::max(4 * k, kLeastCapacity) + kMostIrregular + 4 * k) + 2 * depth_of(items.columns));
  const int64_t raw = items.columns * element_bytes(items.type);
  const int64_t packed = Packed::row_bytes(items.columns, arguments.metric);
  // Scores of every item for one panel row at least, should a query need them.
  const int64_t reserve = device.total_bytes / kReservedShare;
  const int64_t left = device.free_bytes - reserve - search, least = 8 * kPairRows;
  if (left >= items.rows * (raw + packed + least)) return std::max<int64_t>(items.rows, 1);
  const int64_t rows = left / (2 * raw + packed + least) / kTileRows * kTileRows;
  if (rows >= kTileRows) return rows;
  throw OutOfDeviceMemory("device: too little memory for a search: " +
                          std::to_string(search + reserve + kTileRows * (2 * raw + packed + least)) +
                          " bytes wanted, " + std::to_string(device.free_bytes) + " of " +
                          std::to_string(device.total_bytes) + " bytes free");
}

Status search_blocks(const TopKArguments& arguments, const SearchContext& context, const PackedView* packed) {
  const DeviceLimits limits = device_limits();
  const Elements& items = arguments.items;
  Array<uint8_t> allowed;
  const uint8_t* flags = arguments.allowed;
  if (flags != nullptr && context.allowed_on_host) {
    allowed = {items.rows, context.stream, "the filters"};
    copy(allowed.data(), flags, items.rows, context.stream);
    flags = allowed.data();
  }
  const ItemBlend blend(arguments.blend, items.rows, context.stream);
  const int64_t group = group_size(arguments.k, arguments.queries.rows);
  for (int64_t first = 0; first < arguments.queries.rows; first += group) {
    Search search(arguments, context, limits, blend, first, std::min(group, arguments.queries.rows - first));
    if (!context.items_on_host) {
      const VectorsView view{items.data, items.type, items.rows, items.columns, items.row_stride};
      search.offer({view, packed, flags, 0});
      if (context.interrupted && context.interrupted()) return Status::interrupted();
    } else {
      const int64_t rows = fitting_rows(arguments, context);
      ItemFeeder feeder(items, rows, context.stream);
      feeder.send(0);
      for (int64_t start = 0; start < items.rows; start += rows) {
        if (start + rows < items.rows) feeder.send(start + rows);
        search.offer({feeder.receive(start), nullptr, flags == nullptr ? nullptr : flags + start, start});
        feeder.done();
        if (context.interrupted && context.interrupted()) return Status::interrupted();
      }
      synchronize(context.stream);  // the feeder's memory goes
    }
    search.write();
  }
  return {};
}

}  // namespace

Status topk(const TopKArguments& arguments, const SearchContext& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  if (arguments.queries.rows == 0) return {};
  return search_blocks(arguments, context, nullptr);
}

// --- Index ---

VectorsView Index::view() const { return {device_->rows.data(), type_, rows_, columns_, columns_}; }

int64_t Index::bytes() const {
  return device_->rows.bytes() + device_->packed.bytes() + (flags_ ? rows_ : 0);
}

void Index::set_flags(std::vector<uint8_t> flags, Stream stream) {
  present_ = static_cast<int64_t>(flags.size()) - std::count(flags.begin(), flags.end(), uint8_t{0});
  auto on_device = std::make_shared<Array<uint8_t>>(rows_, stream, "the index");
  copy(on_device->data(), flags.data(), rows_, stream);
  synchronize(stream);
  on_device->outlive_stream();
  device_flags_ = std::move(on_device);
  flags_ = std::make_shared<const std::vector<uint8_t>>(std::move(flags));
}

// Gives this value `rows` rows of its own, written by fill(place), and packs them.
template <class Fill>
Status Index::rebuild(int64_t rows, const Fill& fill, Stream stream) {
  SALIENCE_RETURN_IF_ERROR(expect_item_count("items", rows));
  auto device = std::make_shared<Device>();
  device->rows = {rows * columns_ * element_bytes(type_), stream, "the items"};
  fill(device->rows.data());
  rows_ = rows;
  device->packed = Packed::make({device->rows.data(), type_, rows, columns_, columns_}, metric_, stream);
  synchronize(stream);
  device->rows.outlive_stream();
  device->packed.outlive_stream();
  device_ = std::move(device);
  return {};
}

Status Index::build(const Elements& items, const uint8_t* present, Metric metric, Stream stream, Index& out) {
  Index made;
  made.metric_ = metric;
  made.type_ = items.type;
  made.columns_ = items.columns;
  made.present_ = items.rows;
  SALIENCE_RETURN_IF_ERROR(
      made.rebuild(items.rows, [&](unsigned char* to) { upload(items, to, stream); }, stream));
  if (present != nullptr) made.set_flags({present, present + items.rows}, stream);
  out = std::move(made);
  return {};
}

Status Index::add(const Elements& vectors, Stream stream, Index& out) const {
  Index next = *this;
  const int64_t before = rows_, bytes = before * columns_ * element_bytes(type_);
  const auto fill = [&](unsigned char* to) {
    copy(to, device_->rows.data(), bytes, stream);
    upload(vectors, to + bytes, stream);
  };
  SALIENCE_RETURN_IF_ERROR(next.rebuild(before + vectors.rows, fill, stream));
  next.present_ = present_ + vectors.rows;
  if (flags_ != nullptr) {
    std::vector<uint8_t> flags = *flags_;
    flags.resize(static_cast<size_t>(next.rows_), 1);
    next.set_flags(std::move(flags), stream);
  }
  out = std::move(next);
  return {};
}

Status Index::update(const int64_t* rows, int64_t count, const Elements& vectors, Stream stream,
                     Index& out) const {
  Index next = *this;
  const int64_t bytes = columns_ * element_bytes(type_);
  const auto fill = [&](unsigned char* to) {
    copy(to, device_->rows.data(), rows_ * bytes, stream);
    for (int64_t n = 0; n < count; ++n) {
      const auto* const from = static_cast<const unsigned char*>(vectors.data);
      copy(to + rows[n] * bytes, from + n * vectors.row_stride * element_bytes(type_), bytes, stream);
    }
  };
  SALIENCE_RETURN_IF_ERROR(next.rebuild(rows_, fill, stream));
  if (flags_ != nullptr) {
    std::vector<uint8_t> flags = *flags_;
    for (int64_t n = 0; n < count; ++n) flags[static_cast<size_t>(rows[n])] = 1;
    next.set_flags(std::move(flags), stream);
  }
  out = std::move(next);
  return {};
}

Status Index::remove(const int64_t* rows, int64_t count, Stream stream, Index& out) const {
  Index next = *this;
  std::vector<uint8_t> flags =
      flags_ ? *flags_ : std::vector<uint8_t>(static_cast<size_t>(rows_), uint8_t{1});
  for (int64_t n = 0; n < count; ++n) {
    uint8_t& flag = flags[static_cast<size_t>(rows[n])];
    if (flag == 0) return Status::invalid("rows: " + std::to_string(rows[n]) + " was removed before");
    flag = 0;
  }
  next.set_flags(std::move(flags), stream);
  out = std::move(next);
  return {};
}

Status Index::search(TopKArguments arguments, const SearchContext& context) const {
  const VectorsView items = view();
  arguments.items = {items.data, items.type, items.rows, items.columns, items.row_stride};
  arguments.metric = metric_;
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  if (arguments.queries.rows == 0) return {};
  SearchContext here = context;
  here.items_on_host = false;
  std::vector<uint8_t> both;
  if (flags_ != nullptr && arguments.allowed != nullptr) {
    both.resize(static_cast<size_t>(rows_));
    copy(both.data(), arguments.allowed, rows_, context.stream);
    synchronize(context.stream);
    for (size_t i = 0; i < both.size(); ++i) both[i] = both[i] != 0 && (*flags_)[i] != 0;
    arguments.allowed = both.data();
    here.allowed_on_host = true;
  } else if (flags_ != nullptr) {
    arguments.allowed = device_flags_->data();
    here.allowed_on_host = false;
  }
  const Status status = search_blocks(arguments, here, &device_->packed.view());
  if (!both.empty()) synchronize(context.stream);
  return status;
}

void Index::download(void* to, Stream stream) const {
  copy(to, device_->rows.data(), device_->rows.bytes(), stream);
  synchronize(stream);
}

// --- For tests of the bound ---

Status probe(const SimilarityArguments& arguments, Path path, const ProbeResult& out, Stream stream) {
  const int64_t queries = arguments.a.rows, rows = arguments.b.rows, columns = arguments.a.columns;
  const Elements host{arguments.b.data, ElementType::float32, rows, columns, arguments.b.row_stride};
  const Array<float> items(rows * columns, stream, "the items"),
      on_device(queries * columns, stream, "the queries");
  upload(host, items.data(), stream);
  upload({arguments.a.data, ElementType::float32, queries, columns, arguments.a.row_stride}, on_device.data(),
         stream);
  const Packed packed =
      Packed::make({items.data(), ElementType::float32, rows, columns, columns}, arguments.metric, stream);
  const PackedView& view = packed.view();
  EncodedQueries encoded = encode({on_device.data(), queries, columns, columns}, arguments.metric, view,
                                  nullptr, 1, nullptr, stream);
  Array<QueryBound> bounds(encoded.padded, stream, "the queries");
  Array<uint64_t> survivors(queries * rows, stream, "the survivors");
  Array<uint32_t> counts(queries, stream, "the survivors"), lost(encoded.padded, stream, "the survivors");
  counts.fill_bytes(0);
  SALIENCE_LAUNCH(set_bounds, (LaunchShape{blocks_of(encoded.padded, kSelectThreads), kSelectThreads, 0}),
                  stream,
                  (BoundArguments{arguments.metric, Turn::first, view.scale, view.irregular_count,
                                  encoded.facts.data(), encoded.flags.data(), bounds.data(), counts.data(),
                                  lost.data(), queries, encoded.padded, false}));
  ScreenArguments a{};
  a.items = view;
  a.usable = view.regular;
  a.queries = encoded.halves.data();
  a.query_count = queries;
  a.ranges = 1;
  a.visits = {0, tiles_of(rows), 1, tiles_of(rows)};
  a.raw = true;
  a.capacity = a.stride = rows;
  a.survivors = survivors.data();
  a.counts = counts.data();
  a.lost = lost.data();
  // Eight queries at a time, the others closed: what all pairs of a tile pass has room on its way.
  std::vector<QueryBound> all(static_cast<size_t>(encoded.padded));
  copy(all.data(), bounds.data(), bounds.bytes(), stream);
  synchronize(stream);
  Array<QueryBound> open(encoded.padded, stream, "the queries");
  a.bounds = open.data();
  for (int64_t first = 0; first < queries; first += kStagedPairs / kTileRows) {
    std::vector<QueryBound> some(all.size(), QueryBound{std::numeric_limits<float>::infinity(), 0, 0, 0, 0});
    const auto end = std::min(queries, first + kStagedPairs / kTileRows);
    std::copy(all.begin() + first, all.begin() + end, some.begin() + first);
    copy(open.data(), some.data(), open.bytes(), stream);
    if (path == Path::rows) {
      SALIENCE_LAUNCH((screen_few<8, false>), (LaunchShape{1, kFewThreads, few_bytes(8, view.depth)}), stream,
                      a);
    } else {
      const LaunchShape shape{blocks_of(queries, kPanelQueries), kPanelThreads,
                              panel_bytes(false, view.depth)};
      SALIENCE_LAUNCH((screen_panels<false, false>), shape, stream, a);
    }
    synchronize(stream);  // `some` goes
  }
  const Array<double> values(queries * rows, stream, "the values"),
      errors(queries * rows, stream, "the values");
  std::fill_n(out.values, queries * rows, 0.0);
  std::fill_n(out.errors, queries * rows, ScreeningBound::kInfinity);
  copy(values.data(), out.values, values.bytes(), stream);
  copy(errors.data(), out.errors, errors.bytes(), stream);
  SALIENCE_LAUNCH(probe_bounds, (LaunchShape{queries, kSelectThreads, 0}), stream,
                  (ProbeArguments{view, survivors.data(), counts.data(), rows, bounds.data(),
                                  encoded.facts.data(), queries, values.data(), errors.data()}));
  copy(out.values, values.data(), values.bytes(), stream);
  copy(out.errors, errors.data(), errors.bytes(), stream);
  std::vector<QueryFacts> facts(static_cast<size_t>(queries));
  copy(facts.data(), encoded.facts.data(), encoded.facts.bytes(), stream);
  std::fill_n(out.centre, columns, 0.0);
  if (view.centre != nullptr) copy(out.centre, view.centre, columns * 8, stream);
  synchronize(stream);
  for (int64_t q = 0; q < queries; ++q) out.norms[q] = facts[static_cast<size_t>(q)].norm;
  return {};
}

}  // namespace salience::cuda
