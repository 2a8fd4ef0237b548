// Tiles of keys and pairs for block_attention.metal: the keys that a row sees, scores,
// and the loading of queries and values. Joined with that file before it is compiled.
//
// Assumptions about the hardware: an element of a matrix product depends on its row of
// the left factor, its column of the right factor and its accumulator alone; products
// with 0 add nothing; lanes hold the elements that Place describes.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

// Unrolls loops over arrays of fragments, which are kept in registers only then.
#define UNROLLED _Pragma("clang loop unroll(full)")

typedef simdgroup_matrix<float, 8, 8> Fragment;

// Keys per tile; distance in floats between the weights of two pairs, 4 more than the
// keys so that pairs use different memory banks.
constant constexpr int KEYS = 32;
constant constexpr int PITCH = KEYS + 4;

// The first of a lane's two elements of a fragment; the second is the next in its row.
struct Place {
  int row;
  int column;
};

METAL_FUNC Place place_in_fragment(uint lane) {
  return Place{
      int(lane / 16 * 4 + lane / 2 % 4), int(lane / 8 % 2 * 4 + lane % 2 * 2)};
}

METAL_FUNC thread float2& elements(thread Fragment& f) {
  return reinterpret_cast<thread float2&>(f.thread_elements());
}

// One KV head and the mask. Strides are MLX's, in elements.
template <typename T>
struct Context {
  const device T* k;
  const device T* v;
  const constant int64_t* k_strides;
  const constant int64_t* v_strides;
  const device bool* mask; // [rows, length] or null
  const constant int64_t* mask_strides;
  int head;
  int length; // keys
  int first; // absolute position of key 0
  int rows;
  bool causal;
  float slope; // scale * log2(e)
};

// Loads two neighbouring elements of a row of keys or values.
template <typename T>
METAL_FUNC vec<T, 2> load2(
    const device T* x, const constant int64_t* strides, int head, int key, int column) {
  const int64_t inner = strides[3];
  x += head * strides[1] + key * strides[2] + column * inner;
  return inner == 1 ? vec<T, 2>(x[0], x[1]) : vec<T, 2>(x[0], x[inner]);
}

// Threadgroup memory for TILES tiles of pairs.
template <typename T, int D, int TILES>
struct Scratch {
  threadgroup T* queries; // [D][8 * TILES]
  threadgroup float* weights; // [8 * TILES][PITCH]: scores, then weights
  threadgroup float* factor; // [8 * TILES]
  threadgroup uint* nonfinite; // [simdgroups]

  threadgroup T* query(int d, int pair) const thread {
    return queries + d * 8 * TILES + pair;
  }
  threadgroup float* weight(int pair, int slot) const thread {
    return weights + pair * PITCH + slot;
  }
};

// A lane's share of the running softmax and sums of a simdgroup. `top` (the maximum)
// and `sum` belong to pair lane / 4 of tile `simd`, and are equal in its four lanes.
template <int TILES, int SHARE>
struct Running {
  Fragment outputs[TILES][SHARE];
  float top;
  float sum;
};

// The first position of chunk `c`: 8 chunks of 128 keys, then 8 per octave, of at most
// 4096 keys.
METAL_FUNC int chunk_start(int c) {
  const int octave = clamp(c / 8 - 1, 0, 5);
  return (128 << octave) * (c - 8 * octave);
}

// The lowest `n` bits.
METAL_FUNC uint bits_below(int n) {
  return n >= 32 ? ~0u : (1u << max(n, 0)) - 1;
}

// The keys of a tile that a row sees, one bit each. All lanes must call it together.
template <typename T>
METAL_FUNC uint keys_seen_by(const thread Context<T>& c, int row, int base, uint lane) {
  const int limit = c.causal ? c.length - c.rows + row + 1 : c.length;
  const uint inside = bits_below(limit - base) & ~bits_below(-base);
  if (!c.mask) {
    return inside;
  }
  const int64_t at = row * c.mask_strides[0] + (base + int(lane)) * c.mask_strides[1];
  const bool open = (inside >> lane & 1) && c.mask[at];
  return uint(static_cast<simd_vote::vote_t>(simd_ballot(open)));
}

// The keys that row `row` sees, none if there is no such row. `visible` receives the
// keys that at least one row sees.
template <typename T>
METAL_FUNC uint visible_keys(
    const thread Context<T>& c, int row, int base, uint lane, thread uint& visible) {
  uint mine = 0;
  visible = 0;
  for (int r = 0; r < c.rows; r++) {
    const uint bits = keys_seen_by(c, r, base, lane);
    visible |= bits;
    mine = r == row ? bits : mine;
  }
  return mine;
}

METAL_FUNC Fragment zero() {
  return make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}

template <typename T, int D, int TILES>
METAL_FUNC void load_queries(
    const device T* q,
    int pairs,
    const thread Scratch<T, D, TILES>& s,
    int thread_index,
    int threads) {
  for (int i = thread_index; i < 8 * TILES * D; i += threads) {
    *s.query(i % D, i / D) = i / D < pairs ? q[i] : T(0.0f);
  }
}

// Computes the transposed scores of 8 keys with the simdgroup's tiles of pairs.
template <typename T, int D, int TILES, int SIMDS, int MINE>
METAL_FUNC void score(
    const thread Context<T>& c,
    const thread Scratch<T, D, TILES>& s,
    int base,
    uint visible,
    int simd,
    Place at,
    thread Fragment (&scores)[MINE]) {
  const int slot = simd % 4 * 8 + at.row;
  const bool live = visible >> slot & 1;
  UNROLLED
  for (int i = 0; i < MINE; i++) {
    scores[i] = zero();
  }
  for (int d = 0; d < D; d += 8) {
    Fragment key = zero(), query;
    if (live) {
      const vec<T, 2> x = load2(c.k, c.k_strides, c.head, base + slot, d + at.column);
      elements(key) = float2(float(x[0]), float(x[1]));
    }
    UNROLLED
    for (int i = 0; i < MINE; i++) {
      const int tile = simd / 4 + SIMDS / 4 * i;
      if (tile < TILES) {
        const int pair = 8 * tile + at.column;
        const threadgroup T* x = s.query(d + at.row, pair);
        elements(query) = float2(float(x[0]), float(x[1]));
        simdgroup_multiply_accumulate(scores[i], key, query, scores[i]);
      }
    }
  }
}

template <typename T, int D, int TILES, int SIMDS, int MINE>
METAL_FUNC void store_scores(
    thread Fragment (&scores)[MINE],
    int simd,
    Place at,
    const thread Scratch<T, D, TILES>& s) {
  UNROLLED
  for (int i = 0; i < MINE; i++) {
    const int tile = simd / 4 + SIMDS / 4 * i;
    if (tile < TILES) {
      const int pair = 8 * tile + at.column, slot = simd % 4 * 8 + at.row;
      *s.weight(pair, slot) = elements(scores[i])[0];
      *s.weight(pair + 1, slot) = elements(scores[i])[1];
    }
  }
}

// Loads the tile's values in the simdgroup's columns. Values that are not finite are
// replaced by 0, because a weight of 0 would not cancel them for rows that do not see
// the key. Returns the keys of these values, one bit each.
template <typename T, int D, int SIMDS, int SHARE>
METAL_FUNC uint load_values(
    const thread Context<T>& c,
    int base,
    uint visible,
    int simd,
    Place at,
    thread vec<T, 2> (&values)[KEYS / 8][SHARE]) {
  uint nonfinite = 0;
  UNROLLED
  for (int k = 0; k < KEYS / 8; k++) {
    const int slot = 8 * k + at.row;
    UNROLLED
    for (int j = 0; j < SHARE; j++) {
      const int column = 8 * (simd + SIMDS * j) + at.column;
      vec<T, 2> x = vec<T, 2>(T(0.0f));
      if ((visible >> slot & 1) && column < D) {
        x = load2(c.v, c.v_strides, c.head, base + slot, column);
      }
      if (!isfinite(float(x[0])) || !isfinite(float(x[1]))) {
        nonfinite |= 1u << slot;
        x = vec<T, 2>(T(0.0f));
      }
      values[k][j] = x;
    }
  }
  return simd_or(nonfinite);
}
