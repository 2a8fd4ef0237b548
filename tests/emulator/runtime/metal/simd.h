// Barriers, and operations among the lanes of a simdgroup. A lane writes its value to its
// slot, waits for the other lanes, and reads their slots.
#pragma once

namespace metal {
enum class mem_flags : uint {
  mem_none = emu::fence_none,
  mem_device = emu::fence_device,
  mem_threadgroup = emu::fence_threadgroup,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
};
METAL_FUNC constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return (mem_flags)((uint)a | (uint)b);
}
METAL_FUNC void threadgroup_barrier(mem_flags flags, EMU_PLACE) {
  emu::wait(emu::threadgroup_barrier_name, place, (uint)flags);
}
METAL_FUNC void simdgroup_barrier(mem_flags flags, EMU_PLACE) {
  emu::wait(emu::simdgroup_barrier_name, place, (uint)flags);
}
METAL_FUNC void atomic_thread_fence(...) {}
}  // namespace metal

namespace emu {
// The values of the lanes in one operation.
template <class T>
struct LaneValues {
  Simdgroup* simd;
  const u8 (*slot)[64];
  u32 lane;

  METAL_FUNC T operator[](u32 from) const {
    T value;
    if (__builtin_expect(from < simd_width && (simd->active >> from & 1), 1)) {
      __builtin_memcpy((void*)&value, slot[from], sizeof value);
    } else {
      stats.inactive_reads++;
      __builtin_memset((void*)&value, 0xFF, sizeof value);
    }
    return value;
  }
};

template <class T>
METAL_FUNC LaneValues<T> exchange(const T& value, const char* operation, u32 place) {
  static_assert(sizeof(T) <= sizeof(Simdgroup::slot[0][0]));
  const Thread* t = current;
  Simdgroup* simd = t->simd;
  const u32 turn = simd->turn & 1;
  __builtin_memcpy(simd->slot[turn][t->lane], &value, sizeof value);
  wait(operation, place, 0);
  return {simd, simd->slot[turn], t->lane};
}

// Reduces the lanes' values in the order of option simd_order, or neighbours first if
// lanes are missing.
template <class T, class F>
T fold(T* a, u32 active, F f) {
  const u32 order = active == every_lane ? options.simd_order : 4;
  T sum = a[order == 3 ? 31 : 0];
  switch (order) {
    case 0:
      for (int d = 1; d < 32; d *= 2)
        for (int i = 0; i < 32; i += 2 * d) a[i] = f(a[i], a[i + d]);
      return a[0];
    case 1:
      for (int d = 16; d; d /= 2)
        for (int i = 0; i < d; i++) a[i] = f(a[i], a[i + d]);
      return a[0];
    case 2:
      for (int i = 1; i < 32; i++) sum = f(sum, a[i]);
      return sum;
    case 3:
      for (int i = 30; i >= 0; i--) sum = f(sum, a[i]);
      return sum;
  }
  for (int d = 1; d < 32; d *= 2)
    for (int i = 0; i < 32; i += 2 * d) {
      const u32 ones = (u32)((1ul << d) - 1);
      const bool left = active >> i & ones, right = active >> (i + d) & ones;
      if (right) a[i] = left ? f(a[i], a[i + d]) : a[i + d];
    }
  return a[0];
}

template <class T, class F>
inline __attribute__((noinline)) void make_result(const LaneValues<T>& values, F f) {
  T a[simd_width];
  for (u32 i = 0; i < simd_width; i++)
    __builtin_memcpy((void*)&a[i], values.slot[i], sizeof(T));
  const T result = fold(a, values.simd->active, f);
  __builtin_memcpy(values.simd->result, &result, sizeof(T));
  values.simd->result_turn = values.simd->turn;
}

template <class T, class F>
METAL_FUNC T reduce(T value, const char* operation, u32 place, F f) {
  const auto values = exchange(value, operation, place);
  if (values.simd->result_turn != values.simd->turn) make_result(values, f);
  T result;
  __builtin_memcpy((void*)&result, values.simd->result, sizeof result);
  return result;
}

template <class T, class F>
METAL_FUNC T prefix(T value, T start, bool inclusive, const char* operation, u32 place, F f) {
  const auto values = exchange(value, operation, place);
  T sum = start;
  bool any = false;
  for (u32 i = 0; i < values.lane + inclusive; i++) {
    if (!(values.simd->active >> i & 1)) continue;
    sum = any ? f(sum, values[i]) : values[i];
    any = true;
  }
  return sum;
}
}  // namespace emu

namespace metal {
#define EMU_REDUCE(name, expression)                                                          \
  template <class T>                                                                          \
  METAL_FUNC T name(T v, EMU_PLACE) {                                                         \
    return emu::reduce(v, #name, place, [](T a, T b) -> T { return T(expression); });         \
  }
EMU_REDUCE(simd_sum, a + b)
EMU_REDUCE(simd_product, a * b)
EMU_REDUCE(simd_max, max(a, b))
EMU_REDUCE(simd_min, min(a, b))
EMU_REDUCE(simd_and, a & b)
EMU_REDUCE(simd_or, a | b)
EMU_REDUCE(simd_xor, a ^ b)
#define EMU_PREFIX(name, start, inclusive, expression)                                        \
  template <class T>                                                                          \
  METAL_FUNC T name(T v, EMU_PLACE) {                                                         \
    const auto f = [](T a, T b) -> T { return T(expression); };                               \
    return emu::prefix(v, T(start), inclusive, #name, place, f);                              \
  }
EMU_PREFIX(simd_prefix_inclusive_sum, 0, true, a + b)
EMU_PREFIX(simd_prefix_exclusive_sum, 0, false, a + b)
EMU_PREFIX(simd_prefix_inclusive_product, 1, true, a * b)
EMU_PREFIX(simd_prefix_exclusive_product, 1, false, a * b)

// Defines a shuffle: a lane reads the lane that follows from its own index (`l`) and an
// argument (`n`), or keeps its own value beyond the group's ends (`own`).
#define EMU_SHUFFLE(name, own, from)                                                          \
  template <class T>                                                                          \
  METAL_FUNC T name(T v, ushort n, EMU_PLACE) {                                               \
    const auto values = emu::exchange(v, #name, place);                                       \
    const uint l = values.lane;                                                               \
    return (own) ? v : values[from];                                                          \
  }
EMU_SHUFFLE(simd_broadcast, false, n)
EMU_SHUFFLE(simd_shuffle, false, n)
EMU_SHUFFLE(simd_shuffle_xor, false, l ^ n)
EMU_SHUFFLE(simd_shuffle_up, l < n, l - n)
EMU_SHUFFLE(simd_shuffle_down, l + n > 31, l + n)
EMU_SHUFFLE(simd_shuffle_rotate_up, false, (l - n) & 31)
EMU_SHUFFLE(simd_shuffle_rotate_down, false, (l + n) & 31)
EMU_SHUFFLE(quad_broadcast, false, (l & ~3u) + (n & 3))
EMU_SHUFFLE(quad_shuffle, false, (l & ~3u) + (n & 3))
EMU_SHUFFLE(quad_shuffle_xor, false, l ^ (n & 3))
EMU_SHUFFLE(quad_shuffle_up, (l & 3) < n, l - n)
EMU_SHUFFLE(quad_shuffle_down, (l & 3) + n > 3, l + n)
#define EMU_FILL(name, outside, from)                                                         \
  template <class T>                                                                          \
  METAL_FUNC T name(T v, T fill, ushort n, EMU_PLACE) {                                       \
    struct Both { T v, fill; };                                                               \
    const auto values = emu::exchange(Both{v, fill}, #name, place);                           \
    const uint l = values.lane;                                                               \
    const Both other = values[(from) & 31];                                                   \
    return (outside) ? other.fill : other.v;                                                  \
  }
EMU_FILL(simd_shuffle_and_fill_up, l < n, l - n)
EMU_FILL(simd_shuffle_and_fill_down, l + n > 31, l + n)
#define EMU_QUAD(name, expression)                                                            \
  template <class T>                                                                          \
  METAL_FUNC T name(T v, EMU_PLACE) {                                                         \
    const auto values = emu::exchange(v, #name, place);                                       \
    const uint q = values.lane & ~3u;                                                         \
    const auto f = [](T a, T b) -> T { return T(expression); };                               \
    return f(f(values[q], values[q + 1]), f(values[q + 2], values[q + 3]));                   \
  }
EMU_QUAD(quad_sum, a + b)
EMU_QUAD(quad_product, a * b)
EMU_QUAD(quad_max, max(a, b))
EMU_QUAD(quad_min, min(a, b))
#undef EMU_REDUCE
#undef EMU_PREFIX
#undef EMU_SHUFFLE
#undef EMU_FILL
#undef EMU_QUAD

template <class T>
METAL_FUNC T simd_broadcast_first(T v, EMU_PLACE) {
  const auto values = emu::exchange(v, "simd_broadcast_first", place);
  return values[__builtin_ctz(values.simd->active)];
}
METAL_FUNC bool simd_is_first(EMU_PLACE) {
  const auto values = emu::exchange(0, "simd_is_first", place);
  return values.lane == (uint)__builtin_ctz(values.simd->active);
}
struct simd_vote {
  using vote_t = ulong;
  ulong v;
  explicit simd_vote(ulong votes = 0) : v(votes) {}
  explicit operator vote_t() const { return v; }
  bool all() const { return v == emu::every_lane; }
  bool any() const { return v != 0; }
};
METAL_FUNC simd_vote simd_ballot(bool p, EMU_PLACE) {
  const ulong bit = ulong(p) << emu::current->lane;
  return simd_vote(emu::reduce(bit, "simd_ballot", place, [](ulong a, ulong b) { return a | b; }));
}
METAL_FUNC bool simd_all(bool p, EMU_PLACE) {
  return emu::reduce((uint)p, "simd_all", place, [](uint a, uint b) { return a & b; });
}
METAL_FUNC bool simd_any(bool p, EMU_PLACE) {
  return emu::reduce((uint)p, "simd_any", place, [](uint a, uint b) { return a | b; });
}
METAL_FUNC simd_vote simd_active_threads_mask(EMU_PLACE) {
  return simd_vote(emu::exchange(0, "simd_active_threads_mask", place).simd->active);
}
}  // namespace metal
