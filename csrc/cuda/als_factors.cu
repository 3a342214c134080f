// Factor matrices, observations and features of ALS on the device.
#include <cstring>
#include <numeric>

#include "core/validate.h"
#include "cuda/als.h"
#include "cuda/kernels/als_features.cuh"
#include "cuda/kernels/gramian.cuh"

namespace salience::cuda {
namespace {

constexpr int64_t kGramianRows = 512;  // of a segment, at least
constexpr int64_t kMostSegments = 1024;
constexpr int64_t kSumBlocks = 1024;
constexpr int64_t kMostBlocks = 1 << 16;  // of kernels that stride over elements

int64_t padded(int64_t columns) { return blocks_of(columns, kFactorPadding) * kFactorPadding; }
int64_t striding(int64_t count) { return std::min(blocks_of(count, kFactorThreads), kMostBlocks); }

int64_t aligned(int64_t bytes) { return blocks_of(bytes, 16) * 16; }

// Where the parts of a block lie in its memory.
struct BlockLayout {
  int64_t indptr = 0, indices, values, order, losses, bytes;
  explicit BlockLayout(const DeviceRows::Block& block)
      : indices(aligned((block.rows + 1) * 8)),
        values(indices + aligned(block.entries * 4)),
        order(values + aligned(block.entries * 4)),
        losses(order + aligned(block.rows * 4)),
        bytes(losses + static_cast<int64_t>(block.losses.size() * sizeof(Segment))) {}
};

DeviceRows::View view_of(const DeviceRows::Block& block, const unsigned char* memory) {
  const BlockLayout at(block);
  return {reinterpret_cast<const int64_t*>(memory + at.indptr),
          reinterpret_cast<const int32_t*>(memory + at.indices),
          reinterpret_cast<const float*>(memory + at.values),
          reinterpret_cast<const int32_t*>(memory + at.order),
          reinterpret_cast<const Segment*>(memory + at.losses),
          static_cast<int64_t>(block.losses.size())};
}

// The rows of a block by their number of observations, and the segments of its losses.
void plan(const Csr& observations, DeviceRows::Block& block) {
  const int64_t* const indptr = observations.indptr + block.first;
  block.first_entry = indptr[0];
  block.entries = indptr[block.rows] - indptr[0];
  block.order.resize(static_cast<size_t>(block.rows));
  std::iota(block.order.begin(), block.order.end(), 0);
  const auto count = [&](int32_t row) { return indptr[row + 1] - indptr[row]; };
  std::stable_sort(block.order.begin(), block.order.end(),
                   [&](int32_t a, int32_t b) { return count(a) < count(b); });
  for (const int32_t row : block.order) block.counts.push_back(count(row));
  for (int64_t row = 0; row < block.rows; ++row)
    cut_row(indptr[row] - indptr[0], indptr[row + 1] - indptr[row], kLossSegment, row, block.losses);
}

}  // namespace

// --- Factors ---

DeviceFactors::DeviceFactors(int64_t rows, int64_t columns, Stream stream)
    : rows_(rows),
      columns_(columns),
      stride_(padded(columns)),
      memory_(rows * stride_, stream, "the factors") {
  memory_.fill_bytes(0);
}

void DeviceFactors::upload(const Matrix<const float>& from, Stream stream) {
  copy_rows(memory_.data(), stride_ * 4, from.data, from.row_stride * 4, columns_ * 4, rows_, stream);
  synchronize(stream);
}

void DeviceFactors::download(const Matrix<float>& to, Stream stream) const {
  copy_rows(to.data, to.row_stride * 4, memory_.data(), stride_ * 4, columns_ * 4, rows_, stream);
  synchronize(stream);
}

DeviceFactors DeviceFactors::copy(Stream stream) const {
  DeviceFactors made(rows_, columns_, stream);
  cuda::copy(made.memory_.data(), memory_.data(), memory_.bytes(), stream);
  synchronize(stream);
  return made;
}

// --- Observations ---

Status DeviceRows::build(const Csr& observations, int64_t block_bytes, Stream stream, DeviceRows& out) {
  // The checks of a half-step, for factors of the narrowest kind.
  HalfStepArguments narrow;
  narrow.data.observations = observations;
  narrow.data.design = {nullptr, observations.columns, 1, kFactorPadding};
  narrow.solution = {nullptr, observations.rows, 1, kFactorPadding};
  SALIENCE_RETURN_IF_ERROR(validate(narrow));
  if (observations.rows > INT32_MAX) {
    return Status::invalid("observations: " + std::to_string(observations.rows) +
                           " rows; expected fewer than 2147483648 on a GPU");
  }
  DeviceRows made;
  made.host_ = observations;
  made.indptr_.assign(observations.indptr, observations.indptr + observations.rows + 1);
  made.cut(block_bytes);
  if (block_bytes == 0) {
    for (const Block& block : made.blocks_) {
      made.resident_.emplace_back(BlockLayout(block).bytes, stream, "the observations");
      made.write(block, [&](int64_t at, const void* from, int64_t bytes) {
        cuda::copy(made.resident_.back().data() + at, from, bytes, stream);
      });
      synchronize(stream);
    }
  }
  out = std::move(made);
  return {};
}

// A row is never cut; one that is longer than a block is a block of its own.
void DeviceRows::cut(int64_t block_bytes) {
  constexpr int64_t kRowBytes = 8 + 4 + sizeof(Segment), kEntryBytes = 8;
  int64_t first = 0, bytes = 0;
  for (int64_t row = 0; row < host_.rows; ++row) {
    const int64_t count = host_.indptr[row + 1] - host_.indptr[row];
    const int64_t more = kRowBytes + kEntryBytes * count + count / kLossSegment * sizeof(Segment);
    if (block_bytes > 0 && row > first && bytes + more > block_bytes) {
      blocks_.emplace_back();
      blocks_.back().first = first;
      blocks_.back().rows = row - first;
      first = row;
      bytes = 0;
    }
    bytes += more;
  }
  if (first < host_.rows) {
    blocks_.emplace_back();
    blocks_.back().first = first;
    blocks_.back().rows = host_.rows - first;
  }
  for (Block& block : blocks_) plan(host_, block);
}

// put(offset, from, bytes) for every part of a block.
template <class Put>
void DeviceRows::write(const Block& block, Put put) const {
  const BlockLayout at(block);
  std::vector<int64_t> indptr(indptr_.begin() + block.first, indptr_.begin() + block.first + block.rows + 1);
  for (int64_t& pointer : indptr) pointer -= block.first_entry;
  put(at.indptr, indptr.data(), (block.rows + 1) * 8);
  put(at.indices, host_.indices + block.first_entry, block.entries * 4);
  put(at.values, host_.values + block.first_entry, block.entries * 4);
  put(at.order, block.order.data(), block.rows * 4);
  put(at.losses, block.losses.data(), static_cast<int64_t>(block.losses.size() * sizeof(Segment)));
}

Status DeviceRows::for_blocks(const AlsContext& context,
                              const std::function<Status(const Block&, const View&)>& use) const {
  const auto stopped = [&] { return context.interrupted && context.interrupted(); };
  if (is_resident()) {
    for (size_t n = 0; n < blocks_.size(); ++n) {
      SALIENCE_RETURN_IF_ERROR(use(blocks_[n], view_of(blocks_[n], resident_[n].data())));
      if (stopped()) return Status::interrupted();
    }
    return {};
  }
  int64_t largest = 0;
  for (const Block& block : blocks_) largest = std::max(largest, BlockLayout(block).bytes);
  Feeder feeder(largest, context.stream, "a block of observations");
  const auto send = [&](size_t n) {
    if (n >= blocks_.size()) return;
    feeder.send([&](unsigned char* to) {
      write(blocks_[n], [&](int64_t at, const void* from, int64_t bytes) {
        if (bytes > 0) std::memcpy(to + at, from, static_cast<size_t>(bytes));
      });
      return BlockLayout(blocks_[n]).bytes;
    });
  };
  send(0);
  for (size_t n = 0; n < blocks_.size(); ++n) {
    send(n + 1);
    SALIENCE_RETURN_IF_ERROR(use(blocks_[n], view_of(blocks_[n], feeder.receive())));
    feeder.done();
    if (stopped()) return Status::interrupted();
  }
  synchronize(context.stream);  // the feeder's memory goes
  return {};
}

std::vector<int32_t> DeviceRows::empty_rows() const {
  std::vector<int32_t> found;
  for (const Block& block : blocks_)
    for (size_t n = 0; n < block.counts.size() && block.counts[n] == 0; ++n)
      found.push_back(static_cast<int32_t>(block.first) + block.order[n]);
  return found;
}

// --- Dense products ---

Status gramian(const DeviceFactors& factors, const Matrix<double>& out, const AlsContext& context) {
  Matrix<const float> view = factors.view();
  view.columns = out.columns;
  const int64_t f = view.columns, size = f * f, tiles = dense_tiles(f) * (dense_tiles(f) + 1) / 2;
  const int64_t fitting = std::max<int64_t>(1, context.workspace_bytes / (size * 8));
  const int64_t segments = std::clamp<int64_t>(view.rows / kGramianRows, 1, std::min(fitting, kMostSegments));
  const Array<double> partial(segments * size, context.stream, "the Gramian"),
      sum(size, context.stream, "the Gramian");
  SALIENCE_LAUNCH(gramian_tile, (LaunchShape{segments * tiles, kDenseThreads, sizeof(DenseTile)}),
                  context.stream, (GramianTileArguments{view, segments, partial.data()}));
  SALIENCE_LAUNCH(sum_gramian,
                  (LaunchShape{std::min(blocks_of(size, kDenseThreads), kSumBlocks), kDenseThreads, 0}),
                  context.stream, (GramianSumArguments{partial.data(), segments, f, sum.data()}));
  copy_rows(out.data, out.row_stride * 8, sum.data(), f * 8, f * 8, f, context.stream);
  synchronize(context.stream);
  return {};
}

Status rotate(DeviceFactors& factors, const Matrix<const float>& rotation, const AlsContext& context) {
  Matrix<float> view = factors.view();
  view.columns = rotation.columns;
  const int64_t f = view.columns;
  const int64_t chunk = std::clamp<int64_t>(context.workspace_bytes / (f * 4) / kDenseTile, 1,
                                            std::max<int64_t>(1, dense_tiles(view.rows))) *
                        kDenseTile;
  Array<float> turned(std::min(chunk, view.rows) * f, context.stream, "the rotation");
  const Array<float> by(f * f, context.stream, "the rotation");
  copy_rows(by.data(), f * 4, rotation.data, rotation.row_stride * 4, f * 4, f, context.stream);
  for (int64_t first = 0; first < view.rows; first += chunk) {
    const int64_t rows = std::min(chunk, view.rows - first);
    const Matrix<const float> some{view.row(first), rows, f, view.row_stride};
    SALIENCE_LAUNCH(rotate_tile,
                    (LaunchShape{dense_tiles(rows) * dense_tiles(f), kDenseThreads, sizeof(DenseTile)}),
                    context.stream, (RotateTileArguments{some, by.data(), turned.data()}));
    copy_rows(view.row(first), view.row_stride * 4, turned.data(), f * 4, f * 4, rows, context.stream);
  }
  synchronize(context.stream);
  return {};
}

// --- Losses and rows without observations ---

double ridge_loss(const DeviceFactors& factors, const DeviceFactors* prior, const float* ridge,
                  Stream stream) {
  const Array<float> strengths = to_device(ridge, factors.rows(), stream, "the ridge");
  const Array<double> each(factors.rows(), stream, "the losses");
  const Matrix<const float> from = prior == nullptr ? Matrix<const float>{} : prior->view();
  SALIENCE_LAUNCH(measure_deviation,
                  (LaunchShape{blocks_of(factors.rows(), kLossThreads / 32), kLossThreads, 0}), stream,
                  (DeviationArguments{factors.view(), from, strengths.data(), each.data()}));
  std::vector<double> found(static_cast<size_t>(factors.rows()));
  copy(found.data(), each.data(), each.bytes(), stream);
  synchronize(stream);
  return std::accumulate(found.begin(), found.end(), 0.0);
}

void fill_rows(const Matrix<const float>& prior, const Matrix<float>& solution, const int32_t* order,
               int64_t count, Stream stream) {
  SALIENCE_LAUNCH(fill_empty_rows, (LaunchShape{striding(count * solution.columns), kFactorThreads, 0}),
                  stream, (FillEmptyArguments{prior, solution, order, count}));
}

void fill_empty(const DeviceRows& rows, DeviceFactors& factors, const DeviceFactors& prior, Stream stream) {
  const std::vector<int32_t> empty = rows.empty_rows();
  const auto count = static_cast<int64_t>(empty.size());
  const Array<int32_t> order = to_device(empty.data(), count, stream, "the rows");
  fill_rows(prior.view(), factors.view(), order.data(), count, stream);
  synchronize(stream);
}

// --- Features ---

DeviceFeatures::Sparse DeviceFeatures::upload(const Csr& matrix, Stream stream) {
  Sparse made;
  made.rows = matrix.rows;
  made.indices = to_device(matrix.indices, matrix.entries, stream, "the features");
  made.values = to_device(matrix.values, matrix.entries, stream, "the features");
  std::vector<Segment> segments;
  made.first_segment.push_back(0);
  for (int64_t row = 0; row < matrix.rows; ++row) {
    cut_row(matrix.indptr[row], matrix.indptr[row + 1] - matrix.indptr[row], kFeatureSegment, row, segments);
    made.first_segment.push_back(static_cast<int32_t>(segments.size()));
  }
  made.segments = to_device(segments.data(), static_cast<int64_t>(segments.size()), stream, "the features");
  synchronize(stream);
  return made;
}

DeviceFeatures::DeviceFeatures(const Csr& rows, const Csr& transposed, Stream stream)
    : rows_(upload(rows, stream)), transposed_(upload(transposed, stream)) {}

// finish(sum arguments, first row) for as many rows at a time as the workspace has room for.
template <class Finish>
void DeviceFeatures::multiply(const Sparse& matrix, const DeviceFactors& dense, const float* strength,
                              const AlsContext& context, Finish finish) {
  const int64_t columns = dense.columns();
  const int64_t fitting = std::max<int64_t>(1, context.workspace_bytes / (columns * 8));
  for (int64_t first = 0, end; first < matrix.rows; first = end) {
    const int32_t before = matrix.first_segment[static_cast<size_t>(first)];
    end = first + 1;
    while (end < matrix.rows && matrix.first_segment[static_cast<size_t>(end) + 1] - before <= fitting) ++end;
    std::vector<int32_t> bounds(matrix.first_segment.begin() + first, matrix.first_segment.begin() + end + 1);
    for (int32_t& bound : bounds) bound -= before;
    const int64_t segments = bounds.back(), rows = end - first;
    const Array<int32_t> bounds_there = to_device(bounds.data(), rows + 1, context.stream, "the features");
    const Array<double> partial(segments * columns, context.stream, "the features");
    const int threads = static_cast<int>(std::min<int64_t>(blocks_of(columns, 32) * 32, kFactorThreads));
    SALIENCE_LAUNCH(
        multiply_features, (LaunchShape{segments, threads, 0}), context.stream,
        (FeatureArguments{matrix.indices.data(), matrix.values.data(), matrix.segments.data() + before,
                          dense.view(), strength, partial.data()}));
    finish(FeatureSumArguments{partial.data(), bounds_there.data(), rows, columns, columns, nullptr, nullptr,
                               nullptr},
           first);
    synchronize(context.stream);  // the bounds go
  }
}

void DeviceFeatures::multiply(const DeviceFactors& weights, const float* keep, DeviceFactors& out,
                              const AlsContext& context) const {
  const Array<float> kept = to_device(keep, keep == nullptr ? 0 : rows_.rows, context.stream, "the features");
  multiply(rows_, weights, nullptr, context, [&](FeatureSumArguments sum, int64_t first) {
    sum.row_stride = out.view().row_stride;
    sum.rounded = out.view().row(first);
    if (keep != nullptr) sum.keep = kept.data() + first;
    SALIENCE_LAUNCH(sum_features, (LaunchShape{striding(sum.rows * sum.columns), kFactorThreads, 0}),
                    context.stream, sum);
  });
}

void DeviceFeatures::multiply_transposed(const float* strength, const DeviceFactors& factors, double* out,
                                         const AlsContext& context) const {
  const Array<float> strengths = to_device(strength, factors.rows(), context.stream, "the features");
  multiply(transposed_, factors, strengths.data(), context, [&](FeatureSumArguments sum, int64_t first) {
    const Array<double> found(sum.rows * sum.columns, context.stream, "the features");
    sum.out = found.data();
    SALIENCE_LAUNCH(sum_features, (LaunchShape{striding(sum.rows * sum.columns), kFactorThreads, 0}),
                    context.stream, sum);
    copy(out + first * sum.columns, found.data(), found.bytes(), context.stream);
    synchronize(context.stream);
  });
}

}  // namespace salience::cuda
