#include "cpu/catalogue.h"

#include <cstdlib>
#include <new>
#include <numeric>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace salience::cpu {
namespace {

constexpr double kLargestNorm = 1e150;          // the square is finite in float64; fp32 rows stay far below
constexpr double kRoundedUp = 1.0 + 0x1.0p-40;  // over the rounding of sums in float64
constexpr double kFullScale = 32766.0;          // fixed point: one less than the largest, for rounding
constexpr double kLargestByte = 127.0;
constexpr double kLeastScale = 0x1.0p-40;  // of a row, in its block's: sums keep clear of fp32's underflow
constexpr int64_t kLargePage = 2 << 20;

}  // namespace

Catalogue view_of(const Elements& items, Metric metric) {
  Catalogue catalogue;
  catalogue.metric = metric;
  catalogue.type = items.type;
  catalogue.rows = items.rows;
  catalogue.columns = items.columns;
  catalogue.row_bytes = items.row_stride * element_bytes(items.type);
  for (int64_t row = 0; row < items.rows; row += kBlockRows)
    catalogue.sources.push_back(static_cast<const std::byte*>(items.data) + row * catalogue.row_bytes);
  catalogue.centre.assign(static_cast<size_t>((items.columns + 7) / 8 * 8), 0.0);
  return catalogue;
}

Catalogue gather(const Catalogue& catalogue, const uint8_t* allowed, int64_t count) {
  Catalogue few = catalogue;
  few.packed.clear();
  few.gathered.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < catalogue.rows; ++i)
    if (allowed[i] != 0) few.gathered.push_back(i);
  few.rows = count;
  few.is_gathered = true;
  return few;
}

void FloatRows::widen(const Catalogue& catalogue, const std::byte* source, float* out) {
  const auto* const row = reinterpret_cast<const uint16_t*>(source);
  if (catalogue.type == ElementType::float16) {
    kernels().widen_half(row, catalogue.columns, out);
  } else {
    kernels().widen_bfloat(row, catalogue.columns, out);
  }
}

double weight_of(Metric metric, const float* row, int64_t columns) {
  if (metric != Metric::cosine) return 1.0;
  double squares;
  kernels().squared_norms(row, columns, 1, columns, &squares);
  return squares == 0.0 ? 0.0 : 1.0 / std::sqrt(squares);
}

void choose_centre(Catalogue& catalogue) {
  const int64_t wanted = std::min<int64_t>(512, catalogue.rows / 16);
  if (wanted < 2) return;
  const int64_t step = catalogue.rows / wanted, columns = catalogue.columns;
  FloatRows memory;
  const float* const* rows = memory.at(catalogue, wanted, [&](int64_t n) { return n * step; });
  std::vector<double> mean(catalogue.centre.size(), 0.0), weights;
  std::vector<const float*> finite;
  for (int64_t n = 0; n < wanted; ++n) {
    double squares;
    kernels().squared_norms(rows[n], columns, 1, columns, &squares);
    if (!(squares < kLargestNorm)) continue;
    weights.push_back(weight_of(catalogue.metric, rows[n], columns));
    finite.push_back(rows[n]);
    for (int64_t j = 0; j < columns; ++j) mean[static_cast<size_t>(j)] += weights.back() * rows[n][j];
  }
  if (finite.empty()) return;
  for (double& x : mean) x /= static_cast<double>(finite.size());
  // Sums of norms, not of squares: one huge row must not pull the centre away from all others.
  std::vector<double> squares(finite.size());
  const auto sum_of_norms = [&](const std::vector<double>& centre) {
    kernels().centred_squares({finite.data(), weights.data(), centre.data(),
                               static_cast<int64_t>(finite.size()), columns, 0, 1.0, nullptr,
                               squares.data()});
    double sum = 0.0;
    for (const double square : squares) sum += std::sqrt(square);
    return sum;
  };
  if (!(sum_of_norms(mean) < 0.9 * sum_of_norms(catalogue.centre))) return;
  catalogue.centre = std::move(mean);
  set_centre_norm(catalogue);
}

void set_centre_norm(Catalogue& catalogue) {
  const std::vector<double>& centre = catalogue.centre;
  catalogue.centre_norm =
      kRoundedUp * std::sqrt(std::inner_product(centre.begin(), centre.end(), centre.begin(), 0.0));
}

bool choose_scale(double squared_norm, Encoding encoding, Encoded& encoded) {
  const double norm = std::sqrt(squared_norm) * kRoundedUp;
  if (!(norm < kLargestNorm)) return false;
  encoded.norm = norm;
  if (norm == 0.0) {
    encoded.scale = 1.0;
  } else if (encoding == Encoding::fixed_point) {
    encoded.scale = norm / kFullScale;
  } else {
    encoded.scale = std::ldexp(1.0, std::ilogb(norm) + 1);
  }
  return true;
}

void pack_block(const Catalogue& catalogue, int64_t block, FloatRows& memory, uint16_t* data,
                PackedBlock& packed) {
  const int64_t count = catalogue.block_rows(block), depth = catalogue.depth();
  const float* const* rows = memory.block(catalogue, block);
  double weights[kBlockRows], squares[kBlockRows];
  for (int64_t r = 0; r < count; ++r) weights[r] = weight_of(catalogue.metric, rows[r], catalogue.columns);
  EncodeArguments arguments{rows, weights, catalogue.centre.data(), count, catalogue.columns, depth, 1.0,
                            data, squares};
  kernels().centred_squares(arguments);

  packed.data = data;
  packed.rows = count;
  packed.irregular.clear();
  double largest = 0.0;
  for (int64_t r = 0; r < count; ++r) {
    Encoded row;
    if (choose_scale(squares[r], catalogue.encoding, row)) {
      largest = std::max(largest, squares[r]);
    } else {
      packed.irregular.push_back(static_cast<uint16_t>(r));
      weights[r] = std::nan("");
      squares[r] = 0.0;
    }
  }
  choose_scale(largest, catalogue.encoding, packed.encoded);
  if (catalogue.metric == Metric::euclidean) {
    packed.terms.assign(kBlockRows, 0.0f);
    const double unit = largest > 0.0 ? 0.5 / (packed.encoded.norm * packed.encoded.norm) : 0.0;
    for (int64_t r = 0; r < count; ++r)
      packed.terms[static_cast<size_t>(r)] = static_cast<float>(squares[r] * unit);
  }
  arguments.scale = 1.0 / packed.encoded.scale;
  kernels().encode(arguments);
  std::fill(data + count * depth, data + kBlockRows * depth, uint16_t{0});
  packed.encoded.residual =
      std::sqrt(*std::max_element(squares, squares + count)) * packed.encoded.scale * kRoundedUp;
}

void pack_bytes(const Catalogue& catalogue, int64_t block, const PackedBlock& packed, FloatRows& memory,
                int8_t* data, ByteBlock& bytes) {
  const int64_t count = catalogue.block_rows(block), depth = catalogue.depth();
  const float* const* rows = memory.block(catalogue, block);
  double weights[kBlockRows], squares[kBlockRows], inverse_steps[kBlockRows];
  for (int64_t r = 0; r < count; ++r) weights[r] = weight_of(catalogue.metric, rows[r], catalogue.columns);
  for (const uint16_t r : packed.irregular) weights[r] = std::nan("");
  const EncodeArguments arguments{
      rows, weights, catalogue.centre.data(), count, catalogue.columns, depth, 1.0, nullptr, squares};
  kernels().largest_squares(arguments);
  const double largest = std::sqrt(*std::max_element(squares, squares + count));

  bytes.data = data;
  bytes.encoded.scale = largest > 0.0 ? largest / kLargestByte : 1.0;
  bytes.encoded.norm = packed.encoded.norm;
  bytes.scales.assign(kBlockRows, 1.0f);
  for (int64_t r = 0; r < count; ++r) {
    const double step = std::sqrt(squares[r]) / kLargestByte / bytes.encoded.scale;
    const float scale = static_cast<float>(std::max(step, kLeastScale));
    bytes.scales[static_cast<size_t>(r)] = scale;
    inverse_steps[r] = 1.0 / (bytes.encoded.scale * static_cast<double>(scale));
  }
  kernels().encode_bytes({arguments, inverse_steps, data});
  std::fill(data + count * depth, data + kBlockRows * depth, int8_t{0});
  bytes.encoded.residual =
      std::sqrt(*std::max_element(squares, squares + count)) * bytes.encoded.scale * kRoundedUp;
}

PackedMemory::PackedMemory(int64_t elements) {
  const int64_t wanted = elements * 2, alignment = wanted > kLargePage ? kLargePage : 64;
  const auto bytes = static_cast<size_t>((wanted + alignment - 1) / alignment * alignment);
  data_ = static_cast<uint16_t*>(std::aligned_alloc(static_cast<size_t>(alignment), bytes));
  if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kLargePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

PackedMemory::~PackedMemory() { std::free(data_); }
PackedMemory::PackedMemory(PackedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
PackedMemory& PackedMemory::operator=(PackedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  return *this;
}

Status pack(Catalogue& catalogue, PackedCopy& copy, const Context& context) {
  const int64_t blocks = catalogue.blocks(), elements = kBlockRows * catalogue.depth();
  choose_centre(catalogue);
  copy.memory = PackedMemory(std::max<int64_t>(1, blocks * elements));
  copy.blocks.assign(static_cast<size_t>(blocks), {});
  const double operations =
      4.0 * static_cast<double>(catalogue.rows) * static_cast<double>(catalogue.depth());
  constexpr int64_t kUnit = 16;
  const int64_t units = (blocks + kUnit - 1) / kUnit;
  SALIENCE_RETURN_IF_ERROR(
      parallel_for(context, worker_count(context, units, operations), units, [&](int64_t unit, Worker&) {
        FloatRows rows;
        for (int64_t b = unit * kUnit; b < std::min(blocks, (unit + 1) * kUnit); ++b)
          pack_block(catalogue, b, rows, copy.memory.data() + b * elements,
                     copy.blocks[static_cast<size_t>(b)]);
      }));
  catalogue.packed.resize(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b)
    catalogue.packed[static_cast<size_t>(b)] = &copy.blocks[static_cast<size_t>(b)];
  return {};
}

}  // namespace salience::cpu
