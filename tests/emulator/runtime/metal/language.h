// Keywords, macros and scalar types of Metal.
#pragma once

#define __METAL__ 1
#define __METAL_VERSION__ 320
#define __METAL_MACOS__ 1
#define __HAVE_BFLOAT__ 1
#define __METAL_MAYBE_FAST_MATH__ false
#define __METAL_PRECISE_MATH__ false
#define __METAL_FAST_MATH__ true
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_INTERNAL inline
#define METAL_CONST __attribute__((const))
#define METAL_PURE __attribute__((pure))
#define METAL_ENABLE_IF(...)

// One flat address space, except in the syntax check with EMU_SPACES.
#ifdef EMU_SPACES
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#else
#define device
#define constant const  // read-only memory
#define threadgroup
#endif
#define thread
#define kernel
#define ray_data
#define object_data
#define threadgroup_imageblock
// Variables in threadgroup memory are in a section of their own.
#define EMU_THREADGROUP_VARIABLE static threadgroup __attribute__((section("emu_threadgroup")))
// Line and column of a call. A default argument of the functions that wait.
#define EMU_HERE ((emu::u32)__builtin_LINE() | (emu::u32)__builtin_COLUMN() << 20)
#define EMU_PLACE emu::u32 place = EMU_HERE

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long;
using size_t = unsigned long;
using ptrdiff_t = long;
using uintptr_t = unsigned long;
using intptr_t = long;
using half = _Float16;

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define MAXFLOAT 3.402823466e+38f
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define HALF_MAX ((half)65504.0f)
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define M_PI_F 3.14159265358979323846f
#define M_PI_H ((half)3.14159265358979323846f)
#define M_1_PI_F 0.318309886183790671538f
#define M_SQRT2_F 1.41421356237309504880f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_LOG2E_F 1.44269504088896340736f

template <class To, class From>
constexpr METAL_FUNC To as_type(const From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs equal sizes");
  if constexpr (__is_trivially_copyable(To) && __is_trivially_copyable(From)) {
    return __builtin_bit_cast(To, from);
  } else {
    To to;
    __builtin_memcpy((void*)&to, (const void*)&from, sizeof to);
    return to;
  }
}
