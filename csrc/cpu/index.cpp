#include "cpu/index.h"

#include <cstring>
#include <new>

#include "core/validate.h"

namespace salience::cpu {
namespace {

// Memory of blocks that are made together.
struct Arena {
  Arena(int64_t row_elements, int64_t packed_elements) : rows(row_elements), packed(packed_elements) {}
  PackedMemory rows;  // in units of two bytes
  PackedMemory packed;
};

const std::byte* row_of(const Elements& elements, int64_t row) {
  const int64_t bytes = element_bytes(elements.type);
  return static_cast<const std::byte*>(elements.data) + row * elements.row_stride * bytes;
}

}  // namespace

void Index::set_block(int64_t block, std::shared_ptr<const Block> stored) {
  const auto b = static_cast<size_t>(block);
  if (b >= blocks_.size()) {
    blocks_.resize(b + 1);
    catalogue_.sources.resize(b + 1);
    catalogue_.packed.resize(b + 1);
  }
  catalogue_.sources[b] = stored->source;
  catalogue_.packed[b] = &stored->packed;
  blocks_[b] = std::move(stored);
}

// Takes over the 8-bit copy of the blocks that did not change.
void Index::inherit_bytes(const std::vector<int64_t>& changed) {
  const auto copy = std::make_shared<ByteCopy>();
  copy->inherited = bytes_->ready.load(std::memory_order_acquire) ? bytes_->made : bytes_->inherited;
  copy->inherited.resize(static_cast<size_t>(catalogue_.blocks()));
  for (const int64_t block : changed) copy->inherited[static_cast<size_t>(block)] = nullptr;
  bytes_ = copy;
}

Status Index::make_bytes(ByteCopy& copy, const Context& context) const {
  std::vector<std::shared_ptr<const ByteBlock>> made = copy.inherited;
  made.resize(static_cast<size_t>(catalogue_.blocks()));
  std::vector<int64_t> missing;
  for (int64_t b = 0; b < catalogue_.blocks(); ++b)
    if (made[static_cast<size_t>(b)] == nullptr) missing.push_back(b);
  struct Arena {
    PackedMemory memory;
    std::vector<ByteBlock> blocks;
  };
  const auto count = static_cast<int64_t>(missing.size()), elements = kBlockRows * catalogue_.depth();
  const auto arena = std::make_shared<Arena>();
  arena->memory = PackedMemory(count * elements / 2 + 1);
  arena->blocks.resize(missing.size());
  const double operations = 4.0 * static_cast<double>(count * elements);
  SALIENCE_RETURN_IF_ERROR(
      parallel_for(context, worker_count(context, count, operations), count, [&](int64_t n, Worker&) {
        const auto i = static_cast<size_t>(n), b = static_cast<size_t>(missing[i]);
        FloatRows rows;
        pack_bytes(catalogue_, missing[i], *catalogue_.packed[b], rows,
                   reinterpret_cast<int8_t*>(arena->memory.data()) + n * elements, arena->blocks[i]);
        made[b] = std::shared_ptr<const ByteBlock>(arena, &arena->blocks[i]);
      }));
  copy.made = std::move(made);
  copy.ready.store(true, std::memory_order_release);
  return {};
}

// The blocks in 8 bits; none while another search makes them, or where there is no memory for them.
Status Index::byte_blocks(const Context& context, std::vector<const ByteBlock*>& out) const {
  ByteCopy& copy = *bytes_;
  if (!copy.ready.load(std::memory_order_acquire)) {
    if (copy.making.exchange(true)) return {};
    Status status;
    try {
      if (!copy.ready.load()) status = make_bytes(copy, context);  // unless it was finished just now
    } catch (const std::bad_alloc&) {
    }
    copy.making.store(false);
    if (!status.ok() || !copy.ready.load()) return status;
  }
  out.reserve(copy.made.size());
  for (const std::shared_ptr<const ByteBlock>& block : copy.made) out.push_back(block.get());
  return {};
}

// Gives `blocks` new memory, filled by fill(block, first row), and packs them.
template <class Fill>
Status Index::rebuild(const std::vector<int64_t>& blocks, const Fill& fill, const Context& context) {
  const auto count = static_cast<int64_t>(blocks.size());
  if (count == 0) return {};
  inherit_bytes(blocks);
  const int64_t depth = catalogue_.depth(), block_bytes = kBlockRows * catalogue_.row_bytes;
  const auto arena =
      std::make_shared<Arena>((count * block_bytes + 1) / 2 + 1, count * kBlockRows * depth + 1);
  std::vector<std::shared_ptr<Block>> made(blocks.size());
  for (int64_t n = 0; n < count; ++n) {
    const auto block = std::make_shared<Block>();
    auto* const source = reinterpret_cast<std::byte*>(arena->rows.data()) + n * block_bytes;
    fill(blocks[static_cast<size_t>(n)], source);
    block->source = source;
    block->owner = arena;
    made[static_cast<size_t>(n)] = block;
    set_block(blocks[static_cast<size_t>(n)], block);
  }
  // With nothing packed yet the centre is free to follow the rows.
  if (count == catalogue_.blocks()) {
    std::fill(catalogue_.centre.begin(), catalogue_.centre.end(), 0.0);
    catalogue_.centre_norm = 0.0;
    choose_centre(catalogue_);
  }
  const double operations = 4.0 * static_cast<double>(count * kBlockRows) * static_cast<double>(depth);
  return parallel_for(context, worker_count(context, count, operations), count, [&](int64_t n, Worker&) {
    FloatRows rows;
    pack_block(catalogue_, blocks[static_cast<size_t>(n)], rows,
               arena->packed.data() + n * kBlockRows * depth, made[static_cast<size_t>(n)]->packed);
  });
}

Status Index::build(const Elements& items, Metric metric, const Context& context, Index& out) {
  Index empty;
  empty.catalogue_ = view_of({nullptr, items.type, 0, items.columns, items.columns}, metric);
  return empty.add(items, context, out);
}

Status Index::add(const Elements& vectors, const Context& context, Index& out) const {
  Index next = *this;
  const int64_t before = rows(), after = before + vectors.rows;
  SALIENCE_RETURN_IF_ERROR(expect_item_count("vectors", after));
  next.catalogue_.rows = after;
  std::vector<int64_t> blocks;
  for (int64_t block = before / kBlockRows; block < next.catalogue_.blocks(); ++block)
    blocks.push_back(block);
  const int64_t bytes = catalogue_.row_bytes;
  const auto fill = [&](int64_t block, std::byte* to) {
    const int64_t first = block * kBlockRows;
    for (int64_t row = first; row < std::min(after, first + kBlockRows); ++row)
      std::memcpy(to + (row - first) * bytes,
                  row < before ? catalogue_.source(row) : row_of(vectors, row - before),
                  static_cast<size_t>(bytes));
  };
  if (vectors.rows > 0) SALIENCE_RETURN_IF_ERROR(next.rebuild(blocks, fill, context));
  if (flags_ != nullptr) {
    std::vector<uint8_t> flags = *flags_;
    flags.resize(static_cast<size_t>(after), 1);
    next.flags_ = std::make_shared<const std::vector<uint8_t>>(std::move(flags));
  }
  next.present_ = present_ + vectors.rows;
  out = std::move(next);
  return {};
}

Status Index::update(const int64_t* rows, int64_t count, const Elements& vectors, const Context& context,
                     Index& out) const {
  Index next = *this;
  std::vector<int64_t> order(static_cast<size_t>(count)), blocks;
  for (int64_t n = 0; n < count; ++n) order[static_cast<size_t>(n)] = n;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rows[a] < rows[b]; });
  for (const int64_t n : order)
    if (blocks.empty() || blocks.back() != rows[n] / kBlockRows) blocks.push_back(rows[n] / kBlockRows);
  const int64_t bytes = catalogue_.row_bytes;
  auto following = order.begin();
  const auto fill = [&](int64_t block, std::byte* to) {
    std::memcpy(to, catalogue_.source(block * kBlockRows),
                static_cast<size_t>(catalogue_.block_rows(block) * bytes));
    for (; following != order.end() && rows[*following] / kBlockRows == block; ++following)
      std::memcpy(to + rows[*following] % kBlockRows * bytes, row_of(vectors, *following),
                  static_cast<size_t>(bytes));
  };
  SALIENCE_RETURN_IF_ERROR(next.rebuild(blocks, fill, context));
  if (flags_ != nullptr) {
    std::vector<uint8_t> flags = *flags_;
    for (int64_t n = 0; n < count; ++n) flags[static_cast<size_t>(rows[n])] = 1;
    next.present_ = std::count(flags.begin(), flags.end(), uint8_t{1});
    next.flags_ = std::make_shared<const std::vector<uint8_t>>(std::move(flags));
  }
  out = std::move(next);
  return {};
}

Status Index::remove(const int64_t* rows, int64_t count, Index& out) const {
  Index next = *this;
  std::vector<uint8_t> flags =
      flags_ ? *flags_ : std::vector<uint8_t>(static_cast<size_t>(this->rows()), uint8_t{1});
  for (int64_t n = 0; n < count; ++n) {
    uint8_t& flag = flags[static_cast<size_t>(rows[n])];
    if (flag == 0) return Status::invalid("rows: " + std::to_string(rows[n]) + " was removed before");
    flag = 0;
  }
  next.flags_ = std::make_shared<const std::vector<uint8_t>>(std::move(flags));
  next.present_ = present_ - count;
  out = std::move(next);
  return {};
}

Status Index::restore(const Stored& stored, const Context& context, Index& out) {
  Index next;
  next.catalogue_ = view_of(stored.items, stored.metric);
  Catalogue& catalogue = next.catalogue_;
  const int64_t blocks = catalogue.blocks(), elements = kBlockRows * catalogue.depth();
  if (stored.packed == nullptr) {  // another machine's encoding: pack anew, but leave the rows where they are
    const auto copy = std::make_shared<PackedCopy>();
    SALIENCE_RETURN_IF_ERROR(pack(catalogue, *copy, context));
    const auto owners = std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>>(
        stored.owner, copy);
    for (int64_t b = 0; b < blocks; ++b) {
      const auto block = std::make_shared<Block>();
      block->packed = copy->blocks[static_cast<size_t>(b)];
      block->source = catalogue.sources[static_cast<size_t>(b)];
      block->owner = owners;
      next.set_block(b, block);
    }
  } else {
    std::copy_n(stored.centre, catalogue.columns, catalogue.centre.begin());
    set_centre_norm(catalogue);
    const int64_t* irregular = stored.irregular;
    for (int64_t b = 0; b < blocks; ++b) {
      const auto block = std::make_shared<Block>();
      PackedBlock& packed = block->packed;
      packed.data = stored.packed + b * elements;
      packed.rows = catalogue.block_rows(b);
      packed.encoded = {stored.encoded[3 * b], stored.encoded[3 * b + 1], stored.encoded[3 * b + 2]};
      if (stored.terms != nullptr)
        packed.terms.assign(stored.terms + b * kBlockRows, stored.terms + (b + 1) * kBlockRows);
      for (; irregular != stored.irregular + stored.irregular_count && *irregular / kBlockRows == b;
           ++irregular)
        packed.irregular.push_back(static_cast<uint16_t>(*irregular % kBlockRows));
      block->source = catalogue.sources[static_cast<size_t>(b)];
      block->owner = stored.owner;
      next.set_block(b, block);
    }
  }
  next.present_ = catalogue.rows;
  if (stored.present != nullptr) {
    std::vector<uint8_t> flags(stored.present, stored.present + catalogue.rows);
    for (uint8_t& flag : flags) flag = flag != 0;
    next.present_ = std::count(flags.begin(), flags.end(), uint8_t{1});
    next.flags_ = std::make_shared<const std::vector<uint8_t>>(std::move(flags));
  }
  out = std::move(next);
  return {};
}

Status Index::search(const Matrix<const float>& queries, int64_t k, const Csr& exclude,
                     const uint8_t* allowed, Matrix<int64_t> ids, Matrix<float> scores, Path path,
                     const Context& context, const Blend& blend) const {
  const TopKArguments shapes{queries, {nullptr, catalogue_.type, rows(), catalogue_.columns, 0},
                             k,       catalogue_.metric,
                             exclude, allowed,
                             ids,     scores,
                             path,    blend};
  SALIENCE_RETURN_IF_ERROR(validate(shapes));
  if (catalogue_.encoding != kernels().encoding)
    return Status::invalid("index: packed for another instruction set than the one in use");
  std::vector<uint8_t> both;
  if (flags_ != nullptr && allowed != nullptr) {
    both = *flags_;
    for (size_t i = 0; i < both.size(); ++i) both[i] = both[i] != 0 && allowed[i] != 0;
    allowed = both.data();
  } else if (flags_ != nullptr) {
    allowed = flags_->data();
  }
  const auto bytes = [&](std::vector<const ByteBlock*>& out) { return byte_blocks(context, out); };
  return cpu::search({catalogue_, queries, k, exclude, allowed, ids, scores, path, blend, bytes}, context);
}

int64_t Index::bytes() const {
  const int64_t per_block = kBlockRows * (catalogue_.row_bytes + 2 * catalogue_.depth());
  int64_t sum = catalogue_.blocks() * (per_block + static_cast<int64_t>(sizeof(Block) + 3 * sizeof(void*)));
  if (catalogue_.metric == Metric::euclidean) sum += catalogue_.blocks() * kBlockRows * 4;
  if (bytes_->ready.load(std::memory_order_acquire))
    sum += catalogue_.blocks() *
           (kBlockRows * (catalogue_.depth() + 4) + static_cast<int64_t>(sizeof(ByteBlock)));
  return sum + (flags_ ? rows() : 0);
}

}  // namespace salience::cpu
