// The contracts: one argument struct per operation, the same for every device.
//
// Scores. The canonical score of a query q and an item x, both float32, sums in float64:
//   element j belongs to lane j % 8; each lane starts at +0 and adds its terms in ascending j;
//   lanes l0..l7 meet as a_i = l_i + l_(i+4), b_i = a_i + a_(i+2), total = b_0 + b_1.
//   dot:        the term is q_j * x_j (exact in float64); the score is the total.
//   cosine:     dot / sqrt(q.q * x.x) with totals in the same order; 0 where either vector is zero.
//   euclidean:  the term is (q_j - x_j)^2, difference and square each rounded to float64; the score
//               is sqrt(total).
// The result is rounded once to float32, -0 becomes +0 and every NaN the same quiet NaN. It is
// therefore the same to the bit on every instruction set, device, thread count and batch size.
//
// Order. Better scores first (euclidean: smaller is better), equal scores by lower item index, NaN
// after everything else.
#pragma once

#include <cstdint>

#include "core/views.h"

namespace salience {

enum class Metric { dot, cosine, euclidean };

// Item indices share a 64-bit key with the score, so they have 32 bits.
inline constexpr int64_t kMaxItems = (int64_t{1} << 32) - 1;

// out(i, j) = canonical score of (a_i, b_j).
//   a: (m, d), b: (n, d), out: (m, n). Rows may be strided, elements of a row may not.
//   Cost: 2 m n d float64 operations; memory for one block of `a` in float64 per thread.
struct SimilarityArguments {
  Matrix<const float> a;
  Matrix<const float> b;
  Metric metric = Metric::dot;
  Matrix<float> out;
};

// How a search is done; the answer is the same.
enum class Path {
  automatic,  // chosen by shape
  exact,      // score everything canonically: tiny problems, k near n
  rows,       // 16-bit matrix-vector products: a few queries
  bytes,      // 8-bit matrix-vector products: a few queries of many items (CPU)
  panels,     // 16-bit matrix products: many
};

// Blended scores: what models whose score is more than one inner product add to a search by `dot`. With s the
// canonical score of (query i, item j), the score that counts is
//   (s + additions(i, j)) / (query_gates row i . item_gates row j),
// the sum, the gates' canonical inner product and the quotient each rounded once to float32.
//   additions: null indptr, or (m, n) with finite values, rows ascending and without duplicates; 0 where
//   there
//     is no entry. Cost: each entry is scored canonically.
//   query_gates, item_gates: no columns, or (m, c) and (n, c), finite and not negative, the first column
//     positive. The scan rules out whole blocks of 192 items by the range of their gates, so items with alike
//     gates should lie together.
//   labels: null, or n different numbers from 0 to n - 1: the item that a row stands for. Equal scores are
//     ordered by it, and ids hold it; everything else speaks of rows.
struct Blend {
  Csr additions;
  Matrix<const float> query_gates;
  Matrix<const float> item_gates;
  const int64_t* labels = nullptr;
};

// For each query the k best items by canonical score, in order.
//   queries: (m, d), items: (n, d); ids, scores: (m, k), k <= n. Items in 16-bit types count as the
//   float32 numbers they stand for, and are never copied whole into float32.
//   exclude: null indptr, or a pattern of m rows and n columns: items left out for one query.
//            Rows may be unsorted and hold duplicates.
//   allowed: null, or n flags: items with 0 are left out for every query.
//   Slots beyond the items that remain hold id -1 and score -inf (euclidean: +inf).
//   Cost: a 16-bit scan, 2 m n d operations, plus canonical rescoring of the few survivors. Memory
//   O(m k); beyond 256 queries also 2 bytes per item element, for the packed copy that is then made.
struct TopKArguments {
  Matrix<const float> queries;
  Elements items;
  int64_t k = 0;
  Metric metric = Metric::dot;
  Csr exclude;
  const uint8_t* allowed = nullptr;
  Matrix<int64_t> ids;
  Matrix<float> scores;
  Path path = Path::automatic;
  Blend blend;  // in host memory, as `exclude`
};

// The k largest entries of each row of a given score matrix, in order; T is float or double.
//   scores: (m, n); ids: (m, k), values: (m, k), k <= n. -0 counts and is returned as +0; NaN ranks
//   last and is returned only where nothing better is left.
template <class T>
struct SelectArguments {
  Matrix<const T> scores;
  int64_t k = 0;
  Matrix<int64_t> ids;
  Matrix<T> values;
};

// Factor matrices of ALS are padded: `row_stride` is a multiple of kFactorPadding, and elements from
// `columns` to `row_stride` are zero on entry and stay zero.
inline constexpr int64_t kFactorPadding = 16;

// out = factors^T factors in float64: (f, f) from (n, f).
//   float32 products are summed in float32 over 128 rows at most, then in float64 in an order that
//   depends on the shape alone, so the bits do not depend on the number of threads.
struct GramianArguments {
  Matrix<const float> factors;
  Matrix<double> out;
};

// factors <- factors * rotation, in place; (n, f) times (f, f). Elements beyond f are left alone.
struct RotateArguments {
  Matrix<float> factors;
  Matrix<const float> rotation;
};

enum class Feedback { implicit_feedback, explicit_feedback };

// What one half of an ALS epoch knows about the observations. For observed entry (u, j) of value v:
//   implicit: weight w = alpha * |v|, target t = 1 where v > 0, else 0 (a dislike);
//   explicit: weight w = 1, target t = v - shift[j].
//   observations: (m, n) CSR with values; design: (n, f), what the targets are linear in. An explicit
//   design has a last column of ones: the row's bias is solved jointly, as the last factor.
struct AlsObservations {
  Csr observations;
  Matrix<const float> design;
  Feedback feedback = Feedback::implicit_feedback;
  float alpha = 1.0f;
  const float* shift = nullptr;  // null, or one for each row of `design` (explicit)
};

enum class Solver {
  automatic,           // short rows exactly, the others by conjugate gradients; rows where those fail exactly
  conjugate_gradient,  // preconditioned with the diagonal, started from the given solution
  cholesky,            // exactly, in float64: n x n (Woodbury) for a row of n < f observations, else f x f
  subspace,            // exactly in blocks of factors, one after another (iALS++); short rows exactly
  nonnegative,         // coordinate descent in float64 on the whole system; all but an explicit bias >= 0
};

// How a row of a half-step ended.
enum class RowOutcome : uint8_t { sound, not_finite, grew, singular };

struct HalfStepReport {
  double worst_residual = 0.0;  // the largest relative residual |b - A x| / |b| of conjugate gradients
  double mean_residual = 0.0;   // over the rows that they solved
  int64_t conjugate_steps = 0;  // taken by all rows together
  double data_loss = 0.0;   // where wanted: sum_u sum_j w (t - x.y)^2 + x^T diag(diagonal) x of the answer
  double ridge_loss = 0.0;  // sum_u ridge_u |x - prior|^2 of the answer
};

// Solves, for every row u with observations,
//   (diag(diagonal) + ridge_u I + sum_j w_j y_j y_j^T) x_u = sum_j w_j t_j y_j + ridge_u prior_u.
// In the eigenbasis of the design's Gramian the dense part of the matrix is the diagonal, so a
// conjugate gradient step costs 4 n_u f operations. Rows without observations become the prior, or 0.
//   diagonal: design.row_stride values (alpha0 * eigenvalues; zero where explicit); ridge: m values;
//   prior: null, or (m, f), padded like the solution;
//   dense: only for `nonnegative`, which works in any basis: the dense part, (f, f), in place of `diagonal`;
//   solution: (m, f), padded; the start on entry, the answer on return;
//   steps, tolerance: conjugate gradients stop after `steps` or at that relative residual;
//   block: factors solved at once by `subspace`;
//   relaxation: the answer is start + relaxation * (solved - start). Every solver here minimizes the row's
//     objective over a space that holds the start, so that for 0 < relaxation < 2 the objective falls:
//     by all but (1 - relaxation)^2 of what the solved row would gain (successive over-relaxation).
//   with_data_loss: fill the data loss of the report, at the cost of one more pass.
//   One thread solves a row, and rows of over 2^16 observations are summed in fixed segments, so the bits do
//   not depend on the number of threads.
//   Errors: `diverged`, naming the first row that could not be solved, and why.
struct HalfStepArguments {
  AlsObservations data;
  const float* diagonal = nullptr;
  const double* dense = nullptr;
  const float* ridge = nullptr;
  Matrix<const float> prior;
  Matrix<float> solution;
  Solver solver = Solver::automatic;
  int64_t steps = 2;
  float tolerance = 0.0f;
  int64_t block = 64;
  float relaxation = 1.0f;
  bool with_data_loss = false;
  HalfStepReport* report = nullptr;
};

// Where held-out items stand. A rank counts from 1: one more than the candidates that come before the item
// in the order above. Candidates are what `exclude` and `allowed` leave. A held-out item that is no
// candidate, or that a list does not hold, has rank 0.
//   held_out: (m, n) pattern; every row ascending, without duplicates. So is every row of `exclude`.
//   ranks: one per held-out entry. lengths: one per row, its candidates (of a list: filled slots).
//   better, equal: null, or one per entry: candidates with a better score, others with the same score.
struct HeldOutRanks {
  Csr held_out;
  int64_t* ranks = nullptr;
  int64_t* lengths = nullptr;
  int64_t* better = nullptr;
  int64_t* equal = nullptr;
};

// Ranks by the canonical inner products of queries (m, d) and items (n, d), all finite.
//   lists: no columns, or the best of each row as TopKArguments gives them. Then ranks beyond its columns are
//   0, better and equal must be null, and the cost is that of the top-k search.
//   Cost without lists: 2 m n d operations, in float32 but for the few items that these cannot tell from a
//   held-out one, and a comparison of each score with each held-out one. Memory: a block of scores per
//   thread.
struct FactorRanksArguments {
  Matrix<const float> queries;
  Matrix<const float> items;
  Csr exclude;
  const uint8_t* allowed = nullptr;
  Matrix<int64_t> lists;
  HeldOutRanks out;
};

// Ranks by given scores (m, n), larger first; T is float or double.
//   Errors: NaN among the scores of candidates, with its row.
template <class T>
struct ScoreRanksArguments {
  Matrix<const T> scores;
  Csr exclude;
  const uint8_t* allowed = nullptr;
  HeldOutRanks out;
};

// Ranks in given lists (m, k): item rows, best first, -1 for slots that hold nothing and take no rank from
// the others; `items` is n. better and equal must be null.
//   Errors: an item row out of range, or twice in a list.
struct ListRanksArguments {
  Matrix<const int64_t> lists;
  HeldOutRanks out;
};

// What RankMetric computes; definitions in python/salience/evaluation/metrics.py, where the names are.
enum class RankFormula {
  precision,
  precision_returned,
  recall,
  recall_capped,
  hit_rate,
  f1,
  average_precision,
  average_precision_relevant,
  average_precision_cutoff,
  average_precision_returned,
  reciprocal_rank,
  all_reciprocal_ranks,
  ndcg,
  ndcg_relevant,
  ndcg_cutoff,
  ndcg_returned,
  ndcg_linear,
  ndcg_exponential,
  rank_biased_precision,
  r_precision,
  auc,
  auc_ordered,
  expected_precision,
  expected_recall,
  expected_ndcg,
  count
};

// Discounts are computed once for all ranks: no ideal of ndcg_cutoff may be longer than this.
inline constexpr int64_t kMostDiscounts = int64_t{1} << 24;

struct RankMetric {
  RankFormula formula = RankFormula::precision;
  int64_t cutoff = 0;      // at least 1
  double parameter = 0.0;  // persistence of rank_biased_precision
};

// out(metric, row) = the metric of one row, from the ranks of its held-out items. Sums run in the order of
// ranks. NaN where the definition divides by zero, and for rows without held-out items.
//   held_out: values are the gains of graded metrics, finite and not negative; null where none is asked for.
//   better, equal: needed by auc and the expected_... formulas.
//   Cost: O(r log r) for r entries of a row, then O(hits) a metric.
struct RankMetricsArguments {
  Csr held_out;
  const int64_t* ranks = nullptr;
  const int64_t* lengths = nullptr;
  const int64_t* better = nullptr;
  const int64_t* equal = nullptr;
  const RankMetric* metrics = nullptr;
  Matrix<double> out;
};

// out = rows of length 1: x times float32(1 / |x|), the norm as in the canonical cosine; zeros for a zero
// row.
//   vectors: (n, d); out: (n, d), padded as factors are.
//   Errors: a row that holds what is not finite.
struct UnitRowsArguments {
  Matrix<const float> vectors;
  Matrix<float> out;
};

// The unit product of two such rows, about their cosine, at a quarter of the canonical one's cost: element j
// belongs to lane j % 16, each lane adds its products in ascending j, lanes meet as l_i + l_(i+8), then i +
// 4, i + 2, i + 1; every product and sum is rounded to float32. The same to the bit on every instruction set.

// Lists to be put into another order: item rows (m, n), -1 for slots that hold nothing, and their scores,
// finite where a slot is filled. Relevance is the score brought from its list's least and largest to 0 and 1,
// in float64 (0 where they are all equal), so that one trade-off means the same for every list.
struct Candidates {
  Matrix<const int64_t> items;
  Matrix<const float> scores;
};

enum class Diversity { marginal_relevance, determinant };

// In a kernel of a determinantal process, what all similarities but an item's with itself are short of:
// so that even copies of an item have a positive determinant.
inline constexpr double kDeterminantRidge = 1e-3;

// Greedy choice of k slots of each list. With t the trade-off, r the relevance and c the unit product of two
// items' vectors, each next slot has the largest gain, of equal gains the first in its list:
//   marginal_relevance: (1 - t) r - t max c over the chosen (first: nothing to be near), sums in float64;
//   determinant: (1 - t) r + t log(v), v the squared length of what the chosen leave of the item, that is
//     det(S with it) / det(S) for S = c off the diagonal times 1 - ridge, and 1 on it. By Cholesky's method:
//     for the s-th chosen j, e_s = (S_ij - sum e_js e_is in ascending s) / sqrt(v_j), v_i = max(v_i - e_s^2,
//     ridge). v is rounded to float32 before its logarithm, which thus never grows.
// Every operation is rounded to float64 on its own: the same order on every instruction set and thread count.
//   vectors: (items, d); a zero vector is like nothing.
//   positions: (m, k), k >= 1, slots of the list in the order chosen; -1 beyond those that are filled.
//   Cost: n d operations for each list of n, and d for each comparison that the bounds of earlier ones leave
//   (a gain never grows), at most n k. Errors: a candidate's vector that is not finite.
struct DiversifyArguments {
  Candidates candidates;
  Matrix<const float> vectors;
  Diversity diversity = Diversity::marginal_relevance;
  double trade_off = 0.0;
  Matrix<int64_t> positions;
};

// How much of the target's shares every list is taken to have, so that no divergence is infinite.
inline constexpr double kCalibrationSmoothing = 0.01;

// Greedy choice of k slots of each list, after Steck (RecSys 2018): each next slot has the largest
// (1 - t) r - t KL(p, q), of equal ones the first; p the list's target, q = (1 - a) mean of the chosen items'
// categories, with it, + a p, a the smoothing; items without categories do not count for the mean.
//   categories: (items, g) with values, rows that add up to 1 or are empty; targets: (m, g), likewise, not
//   negative. Where a target is empty, relevance alone decides.
//   positions: as above. Cost: g + the categories of n items, logarithms a step.
struct CalibrateArguments {
  Candidates candidates;
  Csr categories;
  Matrix<const double> targets;
  double trade_off = 0.0;
  Matrix<int64_t> positions;
};

// How much a candidate resembles what a user had. With c the unit product of candidate i and item j of the
// history, and e_j = exp((c - 1) / temperature + log_weight_j), j other than i itself:
//   out = sum e_j c / (sum e_j) ^ smoothing, 0 where nothing is left to look at.
// Exponents below -700 count as -700. exp and log are those of core/elementary.h, sums run over the history
// as it is given, all in float64; the result is rounded once: the same bits on every instruction set and
// thread count.
//   units: (n, d), rows of length 1 or 0, padded.
//   history: (m, n) pattern, in any order, without duplicates in a row; log_weights: null, or one for each
//   entry. candidates: (m, c) item rows, -1 for none; or no columns: all n items in order. out: (m, c) or (m,
//   n); -inf beside -1. Cost: 2 d + about 40 operations for each pair of a candidate and an item of the
//   history.
struct AttentionArguments {
  Matrix<const float> units;
  Csr history;
  const double* log_weights = nullptr;
  Matrix<const int64_t> candidates;
  double temperature = 1.0;
  double smoothing = 1.0;
  Matrix<float> out;
};

}  // namespace salience
