// The operations on a GPU, with the contracts of core/operations.h: the same ids and scores to the bit.
//
// Pointers of the arguments are on the device, unless said otherwise, and work is ordered by `stream`. topk
// and Index::search wait for the stream once per group of queries and block of items, to learn whether any
// query needs more than its scan. Status tells what the caller did wrong, exceptions of runtime.h what the
// device did.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/operations.h"
#include "core/status.h"
#include "cuda/catalogue.h"

namespace salience::cuda {

Status similarity(const SimilarityArguments& arguments, Stream stream);
template <class T>
Status select(const SelectArguments<T>& arguments, Stream stream);

// How a search is cut; 0 is chosen. The answer is the same.
struct Tuning {
  int64_t capacity = 0;       // survivors of a query between two compactions
  int64_t sample_tiles = -1;  // for the first level
  int64_t block_rows = 0;     // items on the device at a time, where they come from the host
};

// What a search met, for tests and benchmarks.
struct SearchReport {
  int64_t blocks = 0;        // of items
  int64_t exhaustive = 0;    // queries that were scored exhaustively, counted per block
  int64_t second_turns = 0;  // queries whose survivors found no room at first, likewise
  int64_t survivors = 0;     // that were scored canonically
};

struct SearchContext {
  Stream stream = nullptr;
  bool items_on_host = false;    // arguments.items: then they come to the device in blocks
  bool allowed_on_host = false;  // arguments.allowed
  std::function<bool()> interrupted;
  Tuning tuning;
  SearchReport* report = nullptr;
};

// arguments.exclude and arguments.blend are in host memory.
Status topk(const TopKArguments& arguments, const SearchContext& context);

// Items that stay on the device, packed: an immutable value, as cpu/index.h.
class Index {
 public:
  // Copies `items` (from the host or the device) and packs them; waits for the stream.
  static Status build(const Elements& items, const uint8_t* present, Metric metric, Stream stream,
                      Index& out);

  // Each makes a whole new copy on the device. `rows`, `present` are in host memory; removed rows are found
  // no more.
  Status add(const Elements& vectors, Stream stream, Index& out) const;
  Status update(const int64_t* rows, int64_t count, const Elements& vectors, Stream stream, Index& out) const;
  Status remove(const int64_t* rows, int64_t count, Stream stream, Index& out) const;

  // As topk with these items; `items` and `metric` of the arguments are not read. k is at most present().
  Status search(TopKArguments arguments, const SearchContext& context) const;

  // Rows side by side, to host memory.
  void download(void* to, Stream stream) const;

  const void* device_rows() const { return device_->rows.data(); }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t present() const { return present_; }
  ElementType type() const { return type_; }
  Metric metric() const { return metric_; }
  const uint8_t* present_flags() const {
    return flags_ ? flags_->data() : nullptr;
  }  // host memory, or null: all
  int64_t bytes() const;

 private:
  // Device memory that values share.
  struct Device {
    Array<unsigned char> rows;
    Packed packed;
  };
  template <class Fill>
  Status rebuild(int64_t rows, const Fill& fill, Stream stream);
  void set_flags(std::vector<uint8_t> flags, Stream stream);
  VectorsView view() const;

  Metric metric_ = Metric::dot;
  ElementType type_ = ElementType::float32;
  int64_t rows_ = 0, columns_ = 0, present_ = 0;
  std::shared_ptr<const std::vector<uint8_t>> flags_;
  std::shared_ptr<const Device> device_;
  std::shared_ptr<const Array<uint8_t>> device_flags_;
};

// arguments.units are on the device, everything else in host memory; the rows of `out` lie side by side.
Status attend(const AttentionArguments& arguments, Stream stream, const std::function<bool()>& interrupted);

// For tests of the bound: what the scan computes for every pair, in terms of S, and how far off it may be
// (infinite where a pair is always scored exactly). Everything in host memory; values, errors: (m, n); norms:
// m.
struct ProbeResult {
  double* values;
  double* errors;
  double* norms;
  double* centre;  // `columns`
};
Status probe(const SimilarityArguments& arguments, Path path, const ProbeResult& out, Stream stream);

}  // namespace salience::cuda
