// Builtins of Apple's compiler that MLX's headers for bfloat16 and complex numbers call,
// and parts of the library that are declared but never called.
#pragma once

#define EMU_NAME(n) METAL_FUNC float __metal_##n(float x, bool) { return metal::n(x); }
EMU_NAME(fabs) EMU_NAME(acos) EMU_NAME(acosh) EMU_NAME(asin) EMU_NAME(asinh) EMU_NAME(atan)
EMU_NAME(atanh) EMU_NAME(ceil) EMU_NAME(cos) EMU_NAME(cosh) EMU_NAME(cospi) EMU_NAME(exp)
EMU_NAME(exp10) EMU_NAME(exp2) EMU_NAME(floor) EMU_NAME(fract) EMU_NAME(log) EMU_NAME(log10)
EMU_NAME(log2) EMU_NAME(rint) EMU_NAME(round) EMU_NAME(rsqrt) EMU_NAME(sin) EMU_NAME(sinh)
EMU_NAME(sinpi) EMU_NAME(sqrt) EMU_NAME(tan) EMU_NAME(tanh) EMU_NAME(tanpi) EMU_NAME(trunc)
#undef EMU_NAME
#define EMU_NAME(n) \
  METAL_FUNC float __metal_##n(float x, float y, bool) { return metal::n(x, y); }
EMU_NAME(atan2) EMU_NAME(divide) EMU_NAME(fmax) EMU_NAME(fmin) EMU_NAME(fmod) EMU_NAME(pow)
EMU_NAME(powr)
#undef EMU_NAME
#define EMU_NAME(n) \
  METAL_FUNC float __metal_##n(float x, float y, float z, bool) { return metal::n(x, y, z); }
EMU_NAME(fma) EMU_NAME(fmax3) EMU_NAME(fmin3) EMU_NAME(fmedian3)
#undef EMU_NAME
METAL_FUNC float __metal_fma(float a, float b, float c) { return metal::fma(a, b, c); }
METAL_FUNC float __metal_nextafter(float x, float y) { return metal::nextafter(x, y); }
METAL_FUNC float __metal_frexp(float x, thread int* e) { return metal::frexp(x, *e); }
METAL_FUNC float __metal_ldexp(float x, int e, bool) { return metal::ldexp(x, e); }
METAL_FUNC ushort __metal_get_simdgroup_size(ushort = 0) { return emu::simd_width; }

#define EMU_NAME(n)                                  \
  template <class T>                                 \
  METAL_FUNC T __metal_##n(T x, EMU_PLACE) {         \
    return metal::n(x, place);                       \
  }
EMU_NAME(simd_max) EMU_NAME(simd_min) EMU_NAME(simd_sum) EMU_NAME(simd_product)
EMU_NAME(simd_prefix_exclusive_product) EMU_NAME(simd_prefix_exclusive_sum)
EMU_NAME(simd_prefix_inclusive_product) EMU_NAME(simd_prefix_inclusive_sum)
#undef EMU_NAME
float __metal_simd_xor(float);  // mentioned for bfloat16, but never called
#define EMU_NAME(n)                                  \
  template <class T>                                 \
  METAL_FUNC T __metal_##n(T x, ushort d, EMU_PLACE) { \
    return metal::n(x, d, place);                    \
  }
EMU_NAME(simd_broadcast) EMU_NAME(simd_shuffle) EMU_NAME(simd_shuffle_xor)
EMU_NAME(simd_shuffle_up) EMU_NAME(simd_shuffle_down) EMU_NAME(simd_shuffle_rotate_up)
EMU_NAME(simd_shuffle_rotate_down)
#undef EMU_NAME
#define EMU_NAME(n)                                              \
  template <class T>                                             \
  METAL_FUNC T __metal_##n(T x, T fill, ushort d, ushort, EMU_PLACE) { \
    return metal::n(x, fill, d, place);                          \
  }
EMU_NAME(simd_shuffle_and_fill_up) EMU_NAME(simd_shuffle_and_fill_down)
#undef EMU_NAME

namespace metal {
struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... A>
  void log_debug(const char*, A...) const {}
  template <class... A>
  void log_info(const char*, A...) const {}
  template <class... A>
  void log(const char*, A...) const {}
};
METAL_FUNC bool is_null_texture(...) { return true; }
template <class T>
constexpr bool is_function_constant_defined(const T&) { return true; }
}  // namespace metal

// The value of a function constant by its index; a program begins with specialisations.
namespace emu {
template <int>
constexpr double function_constant = 0;
}
