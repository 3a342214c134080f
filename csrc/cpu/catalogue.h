// Items as the scan sees them: rows in blocks, in the caller's type, with or without a packed copy.
#pragma once

#include <cstddef>
#include <vector>

#include "core/parallel_for.h"
#include "core/screening_bound.h"
#include "cpu/instruction_sets.h"

namespace salience::cpu {

// kBlockRows rows in 16 bits. `data` is borrowed.
struct PackedBlock {
  const uint16_t* data = nullptr;
  int64_t rows = 0;
  Encoded encoded;
  std::vector<float> terms;         // euclidean: |z|^2 / (2 norm^2), kBlockRows of them
  std::vector<uint16_t> irregular;  // rows that are not finite: stored as zeros, always scored exactly
};

// The same rows in 8 bits, each with a scale of its own, for when reading them is what a search waits for.
// `data` is borrowed.
struct ByteBlock {
  const int8_t* data = nullptr;
  Encoded encoded;            // of the row with the largest scale: others are off by less, as is their scale
  std::vector<float> scales;  // kBlockRows of them, in units of encoded.scale, at most 1
};

struct Catalogue {
  Metric metric = Metric::dot;
  ElementType type = ElementType::float32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_bytes = 0;                  // from one row to the next
  std::vector<const std::byte*> sources;  // the first row of each block of the caller's rows
  std::vector<double> centre;             // `columns` rounded up to 8
  double centre_norm = 0.0;
  Encoding encoding = kernels().encoding;  // of the packed blocks
  std::vector<const PackedBlock*> packed;  // one per block, or none: then blocks are packed when scanned
  std::vector<int64_t> gathered;           // where not empty: the rows that count, in ascending order
  bool is_gathered = false;

  int64_t depth() const { return (columns + kDepthPadding - 1) / kDepthPadding * kDepthPadding; }
  int64_t blocks() const { return (rows + kBlockRows - 1) / kBlockRows; }
  int64_t block_rows(int64_t block) const { return std::min(kBlockRows, rows - block * kBlockRows); }

  // Positions count what is scanned; ids are rows of the caller.
  int64_t id(int64_t position) const {
    return is_gathered ? gathered[static_cast<size_t>(position)] : position;
  }
  const std::byte* source(int64_t id) const {
    return sources[static_cast<size_t>(id / kBlockRows)] + id % kBlockRows * row_bytes;
  }
};

// A view of `items`, without a packed copy.
Catalogue view_of(const Elements& items, Metric metric);

// The same rows of `catalogue`, for which allowed is not 0, to be packed when scanned.
Catalogue gather(const Catalogue& catalogue, const uint8_t* allowed, int64_t count);

// Derives centre_norm from the centre.
void set_centre_norm(Catalogue& catalogue);

// Sets the centre to the mean of a sample of the rows if that shortens them, else to zero.
void choose_centre(Catalogue& catalogue);

// Rows as float32: pointers to the caller's own, or to copies in `widened`.
class FloatRows {
 public:
  // Row n of the result is the row at positions[n].
  template <class Positions>
  const float* const* at(const Catalogue& catalogue, int64_t count, Positions positions) {
    pointers_.resize(static_cast<size_t>(count));
    of_ids(catalogue, count, [&](int64_t n) { return catalogue.id(positions(n)); }, pointers_.data());
    return pointers_.data();
  }

  // rows[n] becomes the caller's row ids(n).
  template <class Ids>
  void of_ids(const Catalogue& catalogue, int64_t count, Ids ids, const float** rows) {
    const bool copied = catalogue.type != ElementType::float32;
    if (copied) widened_.resize(static_cast<size_t>(count * catalogue.columns));
    for (int64_t n = 0; n < count; ++n) {
      const std::byte* const source = catalogue.source(ids(n));
      float* const copy = copied ? widened_.data() + n * catalogue.columns : nullptr;
      if (copied) widen(catalogue, source, copy);
      rows[n] = copied ? copy : reinterpret_cast<const float*>(source);
    }
  }

  const float* const* block(const Catalogue& catalogue, int64_t block) {
    return at(catalogue, catalogue.block_rows(block), [&](int64_t n) { return block * kBlockRows + n; });
  }

 private:
  static void widen(const Catalogue& catalogue, const std::byte* source, float* out);

  std::vector<const float*> pointers_;
  std::vector<float> widened_;
};

// Packs one block into `data`, kBlockRows x depth, and describes it in `packed`.
void pack_block(const Catalogue& catalogue, int64_t block, FloatRows& rows, uint16_t* data,
                PackedBlock& packed);

// The same in 8 bits. `packed` describes the block.
void pack_bytes(const Catalogue& catalogue, int64_t block, const PackedBlock& packed, FloatRows& rows,
                int8_t* data, ByteBlock& bytes);

// A vector in 16 bits, with its scale chosen from its squared norm. False where it is not finite.
bool choose_scale(double squared_norm, Encoding encoding, Encoded& encoded);

// Weights of rows in S: 1, or for cosine 1 / |x| (0 for a zero row).
double weight_of(Metric metric, const float* row, int64_t columns);

// Memory for packed blocks, on large pages where the system has them.
class PackedMemory {
 public:
  PackedMemory() = default;
  explicit PackedMemory(int64_t elements);
  ~PackedMemory();
  PackedMemory(PackedMemory&& other) noexcept;
  PackedMemory& operator=(PackedMemory&& other) noexcept;
  uint16_t* data() const { return data_; }

 private:
  uint16_t* data_ = nullptr;
};

// A packed copy of all blocks of a catalogue.
struct PackedCopy {
  PackedMemory memory;
  std::vector<PackedBlock> blocks;
};

// Packs every block and points catalogue.packed at them.
Status pack(Catalogue& catalogue, PackedCopy& copy, const Context& context);

}  // namespace salience::cpu
