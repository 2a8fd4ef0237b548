// simdgroup_matrix, 8x8: a lane holds two neighbouring elements of one row, as MLX's steel
// kernels assume. Option mma_order chooses the order of a product's sum.
#pragma once

namespace emu {
METAL_FUNC uint matrix_row(uint lane) { return (lane >> 4 << 2) | (lane >> 1 & 3); }
METAL_FUNC uint matrix_column(uint lane) { return (lane >> 3 & 1) << 2 | (lane & 1) << 1; }

template <class A, class B, class C>
struct Factors {
  A a[2];
  B b[2];
  C c[2];
};

// c + the dot product of 8 elements of a and b.
inline float matrix_sum(const float* a, const float* b, float c) {
  float p[8];
  double sum = c;
  switch (options.mma_order) {
    case 0:
      for (int k = 0; k < 8; k++) c = __builtin_fmaf(a[k], b[k], c);
      return c;
    case 1:
      for (int k = 0; k < 8; k++) {
        const float product = a[k] * b[k];
        c += product;
      }
      return c;
    case 2:
      for (int k = 0; k < 8; k++) p[k] = a[k] * b[k];
      return c + (((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7])));
  }
  for (int k = 0; k < 8; k++) sum += (double)a[k] * (double)b[k];
  return (float)sum;
}

template <class A, class B, class C>
inline __attribute__((noinline)) void multiply(const LaneValues<Factors<A, B, C>>& values) {
  float a[8][8], b[8][8], c[8][8], d[8][8];  // b by columns
  for (uint lane = 0; lane < simd_width; lane++) {
    const auto factors = values[lane];
    const uint row = matrix_row(lane), column = matrix_column(lane);
    for (int k = 0; k < 2; k++) {
      a[row][column + k] = (float)factors.a[k];
      b[column + k][row] = (float)factors.b[k];
      c[row][column + k] = (float)factors.c[k];
    }
  }
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 8; j++) d[i][j] = matrix_sum(a[i], b[j], c[i][j]);
  __builtin_memcpy(values.simd->result, d, sizeof d);
  values.simd->result_turn = values.simd->turn;
}

#ifdef EMU_SPACES
template <class T>
T value_of(const device T&);
template <class T>
T value_of(const threadgroup T&);
template <class T>
T value_of(const constant T&);
#endif
template <class T>
T value_of(const T&);
}  // namespace emu

namespace metal {
template <class T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "only 8x8 matrices exist");
  vec<T, 2> elements;
  simdgroup_matrix() = default;
  constexpr explicit simdgroup_matrix(T v) : elements(v, v) {}
  METAL_FUNC thread vec<T, 2>& thread_elements() { return elements; }
  METAL_FUNC const thread vec<T, 2>& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int R = 8, int C = 8>
METAL_FUNC simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T v) {
  return simdgroup_matrix<T, R, C>(v);
}
template <class T, int R = 8, int C = 8>
METAL_FUNC simdgroup_matrix<T, R, C> make_diagonal_simdgroup_matrix(T v) {
  simdgroup_matrix<T, R, C> m(T(0));
  const uint lane = emu::current->lane;
  for (uint k = 0; k < 2; k++)
    if (emu::matrix_row(lane) == emu::matrix_column(lane) + k) m.elements[k] = v;
  return m;
}

#define EMU_SAME_TYPE(pointer)                                                             \
  static_assert(is_same_v<remove_cv_t<decltype(emu::value_of(*pointer))>, T>,              \
                "element type differs from the matrix type")
// The address of element k of a lane.
METAL_FUNC ulong matrix_place(uint k, ulong per_row, ulong2 origin, bool transposed) {
  const uint lane = emu::current->lane;
  const ulong row = emu::matrix_row(lane), column = emu::matrix_column(lane) + k;
  const ulong y = origin.y + (transposed ? column : row);
  return y * per_row + origin.x + (transposed ? row : column);
}
template <class T, class P>
METAL_FUNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, P from, ulong per_row = 8,
                               ulong2 origin = ulong2(0, 0), bool transposed = false) {
  EMU_SAME_TYPE(from);
  for (uint k = 0; k < 2; k++)
    m.elements[k] = from[matrix_place(k, per_row, origin, transposed)];
}
template <class T, class P>
METAL_FUNC void simdgroup_store(simdgroup_matrix<T, 8, 8> m, P to, ulong per_row = 8,
                                ulong2 origin = ulong2(0, 0), bool transposed = false) {
  EMU_SAME_TYPE(to);
  for (uint k = 0; k < 2; k++)
    to[matrix_place(k, per_row, origin, transposed)] = m.elements[k];
}
#undef EMU_SAME_TYPE

template <class D, class A, class B, class C>
METAL_FUNC void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d,
                                              simdgroup_matrix<A, 8, 8> a,
                                              simdgroup_matrix<B, 8, 8> b,
                                              simdgroup_matrix<C, 8, 8> c, EMU_PLACE) {
  const emu::Factors<A, B, C> own{{a.elements[0], a.elements[1]},
                                  {b.elements[0], b.elements[1]},
                                  {c.elements[0], c.elements[1]}};
  const auto values = emu::exchange(own, "simdgroup_multiply_accumulate", place);
  if (values.simd->active != emu::every_lane)
    emu::fail("simdgroup_multiply_accumulate with inactive lanes");
  if (values.simd->result_turn != values.simd->turn) emu::multiply(values);
  const uint first = emu::matrix_row(values.lane) * 8 + emu::matrix_column(values.lane);
  float pair[2];
  __builtin_memcpy(pair, values.simd->result + 4 * first, sizeof pair);
  for (int k = 0; k < 2; k++) d.elements[k] = D(pair[k]);
}
template <class D, class A, class B>
METAL_FUNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d,
                                   simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b,
                                   EMU_PLACE) {
  simdgroup_multiply_accumulate(d, a, b, simdgroup_matrix<D, 8, 8>(D(0)), place);
}
template <class T>
METAL_FUNC simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a,
                                               simdgroup_matrix<T, 8, 8> b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}
}  // namespace metal
