// How far an inner product in 16 or 8 bits may lie from the exact one: the theorem that makes the fast scan
// exact.
//
// What is scanned. The scan ranks items by a screened value S that orders them as the score does:
//   dot:        S = q.(x - c)                       score = S + q.c
//   cosine:     S = u.(x/|x| - c),  u = q/|q|       score = S + u.c
//   euclidean:  S = p.z - |z|^2/2,  p = q - c,  z = x - c;   distance^2 = |p|^2 - 2 S
// for a fixed centre c (near the mean: what the items have in common need not be resolved). Below, v is
// the query's vector (q, u or p) and z the item's (x - c or x/|x| - c).
//
// What is stored. v = s v^ + r and z = t z^ + w with v^, z^ of 16 bits, and scales s, t; a query has its
// own scale, a block of items shares one. Encoding measures |r| and |w|, it does not assume them. Items of
// 8 bits meet queries of 16, in fixed point; each has a share f of its block's scale, 2^-40 <= f <= 1, and a
// residual of at most f times what the block states.
//
// Bound. v.z - s t v^.z^ = r.z + s v^.w, so by Cauchy and Schwarz
//   |v.z - s t v^.z^| <= |r||z| + (|v| + |r|)|w|.
// The machine computes a = v^.z^ with error at most g |v^||z^| (the accumulation):
//   fixed_point: sums of integers are exact (|v^||z^| < 2^31 bounds every partial sum too); turning the
//                sum into fp32 rounds once, g = 2^-24;
//   bfloat16:    products are exact in fp32; at most d + 2 additions, each off by at most 2^-23 (twice
//                rounding to nearest, which covers hardware that truncates), g = 1.01 (d + 2) 2^-23.
//                Underflow loses d 2^-126 of vectors of norm 1/2 to 1: less than the next term;
//   8 bits:      sums of integers are exact; the kernel computes (a + l) f in fp32, where l is what the
//                block's residual adds to e, so that one comparison serves rows of every scale, and l f is
//                taken back where a value is used. Four roundings, with that of a Euclidean difference, by
//                2^-24 of |v^||z^| + l each; l is at most 1.01 (|v| + |r|)|w| in these units: g = 2^-20.
//                What underflow loses is below 2^-140, where g |v^||z^| is above 1 in these units;
//   half (GPUs): see cuda/packed.h.
// The canonical score itself is rounded: its float64 total, the centre's part and the weights by less
// than 2^-40 (|v||z| + |v||c|), its fp32 value by 2^-24 of it or 2^-150. Euclidean sums round a few
// times more, by less than 2^-21 (|v| + |z|)^2. Let e be the sum of all of these, with the largest |z|
// and |w| of the item's block.
//
// Theorem. Let `level` be the k-th largest of S~ - e over any items already seen (S~ = s t a, computed),
// or what a canonical score that k items reach says about S. An item with S~ + e < level is not among
// the k best, ties included: k items have S >= level, so each of them has a canonical score no lower
// than `level` rounds to; the item's S is below it by more than rounding can undo.
// The level only grows, so an old one is always safe.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/operations.h"

namespace salience {

// Encoded vectors: for a block of items the largest norm and residual.
struct Encoded {
  double scale = 1.0;     // of one stored unit
  double norm = 0.0;      // >= |z|
  double residual = 0.0;  // >= |z - scale * stored|
};

// The error e as a polynomial in what a block knows of itself.
struct ErrorCoefficients {
  double constant = 0.0;
  double norm = 0.0;
  double residual = 0.0;
  double squared_norm = 0.0;

  SALIENCE_HOST_DEVICE double error(const Encoded& block) const {
    return constant + norm * block.norm + residual * block.residual + squared_norm * block.norm * block.norm;
  }
};

class ScreeningBound {
 public:
  static constexpr double kLargestFloat = std::numeric_limits<float>::max();
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  SALIENCE_HOST_DEVICE ScreeningBound(Metric metric, double accumulation, double centre_norm)
      : metric_(metric), accumulation_(accumulation), centre_norm_(centre_norm) {}

  SALIENCE_HOST_DEVICE ErrorCoefficients coefficients(const Encoded& query) const {
    const double stored = query.norm + query.residual;
    ErrorCoefficients c;
    c.constant = kRounding * query.norm * centre_norm_ + kTiny;
    c.norm = query.residual + accumulation_ * stored + kRounding * query.norm;
    c.residual = stored * (1.0 + accumulation_);
    if (metric_ == Metric::euclidean) {
      c.constant += kSquareRounding * query.norm * query.norm + kTiny * query.norm;
      c.norm += 2.0 * kSquareRounding * query.norm + kTiny;
    }
    c.squared_norm = squared_norm_coefficient();
    return c;
  }

  // Of ErrorCoefficients: the same for every query.
  SALIENCE_HOST_DEVICE double squared_norm_coefficient() const {
    return metric_ == Metric::euclidean ? kSquareRounding : 0.0;
  }

  // The level that a lower bound on k items' S stands for. Scores beyond fp32 are infinite and tie.
  SALIENCE_HOST_DEVICE double level_of_screened(double lower, double offset, double query_norm) const {
    switch (metric_) {
      case Metric::dot:
        return lower + offset < -kLargestFloat ? -kInfinity : smaller(lower, kLargestFloat - offset);
      case Metric::cosine:
        return lower;
      case Metric::euclidean:
        break;
    }
    return query_norm * query_norm - 2.0 * lower < kLargestFloat * kLargestFloat ? lower : -kInfinity;
  }

  // The level that a canonical score stands for, when k items reach it.
  SALIENCE_HOST_DEVICE double level_of_score(float score, double offset, double query_norm) const {
    if (!(score == score)) return -kInfinity;
    const double exact = score;
    if (metric_ != Metric::euclidean) return level_of_screened(exact - offset, offset, query_norm);
    return level_of_screened((query_norm * query_norm - exact * exact) / 2.0, offset, query_norm);
  }

  // The computed value below which nothing reaches `level`, in units of `unit` = the two scales' product.
  // Nothing reaches infinity, the level of padding and of queries that are done with.
  SALIENCE_HOST_DEVICE static float threshold(double level, double error, double inverse_unit) {
    if (level == kInfinity) return static_cast<float>(kLargestFloat);
    const double bound = (level - error) * inverse_unit;
    const double lower = bound - (bound < 0.0 ? -bound : bound) * 0x1.0p-22 - 0x1.0p-120;
    return static_cast<float>(-smaller(kUnreachable, -smaller(lower, kUnreachable)));
  }

 private:
  SALIENCE_HOST_DEVICE static double smaller(double a, double b) { return b < a ? b : a; }

  static constexpr double kRounding = 0x1.0p-22;
  static constexpr double kSquareRounding = 0x1.0p-21;
  static constexpr double kTiny = 0x1.0p-147;
  static constexpr double kUnreachable = 3e38;  // beyond every computed value

  Metric metric_;
  double accumulation_;
  double centre_norm_;
};

}  // namespace salience
