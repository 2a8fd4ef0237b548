// Threads of a threadgroup, as fibers on one thread of the machine. A lane waits at a SIMD
// operation or a barrier until all lanes that have not returned are there.
#include <stdio.h>
#include <sys/mman.h>

#include "executor.h"

namespace emu {
Thread* current;
Group group;
Options options;
Stats stats;
Thread threads[most_threads];
Simdgroup* simdgroups;
u32 threadgroup_epoch;
const char threadgroup_barrier_name[] = "threadgroup_barrier";
const char simdgroup_barrier_name[] = "simdgroup_barrier";

namespace {
constexpr size_t stack_bytes = 256 << 10, stack_stride = stack_bytes + page;
char* stacks;
void* main_stack;
Entry entry;
void* const* arguments;
u64 random_state;
u32 groups_ready, groups_alive, groups_waiting;  // simdgroups; waiting at the barrier

u32 lowest(u32 mask) { return __builtin_ctz(mask); }
u32 first(u32 count) { return count == simd_width ? every_lane : (1u << count) - 1; }

// Saves the registers that a call must preserve, changes stacks, and returns on the new
// stack.
__attribute__((naked, noinline)) void change_stack(void** save, void* to) {
  __asm__ volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

// A bit of a mask: the next after `last`, the one before it, or a random one.
u32 pick(u32 mask, u32 last) {
  if (options.seed == 0) {
    const u32 above = last >= 31 ? 0 : mask & ~((2u << last) - 1);
    return lowest(above ? above : mask);
  }
  if (options.seed == 1) {
    const u32 below = mask & ((1u << last) - 1);
    return 31 - __builtin_clz(below ? below : mask);
  }
  const u32 above = mask & ~((1u << (random_number() & 31)) - 1);
  return lowest(above ? above : mask);
}

Thread* next_thread() {
  Simdgroup* simd = current->simd;
  const bool leave = options.seed >= 2 && (random_number() & 7) == 0;
  if (!simd->ready || leave) {
    if (!groups_ready) return nullptr;
    simd = &simdgroups[pick(groups_ready, current->simdgroup)];
  }
  const u32 outside = options.seed == 1 ? 0 : 31;
  const u32 last = simd == current->simd ? current->lane : outside;
  return &threads[simd->index * simd_width + pick(simd->ready, last)];
}

void release(Simdgroup& simd) {
  simd.active = simd.waiting;
  simd.ready |= simd.waiting;
  simd.waiting = 0;
  simd.turn++;
  groups_ready |= 1u << simd.index;
}

bool waits(const Thread& t) { return t.simd->waiting >> t.lane & 1; }

bool at_same_place(const Thread& a, const Thread& b) {
  if (waits(a) != waits(b)) return false;
  return !waits(a) || (a.operation == b.operation && a.place == b.place);
}

// Fails with a message that lists where the threads wait.
[[noreturn]] void fail_with_places(const char* why) {
  char text[1500];
  int n = 0;
  for (u32 i = 0; i < group.threads && n < 1200; i++) {
    const Thread& t = threads[i];
    if (i && at_same_place(t, threads[i - 1])) continue;
    const bool alive = t.simd->alive >> t.lane & 1;
    n += snprintf(text + n, sizeof text - n, "%s from thread %u: ", n ? ";" : "", i);
    n += waits(t) ? snprintf(text + n, sizeof text - n, "%s line %u col %u", t.operation,
                             t.place & 0xfffff, t.place >> 20)
                  : snprintf(text + n, sizeof text - n, alive ? "running" : "exited");
  }
  fail("%s:%s", why, text);
}

// Opens the threadgroup barrier if every simdgroup that has not returned waits at it.
void try_barrier() {
  if (!groups_alive || groups_waiting != groups_alive) return;
  const Thread* one = nullptr;
  for (u32 i = 0; i < group.simdgroups; i++) {
    const Simdgroup& simd = simdgroups[i];
    if (simd.alive != first(simd.lanes))
      fail_with_places("threadgroup_barrier after some threads have exited");
    const Thread& t = threads[i * simd_width];
    if (one && t.place != one->place)
      fail_with_places("threadgroup_barrier reached from different places");
    one = &t;
  }
  stats.barriers++;
  if (one->flags & fence_threadgroup) threadgroup_epoch++;
  groups_waiting = 0;
  for (u32 i = 0; i < group.simdgroups; i++) release(simdgroups[i]);
}

// Completes the operation at which all lanes of a simdgroup wait.
void resolve(Simdgroup& simd) {
  const Thread* lanes = &threads[simd.index * simd_width];
  const Thread& one = lanes[lowest(simd.waiting)];
  for (u32 left = simd.waiting; left; left &= left - 1)
    if (!at_same_place(one, lanes[lowest(left)]))
      fail_with_places("divergent simdgroup operation or barrier");
  if (one.operation == threadgroup_barrier_name) {
    groups_waiting |= 1u << simd.index;
    return try_barrier();
  }
  if (one.operation == simdgroup_barrier_name) {
    if (one.flags & fence_threadgroup) simd.epoch++;
  } else if (simd.waiting != first(simd.lanes)) {
    stats.partial++;
  }
  stats.simd_ops++;
  release(simd);
}

void run_next(void** save) {
  Thread* next = next_thread();
  void* unused;
  if (!save) save = &unused;
  if (!next) {
    if (groups_alive) fail_with_places("deadlock (threads wait at different barriers)");
    return change_stack(save, main_stack);
  }
  if (next == current) return;
  stats.switches++;
  current = next;
  change_stack(save, next->stack);
}

void leave_ready(Simdgroup& simd, u32 lane) {
  simd.ready &= ~lane;
  if (!simd.ready) groups_ready &= ~(1u << simd.index);
}

// The first function on every fiber's stack; it never returns.
void fiber() {
  entry(current, arguments);
  Simdgroup& simd = *current->simd;
  const u32 lane = 1u << current->lane;
  simd.alive &= ~lane;
  leave_ready(simd, lane);
  if (!simd.alive) {
    groups_alive &= ~(1u << simd.index);
    try_barrier();
  } else if (simd.waiting == simd.alive) {
    resolve(simd);
  }
  run_next(nullptr);
  __builtin_unreachable();
}

void start_thread(u32 i, const u32 position[3]) {
  Thread& t = threads[i];
  char* low = stacks + i * stack_stride + page;
  t = Thread{};
  t.index = i;
  t.lane = i % simd_width;
  t.simdgroup = i / simd_width;
  t.simd = &simdgroups[t.simdgroup];
  for (int k = 0; k < 3; k++) {
    t.in_group[k] = position[k];
    t.in_grid[k] = group.position[k] * group.dispatched[k] + position[k];
  }
  t.stack_low = low;
  t.stack_high = low + stack_bytes;
  // Staggered, so that lanes do not use the same cache lines.
  void** top = (void**)((size_t)(t.stack_high - 64 - i % 15 * 256) & ~size_t(63));
  *--top = nullptr;
  *--top = (void*)fiber;
  t.stack = top - 6;  // the registers that change_stack pops; their values do not matter
}

void start_simdgroup(u32 i) {
  Simdgroup& simd = simdgroups[i];
  const u32 left = group.threads - i * simd_width;
  simd.index = i;
  simd.lanes = left < simd_width ? left : simd_width;
  simd.alive = simd.ready = simd.active = first(simd.lanes);
  simd.waiting = 0;
  simd.turn = simd.epoch = 1;
  simd.result_turn = 0;
}
}  // namespace

void wait(const char* operation, u32 place, u32 flags) {
  Thread& t = *current;
  Simdgroup& simd = *t.simd;
  t.operation = operation;
  t.place = place;
  t.flags = flags;
  simd.waiting |= 1u << t.lane;
  leave_ready(simd, 1u << t.lane);
  if (simd.waiting == simd.alive) {
    resolve(simd);
    if ((simd.ready >> t.lane & 1) && options.seed < 2) return;
  }
  run_next(&t.stack);
}

u32 random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return u32(random_state >> 20);
}

void seed_random(u32 seed) { random_state = 0x9E3779B97F4A7C15ull * (seed + 1) | 1; }

// Stacks have an inaccessible page below them.
void prepare_fibers() {
  if (stacks) return;
  const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const size_t size = sizeof(Simdgroup) * most_threads / simd_width;
  simdgroups = (Simdgroup*)mmap(nullptr, size, PROT_READ | PROT_WRITE, how, -1, 0);
  stacks = (char*)mmap(nullptr, stack_stride * most_threads, PROT_READ | PROT_WRITE, how, -1, 0);
  for (u32 i = 0; i < most_threads; i++) mprotect(stacks + i * stack_stride, page, PROT_NONE);
}

// Runs the threadgroup that `group` describes until its last thread returns.
void run_threadgroup(Entry kernel_entry, void* const* kernel_arguments) {
  entry = kernel_entry;
  arguments = kernel_arguments;
  threadgroup_epoch = 1;
  groups_alive = groups_ready = first(group.simdgroups);
  groups_waiting = 0;
  for (u32 i = 0; i < group.simdgroups; i++) start_simdgroup(i);
  u32 i = 0, p[3];
  for (p[2] = 0; p[2] < group.size[2]; p[2]++)
    for (p[1] = 0; p[1] < group.size[1]; p[1]++)
      for (p[0] = 0; p[0] < group.size[0]; p[0]++) start_thread(i++, p);
  stats.groups++;
  stats.threads += group.threads;
  const u32 start[] = {0, group.threads - 1, random_number() % group.threads};
  current = &threads[start[options.seed < 2 ? options.seed : 2]];
  change_stack(&main_stack, current->stack);
}
}  // namespace emu
