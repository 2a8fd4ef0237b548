// Conversions to a kernel's arguments, for the generated entry point.
#pragma once

namespace emu {
struct Pointer {
  void* at;
  template <class T>
  METAL_FUNC operator T*() const { return (T*)at; }
};
struct Reference {
  void* at;
  template <class T>
  METAL_FUNC operator T&() const { return *(T*)at; }
};
// A position or size, converted to the type that the kernel declares.
struct Triple {
  const u32* v;
  METAL_FUNC operator uint() const { return v[0]; }
  METAL_FUNC operator ushort() const { return v[0]; }
  METAL_FUNC operator int() const { return v[0]; }
  METAL_FUNC operator uint2() const { return uint2(v[0], v[1]); }
  METAL_FUNC operator ushort2() const { return ushort2(v[0], v[1]); }
  METAL_FUNC operator uint3() const { return uint3(v[0], v[1], v[2]); }
  METAL_FUNC operator ushort3() const { return ushort3(v[0], v[1], v[2]); }
};
}  // namespace emu
