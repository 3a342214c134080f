// Half-steps of ALS on the device: which kernel takes which row, and how much of a half-step is under way at
// a time.
//
// The rows of a block lie in the order of their number of observations. The shortest go to the exact solvers
// where the solver asks for it; the others to conjugate gradients, in launches whose rows differ in length by
// at most a factor of two, up to those that are cut into segments. What a row comes to depends on itself, the
// shared memory of the GPU and the workspace alone, not on the rows beside it.
#include <algorithm>
#include <limits>

#include "core/validate.h"
#include "cuda/als.h"
#include "cuda/kernels/als_conjugate.cuh"
#include "cuda/kernels/als_exact.cuh"
#include "cuda/kernels/als_losses.cuh"

namespace salience::cuda {
namespace {

constexpr int64_t kConjugateSegment = 2048;  // observations of a long row that a block takes
constexpr int64_t kExactSegment = 4096;
constexpr int64_t kResidentBytes =
    96 << 10;  // of shared memory for a row; two rows a multiprocessor of most GPUs
constexpr int64_t kChunkBytes = 48 << 10;  // for a chunk of a segment, where as many as kChunkRows fit
constexpr int64_t kChunkRows = 32;
constexpr int64_t kStagedDepths[] = {32, 16, 8};
constexpr int64_t kMostSummaries = 64;
constexpr int64_t kCheckedSteps = 16;  // after so many, whether a batch of long rows is done

// The design as a half-step reads it, and what it has in 16 bits.
class Design {
 public:
  Design(const DeviceFactors& factors, Feedback feedback, float mean, bool halves, Stream stream)
      : view_(factors.view()) {
    const int64_t stride = view_.row_stride, count = view_.rows * stride;
    const LaunchShape over_elements{std::min<int64_t>(blocks_of(count, kFactorThreads), 1 << 16),
                                    kFactorThreads, 0};
    if (feedback == Feedback::explicit_feedback) {
      lifted_ = {count, stream, "the design"};
      shift_ = {view_.rows, stream, "the design"};
      SALIENCE_LAUNCH(lift_bias, over_elements, stream,
                      (LiftBiasArguments{view_, mean, lifted_.data(), shift_.data()}));
      view_.data = lifted_.data();
    }
    if (!halves) return;
    Array<uint64_t> largest(stride, stream, "the design");
    scales_ = {stride, stream, "the design"};
    halves_ = {count, stream, "the design's 16-bit copy"};
    largest.fill_bytes(0);
    const EncodeFactorsArguments a{view_, largest.data(), scales_.data(), halves_.data()};
    SALIENCE_LAUNCH(measure_columns, (LaunchShape{blocks_of(view_.rows, kMeasuredRows), kFactorThreads, 0}),
                    stream, a);
    SALIENCE_LAUNCH(encode_factors, over_elements, stream, a);
  }

  AlsView view(const DeviceRows::View& rows, float alpha, bool halves) const {
    return {rows.indptr,    rows.indices,  rows.values, view_, halves ? halves_.data() : nullptr,
            scales_.data(), shift_.data(), alpha};
  }

 private:
  Matrix<const float> view_;
  Array<float> lifted_, shift_, scales_;
  Array<uint16_t> halves_;
};

// How blocks are laid out that solve systems of up to `order` exactly.
struct ExactPlan {
  int threads;
  int64_t depth = 0;
  int64_t shared = 0;  // bytes
  int64_t blocks;
  Array<double> matrices, work;

  ExactPlan(int64_t order, int64_t extra, int64_t rows, bool own_matrices, const DeviceLimits& limits,
            const AlsContext& context)
      : threads(order <= 24   ? 64
                : order <= 64 ? 128
                              : kAlsThreads),
        blocks(rows) {
    const int64_t matrix = own_matrices ? matrix_doubles(order) : 0;
    bool shared_matrix = false, shared_work = false;
    for (const bool with_matrix : {true, false}) {
      for (const int64_t rows_staged : kStagedDepths) {
        const int64_t bytes = 8 * ((with_matrix ? matrix : 0) + work_doubles(order, rows_staged, extra));
        if (shared_work || bytes > limits.shared_bytes) continue;
        depth = rows_staged;
        shared = bytes;
        shared_work = true;
        shared_matrix = with_matrix;
      }
    }
    if (!shared_work) depth = kPanel;
    const int64_t matrix_there = shared_matrix ? 0 : matrix,
                  work_there = shared_work ? 0 : work_doubles(order, depth, extra);
    if (matrix_there + work_there == 0) return;
    if (own_matrices) {  // otherwise every block has its own segment, and its own memory
      const int64_t fitting = context.workspace_bytes / (8 * (matrix_there + work_there));
      blocks = std::min({rows, int64_t{2} * limits.multiprocessors, std::max<int64_t>(1, fitting)});
    }
    matrices = {blocks * matrix_there, context.stream, "the systems of rows"};
    work = {blocks * work_there, context.stream, "the systems of rows"};
  }
  LaunchShape shape() const { return {blocks, threads, shared}; }
};

// The rows of a half-step, block by block.
class HalfStep {
 public:
  HalfStep(const DeviceHalfStep& step, const AlsContext& context)
      : step_(step),
        context_(context),
        stream_(context.stream),
        limits_(device_limits()),
        halves_(step.gathers == Gathers::float16 && step.solver != Solver::cholesky),
        columns_(step.design->columns()),
        stride_(step.design->view().row_stride),
        design_(*step.design, step.feedback, step.mean, halves_, stream_),
        diagonal_(to_device(step.diagonal, stride_, stream_, "the diagonal")),
        least_dense_(*std::min_element(step.diagonal, step.diagonal + columns_)) {}

  Status solve(const DeviceRows::Block& block, const DeviceRows::View& view);
  HalfStepReport report() const;

 private:
  struct Range {
    int64_t begin, end;
  };
  // Rows in segments, on the device: `segments` of them, those of row n from bounds[n] on.
  struct Cut {
    int64_t segments;
    Array<Segment> there;
    Array<int32_t> bounds;
  };
  Cut cut(Range rows, int64_t longest) const;
  Range exact_range() const;
  void solve_exactly(Range rows);
  void solve_short(Range rows);
  void solve_normal(Range rows);
  void solve_cut(Range rows);
  void iterate(Range rows);
  void iterate_resident(Range rows);
  void iterate_long(Range rows);
  void iterate_batch(Range rows);
  template <bool Half>
  void iterate_batch_as(const SegmentArguments& a, const LaunchShape& shape, const LaunchShape& combining);
  bool is_any_active(const ConjugateState* states, int64_t number) const;
  Summary summarize();
  Status solve_again_exactly();

  int32_t most_steps() const {
    return static_cast<int32_t>(std::min<int64_t>(step_.steps, std::numeric_limits<int32_t>::max()));
  }
  int64_t count(int64_t n) const { return counts_[static_cast<size_t>(n)]; }
  // Rows that end at `end` and go with the longest of them to one launch. Bounds are powers of two, and
  // decide how a block is laid out.
  struct Bucket {
    int64_t begin;
    int64_t bound;    // observations that a row of the bucket may have
    int64_t longest;  // and those that one has
  };
  Bucket bucket_of(Range rows) const {
    const int64_t longest = count(rows.end - 1);
    int64_t bound = 1;
    while (bound < longest) bound *= 2;
    return {std::max(rows.begin, end_of(bound / 2)), bound, longest};
  }
  // Where rows of at most `most` observations end.
  int64_t end_of(int64_t most) const {
    return std::upper_bound(counts_.begin(), counts_.end(), most) - counts_.begin();
  }
  bool has_dense_inverse() const { return least_dense_ + least_ridge_ > 0.0f; }

  const DeviceHalfStep& step_;
  const AlsContext& context_;
  Stream stream_;
  DeviceLimits limits_;
  bool halves_;
  int64_t columns_, stride_;
  Design design_;
  Array<float> diagonal_;
  float least_dense_;
  Summary total_{0.0, 0.0, 0.0, 0.0, 0, 0, 0, kNoRow};

  // Of the block under way. `order_` and `counts_` are those of the rows that are solved: the block's, or the
  // ones that are solved again.
  const DeviceRows::Block* block_ = nullptr;
  DeviceRows::View view_;
  std::vector<int64_t> counts_;
  const int32_t* order_ = nullptr;
  std::vector<int32_t> host_order_;
  const int64_t* host_indptr_ = nullptr;
  Array<float> ridge_;
  Array<RowResult> results_;
  float least_ridge_ = 0.0f;
  AlsSystems systems_, exact_systems_;  // gathers of 16 bits (perhaps), of 32
};

// Which rows go to the exact solvers: as is_short in cpu/kernels/als.h, but for the whole block.
HalfStep::Range HalfStep::exact_range() const {
  const int64_t first = end_of(0);
  if (step_.solver == Solver::cholesky) return {first, static_cast<int64_t>(counts_.size())};
  if (step_.solver != Solver::automatic || !has_dense_inverse()) return {first, first};
  return {first, end_of(std::min(2 * std::min<int64_t>(step_.steps, 14), columns_ - 1))};
}

void HalfStep::solve_exactly(Range rows) {
  const int64_t most = has_dense_inverse() ? std::max(end_of(columns_ - 1), rows.begin) : rows.begin;
  solve_short({rows.begin, std::min(most, rows.end)});
  solve_normal({std::min(most, rows.end), rows.end});
}

// Rows of n < factors observations, those of similar n together.
void HalfStep::solve_short(Range rows) {
  for (int64_t end = rows.end; end > rows.begin;) {
    const Bucket bucket = bucket_of({rows.begin, end});
    const int64_t begin = bucket.begin;
    const int64_t order = blocks_of(std::min(bucket.bound, columns_ - 1), kPanel) * kPanel;
    const ExactPlan plan(order, stride_, end - begin, true, limits_, context_);
    const ExactArguments a{exact_systems_,       order_,           begin,   end - begin, order, plan.depth,
                           plan.matrices.data(), plan.work.data(), nullptr, nullptr};
    SALIENCE_LAUNCH(exact_short_rows, plan.shape(), stream_, a);
    end = begin;
  }
}

// Others; those that would keep one block busy for long are cut where their partial systems have room.
void HalfStep::solve_normal(Range rows) {
  const int64_t order = blocks_of(columns_, kPanel) * kPanel, bytes = 8 * matrix_doubles(order);
  const int64_t first_long = std::clamp(end_of(kExactSegment), rows.begin, rows.end);
  int64_t end = rows.end;
  while (end > first_long) {
    int64_t begin = end, segments = 0;
    while (begin > first_long) {
      const int64_t more = blocks_of(count(begin - 1), kExactSegment);
      if ((segments + more) * bytes > context_.workspace_bytes) break;
      segments += more;
      --begin;
    }
    if (begin == end) break;
    solve_cut({begin, end});
    end = begin;
  }
  if (end == rows.begin) return;
  const ExactPlan plan(order, 0, end - rows.begin, true, limits_, context_);
  const ExactArguments a{exact_systems_, order_,     rows.begin,           end - rows.begin,
                         order,          plan.depth, plan.matrices.data(), plan.work.data(),
                         nullptr,        nullptr};
  SALIENCE_LAUNCH(exact_rows, plan.shape(), stream_, a);
}

HalfStep::Cut HalfStep::cut(Range rows, int64_t longest) const {
  std::vector<Segment> segments;
  std::vector<int32_t> first_segment{0};
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const int64_t begin = host_indptr_[host_order_[static_cast<size_t>(n)]] - block_->first_entry;
    cut_row(begin, count(n), longest, n - rows.begin, segments);
    first_segment.push_back(static_cast<int32_t>(segments.size()));
  }
  const auto total = static_cast<int64_t>(segments.size());
  return {total, to_device(segments.data(), total, stream_, "the segments of rows"),
          to_device(first_segment.data(), rows.end - rows.begin + 1, stream_, "the segments of rows")};
}

void HalfStep::solve_cut(Range rows) {
  const int64_t order = blocks_of(columns_, kPanel) * kPanel;
  const auto [total, there, bounds] = cut(rows, kExactSegment);
  const Array<double> partial(total * matrix_doubles(order), stream_, "the partial systems of rows");
  const ExactPlan cutting(order, 0, total, false, limits_, context_);
  SALIENCE_LAUNCH(exact_segment, cutting.shape(), stream_,
                  (ExactSegmentArguments{exact_systems_.data, columns_, there.data(), partial.data(),
                                         cutting.work.data(), cutting.depth}));
  const ExactPlan plan(order, 0, rows.end - rows.begin, true, limits_, context_);
  const ExactArguments a{exact_systems_, order_,       rows.begin,           rows.end - rows.begin,
                         order,          plan.depth,   plan.matrices.data(), plan.work.data(),
                         partial.data(), bounds.data()};
  SALIENCE_LAUNCH(exact_rows, plan.shape(), stream_, a);
}

// --- Conjugate gradients ---

int threads_for(int64_t count, int64_t words) {
  if (count <= 32 && words <= 64) return 32;
  return count <= 128 && words <= 256 ? 128 : kAlsThreads;
}

// How many observations can be staged in so many bytes beside `fixed`.
int64_t staged_in(int64_t bytes, int64_t fixed, int64_t words) {
  return (bytes - fixed) / (4 * (kPassSums + words + 1));
}

void HalfStep::iterate(Range rows) {
  if (rows.begin == rows.end) return;
  const int64_t words = staged_words(halves_, stride_);
  const int64_t capacity = staged_in(std::min(limits_.shared_bytes, kResidentBytes),
                                     conjugate_row_bytes(halves_, stride_, 0, kAlsThreads), words);
  const int64_t middle = std::clamp(end_of(std::max<int64_t>(capacity, 0)), rows.begin, rows.end);
  iterate_long({middle, rows.end});
  iterate_resident({rows.begin, middle});
}

void HalfStep::iterate_resident(Range rows) {
  const int64_t words = staged_words(halves_, stride_);
  for (int64_t end = rows.end; end > rows.begin;) {
    const auto [begin, bound, longest] = bucket_of({rows.begin, end});
    const int threads = threads_for(bound, words);
    const ConjugateArguments a{
        systems_, order_, begin, most_steps(), step_.tolerance, longest, pass_parts(threads, words)};
    const LaunchShape shape{end - begin, threads, conjugate_row_bytes(halves_, stride_, longest, threads)};
    if (halves_) {
      SALIENCE_LAUNCH(conjugate_rows<true>, shape, stream_, a);
    } else {
      SALIENCE_LAUNCH(conjugate_rows<false>, shape, stream_, a);
    }
    end = begin;
  }
}

// Rows whose factors do not fit shared memory: as many at a time as their sums have room for, at least one.
void HalfStep::iterate_long(Range rows) {
  const int64_t row_bytes = 4 * kConjugateVectors * stride_, segment_bytes = 4 * kPassSums * stride_;
  for (int64_t end = rows.end; end > rows.begin;) {
    int64_t begin = end, bytes = 0;
    while (begin > rows.begin) {
      bytes += row_bytes + segment_bytes * blocks_of(count(begin - 1), kConjugateSegment);
      if (begin < end && bytes > context_.workspace_bytes) break;
      --begin;
    }
    iterate_batch({begin, end});
    end = begin;
  }
}

void HalfStep::iterate_batch(Range rows) {
  const int64_t words = staged_words(halves_, stride_), number = rows.end - rows.begin;
  const int64_t fixed = pass_bytes(halves_, stride_, 0, kAlsThreads);
  const int64_t wanted = std::max(kChunkBytes, fixed + kChunkRows * 4 * (kPassSums + words + 1));
  const int64_t capacity =
      std::min(staged_in(std::min(limits_.shared_bytes, wanted), fixed, words), kConjugateSegment);
  if (capacity < 1) {
    throw DeviceError("device: " + std::to_string(columns_) + " factors need " +
                      std::to_string(fixed + 4 * (kPassSums + words + 1)) +
                      " bytes of shared memory in a block; this GPU has " +
                      std::to_string(limits_.shared_bytes));
  }
  const auto [total, there, bounds] = cut(rows, kConjugateSegment);
  const Array<float> partial(total * kPassSums * stride_, stream_, "the partial sums of rows");
  const Array<float> vectors(number * kConjugateVectors * stride_, stream_, "the vectors of rows");
  const Array<ConjugateState> states(number, stream_, "the vectors of rows");
  const SegmentArguments a{
      {systems_, order_, rows.begin, most_steps(), step_.tolerance, capacity, pass_parts(kAlsThreads, words)},
      {there.data(), bounds.data(), partial.data(), vectors.data(), states.data()}};
  const LaunchShape shape{total, kAlsThreads, pass_bytes(halves_, stride_, capacity, kAlsThreads)};
  const LaunchShape combining{number, kAlsThreads, sizeof(BlockSums)};
  if (halves_) {
    iterate_batch_as<true>(a, shape, combining);
  } else {
    iterate_batch_as<false>(a, shape, combining);
  }
}

template <bool Half>
void HalfStep::iterate_batch_as(const SegmentArguments& a, const LaunchShape& shape,
                                const LaunchShape& combining) {
  CombineArguments combine{a.conjugate, a.rows, Pass::prepare, false};
  SALIENCE_LAUNCH((conjugate_segment<Half, Pass::prepare>), shape, stream_, a);
  SALIENCE_LAUNCH(conjugate_combine, combining, stream_, combine);
  combine.pass = Pass::apply;
  for (int64_t step = 1; !combine.last; ++step) {
    const bool idle = step % kCheckedSteps == 0 && !is_any_active(a.rows.states, combining.blocks);
    combine.last = idle || step == step_.steps;
    if (!idle) SALIENCE_LAUNCH((conjugate_segment<Half, Pass::apply>), shape, stream_, a);
    SALIENCE_LAUNCH(conjugate_combine, combining, stream_, combine);
  }
}

bool HalfStep::is_any_active(const ConjugateState* states, int64_t number) const {
  std::vector<ConjugateState> found(static_cast<size_t>(number));
  copy(found.data(), states, number * static_cast<int64_t>(sizeof(ConjugateState)), stream_);
  synchronize(stream_);
  return std::any_of(found.begin(), found.end(), [](const ConjugateState& state) { return state.active; });
}

// --- A block ---

Status HalfStep::solve(const DeviceRows::Block& block, const DeviceRows::View& view) {
  block_ = &block;
  view_ = view;
  host_indptr_ = step_.rows->indptr() + block.first;
  counts_ = block.counts;
  host_order_ = block.order;
  order_ = view.order;
  ridge_ = to_device(step_.ridge + block.first, block.rows, stream_, "the ridge");
  results_ = {block.rows, stream_, "the outcomes of rows"};
  const int64_t empty = end_of(0);
  least_ridge_ = std::numeric_limits<float>::infinity();
  for (size_t n = static_cast<size_t>(empty); n < counts_.size(); ++n)
    least_ridge_ = std::min(least_ridge_, step_.ridge[block.first + block.order[n]]);

  Matrix<float> solution = step_.solution->view();
  solution.data = solution.row(block.first);
  solution.rows = block.rows;
  Matrix<const float> prior;
  if (step_.prior != nullptr) {
    prior = step_.prior->view();
    prior.data = prior.row(block.first);
  }
  systems_ = {design_.view(view, step_.alpha, halves_),
              diagonal_.data(),
              ridge_.data(),
              prior,
              solution,
              step_.relaxation,
              results_.data()};
  exact_systems_ = systems_;
  exact_systems_.data = design_.view(view, step_.alpha, false);

  fill_rows(prior, solution, order_, empty, stream_);
  const Range exact = exact_range();
  iterate({exact.end, static_cast<int64_t>(counts_.size())});
  solve_exactly(exact);
  Summary found = summarize();
  if (found.failed > 0 && step_.solver == Solver::automatic) {
    SALIENCE_RETURN_IF_ERROR(solve_again_exactly());
    found = summarize();
  }
  if (found.failed > 0) {
    RowResult first;
    copy(&first, results_.data() + found.first_failed, sizeof first, stream_);
    synchronize(stream_);
    return diverged(block.first + found.first_failed, first.outcome);
  }
  join(found, total_);
  return {};
}

// What the block came to; waits for it.
Summary HalfStep::summarize() {
  const int64_t segments = view_.loss_count;
  const int64_t empty =
      std::upper_bound(block_->counts.begin(), block_->counts.end(), 0) - block_->counts.begin();
  const int64_t solved = block_->rows - empty;
  const Array<double> losses(2 * segments, stream_, "the losses");
  const LossArguments loss{exact_systems_.data,
                           diagonal_.data(),
                           ridge_.data(),
                           systems_.prior,
                           {systems_.solution.data, systems_.solution.rows, columns_, stride_},
                           view_.losses,
                           segments,
                           step_.with_data_loss,
                           losses.data(),
                           losses.data() + segments};
  SALIENCE_LAUNCH(measure_loss, (LaunchShape{blocks_of(segments, kLossThreads / 32), kLossThreads, 0}),
                  stream_, loss);
  const int64_t blocks =
      std::clamp<int64_t>(blocks_of(std::max(solved, segments), kSummaryThreads), 1, kMostSummaries);
  const Array<Summary> parts(blocks, stream_, "the losses");
  SALIENCE_LAUNCH(summarize_rows, (LaunchShape{blocks, kSummaryThreads, kSummaryThreads * sizeof(Summary)}),
                  stream_,
                  (SummaryArguments{view_.order + empty, results_.data(), solved, losses.data(),
                                    losses.data() + segments, segments, parts.data()}));
  std::vector<Summary> found(static_cast<size_t>(blocks));
  copy(found.data(), parts.data(), parts.bytes(), stream_);
  synchronize(stream_);
  for (size_t n = 1; n < found.size(); ++n) join(found[n], found[0]);
  return found[0];
}

// Rows whose conjugate gradients failed.
Status HalfStep::solve_again_exactly() {
  std::vector<RowResult> results(static_cast<size_t>(block_->rows));
  copy(results.data(), results_.data(), results_.bytes(), stream_);
  synchronize(stream_);
  std::vector<int32_t> again;
  std::vector<int64_t> counts;
  for (size_t n = 0; n < counts_.size(); ++n) {
    if (counts_[n] == 0 || results[static_cast<size_t>(host_order_[n])].outcome == RowOutcome::sound)
      continue;
    again.push_back(host_order_[n]);
    counts.push_back(counts_[n]);
  }
  const auto number = static_cast<int64_t>(again.size());
  const Array<int32_t> order = to_device(again.data(), number, stream_, "the rows");
  host_order_ = std::move(again);
  counts_ = std::move(counts);
  order_ = order.data();
  solve_exactly({0, number});
  return {};
}

HalfStepReport HalfStep::report() const {
  HalfStepReport found{total_.worst_residual, total_.sum_residual, total_.steps, total_.data_loss,
                       total_.ridge_loss};
  if (total_.iterated > 0) found.mean_residual /= static_cast<double>(total_.iterated);
  return found;
}

// The checks of HalfStepArguments that need no observations, and the shapes.
Status validate_step(const DeviceHalfStep& step) {
  static const int64_t none[1] = {0};
  HalfStepArguments a;
  a.data.observations = {none, nullptr, nullptr, 0, 0, 0};
  a.data.design = {nullptr, 0, step.design->columns(), step.design->view().row_stride};
  a.data.feedback = step.feedback;
  a.solution = {nullptr, 0, step.solution->columns(), step.solution->view().row_stride};
  a.steps = step.steps;
  a.tolerance = step.tolerance;
  a.relaxation = step.relaxation;
  SALIENCE_RETURN_IF_ERROR(validate(a));
  const auto expect = [](const char* name, const DeviceFactors& found, int64_t rows, int64_t columns) {
    if (found.rows() == rows && found.columns() == columns) return Status{};
    return Status::invalid(std::string(name) + ": shape (" + std::to_string(found.rows()) + ", " +
                           std::to_string(found.columns()) + "); expected (" + std::to_string(rows) + ", " +
                           std::to_string(columns) + ")");
  };
  SALIENCE_RETURN_IF_ERROR(expect("design", *step.design, step.rows->columns(), step.design->columns()));
  SALIENCE_RETURN_IF_ERROR(expect("solution", *step.solution, step.rows->rows(), step.design->columns()));
  if (step.prior != nullptr)
    SALIENCE_RETURN_IF_ERROR(expect("prior", *step.prior, step.rows->rows(), step.design->columns()));
  if (step.solver == Solver::subspace || step.solver == Solver::nonnegative)
    return Status::invalid("solver: one that runs on the CPU only; expected auto, cg or cholesky");
  return {};
}

}  // namespace

Status half_step(const DeviceHalfStep& step, const AlsContext& context) {
  SALIENCE_RETURN_IF_ERROR(validate_step(step));
  HalfStep half(step, context);
  SALIENCE_RETURN_IF_ERROR(step.rows->for_blocks(
      context,
      [&](const DeviceRows::Block& block, const DeviceRows::View& view) { return half.solve(block, view); }));
  if (step.report != nullptr) *step.report = half.report();
  return {};
}

Status explain(const ExplainScores& scores, const AlsContext& context) {
  const Stream stream = context.stream;
  const int64_t histories = scores.histories.rows, count = scores.targets.rows;
  if (count == 0) return {};
  DeviceRows rows;
  SALIENCE_RETURN_IF_ERROR(DeviceRows::build(scores.histories, 0, stream, rows));
  const Design design(*scores.design, scores.feedback, scores.mean, false, stream);
  const int64_t columns = scores.design->columns(), stride = scores.design->view().row_stride;
  const Array<float> diagonal = to_device(scores.diagonal, stride, stream, "the diagonal"),
                     ridge = to_device(scores.ridge, histories, stream, "the ridge");
  DeviceFactors targets(count, columns, stream),
      prior(scores.prior.data == nullptr ? 0 : histories, columns, stream);
  targets.upload(scores.targets, stream);
  if (scores.prior.data != nullptr) prior.upload(scores.prior, stream);
  const Array<int32_t> history = to_device(scores.history, count, stream, "the histories");
  const Array<int64_t> first_part = to_device(scores.first_part, count, stream, "the histories");
  const Array<double> parts(scores.part_count, stream, "the parts of scores"),
      rest(count, stream, "the parts of scores");
  Array<int32_t> outcomes(count, stream, "the parts of scores");
  outcomes.fill_bytes(0);
  SALIENCE_RETURN_IF_ERROR(
      rows.for_blocks(context, [&](const DeviceRows::Block&, const DeviceRows::View& view) {
        const int64_t order = blocks_of(columns, kPanel) * kPanel;
        const ExactPlan plan(order, 0, count, true, device_limits(), context);
        AlsSystems systems;
        systems.data = design.view(view, scores.alpha, false);
        systems.diagonal = diagonal.data();
        systems.ridge = ridge.data();
        systems.prior = scores.prior.data == nullptr ? Matrix<const float>{} : std::as_const(prior).view();
        systems.solution = {nullptr, histories, columns, stride};
        SALIENCE_LAUNCH(explain_scores, plan.shape(), stream,
                        (ExplainArguments{{systems, history.data(), 0, count, order, plan.depth,
                                           plan.matrices.data(), plan.work.data(), nullptr, nullptr},
                                          std::as_const(targets).view(),
                                          first_part.data(),
                                          parts.data(),
                                          rest.data(),
                                          outcomes.data()}));
        return Status{};
      }));
  std::vector<int32_t> found(static_cast<size_t>(count));
  copy(found.data(), outcomes.data(), outcomes.bytes(), stream);
  copy(scores.parts, parts.data(), parts.bytes(), stream);
  copy(scores.rest, rest.data(), rest.bytes(), stream);
  synchronize(stream);
  for (size_t n = 0; n < found.size(); ++n)
    if (const auto outcome = static_cast<RowOutcome>(found[n]); outcome != RowOutcome::sound)
      return diverged(scores.history[n], outcome);
  return {};
}

}  // namespace salience::cuda
