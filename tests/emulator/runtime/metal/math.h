// Floating-point functions. precise:: rounds correctly. The default and fast:: functions
// have the precision of option exp_mode, because Apple does not specify them to the bit.
#pragma once

namespace emu {
// An error of up to 2 units in the last place that depends on the argument only.
METAL_FUNC float roughly(float result, float x) {
  const bool ordinary = result > -3e38f && result < 3e38f && result != 0;
  if (options.exp_mode != 2 || !ordinary) return result;
  const int off = (int)((as_type<uint>(x) * 2654435761u) >> 29) % 5 - 2;
  return as_type<float>(as_type<int>(result) + off);
}
constexpr double pi = 3.14159265358979323846L;
}  // namespace emu

namespace metal {
// Defines one function of `x`, a double: precise for float and half, rough for float.
#define EMU_ROUGH(name)                                                                   \
  namespace fast {                                                                        \
  METAL_FUNC float name(float x) { return emu::roughly(precise::name(x), x); }            \
  METAL_FUNC half name(half x) { return precise::name(x); }                               \
  }                                                                                       \
  using fast::name;
#define EMU_PRECISE(name, expression)                                                     \
  namespace precise {                                                                     \
  METAL_FUNC float name(float v) { const double x = v; return (float)(expression); }      \
  METAL_FUNC half name(half v) { const double x = v; return (half)(float)(expression); }  \
  }
#define EMU_FUNCTION(name, expression) EMU_PRECISE(name, expression) EMU_ROUGH(name)
EMU_FUNCTION(exp2, __builtin_exp2(x))
EMU_FUNCTION(exp10, __builtin_exp10(x))
EMU_FUNCTION(log, __builtin_log(x))
EMU_FUNCTION(log2, __builtin_log2(x))
EMU_FUNCTION(log10, __builtin_log10(x))
EMU_FUNCTION(sin, __builtin_sin(x))
EMU_FUNCTION(cos, __builtin_cos(x))
EMU_FUNCTION(tan, __builtin_tan(x))
EMU_FUNCTION(asin, __builtin_asin(x))
EMU_FUNCTION(acos, __builtin_acos(x))
EMU_FUNCTION(atan, __builtin_atan(x))
EMU_FUNCTION(sinh, __builtin_sinh(x))
EMU_FUNCTION(cosh, __builtin_cosh(x))
EMU_FUNCTION(tanh, __builtin_tanh(x))
EMU_FUNCTION(asinh, __builtin_asinh(x))
EMU_FUNCTION(acosh, __builtin_acosh(x))
EMU_FUNCTION(atanh, __builtin_atanh(x))
EMU_FUNCTION(sinpi, __builtin_sin(x * emu::pi))
EMU_FUNCTION(cospi, __builtin_cos(x * emu::pi))
EMU_FUNCTION(tanpi, __builtin_tan(x * emu::pi))
EMU_FUNCTION(sqrt, __builtin_sqrt(x))
EMU_FUNCTION(rsqrt, 1.0L / __builtin_sqrt(x))
EMU_PRECISE(exp, __builtin_exp(x))
namespace fast {
METAL_FUNC float exp(float x) {
  if (emu::options.exp_mode == 1) return __builtin_exp2f(x * M_LOG2E_F);
  return emu::roughly(precise::exp(x), x);
}
METAL_FUNC half exp(half x) { return precise::exp(x); }
}  // namespace fast
using fast::exp;

namespace precise {
METAL_FUNC float pow(float x, float y) { return (float)__builtin_pow((double)x, (double)y); }
METAL_FUNC half pow(half x, half y) { return (half)pow((float)x, (float)y); }
METAL_FUNC float powr(float x, float y) { return pow(x, y); }
METAL_FUNC float atan2(float y, float x) { return (float)__builtin_atan2((double)y, (double)x); }
METAL_FUNC float divide(float x, float y) { return x / y; }
METAL_FUNC float fmod(float x, float y) { return __builtin_fmodf(x, y); }
}  // namespace precise
namespace fast {
using precise::atan2, precise::divide, precise::fmod, precise::pow, precise::powr;
}
using precise::atan2, precise::divide, precise::fmod, precise::pow, precise::powr;

// Exact functions, the same in all three namespaces.
#define EMU_EXACT(name, expression)                                            \
  METAL_FUNC float name(float x) { return expression; }                        \
  METAL_FUNC half name(half v) { const float x = v; return (half)(expression); } \
  namespace fast { using metal::name; }                                        \
  namespace precise { using metal::name; }
EMU_EXACT(fabs, __builtin_fabsf(x))
EMU_EXACT(abs, __builtin_fabsf(x))
EMU_EXACT(floor, __builtin_floorf(x))
EMU_EXACT(ceil, __builtin_ceilf(x))
EMU_EXACT(trunc, __builtin_truncf(x))
EMU_EXACT(rint, __builtin_rintf(x))
EMU_EXACT(round, __builtin_roundf(x))
EMU_EXACT(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f))
EMU_EXACT(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))
EMU_EXACT(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : x)

METAL_FUNC float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
METAL_FUNC half fma(half a, half b, half c) {
  return (half)(float)((double)a * (double)b + (double)c);
}
METAL_FUNC float fmax(float a, float b) { return __builtin_fmaxf(a, b); }
METAL_FUNC float fmin(float a, float b) { return __builtin_fminf(a, b); }
METAL_FUNC half fmax(half a, half b) { return (half)__builtin_fmaxf(a, b); }
METAL_FUNC half fmin(half a, half b) { return (half)__builtin_fminf(a, b); }
METAL_FUNC float fmax3(float a, float b, float c) { return fmax(a, fmax(b, c)); }
METAL_FUNC float fmin3(float a, float b, float c) { return fmin(a, fmin(b, c)); }
METAL_FUNC float fmedian3(float a, float b, float c) {
  return fmax(fmin(a, b), fmin(fmax(a, b), c));
}
METAL_FUNC float copysign(float a, float b) { return __builtin_copysignf(a, b); }
METAL_FUNC float ldexp(float a, int b) { return __builtin_ldexpf(a, b); }
METAL_FUNC float frexp(float a, thread int& e) { return __builtin_frexpf(a, &e); }
METAL_FUNC float nextafter(float a, float b) { return __builtin_nextafterf(a, b); }
METAL_FUNC float modf(float x, thread float& whole) {
  whole = __builtin_truncf(x);
  return x - whole;
}
METAL_FUNC float sincos(float x, thread float& c) {
  c = cos(x);
  return sin(x);
}
METAL_FUNC bool signbit(float x) { return __builtin_signbit(x); }

#define EMU_CLASS(name)                                                                   \
  METAL_FUNC constexpr bool name(float x) { return __builtin_##name(x); }                 \
  METAL_FUNC constexpr bool name(half x) { return __builtin_##name((float)x); }           \
  METAL_FUNC constexpr bool name(bfloat x) { return __builtin_##name((float)x); }         \
  template <int N>                                                                        \
  METAL_FUNC vec<bool, N> name(vec<float, N> x) {                                         \
    vec<bool, N> r;                                                                       \
    for (int i = 0; i < N; i++) r[i] = name(x[i]);                                        \
    return r;                                                                             \
  }
EMU_CLASS(isnan) EMU_CLASS(isinf) EMU_CLASS(isfinite) EMU_CLASS(isnormal)
#undef EMU_CLASS

// Overloads and not templates, so that arguments of two types are ambiguous, as in Metal.
#define EMU_COMPARE(t, min_of, max_of)                                                    \
  METAL_FUNC constexpr t min(t a, t b) { return min_of; }                                 \
  METAL_FUNC constexpr t max(t a, t b) { return max_of; }                                 \
  METAL_FUNC constexpr t clamp(t x, t low, t high) { return min(max(x, low), high); }     \
  METAL_FUNC constexpr t min3(t a, t b, t c) { return min(a, min(b, c)); }                \
  METAL_FUNC constexpr t max3(t a, t b, t c) { return max(a, max(b, c)); }                \
  METAL_FUNC t select(t a, t b, bool c) { return c ? b : a; }
#define EMU_INTEGER(t) EMU_COMPARE(t, b < a ? b : a, a < b ? b : a)
EMU_INTEGER(char) EMU_INTEGER(int8_t) EMU_INTEGER(uchar) EMU_INTEGER(short) EMU_INTEGER(ushort)
EMU_INTEGER(int) EMU_INTEGER(uint) EMU_INTEGER(long) EMU_INTEGER(ulong) EMU_INTEGER(long long)
EMU_INTEGER(unsigned long long)
// Of a number and NaN, the number.
#define EMU_FLOAT(t)                                                                      \
  EMU_COMPARE(t, a != a ? b : b < a ? b : a, a != a ? b : a < b ? b : a)                  \
  METAL_FUNC t mix(t a, t b, t f) { return a + (b - a) * f; }                             \
  METAL_FUNC t step(t edge, t x) { return x < edge ? t(0) : t(1); }                       \
  METAL_FUNC t smoothstep(t a, t b, t x) {                                                \
    const t u = clamp((x - a) / (b - a), t(0), t(1));                                     \
    return u * u * (t(3) - t(2) * u);                                                     \
  }
EMU_FLOAT(float) EMU_FLOAT(half)
#undef EMU_FLOAT
#undef EMU_INTEGER
#undef EMU_COMPARE
METAL_FUNC bool select(bool a, bool b, bool c) { return c ? b : a; }
METAL_FUNC bfloat select(bfloat a, bfloat b, bool c) { return c ? b : a; }
#define EMU_SAME(name)                  \
  namespace fast { using metal::name; } \
  namespace precise { using metal::name; }
EMU_SAME(fma) EMU_SAME(fmax) EMU_SAME(fmin) EMU_SAME(max) EMU_SAME(min) EMU_SAME(clamp)
#undef EMU_SAME

// Functions of vectors, by component.
#define EMU_EACH(name)                                           \
  template <class T, int N>                                      \
  METAL_FUNC vec<T, N> name(vec<T, N> x) {                       \
    for (int i = 0; i < N; i++) x[i] = name(x[i]);               \
    return x;                                                    \
  }
EMU_EACH(exp) EMU_EACH(exp2) EMU_EACH(log) EMU_EACH(log2) EMU_EACH(sqrt) EMU_EACH(rsqrt)
EMU_EACH(fabs) EMU_EACH(abs) EMU_EACH(floor) EMU_EACH(ceil) EMU_EACH(round) EMU_EACH(rint)
EMU_EACH(trunc) EMU_EACH(tanh) EMU_EACH(sin) EMU_EACH(cos) EMU_EACH(saturate)
namespace fast { EMU_EACH(exp) EMU_EACH(exp2) EMU_EACH(log) EMU_EACH(log2) }
namespace precise { EMU_EACH(exp) EMU_EACH(exp2) EMU_EACH(log) EMU_EACH(log2) }
#define EMU_EACH2(name)                                          \
  template <class T, int N>                                      \
  METAL_FUNC vec<T, N> name(vec<T, N> x, vec<T, N> y) {          \
    for (int i = 0; i < N; i++) x[i] = name(x[i], y[i]);         \
    return x;                                                    \
  }                                                              \
  template <class T, int N>                                      \
  METAL_FUNC vec<T, N> name(vec<T, N> x, T y) {                  \
    return name(x, vec<T, N>(y));                                \
  }
EMU_EACH2(min) EMU_EACH2(max) EMU_EACH2(fmin) EMU_EACH2(fmax) EMU_EACH2(pow)
#undef EMU_EACH
#undef EMU_EACH2
#define EMU_VECTOR template <class T, int N> METAL_FUNC
EMU_VECTOR vec<T, N> clamp(vec<T, N> x, vec<T, N> low, vec<T, N> high) {
  return min(max(x, low), high);
}
EMU_VECTOR vec<T, N> fma(vec<T, N> x, vec<T, N> y, vec<T, N> z) {
  for (int i = 0; i < N; i++) x[i] = fma(x[i], y[i], z[i]);
  return x;
}
EMU_VECTOR vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  for (int i = 0; i < N; i++) a[i] = c[i] ? b[i] : a[i];
  return a;
}
EMU_VECTOR T dot(vec<T, N> a, vec<T, N> b) {
  T sum = a[0] * b[0];
  for (int i = 1; i < N; i++) sum += a[i] * b[i];
  return sum;
}
EMU_VECTOR T length(vec<T, N> a) { return sqrt(dot(a, a)); }
EMU_VECTOR vec<T, N> normalize(vec<T, N> a) { return a / length(a); }
#undef EMU_VECTOR
template <int N>
METAL_FUNC bool all(vec<bool, N> a) {
  for (int i = 0; i < N; i++)
    if (!a[i]) return false;
  return true;
}
template <int N>
METAL_FUNC bool any(vec<bool, N> a) { return !all(!a); }
}  // namespace metal
