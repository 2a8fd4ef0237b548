// Functions of integers and bits.
#pragma once

namespace metal {
#define EMU_SIGNED(t) \
  METAL_FUNC constexpr t abs(t x) { return x < 0 ? (t)-x : x; }
#define EMU_UNSIGNED(t) \
  METAL_FUNC constexpr t abs(t x) { return x; }
EMU_SIGNED(char) EMU_SIGNED(int8_t) EMU_SIGNED(short) EMU_SIGNED(int) EMU_SIGNED(long)
EMU_UNSIGNED(uchar) EMU_UNSIGNED(ushort) EMU_UNSIGNED(uint) EMU_UNSIGNED(ulong)
#undef EMU_SIGNED
#undef EMU_UNSIGNED

METAL_FUNC uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
METAL_FUNC int clz(int x) { return x ? __builtin_clz(x) : 32; }
METAL_FUNC ulong clz(ulong x) { return x ? __builtin_clzl(x) : 64; }
METAL_FUNC uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
METAL_FUNC int ctz(int x) { return x ? __builtin_ctz(x) : 32; }
METAL_FUNC ulong ctz(ulong x) { return x ? __builtin_ctzl(x) : 64; }
METAL_FUNC uchar popcount(uchar x) { return __builtin_popcount(x); }
METAL_FUNC ushort popcount(ushort x) { return __builtin_popcount(x); }
METAL_FUNC uint popcount(uint x) { return __builtin_popcount(x); }
METAL_FUNC int popcount(int x) { return __builtin_popcount(x); }
METAL_FUNC ulong popcount(ulong x) { return __builtin_popcountl(x); }
METAL_FUNC uint reverse_bits(uint x) { return __builtin_bitreverse32(x); }
METAL_FUNC uint rotate(uint x, uint n) { return __builtin_rotateleft32(x, n); }
METAL_FUNC uint mulhi(uint a, uint b) { return (ulong)a * b >> 32; }
METAL_FUNC int mulhi(int a, int b) { return (long)a * b >> 32; }
METAL_FUNC ulong mulhi(ulong a, ulong b) { return (unsigned __int128)a * b >> 64; }

template <class T>
METAL_FUNC T extract_bits(T x, uint offset, uint count) {
  constexpr uint size = sizeof(T) * 8;
  if (count == 0) return T(0);
  const T high = T(make_unsigned_t<T>(x) << (size - offset - count));
  return T(high >> (size - count));
}
template <class T>
METAL_FUNC T insert_bits(T base, T bits, uint offset, uint count) {
  const T ones = count >= sizeof(T) * 8 ? T(~0ull) : T((T(1) << count) - 1);
  return (base & ~T(ones << offset)) | T((bits & ones) << offset);
}
METAL_FUNC float4 unpack_unorm4x8_to_float(uint p) {
  return float4(p & 255, p >> 8 & 255, p >> 16 & 255, p >> 24) / 255.0f;
}
}  // namespace metal
