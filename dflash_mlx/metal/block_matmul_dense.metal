// y = x W^T for a block of rows and weights that are not quantized; each weight is read
// once for all rows.
//
// Every row is computed by the operations of MLX's one-row kernel (gemv), in the same
// order and the same expressions, so that a compiler contracts the same multiplications
// and additions: a row's bits do not depend on the other rows. `lanes` lanes of each of
// `split` SIMD groups share an output, and each takes 4 neighbouring weights per step.

#include <metal_stdlib>
using namespace metal;

// A lane's arrays are kept in registers only if every index is known at compile time.
#define UNROLL _Pragma("clang loop unroll(full)")

// Loads 4 elements. With `tail`, those from index `left` on are 0.
template <typename T, bool tail>
METAL_FUNC void load_four(const device T* from, int left, thread float* v) {
  UNROLL
  for (int j = 0; j < 4; j++) {
    v[j] = !tail || j < left ? float(from[j]) : 0.0f;
  }
}

// Adds the products of elements k to k + 3 to the sum of each row and output.
template <typename T, int rows, int outputs, bool tail>
METAL_FUNC void dense_step(
    const device T* x,
    const device T* w,
    const thread size_t* at,
    int M,
    int K,
    int k,
    thread float* result) {
  float a[outputs][4];
  UNROLL
  for (int i = 0; i < outputs; i++) {
    load_four<T, tail>(w + at[i] + k, K - k, a[i]);
  }
  UNROLL
  for (int m = 0; m < rows; m++) {
    if (m < M) {
      float v[4];
      load_four<T, tail>(x + m * K + k, K - k, v);
      UNROLL
      for (int i = 0; i < outputs; i++) {
        UNROLL
        for (int j = 0; j < 4; j++) {
          result[m * outputs + i] += a[i][j] * v[j];
        }
      }
    }
  }
}

// The sum over `lanes` neighbouring lanes, valid in the first of them.
template <int lanes>
METAL_FUNC float sum_downwards(float v) {
  UNROLL
  for (ushort apart = lanes / 2; apart >= 1; apart >>= 1) {
    v += simd_shuffle_down(v, apart);
  }
  return v;
}

// The sum of one of `count` elements over the SIMD groups, in ascending order.
template <int split, int count>
METAL_FUNC float sum_of_parts(const threadgroup float* shared, int element) {
  float total = shared[element];
  UNROLL
  for (int p = 1; p < split; p++) {
    total += shared[p * count + element];
  }
  return total;
}

// x: [M, K] with M at most `rows`; w: [N, K]; y: [M, N]; shared: split * rows * outputs
// floats. `simdgroup` counts over the whole grid. Each SIMD group computes `outputs`
// outputs per `lanes` lanes; with `split` > 1 the SIMD groups of a threadgroup compute
// the same outputs.
template <typename T, int rows, int lanes, int split, int outputs>
METAL_FUNC void dense_rows(
    const device T* x,
    const device T* w,
    device T* y,
    int M,
    int K,
    int N,
    threadgroup float* shared,
    int simdgroup,
    int lane) {
  constexpr int apart = 32 / lanes;
  constexpr int step = 4 * lanes * split;
  constexpr int count = rows * outputs;
  const int first = simdgroup / split * outputs * apart + lane / lanes;
  const int part = simdgroup % split;
  const bool leads = lane % lanes == 0;
  float result[count] = {0};
  size_t at[outputs];
  UNROLL
  for (int i = 0; i < outputs; i++) {
    // Outputs past the end repeat the last output and are not stored.
    at[i] = size_t(min(first + i * apart, N - 1)) * K;
  }

  int k = 4 * (part * lanes + lane % lanes), left = K;
  for (; left >= step; left -= step, k += step) {
    dense_step<T, rows, outputs, false>(x, w, at, M, K, k, result);
  }
  if (left > 0) {
    dense_step<T, rows, outputs, true>(x, w, at, M, K, k, result);
  }

  UNROLL
  for (int e = 0; e < count; e++) {
    const float total = sum_downwards<lanes>(result[e]);
    const int m = e / outputs, output = first + e % outputs * apart;
    if (split > 1 && leads) {
      shared[part * count + e] = total;
    } else if (leads && m < M && output < N) {
      y[size_t(m) * N + output] = T(total);
    }
  }
  if (split > 1) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int e = part * 32 + lane;
    const int m = e / outputs, output = first - lane / lanes + e % outputs;
    if (e < count && m < M && output < N) {
      y[size_t(m) * N + output] = T(sum_of_parts<split, count>(shared, e));
    }
  }
}
