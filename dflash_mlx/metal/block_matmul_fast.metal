// y = x W^T for a block of rows by 8x8 matrix units; each weight is read once for all
// rows.
//
// A tile of weights is 8 outputs x 8 values, a tile of x is 8 values x 8 rows, and
// their products are added in float. Any 8 values can form a tile, if both tiles have
// the same: here value i of the j-th of 16 products is number 16 i + j of 128. So a
// lane reads 32 consecutive weights and unpacks them in its own registers. The SIMD
// groups of a threadgroup take different values of the same outputs.

#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

// A lane's arrays are kept in registers only if every index is known at compile time.
#define UNROLL _Pragma("clang loop unroll(full)")

static constant constexpr const int STEP = 128; // values in 16 products
static constant constexpr const int TILE = 64; // elements of a tile

// Row and column of the first of the lane's two neighbouring elements of a tile.
METAL_FUNC int tile_row(int lane) {
  return (lane / 16) * 4 + (lane / 2) % 4;
}
METAL_FUNC int tile_column(int lane) {
  return (lane / 8) % 2 * 4 + (lane % 2) * 2;
}

// 32 weights of one output, quantized to `bits` bits.
template <typename T, int group_size, int bits>
struct PackedRow {
  const device uint* w;
  const device T* scales;
  const device T* biases;
  uint words[bits];
  float scale;
  float bias;

  // Loads values k to k + 31 of K. With `tail`, they may lie past the end, all of them.
  template <bool tail>
  void load(int k, int K) thread {
    const bool there = !tail || k < K;
    UNROLL
    for (int i = 0; i < bits; i++) {
      words[i] = there ? w[k / 32 * bits + i] : 0;
    }
    scale = there ? float(scales[k / group_size]) : 0.0f;
    bias = there ? float(biases[k / group_size]) : 0.0f;
  }

  template <bool tail>
  float at(int i) const thread {
    constexpr int in_word = 32 / bits;
    const uint q = words[i / in_word] >> (i % in_word * bits);
    return scale * (q & ((1u << bits) - 1)) + bias;
  }
};

// 32 weights of one output that are not quantized.
template <typename T>
struct PlainRow {
  const device T* w;
  const device T* from;
  int left;

  template <bool tail>
  void load(int k, int K) thread {
    from = w + k;
    left = K - k;
  }

  template <bool tail>
  float at(int i) const thread {
    return !tail || i < left ? float(from[i]) : 0.0f;
  }
};

// Adds products j to j + 3 of a step to `sums`, [tiles][blocks].
template <typename Row, typename T, int blocks, int tiles, bool tail>
METAL_FUNC void four_products(
    const thread Row* w,
    const device T* x,
    int M,
    int K,
    int k,
    int j,
    int lane,
    thread simdgroup_float8x8* sums) {
  const int from = k + 16 * tile_row(lane) + j;
  float v[blocks][2][4];
  UNROLL
  for (int b = 0; b < blocks; b++) {
    UNROLL
    for (int e = 0; e < 2; e++) {
      // Rows past the end repeat the last row and are not stored.
      const int m = min(8 * b + tile_column(lane) + e, M - 1);
      UNROLL
      for (int i = 0; i < 4; i++) {
        v[b][e][i] = !tail || from + i < K ? float(x[m * K + from + i]) : 0.0f;
      }
    }
  }
  UNROLL
  for (int i = 0; i < 4; i++) {
    UNROLL
    for (int t = 0; t < tiles; t++) {
      simdgroup_float8x8 weights, values;
      weights.thread_elements()[0] = w[t].template at<tail>(j + i);
      weights.thread_elements()[1] = w[t].template at<tail>(16 + j + i);
      UNROLL
      for (int b = 0; b < blocks; b++) {
        values.thread_elements()[0] = v[b][0][i];
        values.thread_elements()[1] = v[b][1][i];
        thread simdgroup_float8x8& sum = sums[t * blocks + b];
        simdgroup_multiply_accumulate(sum, weights, values, sum);
      }
    }
  }
}

// Adds the products of values k to k + STEP - 1; zeros past K, if tail.
template <typename Row, typename T, int blocks, int tiles, bool tail>
METAL_FUNC void one_step(
    thread Row* w,
    const device T* x,
    int M,
    int K,
    int k,
    int lane,
    thread simdgroup_float8x8* sums) {
  UNROLL
  for (int t = 0; t < tiles; t++) {
    w[t].template load<tail>(k + 16 * tile_column(lane), K);
  }
  UNROLL
  for (int j = 0; j < 16; j += 4) {
    four_products<Row, T, blocks, tiles, tail>(w, x, M, K, k, j, lane, sums);
  }
}

// Adds the sums of the SIMD groups in ascending order and writes y. `shared`:
// [split][count]; `first`: the threadgroup's first output.
template <typename T, int blocks, int split, int tiles>
METAL_FUNC void write_sums(
    device T* y,
    int M,
    int N,
    const threadgroup float* shared,
    int first,
    int thread_index) {
  constexpr int count = tiles * blocks * TILE;
  for (int e = thread_index; e < count; e += 32 * split) {
    float total = shared[e];
    UNROLL
    for (int p = 1; p < split; p++) {
      total += shared[p * count + e];
    }
    const int tile = e / TILE, lane = e % TILE / 2;
    const int m = 8 * (tile % blocks) + tile_column(lane) + e % 2;
    const int output = first + 8 * (tile / blocks) + tile_row(lane);
    if (m < M && output < N) {
      y[size_t(m) * N + output] = T(total);
    }
  }
}

// Computes the outputs of a threadgroup. `w`: the lane's row of each of `tiles` tiles;
// `part`, of `split`: the SIMD group.
template <typename Row, typename T, int blocks, int split, int tiles>
METAL_FUNC void fast_rows(
    thread Row* w,
    const device T* x,
    device T* y,
    int M,
    int K,
    int N,
    threadgroup float* shared,
    int group,
    int part,
    int lane) {
  simdgroup_float8x8 sums[tiles * blocks];
  UNROLL
  for (int i = 0; i < tiles * blocks; i++) {
    sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
  int k = STEP * part;
  for (; k + STEP <= K; k += STEP * split) {
    one_step<Row, T, blocks, tiles, false>(w, x, M, K, k, lane, sums);
  }
  if (k < K) {
    one_step<Row, T, blocks, tiles, true>(w, x, M, K, k, lane, sums);
  }
  UNROLL
  for (int i = 0; i < tiles * blocks; i++) {
    const int at = (part * tiles * blocks + i) * TILE + 2 * lane;
    shared[at] = sums[i].thread_elements()[0];
    shared[at + 1] = sums[i].thread_elements()[1];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  write_sums<T, blocks, split, tiles>(
      y, M, N, shared, group * tiles * 8, 32 * part + lane);
}

// x: [M, K] with M at most 8 * blocks; w: [N, K * bits / 32]; scales, biases:
// [N, K / group_size]; y: [M, N]; shared: split * tiles * blocks * 64 floats.
// Threadgroup `group`, of `split` SIMD groups, computes 8 * tiles outputs.
template <typename T, int group_size, int bits, int blocks, int split, int tiles>
METAL_FUNC void fast_quantized(
    const device T* x,
    const device uint* w,
    const device T* scales,
    const device T* biases,
    device T* y,
    int M,
    int K,
    int N,
    threadgroup float* shared,
    int group,
    int part,
    int lane) {
  typedef PackedRow<T, group_size, bits> Row;
  Row rows[tiles];
  UNROLL
  for (int t = 0; t < tiles; t++) {
    // Outputs past the end repeat the last output and are not stored.
    const size_t output = min((group * tiles + t) * 8 + tile_row(lane), N - 1);
    rows[t].w = w + output * (K * bits / 32);
    rows[t].scales = scales + output * (K / group_size);
    rows[t].biases = biases + output * (K / group_size);
  }
  fast_rows<Row, T, blocks, split, tiles>(
      rows, x, y, M, K, N, shared, group, part, lane);
}

// The same for w: [N, K].
template <typename T, int blocks, int split, int tiles>
METAL_FUNC void fast_dense(
    const device T* x,
    const device T* w,
    device T* y,
    int M,
    int K,
    int N,
    threadgroup float* shared,
    int group,
    int part,
    int lane) {
  PlainRow<T> rows[tiles];
  UNROLL
  for (int t = 0; t < tiles; t++) {
    const size_t output = min((group * tiles + t) * 8 + tile_row(lane), N - 1);
    rows[t].w = w + output * K;
  }
  fast_rows<PlainRow<T>, T, blocks, split, tiles>(
      rows, x, y, M, K, N, shared, group, part, lane);
}
