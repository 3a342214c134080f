// ALS on the device, with the contracts of core/operations.h: what the solvers minimize is the same, the
// order of their sums is not, so answers agree with the CPU's to rounding and with themselves to the bit.
//
// Every function returns when its work is done.
#pragma once

#include <functional>
#include <vector>

#include "core/operations.h"
#include "core/status.h"
#include "cuda/feeder.h"
#include "cuda/segments.h"

namespace salience::cuda {

// A factor matrix on the device: its rows are padded as those of the CPU's, with zeros.
class DeviceFactors {
 public:
  DeviceFactors(int64_t rows, int64_t columns, Stream stream);

  Matrix<float> view() { return {memory_.data(), rows_, columns_, stride_}; }
  Matrix<const float> view() const { return {memory_.data(), rows_, columns_, stride_}; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  void upload(const Matrix<const float>& from, Stream stream);
  void download(const Matrix<float>& to, Stream stream) const;
  DeviceFactors copy(Stream stream) const;

 private:
  int64_t rows_, columns_, stride_;
  Array<float> memory_;
};

// How what a call does beside its results is bounded and interrupted.
struct AlsContext {
  Stream stream = nullptr;
  int64_t workspace_bytes = 0;  // for partial sums and systems; what one row needs is taken all the same
  std::function<bool()> interrupted;
};

// Observations on the device, or in blocks of rows on their way through it. A block keeps its rows in the
// order of their number of observations, so that those a launch is for lie together.
class DeviceRows {
 public:
  // `observations` are in host memory. block_bytes 0: all of them stay on the device, and the host's are read
  // no more. Else blocks of about that size pass through it at each use, and the host's must stay. Errors: as
  // a half-step's.
  static Status build(const Csr& observations, int64_t block_bytes, Stream stream, DeviceRows& out);

  // One block: rows first .. first + rows of the observations.
  struct Block {
    int64_t first = 0;
    int64_t rows = 0;
    int64_t entries = 0;
    int64_t first_entry = 0;
    std::vector<int32_t> order;   // rows, numbered in the block
    std::vector<int64_t> counts;  // of observations, ascending: of order[i]
    std::vector<Segment> losses;
  };
  // The same on the device.
  struct View {
    const int64_t* indptr = nullptr;
    const int32_t* indices = nullptr;
    const float* values = nullptr;
    const int32_t* order = nullptr;
    const Segment* losses = nullptr;
    int64_t loss_count = 0;
  };

  // Calls use(block, view) for one block after another.
  Status for_blocks(const AlsContext& context,
                    const std::function<Status(const Block&, const View&)>& use) const;

  const int64_t* indptr() const { return indptr_.data(); }  // on the host
  int64_t rows() const { return host_.rows; }
  int64_t columns() const { return host_.columns; }
  int64_t blocks() const { return static_cast<int64_t>(blocks_.size()); }
  bool is_resident() const { return !resident_.empty(); }
  // Rows without observations.
  std::vector<int32_t> empty_rows() const;

 private:
  void cut(int64_t block_bytes);
  template <class Put>
  void write(const Block& block, Put put) const;

  Csr host_;  // not read any more where blocks are resident
  std::vector<int64_t> indptr_;
  std::vector<Block> blocks_;
  std::vector<Array<unsigned char>> resident_;
};

// How conjugate gradients read the design: see kernels/als_losses.cuh.
enum class Gathers { float32, float16 };

// As HalfStepArguments, with matrices on the device and `diagonal` and `ridge` on the host. The last column
// of an explicit design is the bias that targets are relative to, beside `mean`; it takes part as a column of
// ones. Solvers: automatic, conjugate_gradient, cholesky. gathers: of conjugate gradients; losses and exact
// solutions read float32.
struct DeviceHalfStep {
  const DeviceRows* rows = nullptr;
  const DeviceFactors* design = nullptr;
  DeviceFactors* solution = nullptr;
  const DeviceFactors* prior = nullptr;
  const float* diagonal = nullptr;
  const float* ridge = nullptr;
  Feedback feedback = Feedback::implicit_feedback;
  float alpha = 1.0f;
  float mean = 0.0f;
  Solver solver = Solver::automatic;
  int64_t steps = 2;
  float tolerance = 0.0f;
  float relaxation = 1.0f;
  bool with_data_loss = false;
  Gathers gathers = Gathers::float16;
  HalfStepReport* report = nullptr;
};

Status half_step(const DeviceHalfStep& step, const AlsContext& context);

// out (f, f) on the host = Gramian of the first f columns. Cost: as the CPU's.
Status gramian(const DeviceFactors& factors, const Matrix<double>& out, const AlsContext& context);

// factors <- factors * rotation (f, f; on the host), in place, for the first f columns.
Status rotate(DeviceFactors& factors, const Matrix<const float>& rotation, const AlsContext& context);

// sum of ridge |factors - prior|^2 over all rows; prior may be null.
double ridge_loss(const DeviceFactors& factors, const DeviceFactors* prior, const float* ridge,
                  Stream stream);

// Rows order[0 .. count) become the prior's, or zero where that is null; everything on the device, by
// `stream`.
void fill_rows(const Matrix<const float>& prior, const Matrix<float>& solution, const int32_t* order,
               int64_t count, Stream stream);

// Rows without observations become the prior's.
void fill_empty(const DeviceRows& rows, DeviceFactors& factors, const DeviceFactors& prior, Stream stream);

// What each observation of a history adds to the score of a target: see python/salience/_explain.py.
// Everything but `design` is on the host.
struct ExplainScores {
  Csr histories;
  const DeviceFactors* design = nullptr;
  const float* diagonal = nullptr;
  const float* ridge = nullptr;  // one for each history
  Matrix<const float> prior;     // null, or one row for each history
  Feedback feedback = Feedback::implicit_feedback;
  float alpha = 1.0f;
  float mean = 0.0f;
  Matrix<const float> targets;       // (n, columns): factors that are scored
  const int32_t* history = nullptr;  // of each target
  const int64_t* first_part = nullptr;
  int64_t part_count = 0;
  double* parts = nullptr;  // for target i from first_part[i] on, in the order of its history
  double* rest = nullptr;   // what the prior adds: one for each target
};
Status explain(const ExplainScores& scores, const AlsContext& context);

// Features of rows, a sparse matrix on the device, and its transpose.
class DeviceFeatures {
 public:
  // Both in host memory; soundness is the caller's.
  DeviceFeatures(const Csr& rows, const Csr& transposed, Stream stream);

  // Features times weights; rows whose `keep` is 0 (null: none) are zero.
  void multiply(const DeviceFactors& weights, const float* keep, DeviceFactors& out,
                const AlsContext& context) const;
  // out (features, columns) on the host = features^T diag(strength) factors.
  void multiply_transposed(const float* strength, const DeviceFactors& factors, double* out,
                           const AlsContext& context) const;

 private:
  struct Sparse {
    int64_t rows = 0;
    Array<int32_t> indices;
    Array<float> values;
    Array<Segment> segments;
    std::vector<int32_t> first_segment;  // rows + 1
  };
  static Sparse upload(const Csr& matrix, Stream stream);
  template <class Finish>
  static void multiply(const Sparse& matrix, const DeviceFactors& dense, const float* strength,
                       const AlsContext& context, Finish finish);

  Sparse rows_, transposed_;
};

}  // namespace salience::cuda
