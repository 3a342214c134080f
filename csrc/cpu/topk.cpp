// Exact top-k: a 16-bit scan whose few survivors are rescored canonically.
//
// Work is cut into groups of queries times shares of the blocks. Survivors of all shares meet before any is
// rescored. The order of the contract is total, so that no cut changes the answer.
#include "cpu/topk.h"

#include "core/validate.h"
#include "cpu/operations.h"
#include "cpu/scan.h"

namespace salience::cpu {
namespace {

constexpr int64_t kQueryGroup = 256;  // their 16-bit copies stay in the second-level cache
constexpr double kScanSpeed = 8.0;    // operations of a scan in the time of one in float64
constexpr double kScoreCost = 8.0;    // of an operation on a survivor: its row is waited for
constexpr int64_t kLeastGroup = 64;
constexpr int64_t kLeastBlocks = 16;             // of a share: below this a unit is all overhead
constexpr int64_t kReservoirBytes = 64ll << 20;  // of one worker
constexpr int64_t kLeastHalved = 2 << 20;  // of a 16-bit copy: smaller ones stay in the second-level cache
constexpr int64_t kLeastByteColumns = 32;
constexpr int64_t kMostByteColumns = 1 << 17;  // 32767 times 127 sqrt(columns) stays below 2^31

// The choice among the kernels, by shape. Packing a row for the scan costs about as much as scoring it
// canonically twice. 8 bits (`bytes`: whether there is a copy) halve what is read and cost more to multiply:
// they pay where rows come from beyond the second-level cache and are long enough for so many queries.
Path choose_path(const Catalogue& catalogue, int64_t queries, int64_t k, bool bytes) {
  const bool packed = !catalogue.packed.empty();
  const double products = static_cast<double>(queries) * static_cast<double>(catalogue.rows) *
                          static_cast<double>(catalogue.columns + 8);
  if (8 * k >= catalogue.rows || products < 1e5) return Path::exact;
  if (!packed && (queries <= 2 || products < 1e6)) return Path::exact;
  if (queries > kFewQueries) return Path::panels;
  const bool halved = bytes && 2 * catalogue.rows * catalogue.depth() > kLeastHalved &&
                      catalogue.columns >= std::max(kLeastByteColumns, kernels().byte_columns * queries);
  return halved ? Path::bytes : Path::rows;
}

void sort_exclusions(const Csr& exclude, std::vector<int32_t>& sorted) {
  sorted.assign(exclude.indices, exclude.indices + exclude.entries);
  for (int64_t q = 0; q < exclude.rows; ++q) {
    const auto begin = sorted.begin() + exclude.indptr[q], end = sorted.begin() + exclude.indptr[q + 1];
    if (!std::is_sorted(begin, end)) std::sort(begin, end);
  }
}

bool is_sorted(const Csr& exclude) {
  for (int64_t q = 0; q < exclude.rows; ++q)
    if (!std::is_sorted(exclude.indices + exclude.indptr[q], exclude.indices + exclude.indptr[q + 1]))
      return false;
  return true;
}

// The k best of `keys`, in order.
std::vector<Key> sorted_best(std::vector<Key> keys, int64_t k) {
  keep_best(keys, k);
  const auto count = static_cast<int64_t>(keys.size());
  if (count > kernels().most_sorted) {
    std::sort(keys.begin(), keys.end(), std::greater<Key>());
    return keys;
  }
  std::vector<Key> sorted(keys.size());
  kernels().sort_keys(keys.data(), count, sorted.data());
  return sorted;
}

void write_row(const SearchArguments& arguments, int64_t query, const std::vector<Key>& keys, float sign) {
  for (int64_t j = 0; j < arguments.k; ++j) {
    const bool filled = j < static_cast<int64_t>(keys.size());
    const Key key = filled ? keys[static_cast<size_t>(j)] : 0;
    arguments.ids.row(query)[j] = filled ? Ranking::item(key) : -1;
    arguments.scores.row(query)[j] =
        filled ? sign * Ranking::score(key) + 0.0f : -sign * std::numeric_limits<float>::infinity();
  }
}

// Every group of queries over every share of the blocks.
class Scans {
 public:
  Scans(const SearchArguments& arguments, const Request& request, int threads)
      : arguments_(arguments), request_(request), threads_(threads) {
    // Queries are split first: every scan of a share of the items has candidates of its own. Items are shared
    // where groups would be too small to be worth a pass over all of them.
    const int64_t queries = arguments.queries.rows, k = arguments.k;
    const int64_t reservoir = (k + std::max<int64_t>(64, k)) * static_cast<int64_t>(sizeof(Key));
    const int64_t largest = std::clamp<int64_t>(kReservoirBytes / reservoir, 1, kQueryGroup);
    group_ = std::clamp((queries + threads - 1) / threads, std::min(kLeastGroup, largest), largest);
    groups_ = (queries + group_ - 1) / group_;
    const int64_t most = request.catalogue->blocks() / kLeastBlocks;
    shares_ = std::clamp<int64_t>(most, 1, (threads + groups_ - 1) / groups_);
    scans_.resize(static_cast<size_t>(groups_ * shares_));
    taken_ = std::vector<std::atomic<int64_t>>(static_cast<size_t>(groups_));
    for (std::atomic<int64_t>& blocks : taken_) blocks = 0;
    if (shares_ == 1) return;
    levels_ = std::vector<std::atomic<double>>(static_cast<size_t>(queries));
    for (std::atomic<double>& level : levels_) level = -ScreeningBound::kInfinity;
    request_.levels = levels_.data();
  }

  // Scans, and writes what the scans of each group found together.
  Status run(const Context& context) {
    const int64_t units = groups_ * shares_;
    SALIENCE_RETURN_IF_ERROR(parallel_for(context, threads_, units, [&](int64_t unit, Worker& worker) {
      const int64_t n = unit / shares_;
      std::unique_ptr<GroupScan>& scan = scans_[static_cast<size_t>(unit)];
      scan = std::make_unique<GroupScan>(request_, n * group_, members(n));
      scan->scan({unit % shares_, shares_, &taken_[static_cast<size_t>(n)]}, worker);
      if (shares_ == 1) scan_again(n, write(n, 0), worker);
    }));
    if (shares_ == 1) return {};
    std::vector<std::vector<int64_t>> wrong(scans_.size());
    const double operations = kScoreCost * static_cast<double>(arguments_.queries.rows * arguments_.k) *
                              static_cast<double>(request_.catalogue->columns);
    const int writers = std::min(threads_, worker_count(context, units, operations));
    SALIENCE_RETURN_IF_ERROR(parallel_for(context, writers, units, [&](int64_t unit, Worker&) {
      wrong[static_cast<size_t>(unit)] = write(unit / shares_, unit % shares_);
    }));
    if (std::all_of(wrong.begin(), wrong.end(), [](const auto& some) { return some.empty(); })) return {};
    return parallel_for(context, threads_, groups_, [&](int64_t n, Worker& worker) {
      std::vector<int64_t> queries;
      for (int64_t unit = n * shares_; unit < (n + 1) * shares_; ++unit) {
        const std::vector<int64_t>& some = wrong[static_cast<size_t>(unit)];
        queries.insert(queries.end(), some.begin(), some.end());
      }
      scan_again(n, queries, worker);
    });
  }

 private:
  int64_t members(int64_t n) const { return std::min(group_, arguments_.queries.rows - n * group_); }

  // Writes one share of the queries of group n. Returns those whose levels were guessed too high.
  std::vector<int64_t> write(int64_t n, int64_t share) {
    const std::unique_ptr<GroupScan>* const scans = &scans_[static_cast<size_t>(n * shares_)];
    const int64_t end = members(n) * (share + 1) / shares_;
    std::vector<int64_t> wrong;
    const auto part = [&](int64_t q) {
      const bool right = q >= end || GroupScan::part(scans, shares_, share, q);
      if (!right) wrong.push_back(q);
      return right;
    };
    int64_t q = members(n) * share / shares_;
    for (bool right = part(q); q < end; ++q) {
      const bool next_right = part(q + 1);
      if (right) write_query(scans, shares_, share, n, q, q + 1 < end ? q + 1 : -1);
      right = next_right;
    }
    return wrong;
  }

  void write_query(const std::unique_ptr<GroupScan>* scans, int64_t count, int64_t host, int64_t n, int64_t q,
                   int64_t next) {
    const std::vector<Key> keys = sorted_best(GroupScan::best(scans, count, host, q, next), arguments_.k);
    write_row(arguments_, n * group_ + q, keys, request_.sign);
  }

  // Gives up what group n holds, and scans some of its queries for themselves.
  void scan_again(int64_t n, const std::vector<int64_t>& queries, Worker& worker) {
    std::unique_ptr<GroupScan>* const scans = &scans_[static_cast<size_t>(n * shares_)];
    for (int64_t s = 0; s < shares_; ++s) scans[s].reset();
    if (queries.empty()) return;
    std::atomic<int64_t> taken{0};
    scans[0] = std::make_unique<GroupScan>(request_, n * group_, members(n));
    scans[0]->scan_again({0, 1, &taken}, queries, worker);
    for (const int64_t q : queries) {
      GroupScan::part(scans, 1, 0, q);
      write_query(scans, 1, 0, n, q, -1);
    }
    scans[0].reset();
  }

  const SearchArguments& arguments_;
  Request request_;
  const int threads_;
  int64_t group_ = 0;  // queries of each but perhaps the last
  int64_t groups_ = 0;
  int64_t shares_ = 0;
  std::vector<std::unique_ptr<GroupScan>> scans_;
  std::vector<std::atomic<int64_t>> taken_;
  std::vector<std::atomic<double>> levels_;
};

}  // namespace

Status search(const SearchArguments& arguments, const Context& context) {
  if (arguments.queries.rows == 0) return {};
  const Catalogue& all = arguments.catalogue;
  Request request;
  request.catalogue = &all;
  request.queries = arguments.queries;
  request.k = arguments.k;
  request.sign = all.metric == Metric::euclidean ? -1.0f : 1.0f;
  request.allowed = arguments.allowed;

  // A very selective allow-list is gathered first, so that the scan reads nothing else.
  Catalogue few;
  if (arguments.allowed != nullptr) {
    const int64_t allowed =
        all.rows - std::count(arguments.allowed, arguments.allowed + all.rows, uint8_t{0});
    if (allowed <= all.rows / 8) {
      few = gather(all, arguments.allowed, allowed);
      request.catalogue = &few;
      request.allowed = nullptr;
    }
  }
  const Blend& blend = arguments.blend;
  GatedBlend prepared;
  if (blend.additions.indptr != nullptr || blend.query_gates.columns > 0 || blend.labels != nullptr) {
    prepared = prepare(blend, *request.catalogue, arguments.allowed);
    request.blend = &prepared;
  }
  std::vector<int32_t> sorted;
  if (arguments.exclude.indptr != nullptr && arguments.exclude.entries > 0) {
    request.exclude = arguments.exclude.indptr;
    request.excluded = arguments.exclude.indices;
    if (!is_sorted(arguments.exclude)) {
      sort_exclusions(arguments.exclude, sorted);
      request.excluded = sorted.data();
    }
  }

  // Where several groups will read them, blocks are packed once instead of by each group.
  Catalogue once;
  PackedCopy copy;
  request.path = arguments.path;
  const bool bytes = arguments.bytes != nullptr && !request.catalogue->is_gathered;
  if (arguments.path == Path::automatic)
    request.path = choose_path(*request.catalogue, arguments.queries.rows, arguments.k, bytes);
  if (request.path == Path::bytes && all.columns > kMostByteColumns) request.path = Path::rows;
  if (request.path == Path::bytes && bytes) {
    SALIENCE_RETURN_IF_ERROR(arguments.bytes(request.bytes));
    if (request.bytes.empty()) request.path = Path::rows;
  }
  if (request.path != Path::exact && request.catalogue->packed.empty()) {
    once = *request.catalogue;
    if (arguments.queries.rows > kQueryGroup) {
      SALIENCE_RETURN_IF_ERROR(pack(once, copy, context));
    } else {
      choose_centre(once);
    }
    request.catalogue = &once;
  }
  double operations = static_cast<double>(arguments.queries.rows) *
                      static_cast<double>(request.catalogue->rows) *
                      static_cast<double>(request.catalogue->columns + 8);
  if (request.path != Path::exact) operations /= kScanSpeed;
  const int64_t most = arguments.queries.rows * (request.catalogue->blocks() / kLeastBlocks + 1);
  return Scans(arguments, request, worker_count(context, most, operations)).run(context);
}

Status probe(const SimilarityArguments& arguments, Path path, double* values, double* errors, double* offsets,
             double* norms) {
  const Matrix<const float>& items = arguments.b;
  Catalogue catalogue = view_of(
      {items.data, ElementType::float32, items.rows, items.columns, items.row_stride}, arguments.metric);
  choose_centre(catalogue);
  Request request;
  request.catalogue = &catalogue;
  request.queries = arguments.a;
  request.k = 1;
  request.path = path;
  return parallel_for({1, {}}, 1, 1, [&](int64_t, Worker&) {
    GroupScan(request, 0, arguments.a.rows).probe(values, errors, offsets, norms);
  });
}

Status topk(const TopKArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const Catalogue catalogue = view_of(arguments.items, arguments.metric);
  return search({catalogue,
                 arguments.queries,
                 arguments.k,
                 arguments.exclude,
                 arguments.allowed,
                 arguments.ids,
                 arguments.scores,
                 arguments.path,
                 arguments.blend,
                 {}},
                context);
}

}  // namespace salience::cpu
