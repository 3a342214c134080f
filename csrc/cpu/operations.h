// The operations on this CPU. Each validates its arguments first and touches nothing if they fail.
#pragma once

#include "core/operations.h"
#include "core/parallel_for.h"
#include "core/status.h"

namespace salience::cpu {

Status similarity(const SimilarityArguments& arguments, const Context& context);
Status topk(const TopKArguments& arguments, const Context& context);
template <class T>
Status select(const SelectArguments<T>& arguments, const Context& context);
Status gramian(const GramianArguments& arguments, const Context& context);
Status rotate(const RotateArguments& arguments, const Context& context);
Status half_step(const HalfStepArguments& arguments, const Context& context);
Status factor_ranks(const FactorRanksArguments& arguments, const Context& context);
template <class T>
Status score_ranks(const ScoreRanksArguments<T>& arguments, const Context& context);
Status list_ranks(const ListRanksArguments& arguments, const Context& context);
Status rank_metrics(const RankMetricsArguments& arguments, const Context& context);
Status unit_rows(const UnitRowsArguments& arguments, const Context& context);
Status diversify(const DiversifyArguments& arguments, const Context& context);
Status calibrate(const CalibrateArguments& arguments, const Context& context);
Status attend(const AttentionArguments& arguments, const Context& context);

}  // namespace salience::cpu
