// Atomic operations. Threads are fibers of one thread, so plain operations are atomic.
#pragma once

namespace metal {
enum memory_order : int {
  memory_order_relaxed,
  memory_order_acquire,
  memory_order_release,
  memory_order_acq_rel,
  memory_order_seq_cst,
};
enum thread_scope : int {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
  thread_scope_system,
};
template <class T>
struct atomic {
  T v;
  atomic() = default;
  constexpr atomic(T x) : v(x) {}
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_bool = atomic<bool>;
using atomic_float = atomic<float>;
using atomic_ulong = atomic<ulong>;

#define EMU_ATOMIC(space)                                                                    \
  template <class T>                                                                         \
  METAL_FUNC T atomic_load_explicit(const volatile space atomic<T>* p, memory_order) {       \
    return p->v;                                                                             \
  }                                                                                          \
  template <class T, class U>                                                                \
  METAL_FUNC void atomic_store_explicit(volatile space atomic<T>* p, U u, memory_order) {    \
    p->v = T(u);                                                                             \
  }                                                                                          \
  template <class T, class U>                                                                \
  METAL_FUNC bool atomic_compare_exchange_weak_explicit(                                     \
      volatile space atomic<T>* p, thread T* expected, U u, memory_order, memory_order) {    \
    const T a = p->v;                                                                        \
    const bool equal = !__builtin_memcmp((const void*)&a, (const void*)expected, sizeof a);  \
    if (equal) p->v = T(u); else *expected = a;                                              \
    return equal;                                                                            \
  }                                                                                          \
  EMU_FETCH(space, atomic_exchange_explicit, b)                                              \
  EMU_FETCH(space, atomic_fetch_add_explicit, a + b)                                         \
  EMU_FETCH(space, atomic_fetch_sub_explicit, a - b)                                         \
  EMU_FETCH(space, atomic_fetch_max_explicit, b > a ? b : a)                                 \
  EMU_FETCH(space, atomic_fetch_min_explicit, b < a ? b : a)                                 \
  EMU_FETCH(space, atomic_fetch_and_explicit, a & b)                                         \
  EMU_FETCH(space, atomic_fetch_or_explicit, a | b)                                          \
  EMU_FETCH(space, atomic_fetch_xor_explicit, a ^ b)
#define EMU_FETCH(space, name, expression)                                                   \
  template <class T, class U>                                                                \
  METAL_FUNC T name(volatile space atomic<T>* p, U u, memory_order) {                        \
    const T a = p->v, b = T(u);                                                              \
    p->v = T(expression);                                                                    \
    return a;                                                                                \
  }
EMU_ATOMIC(device)
#ifdef EMU_SPACES
EMU_ATOMIC(threadgroup)
#endif
#undef EMU_ATOMIC
#undef EMU_FETCH
}  // namespace metal
using metal::memory_order, metal::memory_order_relaxed;
