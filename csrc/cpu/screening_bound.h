// How far an fp32 screened value may lie from the canonical score: the theorem that makes the fast
// scan exact.
//
// Let q.x be the exact inner product and acc the fp32 one, summed in any order with or without fused
// multiply-add. With u = 2^-24 and d dimensions, |acc - q.x| <= g |q||x| + e where
// g = (d + 2) u / (1 - (d + 2) u) and e = (2 d + 2) 2^-149 covers underflow. Rounding the canonical
// score to fp32 moves it by at most u |q||x| more. If L is a score that k items reach, an item whose
// canonical score reaches L has, with G = 1.01 g + 2^-22 (norms are themselves rounded):
//   dot:       acc          >= L - G |q||x| - e
//   cosine:    acc * (1/|x|) >= L |q| - G |q| - e / |x|
//   euclidean: acc - |x|^2/2 >= (|q|^2 - D^2 (1 + 2^-22)) / 2 - G |q||x| - 2^-22 |x|^2 - e
// (D = L is the k-th smallest distance). Over a block of items the largest norm stands for all.
// Where norms leave the range in which fp32 cannot overflow, nothing is ruled out.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/operations.h"

namespace salience::cpu {

struct ItemRange {
  double largest_norm = 0.0;
  double largest_inverse = 0.0;  // of the norm, over items with a finite inverse
};

class ScreeningBound {
 public:
  ScreeningBound(Metric metric, int64_t dimensions) : metric_(metric) {
    const double steps = (static_cast<double>(dimensions) + 2.0) * 0x1.0p-24;
    usable_ = steps < 0.5;
    slack_ = 1.01 * steps / (1.0 - steps) + 0x1.0p-22;
    underflow_ = (2.0 * static_cast<double>(dimensions) + 2.0) * 0x1.0p-149;
  }

  // The fp32 value below which no item of the range can reach `level`, the k-th best score so far.
  float threshold(float level, double query_norm, const ItemRange& items) const {
    const double product = query_norm * items.largest_norm;
    const double squares = items.largest_norm * items.largest_norm;
    const bool in_range = product < 0x1.0p126 && (metric_ != Metric::euclidean || squares < 0x1.0p126) &&
                          (metric_ != Metric::cosine || query_norm < 0x1.0p126);
    if (!usable_ || !in_range || std::isnan(level)) return -std::numeric_limits<float>::infinity();
    const double score = static_cast<double>(level);
    switch (metric_) {
      case Metric::dot:
        return round_down(score - slack_ * product - underflow_);
      case Metric::cosine:
        return round_down(score * query_norm - slack_ * query_norm - underflow_ * items.largest_inverse -
                          underflow_);
      case Metric::euclidean:
        break;
    }
    const double reach = (query_norm * query_norm - score * score * (1.0 + 0x1.0p-22)) / 2.0;
    return round_down(reach - slack_ * product - 0x1.0p-22 * squares - underflow_);
  }

 private:
  static float round_down(double x) {
    const float nearest = static_cast<float>(x);
    return static_cast<double>(nearest) <= x
               ? nearest
               : std::nextafter(nearest, -std::numeric_limits<float>::infinity());
  }

  Metric metric_;
  bool usable_;
  double slack_;
  double underflow_;
};

}  // namespace salience::cpu
