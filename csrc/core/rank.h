// Sort keys: the order of the contract in one integer. For drivers and GPU kernels; the CPU's kernels must
// not include it (see cpu/kernel_table.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "core/host_device.h"

namespace salience {

// A score and an item in one integer that sorts as the contract orders them: larger is better, and
// among equal scores the lower item has the larger key. NaN becomes 0, below -infinity.
template <class T>
struct RankTraits;

template <>
struct RankTraits<float> {
  using Bits = uint32_t;
  using Key = uint64_t;
};

template <>
struct RankTraits<double> {
  using Bits = uint64_t;
  __extension__ using Key = unsigned __int128;
};

template <class T>
struct Rank {
  using Bits = typename RankTraits<T>::Bits;
  using Key = typename RankTraits<T>::Key;
  static constexpr Bits kSign = Bits{1} << (sizeof(Bits) * 8 - 1);

  SALIENCE_HOST_DEVICE static Key key(T score, int64_t item) {
    Bits bits = 0;
    if (score == score) {
      const T one_zero = score + T{0};
      std::memcpy(&bits, &one_zero, sizeof bits);
      bits = (bits & kSign) ? ~bits : bits | kSign;
    }
    return static_cast<Key>(bits) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(item));
  }
  SALIENCE_HOST_DEVICE static T score(Key key) {
    Bits bits = static_cast<Bits>(key >> 32);
    if (bits == 0) return std::numeric_limits<T>::quiet_NaN();
    bits = (bits & kSign) ? bits ^ kSign : ~bits;
    T score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
  }
  SALIENCE_HOST_DEVICE static int64_t item(Key key) {
    return static_cast<uint32_t>(~static_cast<uint32_t>(key));
  }
};

}  // namespace salience
