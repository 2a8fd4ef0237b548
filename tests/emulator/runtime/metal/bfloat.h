// bfloat: a float's upper half, rounded to nearest even after every operation. It converts
// to float implicitly, and from float explicitly (Metal 3.1). Also traits and limits of all
// number types.
#pragma once

struct bfloat {
  uint16_t bits;
  bfloat() = default;
  explicit constexpr bfloat(float f) : bits(rounded(f)) {}
  explicit constexpr bfloat(half f) : bits(rounded((float)f)) {}
  explicit constexpr bfloat(double f) : bits(rounded((float)f)) {}
  template <class I, metal::enable_if_t<__is_integral(I), int> = 0>
  constexpr bfloat(I i) : bits(rounded((float)i)) {}
  constexpr operator float() const { return __builtin_bit_cast(float, (uint32_t)bits << 16); }

  static constexpr uint16_t rounded(float f) {
    const uint32_t u = __builtin_bit_cast(uint32_t, f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);  // NaN
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
  }
#define EMU_ASSIGN(op)                            \
  template <class U>                              \
  constexpr bfloat& operator op##=(U u) {         \
    return *this = bfloat(float(*this) op float(u)); \
  }
  EMU_ASSIGN(+) EMU_ASSIGN(-) EMU_ASSIGN(*) EMU_ASSIGN(/)
#undef EMU_ASSIGN
  constexpr bfloat& operator++() { return *this += 1; }
};

#define EMU_INTEGER template <class I, metal::enable_if_t<__is_integral(I), int> = 0>
#define EMU_OPERATOR(op)                                                              \
  constexpr METAL_FUNC bfloat operator op(bfloat a, bfloat b) {                       \
    return bfloat(float(a) op float(b));                                              \
  }                                                                                   \
  EMU_INTEGER constexpr METAL_FUNC bfloat operator op(bfloat a, I b) { return a op bfloat(b); } \
  EMU_INTEGER constexpr METAL_FUNC bfloat operator op(I a, bfloat b) { return bfloat(a) op b; }
EMU_OPERATOR(+) EMU_OPERATOR(-) EMU_OPERATOR(*) EMU_OPERATOR(/)
#undef EMU_OPERATOR
#undef EMU_INTEGER
constexpr METAL_FUNC bfloat operator-(bfloat a) {
  a.bits ^= 0x8000;
  return a;
}
constexpr METAL_FUNC half operator""h(long double v) { return (half)v; }
constexpr METAL_FUNC half operator""h(unsigned long long v) { return (half)v; }

namespace metal {
EMU_TEST(is_floating_point, (is_same_v<T, float> || is_same_v<T, half> || is_same_v<T, bfloat>))
EMU_TEST(is_arithmetic, (is_integral_v<T> || is_floating_point_v<T>))
EMU_TEST(is_signed, (__is_signed(T) || is_floating_point_v<T>))

template <class T>
struct numeric_limits {
  static constexpr bool is_specialized = is_integral_v<T>, is_signed = is_signed_v<T>;
  static constexpr bool is_integer = true;
  static constexpr int digits = sizeof(T) * 8 - is_signed_v<T>;
  static constexpr T max() { return is_signed ? T((1ull << (sizeof(T) * 8 - 1)) - 1) : T(~0ull); }
  static constexpr T min() { return is_signed ? T(1ull << (sizeof(T) * 8 - 1)) : T(0); }
  static constexpr T lowest() { return min(); }
  static constexpr T infinity() { return T(0); }
  static constexpr T quiet_NaN() { return T(0); }
};
template <>
struct numeric_limits<bool> {
  static constexpr bool max() { return true; }
  static constexpr bool min() { return false; }
  static constexpr bool lowest() { return false; }
};
#define EMU_LIMITS(type, most, least, step)                                           \
  template <>                                                                         \
  struct numeric_limits<type> {                                                       \
    static constexpr bool is_specialized = true, is_signed = true, is_integer = false; \
    static constexpr type max() { return type(most); }                                \
    static constexpr type min() { return type(least); }                               \
    static constexpr type lowest() { return type(-(most)); }                          \
    static constexpr type epsilon() { return type(step); }                            \
    static constexpr type infinity() { return type(INFINITY); }                       \
    static constexpr type quiet_NaN() { return type(NAN); }                           \
    static constexpr type signaling_NaN() { return type(NAN); }                       \
  };
EMU_LIMITS(float, FLT_MAX, FLT_MIN, FLT_EPSILON)
EMU_LIMITS(half, 65504.0f, 6.103515625e-05f, 9.765625e-04f)
EMU_LIMITS(bfloat, 3.38953139e38f, FLT_MIN, 0.0078125f)
#undef EMU_LIMITS
}  // namespace metal
