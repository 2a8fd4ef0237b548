// Types that a kernel and the executor share: threads, simdgroups, options and counts.
#pragma once

namespace emu {
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long;

constexpr u32 simd_width = 32, most_threads = 1024, every_lane = ~0u;

struct Simdgroup {
  alignas(64) u8 slot[2][simd_width][64];  // each lane's value; operations alternate
  alignas(64) u8 result[512];              // the group's result, computed by its first reader
  u64 turn, result_turn;                   // operations completed
  u32 active;                              // lanes that took part in the last operation
  u32 alive, waiting, ready;               // lanes
  u32 index, lanes;
  u32 epoch;                               // 1 + simdgroup barriers so far
};

struct Thread {
  void* stack;
  Simdgroup* simd;
  u32 lane, simdgroup, index;
  const char* operation;  // at which it waits
  u32 place, flags;
  u32 in_group[3], in_grid[3];
  char *stack_low, *stack_high;
};

struct Group {
  u32 position[3], size[3], dispatched[3], groups[3], grid[3];
  u32 threads, simdgroups;
};

struct Options {
  u32 seed, simd_order, mma_order, exp_mode, ftz, cpu_limit_ms, max_groups;
};

struct Stats {
  u64 groups, threads, switches, barriers, simd_ops;
  u64 partial;         // SIMD operations in which not all lanes took part
  u64 inactive_reads;  // reads of lanes that took no part
  u64 accesses;        // accesses that were checked
  u64 shared_bytes;    // bytes of outputs written by more than one threadgroup
  u64 threadgroup_bytes, nanoseconds;
};

extern Thread* current;
extern Group group;
extern Options options;
extern Stats stats;

enum Fence : u32 { fence_none = 0, fence_device = 1, fence_threadgroup = 2 };
// Operations are distinguished by the address of their name.
extern const char threadgroup_barrier_name[], simdgroup_barrier_name[];

// Waits until the lanes of the simdgroup (at a threadgroup barrier: of the threadgroup)
// that have not returned are at the same operation at the same place in the source.
void wait(const char* operation, u32 place, u32 flags);
// Ends the launch with a message.
[[noreturn]] void fail(const char* format, ...);
}  // namespace emu
