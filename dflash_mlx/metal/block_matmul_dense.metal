// y = x W^T for a block of rows and weights that are not packed; each weight is read
// once for all rows.
//
// Every row goes through the operations of MLX's one-row kernel (gemv), in its order
// and in its expressions, so that a compiler contracts the same multiplications and
// additions: a row's bits do not depend on the rows beside it. `lanes` lanes of each
// of `split` SIMD groups share an output, and each takes 4 neighbouring weights at a
// step.

#include <metal_stdlib>
using namespace metal;

// Arrays of a lane live in registers only where every index is known.
#define UNROLL _Pragma("clang loop unroll(full)")

// The next 4 elements; zeros past the `left` that there are, if tail.
template <typename T, bool tail>
METAL_FUNC void load_four(const device T* from, int left, thread float* v) {
  UNROLL
  for (int j = 0; j < 4; j++) {
    v[j] = !tail || j < left ? float(from[j]) : 0.0f;
  }
}

// Adds what elements k to k + 3 give to each row and output.
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

// Leaves the sum over `lanes` neighbouring lanes in the first of them.
template <int lanes>
METAL_FUNC float sum_downwards(float v) {
  UNROLL
  for (ushort apart = lanes / 2; apart >= 1; apart >>= 1) {
    v += simd_shuffle_down(v, apart);
  }
  return v;
}

// Adds up one of `count` elements over the SIMD groups, in their order.
template <int split, int count>
METAL_FUNC float sum_of_parts(const threadgroup float* shared, int element) {
  float total = shared[element];
  UNROLL
  for (int p = 1; p < split; p++) {
    total += shared[p * count + element];
  }
  return total;
}

// x: [M, K] with M at most `rows`; w: [N, K]; y: [M, N]; shared: split * rows *
// outputs floats. `simdgroup` counts over the whole grid; each has `outputs` outputs
// for every `lanes` of its lanes, the same ones as the others of its threadgroup if
// `split` > 1.
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
    // Outputs past the end repeat the last one and are not stored.
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
