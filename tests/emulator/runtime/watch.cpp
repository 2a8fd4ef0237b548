// Checks every access of a kernel: exact bounds, the order of accesses to threadgroup
// memory, the bytes of outputs that are written. clang inserts calls of the hooks at the
// end of this file.
#include <stdlib.h>
#include <string.h>

#include "executor.h"

namespace emu {
namespace {
// The thread that accessed a byte of threadgroup memory, and after which barriers of the
// threadgroup and of the simdgroup. Epochs count from 1; 0 means no access.
struct Access {
  u32 epoch, simd_epoch;
  u16 thread;
  bool recent() const { return epoch == threadgroup_epoch; }
  u32 simdgroup() const { return thread / simd_width; }
};
// The last write and two reads by different threads: one of the two is by another thread
// than the next write.
struct Cell {
  Access write, reads[2];
};

Cell* cells;
size_t cell_count;
u32* writers[most_buffers];  // of each byte of an output: 1 + the threadgroup

// Whether an access is ordered before the current thread's access.
bool ordered(const Access& access) {
  if (!access.recent() || access.thread == current->index) return true;
  return access.simdgroup() == current->simdgroup && access.simd_epoch != current->simd->epoch;
}

void fail_race(const char* what, long offset, const Access& other) {
  fail("data race on threadgroup memory: %s at offset %ld, other thread %u", what, offset,
       other.thread);
}

void write_cell(Cell& cell, long offset, const Access& now) {
  if (!ordered(cell.write)) fail_race("write after unordered write", offset, cell.write);
  for (const Access& read : cell.reads)
    if (!ordered(read)) fail_race("write after unordered read", offset, read);
  cell.write = now;
}

void read_cell(Cell& cell, long offset, const Access& now) {
  if (!cell.write.epoch)
    fail("read of threadgroup memory never written in this threadgroup, offset %ld", offset);
  if (!ordered(cell.write)) fail_race("read after unordered write", offset, cell.write);
  for (Access& read : cell.reads)
    if (!read.recent() || read.thread == now.thread) {
      read = now;
      return;
    }
  // Prefer reads by two simdgroups: the lanes of one are ordered by more barriers.
  if (cell.reads[0].simdgroup() == cell.reads[1].simdgroup()) cell.reads[1] = now;
}

void touch_shared(char* address, size_t bytes, bool write) {
  const Access now{threadgroup_epoch, current->simd->epoch, u16(current->index)};
  for (size_t i = 0; i < bytes; i++) {
    const long offset = address + i - running->shared.low;
    write ? write_cell(cells[offset], offset, now) : read_cell(cells[offset], offset, now);
  }
}

void touch_buffer(u32 index, char* address, size_t bytes, bool write) {
  const Buffer& buffer = running->buffers[index];
  if (!write) return;
  const long offset = address - buffer.low;
  if (!buffer.writable)
    fail("write to read-only buffer %u '%s' byte %ld", index, buffer.name, offset);
  const u32* n = group.groups;
  const u32* at = group.position;
  const u32 me = 1 + at[0] + n[0] * (at[1] + n[1] * at[2]);
  for (size_t i = 0; i < bytes; i++) {
    u32& writer = writers[index][offset + i];
    stats.shared_bytes += writer && writer != me;
    writer = me;
  }
}

template <class T>
bool within(const char* address, const T* object, size_t count = 1) {
  return address >= (const char*)object && address < (const char*)(object + count);
}

// Whether an address belongs to the kernel's constants or the executor's state.
bool own(const char* address) {
  return within(address, simdgroups, most_threads / simd_width) ||
         within(address, threads, most_threads) || within(address, &current) ||
         within(address, &group) || within(address, &options) || within(address, &stats) ||
         within(address, argument_table, most_buffers) || running->image.has(address);
}

void touch(void* pointer, size_t bytes, bool write) {
  char* address = (char*)pointer;
  if (!running || !current || !running->watched) return;
  if (address >= current->stack_low && address < current->stack_high) return;
  stats.accesses++;
  if (running->shared.has(address, bytes)) return touch_shared(address, bytes, write);
  for (u32 i = 0; i < running->count; i++) {
    const Buffer& buffer = running->buffers[i];
    if (Range{buffer.low, buffer.high()}.has(address, bytes))
      return touch_buffer(i, address, bytes, write);
  }
  if (!own(address)) fail_access(write, address);
}
}  // namespace

void start_watching(const Launch& launch) {
  if (!launch.watched) return;
  if (launch.shared.size() > cell_count) {
    free(cells);
    cell_count = launch.shared.size();
    cells = (Cell*)calloc(cell_count, sizeof(Cell));
  }
  for (u32 i = 0; i < launch.count; i++)
    if (launch.buffers[i].writable) writers[i] = (u32*)calloc(launch.buffers[i].bytes + 1, 4);
}

void forget_threadgroup() {
  if (!running->watched) return;
  memset((void*)cells, 0, running->shared.size() * sizeof(Cell));
}

void require_complete(const Launch& launch) {
  if (!launch.watched || options.max_groups) return;
  for (u32 i = 0; i < launch.count; i++) {
    const Buffer& buffer = launch.buffers[i];
    for (u64 byte = 0; buffer.complete && byte < buffer.bytes; byte++)
      if (!writers[i][byte])
        fail("output '%s' is not written everywhere: first at byte %lu of %lu", buffer.name, byte,
             buffer.bytes);
  }
}

void stop_watching() {
  for (u32*& bytes : writers) {
    free(bytes);
    bytes = nullptr;
  }
}
}  // namespace emu

using emu::touch;
extern "C" {
#define HOOKS(n)                                                         \
  void __tsan_read##n(void* a) { touch(a, n, false); }                   \
  void __tsan_write##n(void* a) { touch(a, n, true); }                   \
  void __tsan_unaligned_read##n(void* a) { touch(a, n, false); }         \
  void __tsan_unaligned_write##n(void* a) { touch(a, n, true); }         \
  void __tsan_read_write##n(void* a) { touch(a, n, false), touch(a, n, true); } \
  void __tsan_unaligned_read_write##n(void* a) { touch(a, n, false), touch(a, n, true); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* a, size_t n) { touch(a, n, false); }
void __tsan_write_range(void* a, size_t n) { touch(a, n, true); }
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  touch((void*)from, n, false);
  touch(to, n, true);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  touch((void*)from, n, false);
  touch(to, n, true);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
  touch(to, n, true);
  return memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
