// y = x W^T for a block of rows and weights quantized to 4 or 8 bits; each weight is
// read once for all rows.
//
// Every row is computed by the operations of MLX's one-row kernels, in the same order
// and the same expressions, so that a compiler contracts the same multiplications and
// additions: a row's bits do not depend on the other rows. `lanes` lanes share an
// output, and each takes `values` neighbouring weights per step. MLX's three kernels
// differ in these two numbers: qmv_fast has 32 lanes and two words, qmv 32 lanes and
// one word, qmv_quad 4 lanes and a quarter of the row.

#include <metal_stdlib>
using namespace metal;

// A lane's arrays are kept in registers only if every index is known at compile time.
#define UNROLL _Pragma("clang loop unroll(full)")

// Loads one lane's elements of a row, scaled to match weights that are masked but not
// shifted. Returns the sum of the elements before scaling.
template <typename T, int bits, int values>
METAL_FUNC float load_row(const device T* x, thread float* v) {
  float sum = 0;
  if (bits == 4) {
    UNROLL
    for (int i = 0; i < values; i += 4) {
      const float a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
      sum += a + b + c + d;
      v[i] = a;
      v[i + 1] = b / 16.0f;
      v[i + 2] = c / 256.0f;
      v[i + 3] = d / 4096.0f;
    }
  } else {
    UNROLL
    for (int i = 0; i < values; i++) {
      v[i] = x[i];
      sum += v[i];
    }
  }
  return sum;
}

// One lane's weights of one output.
template <typename T, int group_size, int bits, int values>
struct PackedWeights {
  uint words[values * bits / 32];
  float scale;
  float bias;

  // Loads values k, k + 1, ... of row `output`.
  void load(
      const device uint* w,
      const device T* scales,
      const device T* biases,
      size_t output,
      int K,
      int k) thread {
    w += output * (K * bits / 32) + k * bits / 32;
    UNROLL
    for (int i = 0; i < values * bits / 32; i++) {
      words[i] = w[i];
    }
    const size_t group = output * (K / group_size) + k / group_size;
    scale = scales[group];
    bias = biases[group];
  }

  // scale * (v . q) + bias * sum
  float dot(const thread float* v, float sum) const thread {
    float accum = 0;
    if (bits == 4) {
      UNROLL
      for (int i = 0; i < values / 4; i++) {
        const int q = (words[i / 2] >> (16 * (i % 2))) & 0xffff;
        accum +=
            (v[4 * i] * (q & 0x000f) + v[4 * i + 1] * (q & 0x00f0) +
             v[4 * i + 2] * (q & 0x0f00) + v[4 * i + 3] * (q & 0xf000));
      }
    } else {
      UNROLL
      for (int i = 0; i < values; i++) {
        const int q = (words[i / 4] >> (8 * (i % 4))) & 0xff;
        accum += v[i] * q;
      }
    }
    return scale * accum + sum * bias;
  }
};

template <int lanes>
METAL_FUNC float sum_of_lanes(float v) {
  return lanes == 4 ? quad_sum(v) : simd_sum(v);
}

// x: [M, K] with M at most `rows`; w: [N, K * bits / 32]; scales, biases:
// [N, K / group_size]; y: [M, N]. `simdgroup` counts over the whole grid. Each SIMD
// group computes `outputs` outputs per `lanes` lanes.
template <
    typename T,
    int group_size,
    int bits,
    int rows,
    int values,
    int lanes,
    int outputs>
METAL_FUNC void quantized_rows(
    const device T* x,
    const device uint* w,
    const device T* scales,
    const device T* biases,
    device T* y,
    int M,
    int K,
    int N,
    int simdgroup,
    int lane) {
  constexpr int apart = 32 / lanes;
  const int first = simdgroup * outputs * apart + lane / lanes;
  const int part = lane % lanes;
  float result[rows][outputs] = {{0}};

  // K is a multiple of 32, hence of `values`: a lane has all values of a step or none.
  for (int k = part * values; k < K; k += lanes * values) {
    PackedWeights<T, group_size, bits, values> weights[outputs];
    UNROLL
    for (int i = 0; i < outputs; i++) {
      // Outputs past the end repeat the last output and are not stored.
      const int output = min(first + i * apart, N - 1);
      weights[i].load(w, scales, biases, output, K, k);
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
      if (m < M) {
        float v[values];
        const float sum = load_row<T, bits, values>(x + m * K + k, v);
        UNROLL
        for (int i = 0; i < outputs; i++) {
          result[m][i] += weights[i].dot(v, sum);
        }
      }
    }
  }

  UNROLL
  for (int m = 0; m < rows; m++) {
    UNROLL
    for (int i = 0; i < outputs; i++) {
      const float total = sum_of_lanes<lanes>(result[m][i]);
      const int output = first + i * apart;
      if (part == 0 && m < M && output < N) {
        y[size_t(m) * N + output] = T(total);
      }
    }
  }
}
