#include "emulator.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

#include "cuda/runtime.h"
#include "cuda/simt.cuh"

namespace salience::cuda {
namespace emulator {

LaneIndex lane_index;
float half_values[1 << 16];

namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr int kWarp = 32;

// --- Fibers ---

#if defined(__x86_64__)
// Saves what a called function must preserve on the stack that is left, and takes it from the other.
extern "C" void salience_switch_stack(void** from, void* to);
__asm__(
    ".text\n.type salience_switch_stack, @function\nsalience_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size salience_switch_stack, .-salience_switch_stack\n");

struct Context {
  void* stack_pointer = nullptr;
  void start(unsigned char* stack, void (*entry)()) {
    auto top = reinterpret_cast<uintptr_t>(stack + kStackBytes) & ~uintptr_t{15};
    auto* const slots = reinterpret_cast<uintptr_t*>(top) - 8;
    std::fill(slots, slots + 8, uintptr_t{0});
    slots[6] = reinterpret_cast<uintptr_t>(entry);  // what `ret` takes, with the stack as after a call
    stack_pointer = slots;
  }
};
void switch_to(Context& from, Context& to) { salience_switch_stack(&from.stack_pointer, to.stack_pointer); }
#else
struct Context {
  ucontext_t context;
  void start(unsigned char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};
void switch_to(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

// --- A launch and its state ---

enum class State { runnable, at_barrier, in_warp_operation, finished };

struct Copy {
  void* to;
  const void* from;
};

struct Lane {
  Context context;
  State state = State::runnable;
  Site site{"", 0};
  const char* operation = "";
  void* brought = nullptr;
  std::vector<std::vector<Copy>> groups;  // asynchronous copies, the last group still open
};

struct Block {
  int64_t number = -1;
  std::vector<Lane> lanes;
  std::vector<int> runnable;
  int at_barrier = 0;
  int finished = 0;
  unsigned char* shared = nullptr;
};

struct Launching {
  const char* name;
  void (*kernel)();
  const void* arguments;
  void (*call)(void (*)(), const void*);
};

struct Allocation {
  unsigned char* mapping;
  size_t mapped;
  int64_t bytes;
};

struct KnownSite {
  Site site;
  bool is_skipped;
};

struct Emulator {
  std::mutex mutex, counting;
  Settings settings;
  uint64_t random = 1;
  std::map<const unsigned char*, Allocation> allocations;  // by first byte
  int64_t allocated = 0;
  std::vector<Launch> launches;
  std::vector<KnownSite> sites;

  const Launching* launching = nullptr;
  Context scheduler;
  Block* block = nullptr;
  Lane* lane = nullptr;
  std::string report;
  std::vector<unsigned char*> stacks;
  std::vector<int> warp_ranks;
} all;

uint64_t draw(uint64_t bound) {
  all.random = all.random * 6364136223846793005u + 1442695040888963407u;
  return (all.random >> 32) * bound >> 32;
}

std::string words(Site site) {
  const std::string file(site.file);
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

bool is_same(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// Remembers a barrier; says whether tests want it ignored.
bool is_skipped(Site site) {
  for (const KnownSite& known : all.sites)
    if (is_same(known.site, site)) return known.is_skipped;
  all.sites.push_back({site, words(site) == all.settings.skipped});
  return all.sites.back().is_skipped;
}

// Leaves the running lane for good: nothing of this launch runs any more.
[[noreturn]] void give_up(const std::string& what) {
  all.report = what;
  switch_to(all.lane->context, all.scheduler);
  __builtin_unreachable();
}

std::string who() {
  return std::string(all.launching->name) + ", block " + std::to_string(all.block->number) + ", thread " +
         std::to_string(all.lane - all.block->lanes.data());
}

void leave(State state) {
  all.lane->state = state;
  switch_to(all.lane->context, all.scheduler);
}

void wake(Block& block, int first, int count) {
  for (int i = first; i < first + count; ++i) {
    if (block.lanes[static_cast<size_t>(i)].state == State::finished) continue;
    block.lanes[static_cast<size_t>(i)].state = State::runnable;
    block.runnable.push_back(i);
  }
}

// All lanes that are not finished wait at a barrier: is it the same one, and has none left before?
std::string barrier_trouble(const Block& block) {
  const Site first = block.lanes[0].site;
  for (const Lane& lane : block.lanes) {
    if (lane.state == State::finished) return "a lane left while others wait at the barrier " + words(first);
    if (!is_same(lane.site, first))
      return "divergent barrier: lanes wait at " + words(first) + " and at " + words(lane.site);
  }
  return {};
}

void finish_lane() {
  Block& block = *all.block;
  ++block.finished;
  leave(State::finished);
}

void lane_entry() {
  all.launching->call(all.launching->kernel, all.launching->arguments);
  finish_lane();
  __builtin_unreachable();
}

std::string stuck(const Block& block) {
  std::map<std::string, int> places;
  for (const Lane& lane : block.lanes) {
    if (lane.state == State::finished) {
      ++places["left"];
    } else if (lane.state == State::at_barrier) {
      ++places["wait at the barrier " + words(lane.site)];
    } else {
      ++places["wait for their warp in " + std::string(lane.operation) + " " + words(lane.site)];
    }
  }
  std::string text = "deadlock in block " + std::to_string(block.number) + ":";
  for (const auto& [place, count] : places) text += " " + std::to_string(count) + " lanes " + place + ";";
  return text;
}

// A device that is lost fails at everything from then on.
void check_alive(const std::string& doing) {
  const std::lock_guard<std::mutex> lock(all.counting);
  if (all.settings.launches == 0 || all.settings.calls == 0)
    throw DeviceError("CUDA: " + doing + ": cudaErrorLaunchFailure (unspecified launch failure)");
  if (all.settings.calls > 0) --all.settings.calls;
}

// --- Memory ---

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

// Ends at a page that cannot be touched and begins after another; NaN in every type, and a pattern in the
// few bytes that alignment leaves at the end.
Allocation guarded(int64_t bytes) {
  const size_t padded = (static_cast<size_t>(bytes) + 15) / 16 * 16;
  const size_t inner = (padded + kPage - 1) / kPage * kPage, mapped = inner + 2 * kPage;
  void* const mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  auto* const base = static_cast<unsigned char*>(mapping);
  mprotect(base + kPage, inner, PROT_READ | PROT_WRITE);
  std::memset(base + kPage, 0xFF, inner);
  return {base, mapped, bytes};
}
unsigned char* first_byte(const Allocation& allocation) {
  const size_t padded = (static_cast<size_t>(allocation.bytes) + 15) / 16 * 16;
  return allocation.mapping + allocation.mapped - kPage - padded;
}

const Allocation* find(const void* pointer) {
  const auto* const byte = static_cast<const unsigned char*>(pointer);
  for (const auto& [start, allocation] : all.allocations)
    if (byte >= allocation.mapping && byte < allocation.mapping + allocation.mapped) return &allocation;
  return nullptr;
}

void check_ends() {
  for (const auto& [start, allocation] : all.allocations)
    for (int64_t i = allocation.bytes; i % 16 != 0; ++i)
      if (start[i] != 0xFF && all.report.empty())
        all.report =
            "a write beyond the end of an allocation of " + std::to_string(allocation.bytes) + " bytes";
}

// A touched guard page ends the launch. The lane's stack is left as it is.
void on_fault(int number, siginfo_t* info, void*) {
  if (all.lane == nullptr) {
    signal(number, SIG_DFL);
    raise(number);
    return;
  }
  std::string what = "an access outside all allocations";
  if (const Allocation* const near = find(info->si_addr)) {
    const auto* const touched = static_cast<const unsigned char*>(info->si_addr);
    const auto beyond = touched - (first_byte(*near) + near->bytes);
    what = beyond >= 0 ? "an access " + std::to_string(beyond) + " bytes beyond the end of an allocation of "
                       : "an access before the start of an allocation of ";
    what += std::to_string(near->bytes) + " bytes";
  } else if (all.block != nullptr && info->si_addr >= all.block->shared) {
    what = "an access outside all allocations, perhaps beyond the shared memory";
  }
  char at[32];
  snprintf(at, sizeof at, "%p", info->si_addr);
  give_up(what + " at " + at + " by " + who());
}

class FaultHandler {
 public:
  FaultHandler() {
    static auto* const stack = new unsigned char[64 << 10];
    stack_t ours{};
    ours.ss_sp = stack;
    ours.ss_size = 64 << 10;
    sigaltstack(&ours, &stack_before_);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &segv_before_);
    sigaction(SIGBUS, &action, &bus_before_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &segv_before_, nullptr);
    sigaction(SIGBUS, &bus_before_, nullptr);
    if (stack_before_.ss_sp != nullptr) sigaltstack(&stack_before_, nullptr);
  }

 private:
  stack_t stack_before_{};
  struct sigaction segv_before_{}, bus_before_{};
};

// --- Scheduling ---

unsigned char* stack(size_t number) {
  while (all.stacks.size() <= number) {
    void* const memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    all.stacks.push_back(static_cast<unsigned char*>(memory));
  }
  return all.stacks[number];
}

void start_block(Block& block, int64_t number, int threads, int64_t shared_bytes, size_t slot) {
  block.number = number;
  block.lanes.resize(static_cast<size_t>(threads));
  block.runnable.clear();
  block.at_barrier = block.finished = 0;
  // NaN in every type; now and then zeros, since what is taken for a flag is set by either.
  std::memset(block.shared, draw(4) == 0 ? 0 : 0xFF, static_cast<size_t>(shared_bytes));
  for (int i = 0; i < threads; ++i) {
    Lane& lane = block.lanes[static_cast<size_t>(i)];
    lane.state = State::runnable;
    lane.groups.clear();
    lane.context.start(stack(slot * static_cast<size_t>(threads) + static_cast<size_t>(i)), lane_entry);
    block.runnable.push_back(i);
  }
}

// Any lane; or, where warps have a rank, one of the first warp that can run, so that it comes as far ahead of
// the others as barriers let it.
size_t choose_lane(const Block& block) {
  const size_t start = draw(block.runnable.size());
  if (all.warp_ranks.empty()) return start;
  size_t best = start;
  for (size_t i = 0; i < block.runnable.size(); ++i) {
    const size_t at = (start + i) % block.runnable.size();
    if (all.warp_ranks[static_cast<size_t>(block.runnable[at] / kWarp)] <
        all.warp_ranks[static_cast<size_t>(block.runnable[best] / kWarp)])
      best = at;
  }
  return best;
}

void rank_warps(int threads) {
  all.warp_ranks.clear();
  if (draw(2) == 0) return;
  for (int w = 0; w < threads / kWarp; ++w) all.warp_ranks.push_back(static_cast<int>(draw(1 << 20)));
}

void run_lane(Block& block, const LaunchShape& shape) {
  const size_t at = choose_lane(block);
  const int number = block.runnable[at];
  block.runnable[at] = block.runnable.back();
  block.runnable.pop_back();
  all.block = &block;
  all.lane = &block.lanes[static_cast<size_t>(number)];
  lane_index = {number, shape.threads, block.number, shape.blocks, block.shared};
  switch_to(all.scheduler, all.lane->context);
  if (all.lane->state == State::runnable) block.runnable.push_back(number);
  all.lane = nullptr;
}

void run_blocks(const LaunchShape& shape) {
  std::vector<int64_t> order(static_cast<size_t>(shape.blocks));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
  rank_warps(shape.threads);
  const size_t resident = std::min<size_t>(order.size(), 1 + draw(3));
  std::vector<std::unique_ptr<Block>> slots;
  std::vector<Allocation> arenas;
  size_t next = 0;
  for (size_t slot = 0; slot < resident; ++slot) {
    arenas.push_back(guarded(shape.shared_bytes));
    slots.push_back(std::make_unique<Block>());
    slots.back()->shared = first_byte(arenas.back());
    start_block(*slots.back(), order[next++], shape.threads, shape.shared_bytes, slot);
  }
  std::vector<size_t> live(resident);
  for (size_t slot = 0; slot < resident; ++slot) live[slot] = slot;
  while (!live.empty() && all.report.empty()) {
    const size_t at = draw(live.size());
    Block& block = *slots[live[at]];
    if (!block.runnable.empty()) {
      run_lane(block, shape);
    } else if (block.finished == static_cast<int>(block.lanes.size())) {
      if (next < order.size()) {
        start_block(block, order[next++], shape.threads, shape.shared_bytes, live[at]);
      } else {
        live.erase(live.begin() + static_cast<int64_t>(at));
      }
    } else {
      all.report = stuck(block);
    }
  }
  for (const Allocation& arena : arenas) munmap(arena.mapping, arena.mapped);
}

}  // namespace

// --- The words ---

void meet_block(Site site) {
  if (is_skipped(site)) return;
  Block& block = *all.block;
  all.lane->site = site;
  if (++block.at_barrier + block.finished < static_cast<int>(block.lanes.size()))
    return leave(State::at_barrier);
  all.lane->state = State::at_barrier;
  if (const std::string trouble = barrier_trouble(block); !trouble.empty()) give_up(trouble + " by " + who());
  block.at_barrier = 0;
  all.lane->state = State::runnable;
  const auto mine = static_cast<int>(all.lane - block.lanes.data());
  wake(block, 0, static_cast<int>(block.lanes.size()));
  block.runnable.erase(std::find(block.runnable.begin(), block.runnable.end(), mine));
  switch_to(all.lane->context, all.scheduler);
}

void meet_warp(Site site, const char* name, void (*operation)(void* const*), void* brought) {
  Block& block = *all.block;
  const auto mine = static_cast<int>(all.lane - block.lanes.data());
  const int first = mine / kWarp * kWarp;
  if (brought == nullptr && is_skipped(site)) return;
  all.lane->site = site;
  all.lane->operation = name;
  all.lane->brought = brought;
  all.lane->state = State::in_warp_operation;
  void* everything[kWarp];
  for (int i = 0; i < kWarp; ++i) {
    const Lane& lane = block.lanes[static_cast<size_t>(first + i)];
    if (lane.state != State::in_warp_operation) return leave(State::in_warp_operation);
    everything[i] = lane.brought;
  }
  for (int i = 0; i < kWarp; ++i) {
    const Lane& lane = block.lanes[static_cast<size_t>(first + i)];
    if (!is_same(lane.site, site) || lane.operation != all.lane->operation)
      give_up("divergent warp: lanes meet in " + std::string(name) + " " + words(site) + " and in " +
              lane.operation + " " + words(lane.site) + " in " + who());
  }
  operation(everything);
  all.lane->state = State::runnable;
  wake(block, first, kWarp);
  block.runnable.erase(std::find(block.runnable.begin(), block.runnable.end(), mine));
  switch_to(all.lane->context, all.scheduler);
}

void pause() {
  if (draw(4) == 0) switch_to(all.lane->context, all.scheduler);
}

void start_copy(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    give_up("an asynchronous copy that is not aligned to 16 bytes by " + who());
  if (all.lane->groups.empty()) all.lane->groups.emplace_back();
  std::memset(shared, 0xFF, 16);
  all.lane->groups.back().push_back({shared, global});
}

void commit_copies() {
  if (all.lane->groups.empty()) all.lane->groups.emplace_back();
  all.lane->groups.emplace_back();
}

void wait_for_copies(int groups_left) {
  auto& groups = all.lane->groups;
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, 16);
    groups.erase(groups.begin());
  }
}

void multiply_matrices(void* const* brought) {
  float a[16][16], b[8][16];
  bool missing = false;
  const auto unpack = [&](uint32_t bits, float* to) {
    to[0] = half_values[bits & 0xFFFF];
    to[1] = half_values[bits >> 16];
    missing |= to[0] != to[0] || to[1] != to[1];
  };
  for (int i = 0; i < kWarp; ++i) {
    const auto& product = *static_cast<const Product*>(brought[i]);
    const int g = i / 4, t = i % 4;
    unpack(product.a[0], &a[g][2 * t]);
    unpack(product.a[1], &a[g + 8][2 * t]);
    unpack(product.a[2], &a[g][2 * t + 8]);
    unpack(product.a[3], &a[g + 8][2 * t + 8]);
    unpack(product.b[0], &b[g][2 * t]);
    unpack(product.b[1], &b[g][2 * t + 8]);
  }
  if (missing) give_up("a matrix operand that nobody wrote in " + who());
  const bool noisy = all.settings.noise;
  for (int i = 0; i < kWarp; ++i) {
    const auto& product = *static_cast<const Product*>(brought[i]);
    for (int part = 0; part < 4; ++part) {
      const int row = i / 4 + part / 2 * 8, column = i % 4 * 2 + part % 2;
      double sum = product.sum[part], largest = std::fabs(sum);
      for (int k = 0; k < 16; ++k) {
        const double term = static_cast<double>(a[row][k]) * b[column][k];
        sum += term;
        largest = std::max(largest, std::fabs(term));
      }
      // cuda/packed.h grants 20 units of 2^-23 of the largest term; one is left for rounding the sum.
      if (noisy) sum += (static_cast<double>(draw(39)) - 19.0) * 0x1.0p-23 * largest;
      product.sum[part] = static_cast<float>(sum);
    }
  }
}

uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude != magnitude) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x1.0p-24 * 0.5) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const double units = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // to even
  return static_cast<uint16_t>(sign |
                               static_cast<uint16_t>((exponent + 14) * 1024 + static_cast<int>(units)));
}

float round_to_float(double value, int direction) {
  const auto nearest = static_cast<float>(value);
  if (value != value || static_cast<double>(nearest) == value) return nearest;
  const float infinity = std::numeric_limits<float>::infinity();
  if (direction < 0) return nearest > value ? std::nextafter(nearest, -infinity) : nearest;
  return nearest < value ? std::nextafter(nearest, infinity) : nearest;
}

void configure(const Settings& settings) {
  const std::lock_guard<std::mutex> lock(all.mutex);
  static const bool ready = [] {
    for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
      const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
      double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      if (exponent == 31) value = fraction ? std::nan("") : std::numeric_limits<double>::infinity();
      half_values[bits] = static_cast<float>(bits & 0x8000u ? -value : value);
    }
    return true;
  }();
  static_cast<void>(ready);
  all.settings = settings;
  for (KnownSite& known : all.sites) known.is_skipped = words(known.site) == settings.skipped;
  all.random = settings.seed * 2862933555777941757u + 3037000493u;
}
const Settings& settings() { return all.settings; }
int64_t allocated() { return all.allocated; }
std::vector<Launch> take_launches() { return std::exchange(all.launches, {}); }
std::vector<std::string> barrier_sites() {
  std::vector<std::string> found;
  for (const KnownSite& known : all.sites) found.push_back(words(known.site));
  return found;
}
bool is_device_memory(const void* pointer) { return find(pointer) != nullptr; }

}  // namespace emulator

// --- The runtime ---

using emulator::all;

std::string unavailable() { return {}; }

DeviceDescription describe_device() {
  DeviceDescription device;
  device.name = "emulated";
  device.major = 8;
  device.limits = device_limits();
  device.total_bytes = all.settings.memory;
  device.free_bytes = all.settings.memory - all.allocated;
  return device;
}

DeviceLimits device_limits() { return {all.settings.multiprocessors, all.settings.shared_bytes}; }

Stream default_stream() { return reinterpret_cast<Stream>(2); }
DeviceScope::DeviceScope(const void*) : before_(0) {}
DeviceScope::~DeviceScope() = default;
void synchronize(Stream) { emulator::check_alive("waiting for the stream"); }

void copy(void* to, const void* from, int64_t bytes, Stream) {
  emulator::check_alive("copying");
  if (bytes != 0) std::memmove(to, from, static_cast<size_t>(bytes));
}
void copy_rows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t bytes, int64_t rows,
               Stream) {
  if (bytes > to_pitch || bytes > from_pitch) throw DeviceError("CUDA: copying: cudaErrorInvalidPitchValue");
  if (bytes == 0 || rows == 0) return;
  emulator::check_alive("copying");
  for (int64_t r = 0; r < rows; ++r)
    std::memmove(static_cast<unsigned char*>(to) + r * to_pitch,
                 static_cast<const unsigned char*>(from) + r * from_pitch, static_cast<size_t>(bytes));
}
void fill(void* at, uint8_t byte, int64_t bytes, Stream) {
  emulator::check_alive("filling memory");
  if (bytes != 0) std::memset(at, byte, static_cast<size_t>(bytes));
}

void* allocate(int64_t bytes, Stream, const char* what) {
  if (bytes == 0) return nullptr;
  emulator::check_alive("allocating memory");
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.allocated + bytes > all.settings.memory || all.settings.allocations == 0)
    throw OutOfDeviceMemory("device: too little memory for " + std::string(what) + ": " +
                            std::to_string(bytes) + " bytes wanted, " +
                            std::to_string(all.settings.memory - all.allocated) + " of " +
                            std::to_string(all.settings.memory) + " bytes free");
  if (all.settings.allocations > 0) --all.settings.allocations;
  const emulator::Allocation made = emulator::guarded(bytes);
  all.allocated += bytes;
  all.allocations[emulator::first_byte(made)] = made;
  return emulator::first_byte(made);
}

void release(void* memory, Stream) noexcept {
  if (memory == nullptr) return;
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.allocations.find(static_cast<unsigned char*>(memory));
  all.allocated -= found->second.bytes;
  munmap(found->second.mapping, found->second.mapped);
  all.allocations.erase(found);
}

void* allocate_pinned(int64_t bytes) {
  emulator::check_alive("allocating page-locked memory");
  return ::operator new(static_cast<size_t>(bytes));
}
void release_pinned(void* memory) noexcept { ::operator delete(memory); }

Event::Event() { emulator::check_alive("making an event"); }
Event::~Event() = default;
void Event::record(Stream) { emulator::check_alive("recording an event"); }
void Event::hold(Stream) const { emulator::check_alive("waiting for an event"); }
void Event::wait() const { emulator::check_alive("waiting for an event"); }
SideStream::SideStream() : stream_(reinterpret_cast<Stream>(3)) { emulator::check_alive("making a stream"); }
void SideStream::finish() noexcept {}
SideStream::~SideStream() = default;

void launch_kernel(const char* name, void (*kernel)(), const LaunchShape& shape, Stream stream,
                   const void* arguments, void (*call)(void (*)(), const void*)) {
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (shape.threads % emulator::kWarp != 0 || shape.threads > 1024 || shape.threads <= 0)
    throw emulator::Report(std::string(name) + ": blocks of " + std::to_string(shape.threads) + " threads");
  if (shape.blocks > std::numeric_limits<int32_t>::max())
    throw emulator::Report(std::string(name) + ": " + std::to_string(shape.blocks) + " blocks");
  if (shape.shared_bytes > all.settings.shared_bytes)
    throw emulator::Report(std::string(name) + ": " + std::to_string(shape.shared_bytes) +
                           " bytes of shared memory");
  emulator::check_alive(std::string("launching ") + name);
  if (all.settings.launches > 0) --all.settings.launches;
  all.launches.push_back({name, shape.blocks, shape.threads, stream});
  if (all.launches.size() > 100000) all.launches.clear();
  const emulator::Launching launching{name, kernel, arguments, call};
  all.launching = &launching;
  all.report.clear();
  {
    const emulator::FaultHandler handler;
    emulator::run_blocks(shape);
  }
  emulator::check_ends();
  if (!all.report.empty()) throw emulator::Report(std::string(name) + ": " + all.report);
}

}  // namespace salience::cuda
