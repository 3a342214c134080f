// Pairs of 16-bit numbers and their inner products: what the top-k scan computes with.
//
// Items and queries are held in 16 bits, two neighbouring dimensions to a 32-bit pair, in one of two
// encodings (Encoding in kernel_table.h). bfloat16 products are summed in fp32 by the instructions made
// for them. Everywhere else vectors are 16-bit fixed point: multiply-add of pairs is as old as SSE2,
// twice as dense as fp32, exact in its 32-bit sums, and leaves a far smaller residual than bfloat16.
// Items of 8 bits are widened to such integers as they are read: their sums are Counts everywhere.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::cpu::Encoding;

#if defined(__AVX512VNNI__)
constexpr int64_t kByteColumns = 16;
#else
constexpr int64_t kByteColumns = 32;
#endif

#if defined(__AVX512F__)

using Pairs = __m512i;
inline Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline Pairs broadcast_pair(const uint16_t* p) {
  int pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}

inline Pairs load_bytes(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

using Counts = __m512i;
inline Counts zero_counts() { return _mm512_setzero_si512(); }
inline Counts add_counts(Counts sums, Pairs a, Pairs b) {
#if defined(__AVX512VNNI__)
  sums = _mm512_dpwssd_epi32(sums, a, b);
#else
  sums = _mm512_add_epi32(sums, _mm512_madd_epi16(a, b));
#endif
  __asm__("" : "+v"(sums));  // in a register, now: GCC 12 would gather products and spill the sums
  return sums;
}
inline F32 as_float(Counts sums) { return _mm512_cvtepi32_ps(sums); }

// Store eight numbers and return what was stored.
inline F64x8 store_fixed(uint16_t* out, F64x8 x) {
  const __m256i rounded = _mm512_cvtpd_epi32(x.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtepi32_epi16(rounded));
  return {_mm512_cvtepi32_pd(rounded)};
}
inline F64x8 store_bytes(int8_t* out, F64x8 x) {
  const __m256i rounded = _mm512_cvtpd_epi32(x.v);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm256_cvtepi32_epi8(rounded));
  return {_mm512_cvtepi32_pd(rounded)};
}

// Four rows' sums in four parts each: part p of row r is element 4 p + r.
inline Counts fold_four(Counts a, Counts b, Counts c, Counts d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

// The totals of kLanes rows, from fold_four of each four of them.
inline F32 totals(const Counts (&f)[kLanes / 4]) {
  const __m512i ab =
      _mm512_add_epi32(_mm512_shuffle_i32x4(f[0], f[1], 0x44), _mm512_shuffle_i32x4(f[0], f[1], 0xEE));
  const __m512i cd =
      _mm512_add_epi32(_mm512_shuffle_i32x4(f[2], f[3], 0x44), _mm512_shuffle_i32x4(f[2], f[3], 0xEE));
  return as_float(_mm512_add_epi32(_mm512_shuffle_i32x4(ab, cd, 0x88), _mm512_shuffle_i32x4(ab, cd, 0xDD)));
}

#if defined(__AVX512BF16__)

constexpr Encoding kEncoding = Encoding::bfloat16;
using Sums = __m512;
inline Sums zero_sums() { return _mm512_setzero_ps(); }
inline Sums add_products(Sums sums, Pairs a, Pairs b) {
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
inline Sums maximum(Sums a, Sums b) { return _mm512_max_ps(a, b); }
inline F32 as_float(Sums sums) { return sums; }
inline float total(Sums sums) { return _mm512_reduce_add_ps(sums); }

// As those of Counts.
inline Sums fold_four(Sums a, Sums b, Sums c, Sums d) {
  const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
}
inline F32 totals(const Sums (&f)[kLanes / 4]) {
  const F32 ab =
      _mm512_add_ps(_mm512_shuffle_f32x4(f[0], f[1], 0x44), _mm512_shuffle_f32x4(f[0], f[1], 0xEE));
  const F32 cd =
      _mm512_add_ps(_mm512_shuffle_f32x4(f[2], f[3], 0x44), _mm512_shuffle_f32x4(f[2], f[3], 0xEE));
  return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
}

inline F64x8 store_encoded(uint16_t* out, F64x8 x) {
  const __m256i bits = _mm256_castps_si256(_mm512_cvtpd_ps(x.v));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i high =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  // The instructions read subnormals as zero, so they are stored as zero and the residual knows.
  const __mmask8 normal = _mm256_test_epi32_mask(high, _mm256_set1_epi32(0x7F80));
  high = _mm256_maskz_mov_epi32(normal, high);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtepi32_epi16(high));
  return {_mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(high, 16)))};
}

#else

constexpr Encoding kEncoding = Encoding::fixed_point;
using Sums = Counts;
inline Sums maximum(Sums a, Sums b) { return _mm512_max_epi32(a, b); }
inline float total(Sums sums) { return static_cast<float>(_mm512_reduce_add_epi32(sums)); }

#endif

#elif defined(__AVX2__)

constexpr Encoding kEncoding = Encoding::fixed_point;
using Pairs = __m256i;
using Sums = __m256i;
using Counts = Sums;
inline Pairs load_pairs(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Pairs broadcast_pair(const uint16_t* p) {
  int pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm256_set1_epi32(pair);
}
inline Pairs load_bytes(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Counts zero_counts() { return _mm256_setzero_si256(); }
inline Counts add_counts(Counts sums, Pairs a, Pairs b) {
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
  __asm__("" : "+x"(sums));  // in a register, now: GCC 12 would gather products and spill the sums
  return sums;
}
inline Sums maximum(Sums a, Sums b) { return _mm256_max_epi32(a, b); }
inline F32 as_float(Sums sums) { return _mm256_cvtepi32_ps(sums); }
inline float total(Sums sums) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
  return static_cast<float>(_mm_cvtsi128_si32(s));
}

inline Sums fold_four(Sums a, Sums b, Sums c, Sums d) {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}
inline F32 totals(const Sums (&folded)[kLanes / 4]) {
  return as_float(_mm256_add_epi32(_mm256_permute2x128_si256(folded[0], folded[1], 0x20),
                                   _mm256_permute2x128_si256(folded[0], folded[1], 0x31)));
}

inline F64x8 store_fixed(uint16_t* out, F64x8 x) {
  const __m128i low = _mm256_cvtpd_epi32(x.low), high = _mm256_cvtpd_epi32(x.high);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_packs_epi32(low, high));
  return {_mm256_cvtepi32_pd(low), _mm256_cvtepi32_pd(high)};
}
inline F64x8 store_bytes(int8_t* out, F64x8 x) {
  const __m128i low = _mm256_cvtpd_epi32(x.low), high = _mm256_cvtpd_epi32(x.high);
  const __m128i words = _mm_packs_epi32(low, high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packs_epi16(words, words));
  return {_mm256_cvtepi32_pd(low), _mm256_cvtepi32_pd(high)};
}

#else

constexpr Encoding kEncoding = Encoding::fixed_point;

#if defined(__SSE4_1__)

using Pairs = __m128i;
using Sums = __m128i;
using Counts = Sums;
inline Pairs load_pairs(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline Pairs broadcast_pair(const uint16_t* p) {
  int pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm_set1_epi32(pair);
}
inline Pairs load_bytes(const int8_t* p) {
  return _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline Counts zero_counts() { return _mm_setzero_si128(); }
inline Counts add_counts(Counts sums, Pairs a, Pairs b) {
  sums = _mm_add_epi32(sums, _mm_madd_epi16(a, b));
  __asm__("" : "+x"(sums));
  return sums;
}
inline Sums maximum(Sums a, Sums b) { return _mm_max_epi32(a, b); }
inline F32 as_float(Sums sums) {
  F32 v;
  const __m128 converted = _mm_cvtepi32_ps(sums);
  std::memcpy(&v, &converted, sizeof v);
  return v;
}
inline float total(Sums sums) {
  sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4E));
  sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xB1));
  return static_cast<float>(_mm_cvtsi128_si32(sums));
}

inline Sums fold_four(Sums a, Sums b, Sums c, Sums d) {
  const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
  const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
  return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

#else  // any machine: the compiler's own vectors of 16 bytes

typedef int32_t Pairs __attribute__((vector_size(16)));
using Sums = Pairs;
using Counts = Sums;
inline Pairs load_pairs(const uint16_t* p) {
  Pairs v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Pairs broadcast_pair(const uint16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return Pairs{pair, pair, pair, pair};
}
inline Pairs load_bytes(const int8_t* p) {
  int16_t wide[8];
  for (int i = 0; i < 8; ++i) wide[i] = p[i];
  Pairs v;
  std::memcpy(&v, wide, sizeof v);
  return v;
}
inline Counts zero_counts() { return Counts{}; }
inline Counts add_counts(Counts sums, Pairs a, Pairs b) {
  // Both halves of a pair meet their counterparts whatever the byte order.
  return sums + (a >> 16) * (b >> 16) + ((a << 16) >> 16) * ((b << 16) >> 16);
}
inline Sums maximum(Sums a, Sums b) { return a > b ? a : b; }
inline F32 as_float(Sums sums) { return __builtin_convertvector(sums, F32); }
inline float total(Sums sums) { return static_cast<float>(sums[0] + sums[1] + sums[2] + sums[3]); }
inline Sums fold_four(Sums a, Sums b, Sums c, Sums d) {
  return Sums{a[0] + a[1] + a[2] + a[3], b[0] + b[1] + b[2] + b[3], c[0] + c[1] + c[2] + c[3],
              d[0] + d[1] + d[2] + d[3]};
}

#endif

inline F32 totals(const Sums (&folded)[kLanes / 4]) { return as_float(folded[0]); }

inline F64x8 store_fixed(uint16_t* out, F64x8 x) {
  for (int i = 0; i < 8; ++i) {
    const double rounded = __builtin_rint(x.v[i / 2][i % 2]);
    out[i] = static_cast<uint16_t>(static_cast<int16_t>(rounded));
    x.v[i / 2][i % 2] = rounded;
  }
  return x;
}
inline F64x8 store_bytes(int8_t* out, F64x8 x) {
  for (int i = 0; i < 8; ++i) {
    const double rounded = __builtin_rint(x.v[i / 2][i % 2]);
    out[i] = static_cast<int8_t>(rounded);
    x.v[i / 2][i % 2] = rounded;
  }
  return x;
}

#endif

#if !defined(__AVX512BF16__)
inline Sums zero_sums() { return zero_counts(); }
inline Sums add_products(Sums sums, Pairs a, Pairs b) { return add_counts(sums, a, b); }
inline F64x8 store_encoded(uint16_t* out, F64x8 x) { return store_fixed(out, x); }
#endif

}  // namespace
