// The words the kernels are written in, for the instruction set this file is compiled for: a vector of
// floats (F32), eight doubles (F64x8), and vectors of 16-bit pairs with their accumulators (pairs.h).
// Functions are static, so every object keeps its own.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE4_1__)
#include <smmintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace {

#if defined(__AVX512F__)

constexpr int64_t kLanes = 16;
constexpr int kScreenRows = 12;  // 12 x 2 accumulators, 2 query vectors, 2 more: 28 of 32 registers
constexpr int kCanonicalQueries = 4;
constexpr int kCanonicalItems = 4;

using F32 = __m512;
inline F32 zero() { return _mm512_setzero_ps(); }
inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F32 v) { _mm512_storeu_ps(p, v); }
inline F32 broadcast(float x) { return _mm512_set1_ps(x); }
inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 subtract(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 multiply(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 multiply_add(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 larger(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline float sum(F32 v) { return _mm512_reduce_add_ps(v); }
inline __m256 halves(F32 v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
inline void sum_four(const F32 (&v)[4], float* out) {
  const __m256 low = _mm256_hadd_ps(halves(v[0]), halves(v[1]));
  const __m256 s = _mm256_hadd_ps(low, _mm256_hadd_ps(halves(v[2]), halves(v[3])));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}
// Sixteen lanes as l_i + l_(i+8), then i + 4, i + 2, i + 1.
inline float tree_sixteen(const F32 (&v)[1]) {
  const __m256 a = halves(v[0]);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
inline F32 reciprocal_or_zero(F32 v) {
  return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(v, zero(), _CMP_GT_OQ), broadcast(1.0f), v);
}
// Bit i is set where !(v[i] < t[i]): NaN on either side counts as not below.
inline uint32_t not_below(F32 v, F32 t) { return _mm512_cmp_ps_mask(v, t, _CMP_NLT_UQ); }
inline uint32_t not_below(const double* p, double t) {
  return _mm512_cmp_pd_mask(_mm512_loadu_pd(p), _mm512_set1_pd(t), _CMP_NLT_UQ);
}

struct F64x8 {
  __m512d v;
};
inline F64x8 zero8() { return {_mm512_setzero_pd()}; }
inline F64x8 broadcast8(double x) { return {_mm512_set1_pd(x)}; }
inline void store8(double* p, F64x8 x) { _mm512_storeu_pd(p, x.v); }
inline F64x8 inverse_root8(F64x8 x) { return {_mm512_div_pd(_mm512_set1_pd(1.0), _mm512_sqrt_pd(x.v))}; }
inline F64x8 load8(const double* p) { return {_mm512_loadu_pd(p)}; }
inline F64x8 widen8(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
inline F64x8 widen8(const float* p, int64_t count) {
  const __mmask8 mask = static_cast<__mmask8>((1u << count) - 1);
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_maskz_loadu_ps(mask, p)))};
}
inline F64x8 add8(F64x8 a, F64x8 b) { return {_mm512_add_pd(a.v, b.v)}; }
inline F64x8 subtract8(F64x8 a, F64x8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline F64x8 multiply8(F64x8 a, F64x8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline F64x8 larger8(F64x8 a, F64x8 b) { return {_mm512_max_pd(a.v, b.v)}; }
// Only for products that are exact in float64, where fused and separate rounding agree.
inline F64x8 exact_multiply_add8(F64x8 a, F64x8 b, F64x8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
inline double lane_tree(F64x8 x) {
  const __m256d a = _mm256_add_pd(_mm512_castpd512_pd256(x.v), _mm512_extractf64x4_pd(x.v, 1));
  const __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

// Lane i: the sum of the lanes of v[i].
inline F64x8 sum_eight(const F64x8 (&v)[8]) {
  __m512d pairs[4];
  for (int i = 0; i < 4; ++i)
    pairs[i] = _mm512_add_pd(_mm512_unpacklo_pd(v[2 * i].v, v[2 * i + 1].v),
                             _mm512_unpackhi_pd(v[2 * i].v, v[2 * i + 1].v));
  __m512d halves[2];
  for (int i = 0; i < 2; ++i)
    halves[i] = _mm512_add_pd(_mm512_shuffle_f64x2(pairs[2 * i], pairs[2 * i + 1], 0x44),
                              _mm512_shuffle_f64x2(pairs[2 * i], pairs[2 * i + 1], 0xEE));
  return {_mm512_add_pd(_mm512_shuffle_f64x2(halves[0], halves[1], 0x88),
                        _mm512_shuffle_f64x2(halves[0], halves[1], 0xDD))};
}

#elif defined(__AVX2__)

constexpr int64_t kLanes = 8;
constexpr int kScreenRows = 6;  // 6 x 2 accumulators, 2 query vectors, 2 more: all 16 registers
constexpr int kCanonicalQueries = 2;
constexpr int kCanonicalItems = 2;

using F32 = __m256;
inline F32 zero() { return _mm256_setzero_ps(); }
inline F32 load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F32 v) { _mm256_storeu_ps(p, v); }
inline F32 broadcast(float x) { return _mm256_set1_ps(x); }
inline F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
inline F32 subtract(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
inline F32 multiply(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
inline F32 multiply_add(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
inline F32 larger(F32 a, F32 b) { return _mm256_max_ps(a, b); }
inline float sum(F32 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline void sum_four(const F32 (&v)[4], float* out) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}
inline float tree_sixteen(const F32 (&v)[2]) { return sum(_mm256_add_ps(v[0], v[1])); }
inline F32 reciprocal_or_zero(F32 v) {
  return _mm256_and_ps(_mm256_cmp_ps(v, zero(), _CMP_GT_OQ), _mm256_div_ps(broadcast(1.0f), v));
}
inline uint32_t not_below(F32 v, F32 t) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, t, _CMP_NLT_UQ)));
}
inline uint32_t not_below(const double* p, double t) {
  const __m256d bound = _mm256_set1_pd(t);
  const int low = _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(p), bound, _CMP_NLT_UQ));
  const int high = _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(p + 4), bound, _CMP_NLT_UQ));
  return static_cast<uint32_t>(low | high << 4);
}

struct F64x8 {
  __m256d low, high;
};
inline F64x8 zero8() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline F64x8 broadcast8(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
inline void store8(double* p, F64x8 x) {
  _mm256_storeu_pd(p, x.low);
  _mm256_storeu_pd(p + 4, x.high);
}
inline F64x8 inverse_root8(F64x8 x) {
  const __m256d one = _mm256_set1_pd(1.0);
  return {_mm256_div_pd(one, _mm256_sqrt_pd(x.low)), _mm256_div_pd(one, _mm256_sqrt_pd(x.high))};
}
inline F64x8 load8(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
inline F64x8 widen8(const float* p) {
  return {_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))};
}
inline F64x8 add8(F64x8 a, F64x8 b) { return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
inline F64x8 subtract8(F64x8 a, F64x8 b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
inline F64x8 multiply8(F64x8 a, F64x8 b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
inline F64x8 larger8(F64x8 a, F64x8 b) {
  return {_mm256_max_pd(a.low, b.low), _mm256_max_pd(a.high, b.high)};
}
inline F64x8 exact_multiply_add8(F64x8 a, F64x8 b, F64x8 c) {
  return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
inline double lane_tree(F64x8 x) {
  const __m256d a = _mm256_add_pd(x.low, x.high);
  const __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

#else  // any machine: the compiler's own vectors of 16 bytes (SSE, NEON, ...)

constexpr int64_t kLanes = 4;
constexpr int kScreenRows = 6;
constexpr int kCanonicalQueries = 1;
constexpr int kCanonicalItems = 2;

typedef float F32 __attribute__((vector_size(16)));
inline F32 zero() { return F32{}; }
inline F32 load(const float* p) {
  F32 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F32 v) { std::memcpy(p, &v, sizeof v); }
inline F32 broadcast(float x) { return F32{x, x, x, x}; }
inline F32 add(F32 a, F32 b) { return a + b; }
inline F32 subtract(F32 a, F32 b) { return a - b; }
inline F32 multiply(F32 a, F32 b) { return a * b; }
inline F32 multiply_add(F32 a, F32 b, F32 c) { return a * b + c; }
inline F32 larger(F32 a, F32 b) { return a > b ? a : b; }
inline float sum(F32 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline void sum_four(const F32 (&v)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
}
inline float tree_sixteen(const F32 (&v)[4]) { return sum((v[0] + v[2]) + (v[1] + v[3])); }
inline F32 reciprocal_or_zero(F32 v) { return v > 0.0f ? 1.0f / v : zero(); }
inline uint32_t not_below(F32 v, F32 t) {
  const auto below = v < t;  // lanes of 0 or -1
#if defined(__SSE2__)
  __m128 mask;
  std::memcpy(&mask, &below, sizeof mask);
  return static_cast<uint32_t>(_mm_movemask_ps(mask)) ^ 15u;
#else
  return 15u ^ static_cast<uint32_t>((below[0] & 1) | (below[1] & 2) | (below[2] & 4) | (below[3] & 8));
#endif
}
inline uint32_t not_below(const double* p, double t) {
  uint32_t mask = 0;
  for (int i = 0; i < 8; ++i) mask |= static_cast<uint32_t>(!(p[i] < t)) << i;
  return mask;
}

typedef double F64x2 __attribute__((vector_size(16)));
struct F64x8 {
  F64x2 v[4];
};
inline F64x8 zero8() { return F64x8{}; }
inline F64x8 broadcast8(double x) {
  const F64x2 both = {x, x};
  return F64x8{{both, both, both, both}};
}
inline void store8(double* p, F64x8 x) { std::memcpy(p, &x, sizeof x); }
inline F64x8 inverse_root8(F64x8 x) {
  for (int i = 0; i < 8; ++i) x.v[i / 2][i % 2] = 1.0 / __builtin_sqrt(x.v[i / 2][i % 2]);
  return x;
}
inline F64x8 load8(const double* p) {
  F64x8 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline F64x8 widen8(const float* p) {
  F64x8 x;
  for (int i = 0; i < 4; ++i) x.v[i] = F64x2{p[2 * i], p[2 * i + 1]};
  return x;
}
inline F64x8 add8(F64x8 a, F64x8 b) {
  for (int i = 0; i < 4; ++i) a.v[i] += b.v[i];
  return a;
}
inline F64x8 subtract8(F64x8 a, F64x8 b) {
  for (int i = 0; i < 4; ++i) a.v[i] -= b.v[i];
  return a;
}
inline F64x8 multiply8(F64x8 a, F64x8 b) {
  for (int i = 0; i < 4; ++i) a.v[i] *= b.v[i];
  return a;
}
inline F64x8 larger8(F64x8 a, F64x8 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
inline F64x8 exact_multiply_add8(F64x8 a, F64x8 b, F64x8 c) { return add8(multiply8(a, b), c); }
inline double lane_tree(F64x8 x) {
  const F64x2 a = x.v[0] + x.v[2];
  const F64x2 b = x.v[1] + x.v[3];
  const F64x2 c = a + b;
  return c[0] + c[1];
}

#endif

// Fused where the machine can: for sums whose last bit no contract fixes.
inline F64x8 multiply_add8(F64x8 a, F64x8 b, F64x8 c) { return exact_multiply_add8(a, b, c); }

#if !defined(__AVX512F__)
inline F64x8 sum_eight(const F64x8 (&v)[8]) {
  double sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = lane_tree(v[i]);
  return load8(sums);
}

inline F64x8 widen8(const float* p, int64_t count) {
  float buffer[8] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(float));
  return widen8(buffer);
}
#endif

// acc[i][v] = sum over k of a[i * row_stride + k * step] * b[k * b_step + v * kLanes ...]: the one
// inner loop behind the top-k scan, the Gramian and the rotation.
template <int Rows, int Vectors>
inline __attribute__((always_inline)) void tile_product(const float* a, int64_t row_stride, int64_t step,
                                                        const float* b, int64_t b_step, int64_t depth,
                                                        F32 (&acc)[Rows][Vectors]) {
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) acc[i][v] = zero();
  for (int64_t k = 0; k < depth; ++k) {
    F32 bk[Vectors];
    for (int v = 0; v < Vectors; ++v) bk[v] = load(b + k * b_step + v * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const F32 x = broadcast(a[i * row_stride + k * step]);
      for (int v = 0; v < Vectors; ++v) acc[i][v] = multiply_add(x, bk[v], acc[i][v]);
    }
  }
}

}  // namespace
