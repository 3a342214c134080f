#include "core/validate.h"
#include "cpu/canonical_queries.h"
#include "cpu/operations.h"

namespace salience::cpu {
namespace {

constexpr int64_t kQueryBlock = 32;
constexpr int64_t kItemBlock = 256;

}  // namespace

Status similarity(const SimilarityArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [a, b, metric, out] = arguments;
  if (a.rows == 0 || b.rows == 0) return {};
  std::vector<double> item_norms(static_cast<size_t>(b.rows));
  kernels().squared_norms(b.data, b.row_stride, b.rows, b.columns, item_norms.data());

  const int64_t units = (a.rows + kQueryBlock - 1) / kQueryBlock;
  const double operations =
      static_cast<double>(a.rows) * static_cast<double>(b.rows) * static_cast<double>(a.columns + 8);
  const int workers = worker_count(context, units, operations);
  return parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    const int64_t first = unit * kQueryBlock;
    const int64_t count = std::min(kQueryBlock, a.rows - first);
    CanonicalQueries queries;
    queries.assign(a, first, count);
    const float* rows[kItemBlock];
    for (int64_t start = 0; start < b.rows && !worker.should_stop(); start += kItemBlock) {
      const int64_t items = std::min(kItemBlock, b.rows - start);
      for (int64_t i = 0; i < items; ++i) rows[i] = b.row(start + i);
      kernels().canonical({metric, queries.values.data(), queries.stride, count, queries.norms.data(), rows,
                           item_norms.data() + start, items, a.columns, out.row(first) + start,
                           out.row_stride});
    }
  });
}

}  // namespace salience::cpu
