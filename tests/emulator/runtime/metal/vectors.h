// vec<T, N> with constructors, operators and swizzles. clang's own vector types have no
// constructor from parts in C++.
#pragma once

namespace metal {
template <class T, int N>
struct vec;
}

namespace emu {
using metal::vec;
constexpr int greatest() { return 0; }
template <class... I>
constexpr int greatest(int first, I... others) {
  const int most = greatest(others...);
  return first > most ? first : most;
}

// A view of components I of the vector whose storage it shares.
template <class T, int... I>
struct swizzle {
  T d[greatest(I...) + 1];
  using Made = vec<T, (int)sizeof...(I)>;
  constexpr Made value() const { return Made(d[I]...); }
  constexpr operator Made() const { return value(); }
  swizzle& operator=(Made v) {
    int k = 0;
    ((d[I] = v[k++]), ...);
    return *this;
  }
  swizzle& operator=(const swizzle& v) { return *this = v.value(); }
  template <class U>
  swizzle& operator+=(U u) { return *this = value() + Made(u); }
  template <class U>
  swizzle& operator-=(U u) { return *this = value() - Made(u); }
  template <class U>
  swizzle& operator*=(U u) { return *this = value() * Made(u); }
  constexpr T operator[](int i) const { return value()[i]; }
};

// The number of components of a constructor's argument.
template <class T>
constexpr int width = 1;
template <class T, int N>
constexpr int width<vec<T, N>> = N;
template <class T, int... I>
constexpr int width<swizzle<T, I...>> = sizeof...(I);

template <class T, int N>
struct storage {
  T d[N];
};
#define EMU_STORAGE(n, room, ...)                                                 \
  template <class T>                                                              \
  struct storage<T, n> {                                                          \
    storage() = default;                                                          \
    storage(const storage&) = default;                                            \
    METAL_FUNC storage& operator=(const storage& o) {                             \
      __builtin_memcpy((void*)this, (const void*)&o, sizeof o);                   \
      return *this;                                                               \
    }                                                                             \
    union {                                                                       \
      T d[room];                                                                  \
      __VA_ARGS__                                                                 \
    };                                                                            \
  };
#define SW(name, ...) swizzle<T, __VA_ARGS__> name;
// clang-format off
EMU_STORAGE(2, 2, struct { T x, y; }; struct { T r, g; };
  SW(xy, 0, 1) SW(yx, 1, 0) SW(xx, 0, 0) SW(yy, 1, 1))
EMU_STORAGE(3, 4, struct { T x, y, z, w_; }; struct { T r, g, b, a_; };
  SW(xy, 0, 1) SW(yx, 1, 0) SW(xz, 0, 2) SW(zx, 2, 0) SW(yz, 1, 2) SW(zy, 2, 1) SW(xx, 0, 0)
  SW(xyz, 0, 1, 2) SW(zyx, 2, 1, 0) SW(yzx, 1, 2, 0) SW(zxy, 2, 0, 1) SW(xxx, 0, 0, 0))
EMU_STORAGE(4, 4, struct { T x, y, z, w; }; struct { T r, g, b, a; };
  SW(xy, 0, 1) SW(yx, 1, 0) SW(xz, 0, 2) SW(zx, 2, 0) SW(yz, 1, 2) SW(zy, 2, 1) SW(zw, 2, 3)
  SW(wz, 3, 2) SW(xw, 0, 3) SW(yw, 1, 3) SW(lo, 0, 1) SW(hi, 2, 3) SW(even, 0, 2) SW(odd, 1, 3)
  SW(xx, 0, 0) SW(yy, 1, 1) SW(zz, 2, 2) SW(ww, 3, 3)
  SW(xyz, 0, 1, 2) SW(rgb, 0, 1, 2) SW(yzw, 1, 2, 3) SW(xyzw, 0, 1, 2, 3) SW(wzyx, 3, 2, 1, 0)
  SW(yzwx, 1, 2, 3, 0) SW(zwxy, 2, 3, 0, 1) SW(xxxx, 0, 0, 0, 0) SW(yyyy, 1, 1, 1, 1)
  SW(zzzz, 2, 2, 2, 2) SW(wwww, 3, 3, 3, 3))
// clang-format on
#undef SW
#undef EMU_STORAGE

constexpr int alignment(int bytes) { return bytes >= 16 ? 16 : bytes; }
}  // namespace emu

namespace metal {
template <class T, int N>
struct alignas(emu::alignment((N == 3 ? 4 : N) * (int)sizeof(T))) vec : emu::storage<T, N> {
  using emu::storage<T, N>::d;
  vec() = default;
#ifdef EMU_SPACES
  constexpr vec(const vec&) = default;
  vec& operator=(const vec&) = default;
  vec(const device vec&);
  vec(const threadgroup vec&);
  vec(const constant vec&);
#endif
  constexpr vec(T s) : emu::storage<T, N>{} {
    for (int i = 0; i < N; i++) d[i] = s;
  }
  template <class U, enable_if_t<is_arithmetic_v<U> && !__is_convertible(U, T), int> = 0>
  explicit constexpr vec(U s) : vec(T(s)) {}
  template <class U, enable_if_t<!is_same_v<U, T>, int> = 0>
  explicit constexpr vec(vec<U, N> o) : emu::storage<T, N>{} {
    for (int i = 0; i < N; i++) d[i] = T(o.d[i]);
  }
  template <class A, class B, class... R>
  constexpr vec(A a, B b, R... rest) : emu::storage<T, N>{} {
    constexpr int given = emu::width<A> + emu::width<B> + (emu::width<R> + ... + 0);
    static_assert(given == N, "vector constructor: wrong number of components");
    int k = 0;
    put(k, a);
    put(k, b);
    (put(k, rest), ...);
  }
  constexpr T& operator[](long i) { return d[i]; }
  constexpr const T& operator[](long i) const { return d[i]; }
  constexpr vec operator-() const {
    vec r;
    for (int i = 0; i < N; i++) r.d[i] = T(-d[i]);
    return r;
  }
  constexpr vec operator~() const { return *this ^ vec(T(~T(0))); }
  constexpr vec<bool, N> operator!() const { return *this == vec(T(0)); }

#define EMU_ARITHMETIC(op)                                        \
  friend constexpr METAL_FUNC vec operator op(vec a, vec b) {     \
    for (int i = 0; i < N; i++) a.d[i] = T(a.d[i] op b.d[i]);     \
    return a;                                                     \
  }                                                               \
  constexpr vec& operator op##=(vec b) { return *this = *this op b; }
#define EMU_COMPARISON(op)                                              \
  friend constexpr METAL_FUNC vec<bool, N> operator op(vec a, vec b) {  \
    vec<bool, N> r;                                                     \
    for (int i = 0; i < N; i++) r.d[i] = a.d[i] op b.d[i];              \
    return r;                                                           \
  }
  EMU_ARITHMETIC(+) EMU_ARITHMETIC(-) EMU_ARITHMETIC(*) EMU_ARITHMETIC(/) EMU_ARITHMETIC(%)
  EMU_ARITHMETIC(&) EMU_ARITHMETIC(|) EMU_ARITHMETIC(^) EMU_ARITHMETIC(<<) EMU_ARITHMETIC(>>)
  EMU_COMPARISON(==) EMU_COMPARISON(!=) EMU_COMPARISON(<) EMU_COMPARISON(>) EMU_COMPARISON(<=)
  EMU_COMPARISON(>=) EMU_COMPARISON(&&) EMU_COMPARISON(||)
#undef EMU_ARITHMETIC
#undef EMU_COMPARISON

 private:
  template <class A>
  constexpr void put(int& k, A v) {
    if constexpr (emu::width<A> == 1)
      d[k++] = T(v);
    else
      for (int i = 0; i < emu::width<A>; i++) d[k++] = T(v[i]);
  }
};
}  // namespace metal

namespace emu {
template <class A>
constexpr bool is_swizzle = false;
template <class T, int... I>
constexpr bool is_swizzle<swizzle<T, I...>> = true;
template <class A>
constexpr METAL_FUNC auto plain(A a) {
  if constexpr (is_swizzle<A>)
    return a.value();
  else
    return a;
}
#define EMU_SWIZZLED(op)                                                               \
  template <class A, class B, metal::enable_if_t<is_swizzle<A> || is_swizzle<B>, int> = 0> \
  constexpr METAL_FUNC auto operator op(A a, B b) {                                    \
    return plain(a) op plain(b);                                                       \
  }
EMU_SWIZZLED(+) EMU_SWIZZLED(-) EMU_SWIZZLED(*) EMU_SWIZZLED(/) EMU_SWIZZLED(%) EMU_SWIZZLED(&)
EMU_SWIZZLED(|) EMU_SWIZZLED(^) EMU_SWIZZLED(<<) EMU_SWIZZLED(>>) EMU_SWIZZLED(==)
EMU_SWIZZLED(!=) EMU_SWIZZLED(<) EMU_SWIZZLED(>)
#undef EMU_SWIZZLED
}  // namespace emu

namespace metal {
// A vector without alignment.
template <class T, int N>
struct packed_vec {
  T d[N];
  packed_vec() = default;
  constexpr packed_vec(vec<T, N> v) {
    for (int i = 0; i < N; i++) d[i] = v[i];
  }
  constexpr operator vec<T, N>() const {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = d[i];
    return r;
  }
  constexpr T& operator[](int i) { return d[i]; }
  constexpr const T& operator[](int i) const { return d[i]; }
};

template <class T, size_t N>
struct array {
  T d[N];
  constexpr T& operator[](size_t i) { return d[i]; }
  constexpr const T& operator[](size_t i) const { return d[i]; }
  static constexpr size_t size() { return N; }
};

#define EMU_NAMES(t, n)       \
  using t##n = vec<t, n>;     \
  using packed_##t##n = packed_vec<t, n>;
#define EMU_VECTORS(t) EMU_NAMES(t, 2) EMU_NAMES(t, 3) EMU_NAMES(t, 4)
EMU_VECTORS(bool) EMU_VECTORS(char) EMU_VECTORS(uchar) EMU_VECTORS(short) EMU_VECTORS(ushort)
EMU_VECTORS(int) EMU_VECTORS(uint) EMU_VECTORS(long) EMU_VECTORS(ulong) EMU_VECTORS(half)
EMU_VECTORS(float) EMU_VECTORS(bfloat)
#undef EMU_VECTORS
#undef EMU_NAMES
}  // namespace metal

// Apple's library has these names outside of its namespace too.
#define EMU_GLOBAL(t) using metal::t##2; using metal::t##3; using metal::t##4;
EMU_GLOBAL(bool) EMU_GLOBAL(char) EMU_GLOBAL(uchar) EMU_GLOBAL(short) EMU_GLOBAL(ushort)
EMU_GLOBAL(int) EMU_GLOBAL(uint) EMU_GLOBAL(long) EMU_GLOBAL(ulong) EMU_GLOBAL(half)
EMU_GLOBAL(float) EMU_GLOBAL(bfloat)
#undef EMU_GLOBAL
