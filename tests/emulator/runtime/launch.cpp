// The C interface: guarded memory and launches.
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <xmmintrin.h>

#include "executor.h"

namespace emu {
void* argument_table[most_buffers];

namespace {
constexpr int poison = 0xFF;
constexpr u32 floating_point = 0x1F80, flush_subnormals = 0x8040;

u64 divisor(u64 a, u64 b) { return b ? divisor(b, a % b) : a; }

// The index of the i-th threadgroup to run, of `total`: ascending, descending, or in steps
// that have no common divisor with the total.
struct Order {
  u64 total, step = 1, start = 0;
  explicit Order(u64 total) : total(total) {
    if (options.seed < 2 || total < 3) return;
    step = random_number() % total;
    while (divisor(step, total) != 1) step = (step + 1) % total;
    start = random_number() % total;
  }
  u64 operator[](u64 i) const {
    return options.seed == 1 ? total - 1 - i : (i * step + start) % total;
  }
};

u64 set_grid(const Launch& launch) {
  u64 count = 1, total = 1;
  for (int k = 0; k < 3; k++) {
    const u32 grid = launch.grid[k], size = launch.threadgroup[k];
    const u32 dispatched = size < grid ? size : grid;
    group.grid[k] = grid;
    group.dispatched[k] = dispatched;
    group.groups[k] = dispatched ? (grid + dispatched - 1) / dispatched : 0;
    count *= dispatched;
    total *= group.groups[k];
  }
  if (count > most_threads) fail("threadgroup of %lu threads exceeds %u", count, most_threads);
  return total;
}

// Sets `group` to one threadgroup; those at the grid's edge are smaller.
void set_group(u64 index) {
  const u32* n = group.groups;
  const u64 at[] = {index % n[0], index / n[0] % n[1], index / n[0] / n[1]};
  group.threads = 1;
  for (int k = 0; k < 3; k++) {
    group.position[k] = at[k];
    const u32 left = group.grid[k] - at[k] * group.dispatched[k];
    group.size[k] = left < group.dispatched[k] ? left : group.dispatched[k];
    group.threads *= group.size[k];
  }
  group.simdgroups = (group.threads + simd_width - 1) / simd_width;
}

void run_all() {
  const Launch& launch = *running;
  _mm_setcsr(options.ftz ? floating_point | flush_subnormals : floating_point);
  const u64 total = set_grid(launch);
  const Order order(total);
  const u64 most = options.max_groups ? options.max_groups : total;
  for (u64 i = 0; i < total && i < most; i++) {
    set_group(order[i]);
    memset(launch.shared.low, poison, launch.shared.size());
    forget_threadgroup();
    run_threadgroup(launch.entry, argument_table);
  }
  current = nullptr;
  require_complete(launch);
}

u64 now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ul + t.tv_nsec;
}
}  // namespace
}  // namespace emu

using namespace emu;
extern "C" {
// Allocates `bytes` bytes between two guards of `guard` bytes that cannot be accessed: at
// the end, right before the second guard (but aligned to `align`), else right after the
// first.
void* emu_allocate(size_t bytes, int at_end, size_t align, size_t guard, void** region,
                   size_t* region_bytes) {
  const size_t body = bytes ? (bytes + page - 1) / page * page : page;
  const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  *region_bytes = body + 2 * guard;
  char* start = (char*)mmap(nullptr, *region_bytes, PROT_NONE, how, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  *region = start;
  mprotect(start + guard, body, PROT_READ | PROT_WRITE);
  memset(start + guard, 0xCB, body);
  if (!at_end) return start + guard;
  return (void*)(size_t(start + guard + body - bytes) / align * align);
}

void emu_protect(void* region, size_t region_bytes, size_t guard) {
  mprotect((char*)region + guard, region_bytes - 2 * guard, PROT_READ);
}

void emu_free(void* region, size_t region_bytes) { munmap(region, region_bytes); }

// Runs a kernel. Returns 1 and writes a message if it failed.
int emu_launch(const Launch* launch, const Options* how, Stats* counts, char* message,
               size_t message_size) {
  prepare_fibers();
  options = *how;
  stats = Stats{};
  stats.threadgroup_bytes = launch->shared.size();
  seed_random(options.seed);
  for (u32 i = 0; i < launch->count; i++) argument_table[i] = launch->buffers[i].pointer;
  start_watching(*launch);
  const u32 control = _mm_getcsr();
  const u64 started = now();
  const bool failed = guarded(run_all, *launch, message, message_size);
  _mm_setcsr(control);
  stats.nanoseconds = now() - started;
  stop_watching();
  *counts = stats;
  return failed;
}
}
