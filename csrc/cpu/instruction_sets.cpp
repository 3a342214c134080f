#include "cpu/instruction_sets.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Defined where the set was compiled; weak, so that the others are null.
extern "C" {
const salience::cpu::KernelTable* salience_kernels_baseline();
#if defined(__x86_64__)
__attribute__((weak)) const salience::cpu::KernelTable* salience_kernels_avx2();
__attribute__((weak)) const salience::cpu::KernelTable* salience_kernels_avx512();
__attribute__((weak)) const salience::cpu::KernelTable* salience_kernels_avx512_vnni();
__attribute__((weak)) const salience::cpu::KernelTable* salience_kernels_avx512_bf16();
__attribute__((weak)) const salience::cpu::KernelTable* salience_kernels_amx();
#endif
}

namespace salience::cpu {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

bool bit(unsigned word, int position) { return (word >> position & 1u) != 0; }

// The register state the operating system saves on a context switch (XCR0).
uint64_t saved_state() {
  if (!bit(cpuid(1, 0).c, 27)) return 0;  // OSXSAVE
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

std::string lacks(bool in_cpu, bool in_system, const char* what) {
  if (!in_cpu) return std::string("this CPU has no ") + what;
  if (!in_system) return std::string("the operating system does not save the registers of ") + what;
  return {};
}

std::string lacks_avx2() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  const bool cpu = bit(one.c, 12) && bit(one.c, 28) && bit(one.c, 29) && bit(seven.b, 5) && bit(seven.b, 3) &&
                   bit(seven.b, 8);  // FMA, AVX, F16C, AVX2, BMI1, BMI2
  return lacks(cpu, (saved_state() & 0x6) == 0x6, "AVX2");
}

std::string lacks_avx512() {
  if (std::string why = lacks_avx2(); !why.empty()) return why;
  const unsigned b = cpuid(7, 0).b;  // F, DQ, CD, BW, VL: the fourth level of x86-64
  const bool cpu = bit(b, 16) && bit(b, 17) && bit(b, 28) && bit(b, 30) && bit(b, 31);
  return lacks(cpu, (saved_state() & 0xE6) == 0xE6, "AVX-512 (F, DQ, CD, BW, VL)");
}

std::string lacks_avx512_vnni() {
  if (std::string why = lacks_avx512(); !why.empty()) return why;
  return lacks(bit(cpuid(7, 0).c, 11), true, "AVX-512 VNNI");
}

std::string lacks_avx512_bf16() {
  if (std::string why = lacks_avx512_vnni(); !why.empty()) return why;
  return lacks(bit(cpuid(7, 1).a, 5), true, "AVX-512 BF16");
}

// Linux hands out the tile registers only to processes that ask; some sandboxes refuse.
bool tiles_permitted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::string lacks_amx() {
  if (std::string why = lacks_avx512_bf16(); !why.empty() || SALIENCE_SOFTWARE_TILES) return why;
  const unsigned d = cpuid(7, 0).d;
  const std::string why = lacks(bit(d, 22) && bit(d, 24), (saved_state() & 0x60000) == 0x60000, "AMX BF16");
  if (!why.empty()) return why;
  return tiles_permitted() ? "" : "the system refuses this process the AMX tile registers";
}

#endif

using TableFunction = const KernelTable* (*)();

struct Row {
  const char* name;
  std::string (*lacks)();
  TableFunction table;     // null: no kernels of its own
  bool by_default = true;  // else only where it is asked for
};

std::string lacks_nothing() { return {}; }

// One row per instruction set, lowest first. Where there is BF16 there is VNNI, whose pairs of integers are
// multiplied as fast as pairs of bfloat16 on AMD's Zen 4 and four times as fast on Intel's Sapphire Rapids,
// and leave fewer survivors: BF16 without tiles is never the better choice.
const Row kRows[] = {
    {"baseline", lacks_nothing, salience_kernels_baseline},
#if defined(__x86_64__)
    {"avx2", lacks_avx2, salience_kernels_avx2},
    {"avx512", lacks_avx512, salience_kernels_avx512},
    {"avx512_vnni", lacks_avx512_vnni, salience_kernels_avx512_vnni},
    {"avx512_bf16", lacks_avx512_bf16, salience_kernels_avx512_bf16, false},
    {"amx", lacks_amx, salience_kernels_amx},
#endif
};

std::string known_names() {
  std::string names;
  for (const Row& row : kRows) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

// The row of that name, if it is offered here.
size_t named(const std::string& name, const std::string& source) {
  const std::vector<InstructionSet>& sets = instruction_sets();
  for (size_t i = 0; i < sets.size(); ++i) {
    if (name != sets[i].name) continue;
    if (sets[i].offered) return i;
    throw std::invalid_argument(source + name + ", but " + sets[i].why_not);
  }
  throw std::invalid_argument(source + name + "; expected one of " + known_names());
}

size_t choose() {
  const char* forced = std::getenv("SALIENCE_ISA");
  if (forced != nullptr && *forced != '\0') return named(forced, "SALIENCE_ISA: ");
  const std::vector<InstructionSet>& sets = instruction_sets();
  size_t best = 0;
  for (size_t i = 0; i < sets.size(); ++i)
    if (sets[i].offered && kRows[i].by_default) best = i;
  return best;
}

// Index into kRows of the set in use.
std::atomic<size_t>& chosen() {
  static std::atomic<size_t> index(choose());
  return index;
}

size_t serving() {
  size_t index = chosen().load(std::memory_order_relaxed);
  while (kRows[index].table == nullptr) --index;
  return index;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> found;
    for (const Row& row : kRows) {
      std::string why = row.lacks();
      const bool offered = why.empty();
      found.push_back({row.name, row.table != nullptr, offered, std::move(why)});
    }
    return found;
  }();
  return sets;
}

const InstructionSet& chosen_instruction_set() { return instruction_sets()[chosen().load()]; }

void use_instruction_set(const std::string& name) { chosen().store(named(name, "instruction set: ")); }

const KernelTable& kernels() { return *kRows[serving()].table(); }

const char* kernels_name() { return kRows[serving()].name; }

}  // namespace salience::cpu
