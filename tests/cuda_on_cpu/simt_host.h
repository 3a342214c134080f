// CUDA on the CPU: the words of cuda/simt.cuh, for a block whose lanes are fibers of one thread.
//
// A lane runs until it meets others (a barrier, a warp operation) or an atomic operation, and then another
// lane of one of the resident blocks runs, chosen by a seeded generator. So whatever order the hardware may
// take between such points is taken by some seed; what the memory model reorders beyond that is not seen.
//
// Reported, each with the kernel, block and lanes: lanes that wait for others that never come (deadlock,
// lanes that left, barriers or warp operations at different places), reads and writes beyond an allocation,
// matrix operands that nobody wrote. Shared memory, device memory and the targets of asynchronous copies
// under way are filled with NaN; copies arrive as late as they may. Matrix products are off by as much as
// cuda/packed.h allows the hardware to be.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define SALIENCE_DEVICE inline
#define SALIENCE_UNROLL
#define SALIENCE_UNROLL_BY(times)
#define SALIENCE_KERNEL(threads, blocks) static void

namespace salience::cuda {

namespace emulator {

struct Site {
  const char* file;
  int line;
};

// Of the lane that runs.
struct LaneIndex {
  int thread;
  int threads;
  int64_t block;
  int64_t blocks;
  unsigned char* shared;
};
extern LaneIndex lane_index;

// Waits for all lanes of the block, or of the warp.
void meet_block(Site site);
// The last lane to come runs `operation` on what all 32 brought, in the order of lanes.
void meet_warp(Site site, const char* name, void (*operation)(void* const* brought), void* brought);
// A place where another lane may run.
void pause();
void start_copy(void* shared, const void* global);
void commit_copies();
void wait_for_copies(int groups_left);
void multiply_matrices(void* const* brought);
uint16_t float_to_half(float value);
extern float half_values[1 << 16];
float round_to_float(double value, int direction);

template <class T>
struct Exchange {
  T value;
  int from;
  T result;
};

template <class T>
void exchange_values(void* const* brought) {
  for (int i = 0; i < 32; ++i) {
    auto* const mine = static_cast<Exchange<T>*>(brought[i]);
    mine->result = static_cast<const Exchange<T>*>(brought[mine->from & 31])->value;
  }
}

struct Vote {
  bool mine;
  uint32_t all;
};
inline void count_votes(void* const* brought) {
  uint32_t all = 0;
  for (int i = 0; i < 32; ++i) all |= static_cast<uint32_t>(static_cast<const Vote*>(brought[i])->mine) << i;
  for (int i = 0; i < 32; ++i) static_cast<Vote*>(brought[i])->all = all;
}

struct Matrices {
  uint32_t* to;
  const uint16_t* row;
};
inline void load_all_matrices(void* const* brought) {
  for (int i = 0; i < 32; ++i) {
    auto* const mine = static_cast<Matrices*>(brought[i]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      const uint16_t* const row = static_cast<const Matrices*>(brought[matrix * 8 + i / 4])->row;
      std::memcpy(&mine->to[matrix], row + 2 * (i % 4), sizeof(uint32_t));
    }
  }
}

struct Product {
  float* sum;
  const uint32_t* a;
  uint32_t b[2];
};

}  // namespace emulator

#define SALIENCE_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline int thread() { return emulator::lane_index.thread; }
inline int threads() { return emulator::lane_index.threads; }
inline int64_t block() { return emulator::lane_index.block; }
inline int64_t blocks() { return emulator::lane_index.blocks; }
inline int lane() { return emulator::lane_index.thread & 31; }
inline int warp() { return emulator::lane_index.thread >> 5; }

template <class T>
T& shared_memory() {
  return *reinterpret_cast<T*>(emulator::lane_index.shared);
}

inline void block_barrier(SALIENCE_SITE) { emulator::meet_block({file, line}); }
inline void warp_barrier(SALIENCE_SITE) {
  emulator::meet_warp({file, line}, "warp_barrier", [](void* const*) {}, nullptr);
}

template <class T>
T shuffle_xor(T value, int mask, SALIENCE_SITE) {
  emulator::Exchange<T> exchange{value, lane() ^ mask, {}};
  emulator::meet_warp({file, line}, "shuffle_xor", emulator::exchange_values<T>, &exchange);
  return exchange.result;
}
template <class T>
T shuffle(T value, int from_lane, SALIENCE_SITE) {
  emulator::Exchange<T> exchange{value, from_lane, {}};
  emulator::meet_warp({file, line}, "shuffle", emulator::exchange_values<T>, &exchange);
  return exchange.result;
}
inline uint32_t ballot(bool vote, SALIENCE_SITE) {
  emulator::Vote brought{vote, 0};
  emulator::meet_warp({file, line}, "ballot", emulator::count_votes, &brought);
  return brought.all;
}
inline bool any(bool vote, SALIENCE_SITE) { return ballot(vote, file, line) != 0; }

inline uint32_t atomic_add(uint32_t* at, uint32_t value) {
  emulator::pause();
  const uint32_t before = *at;
  *at = before + value;
  return before;
}
inline uint64_t atomic_max(uint64_t* at, uint64_t value) {
  emulator::pause();
  const uint64_t before = *at;
  *at = before < value ? value : before;
  return before;
}

inline void copy_async(void* shared, const void* global) { emulator::start_copy(shared, global); }
inline void copy_async_commit() { emulator::commit_copies(); }
template <int Groups>
void copy_async_wait() {
  emulator::wait_for_copies(Groups);
}

inline void load_matrices(uint32_t (&to)[4], const uint16_t* row, SALIENCE_SITE) {
  emulator::Matrices brought{to, row};
  emulator::meet_warp({file, line}, "load_matrices", emulator::load_all_matrices, &brought);
}
inline void multiply_accumulate(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                SALIENCE_SITE) {
  emulator::Product brought{sum, a, {b0, b1}};
  emulator::meet_warp({file, line}, "multiply_accumulate", emulator::multiply_matrices, &brought);
}

struct Words4 {
  uint32_t x, y, z, w;
};
inline Words4 load_words(const uint16_t* from) {
  Words4 read;
  std::memcpy(&read, from, sizeof read);
  return read;
}
inline Words4 load_streaming(const uint16_t* from) { return load_words(from); }

inline uint16_t half_bits(float x) { return emulator::float_to_half(x); }
inline float half_value(uint16_t bits) { return emulator::half_values[bits]; }

inline double add_rn(double a, double b) { return a + b; }
inline double multiply_rn(double a, double b) { return a * b; }
inline double subtract_rn(double a, double b) { return a - b; }
inline double exact_multiply_add(double a, double b, double c) { return a * b + c; }
inline float multiply_add(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(a) * b + c);
}
inline double multiply_add(double a, double b, double c) { return a * b + c; }
inline double divide_rn(double a, double b) { return a / b; }
inline float divide_floats(float a, float b) { return a / b; }
inline float add_floats(float a, float b) { return a + b; }
inline float multiply_floats(float a, float b) { return a * b; }
inline double square_root_rn(double a) { return std::sqrt(a); }
inline float float_rn(double a) { return static_cast<float>(a); }
inline float float_down(double a) { return emulator::round_to_float(a, -1); }
inline float float_up(double a) { return emulator::round_to_float(a, 1); }

inline int count_bits(uint32_t bits) { return __builtin_popcount(bits); }

#undef SALIENCE_SITE

}  // namespace salience::cuda
