// Items that stay packed: an immutable value, whose changes are new values that share what did not change.
//
// So any number of threads may search one while another makes the next; nothing is locked here.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/topk.h"

namespace salience::cpu {

class Index {
 public:
  // Copies `items` and packs them.
  static Status build(const Elements& items, Metric metric, const Context& context, Index& out);

  // Takes over what save wrote: `items` as they are, kept alive by `owner`, and, unless `packed` is null,
  // their packed blocks.
  struct Stored {
    Elements items;
    Metric metric = Metric::dot;
    const uint16_t* packed = nullptr;    // blocks x kBlockRows x depth
    const double* encoded = nullptr;     // blocks x 3: scale, norm, residual
    const float* terms = nullptr;        // euclidean: blocks x kBlockRows
    const int64_t* irregular = nullptr;  // rows, ascending
    int64_t irregular_count = 0;
    const double* centre = nullptr;    // columns
    const uint8_t* present = nullptr;  // one flag per row, or null: all are
    std::shared_ptr<const void> owner;
  };
  static Status restore(const Stored& stored, const Context& context, Index& out);

  // New rows take the numbers from rows() on.
  Status add(const Elements& vectors, const Context& context, Index& out) const;
  // Row rows[n] becomes vectors[n] (the last of them where a row is named twice), and present.
  Status update(const int64_t* rows, int64_t count, const Elements& vectors, const Context& context,
                Index& out) const;
  // Removed rows keep their numbers and are never found.
  Status remove(const int64_t* rows, int64_t count, Index& out) const;

  // As search of topk.h; filters and `blend` refer to rows() items, and k is at most present().
  Status search(const Matrix<const float>& queries, int64_t k, const Csr& exclude, const uint8_t* allowed,
                Matrix<int64_t> ids, Matrix<float> scores, Path path, const Context& context,
                const Blend& blend = {}) const;

  const Catalogue& catalogue() const { return catalogue_; }
  int64_t rows() const { return catalogue_.rows; }
  int64_t present() const { return present_; }
  const uint8_t* present_flags() const { return flags_ ? flags_->data() : nullptr; }
  int64_t bytes() const;

 private:
  // A block with what keeps its memory alive.
  struct Block {
    PackedBlock packed;
    const std::byte* source = nullptr;
    std::shared_ptr<const void> owner;
  };

  // The 8-bit copy, made by the first search that reads it. No search waits for another to make it, so that
  // a fork meanwhile does no harm: until it is ready they read 16 bits.
  struct ByteCopy {
    std::vector<std::shared_ptr<const ByteBlock>> inherited;  // of the index this one changed, or null
    std::vector<std::shared_ptr<const ByteBlock>> made;
    std::atomic<bool> making{false};
    std::atomic<bool> ready{false};
  };

  Status byte_blocks(const Context& context, std::vector<const ByteBlock*>& out) const;
  Status make_bytes(ByteCopy& copy, const Context& context) const;
  void inherit_bytes(const std::vector<int64_t>& changed);
  template <class Fill>
  Status rebuild(const std::vector<int64_t>& blocks, const Fill& fill, const Context& context);
  void set_block(int64_t block, std::shared_ptr<const Block> stored);

  Catalogue catalogue_;
  std::vector<std::shared_ptr<const Block>> blocks_;
  std::shared_ptr<ByteCopy> bytes_ = std::make_shared<ByteCopy>();
  std::shared_ptr<const std::vector<uint8_t>> flags_;  // null: all rows are present
  int64_t present_ = 0;
};

}  // namespace salience::cpu
