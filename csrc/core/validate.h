// The checks behind every operation: whatever passes here cannot crash a kernel.
#pragma once

#include <vector>

#include "core/operations.h"
#include "core/status.h"

namespace salience {

// Items are numbered in 32 bits.
Status expect_item_count(const char* name, int64_t items);

// `rows` holds rows of an argument with a value that is not finite, or -1.
Status expect_finite(const char* name, const std::vector<int64_t>& rows);

// A row of a half-step that could not be solved, and why.
Status diverged(int64_t row, RowOutcome outcome);

Status validate(const SimilarityArguments& arguments);
Status validate(const TopKArguments& arguments);
template <class T>
Status validate(const SelectArguments<T>& arguments);
Status validate(const GramianArguments& arguments);
Status validate(const RotateArguments& arguments);
Status validate(const HalfStepArguments& arguments);
Status validate(const FactorRanksArguments& arguments);
template <class T>
Status validate(const ScoreRanksArguments<T>& arguments);
Status validate(const ListRanksArguments& arguments);
Status validate(const RankMetricsArguments& arguments);
Status validate(const UnitRowsArguments& arguments);
Status validate(const DiversifyArguments& arguments);
Status validate(const CalibrateArguments& arguments);
Status validate(const AttentionArguments& arguments);

}  // namespace salience
