// Declarations that the executor's files share.
#pragma once
#include <stddef.h>

#include "machine.h"

namespace emu {
using Entry = void (*)(const Thread*, void* const*);

constexpr int most_buffers = 64;
constexpr size_t page = 4096;

// One buffer, as runner.py passes it. The kernel may access `bytes` bytes from `low` on.
struct Buffer {
  char *pointer, *low;
  u64 bytes;
  u32 writable, complete;
  const char* name;
  char* high() const { return low + bytes; }
};

struct Range {
  char *low, *high;
  bool has(const char* address, size_t bytes = 1) const {
    return address >= low && address + bytes <= high;
  }
  size_t size() const { return high - low; }
};

// A launch: the kernel, its buffers, its threadgroup memory and its library's image.
struct Launch {
  Entry entry;
  Buffer* buffers;
  u32 count, watched;
  Range shared, image;
  u32 grid[3], threadgroup[3];
};

// fibers.cpp
extern Thread threads[most_threads];
extern Simdgroup* simdgroups;
extern u32 threadgroup_epoch;  // 1 + barriers so far that order threadgroup memory
void prepare_fibers();
u32 random_number();
void seed_random(u32 seed);
void run_threadgroup(Entry entry, void* const* arguments);

// launch.cpp
extern void* argument_table[most_buffers];

// watch.cpp
void start_watching(const Launch& launch);
void forget_threadgroup();
void stop_watching();
void require_complete(const Launch& launch);

// faults.cpp
extern const Launch* running;
// Runs `body` until its end or the first fault; returns whether there was a fault.
bool guarded(void (*body)(), const Launch& launch, char* message, size_t size);
[[noreturn]] void fail_access(bool write, char* address);
}  // namespace emu
