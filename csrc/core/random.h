// Counter-based random numbers: value n of stream s under seed k is a pure function of (k, s, n), so
// any thread can make any part of a stream and the stream never depends on who did.
//
// Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cmath>
#include <cstdint>

namespace salience {

struct PhiloxBlock {
  uint32_t words[4];
};

// Ten rounds of the bijection on `counter` under `key`.
inline PhiloxBlock philox(PhiloxBlock counter, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  uint32_t* c = counter.words;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
                              static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

// Fills out[0 .. count) with standard normal values first .. first + count of a stream, two to a
// counter (Box-Muller in float64 on 53-bit uniforms). `first` is even.
inline void random_normal(uint64_t seed, uint32_t stream, uint64_t first, int64_t count, float* out) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  constexpr double kUnit = 0x1.0p-53;
  for (int64_t i = 0; i < count; i += 2) {
    const uint64_t n = (first + static_cast<uint64_t>(i)) / 2;
    const PhiloxBlock block =
        philox({{static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), stream, 0}}, seed);
    const uint64_t a = (uint64_t{block.words[0]} << 32 | block.words[1]) >> 11;
    const uint64_t b = (uint64_t{block.words[2]} << 32 | block.words[3]) >> 11;
    // 1 - uniform lies in (0, 1], where the logarithm is finite.
    const double radius = std::sqrt(-2.0 * std::log(1.0 - static_cast<double>(a) * kUnit));
    const double angle = kTwoPi * (static_cast<double>(b) * kUnit);
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace salience
