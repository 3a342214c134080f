#include "core/validate.h"
#include "cuda/kernels/canonical.cuh"
#include "cuda/operations.h"

namespace salience::cuda {

Status similarity(const SimilarityArguments& arguments, Stream stream) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [a, b, metric, out] = arguments;
  if (a.rows == 0 || b.rows == 0) return {};
  const VectorsView left{a.data, ElementType::float32, a.rows, a.columns, a.row_stride};
  const VectorsView right{b.data, ElementType::float32, b.rows, b.columns, b.row_stride};
  Array<double> a_squares, b_squares;
  if (metric == Metric::cosine) {
    a_squares = squared_norms(left, stream);
    b_squares = squared_norms(right, stream);
  }
  const PairArguments pairs{a, right, metric, a_squares.data(), b_squares.data(), nullptr, a.rows, out};
  const LaunchShape shape{pair_blocks(a.rows, b.rows), kPairThreads, sizeof(PairTile)};
  if (metric == Metric::euclidean) {
    SALIENCE_LAUNCH(similarity_tile<true>, shape, stream, pairs);
  } else {
    SALIENCE_LAUNCH(similarity_tile<false>, shape, stream, pairs);
  }
  return {};
}

}  // namespace salience::cuda
