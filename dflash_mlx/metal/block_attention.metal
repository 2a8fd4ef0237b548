// Attention of a block of rows over cached keys and values.
//
// A pair is one query head and one row; the pairs of a KV head go in tiles of 8. A
// threadgroup takes one KV head, one chunk of keys and up to 8 tiles of pairs, and
// reads keys and values once, straight into registers: for scores its simdgroups share
// out the keys (eight simdgroups take each key twice, for half of the pairs each), for
// the weighted sums the columns of the values. Scores and weights pass between them
// through threadgroup memory.
//
// A row's bits depend on what it sees only. Chunks and tiles of keys begin at absolute
// positions, every sum has one order, every multiply-add is written as one, and a key
// that a row does not see weighs exactly 0 and changes no maximum. How many simdgroups
// or tiles of pairs work side by side decides nothing.
//
// Taken from the hardware: an element of a matrix product comes from its row of the
// left, its column of the right and its accumulator alone, products with 0 add
// nothing, and lanes hold the elements that Place names.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

// For loops over arrays of fragments, which stay in registers only if none is left.
#define UNROLLED _Pragma("clang loop unroll(full)")

typedef simdgroup_matrix<float, 8, 8> Fragment;

// Keys of a tile; floats between two pairs' weights, off by 4 to spread the banks.
constant constexpr int KEYS = 32;
constant constexpr int PITCH = KEYS + 4;

// The elements of a fragment in a lane: this one and the next in its row.
struct Place {
  int row;
  int column;
};

METAL_FUNC Place place_of(uint lane) {
  return Place{
      int(lane / 16 * 4 + lane / 2 % 4), int(lane / 8 % 2 * 4 + lane % 2 * 2)};
}

METAL_FUNC thread float2& elements(thread Fragment& f) {
  return reinterpret_cast<thread float2&>(f.thread_elements());
}

// One KV head as a threadgroup sees it. Strides and positions are MLX's, in elements.
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

// Two neighbouring elements of a row of keys or values.
template <typename T>
METAL_FUNC vec<T, 2> two(
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
  threadgroup uint* broken; // [simdgroups]

  threadgroup T* query(int d, int pair) const thread {
    return queries + d * 8 * TILES + pair;
  }
  threadgroup float* weight(int pair, int slot) const thread {
    return weights + pair * PITCH + slot;
  }
};

// A lane's share of the running softmax and sums of a simdgroup. `top` and `sum`
// belong to pair lane / 4 of tile `simd`, and are the same in its four lanes.
template <int TILES, int SHARE>
struct Running {
  Fragment outputs[TILES][SHARE];
  float top;
  float sum;
};

// Where chunk `c` begins: 8 chunks of 128, then 8 to an octave, at most 4096 wide.
METAL_FUNC int chunk_start(int c) {
  const int octave = clamp(c / 8 - 1, 0, 5);
  return (128 << octave) * (c - 8 * octave);
}

METAL_FUNC uint below(int n) {
  return n >= 32 ? ~0u : (1u << max(n, 0)) - 1;
}

// The keys of a tile that a row sees, one bit each; all lanes ask at once.
template <typename T>
METAL_FUNC uint seen_by(const thread Context<T>& c, int row, int base, uint lane) {
  const int limit = c.causal ? c.length - c.rows + row + 1 : c.length;
  const uint inside = below(limit - base) & ~below(-base);
  if (!c.mask) {
    return inside;
  }
  const int64_t at = row * c.mask_strides[0] + (base + int(lane)) * c.mask_strides[1];
  const bool open = (inside >> lane & 1) && c.mask[at];
  return uint(static_cast<simd_vote::vote_t>(simd_ballot(open)));
}

// What row `row` sees, nothing if there is no such row; in `any` what some row sees.
template <typename T>
METAL_FUNC uint look(
    const thread Context<T>& c, int row, int base, uint lane, thread uint& any) {
  uint mine = 0;
  any = 0;
  for (int r = 0; r < c.rows; r++) {
    const uint bits = seen_by(c, r, base, lane);
    any |= bits;
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

// Transposed scores of 8 keys with the simdgroup's tiles of pairs.
template <typename T, int D, int TILES, int SIMDS, int MINE>
METAL_FUNC void score(
    const thread Context<T>& c,
    const thread Scratch<T, D, TILES>& s,
    int base,
    uint any,
    int simd,
    Place at,
    thread Fragment (&scores)[MINE]) {
  const int slot = simd % 4 * 8 + at.row;
  const bool live = any >> slot & 1;
  UNROLLED
  for (int i = 0; i < MINE; i++) {
    scores[i] = zero();
  }
  for (int d = 0; d < D; d += 8) {
    Fragment key = zero(), query;
    if (live) {
      const vec<T, 2> x = two(c.k, c.k_strides, c.head, base + slot, d + at.column);
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
METAL_FUNC void put_scores(
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

// The tile's values in the simdgroup's columns. A key with a value that is no finite
// number is told in the result and its value left out, since 0 would not cancel it for
// rows that do not see it.
template <typename T, int D, int SIMDS, int SHARE>
METAL_FUNC uint load_values(
    const thread Context<T>& c,
    int base,
    uint any,
    int simd,
    Place at,
    thread vec<T, 2> (&values)[KEYS / 8][SHARE]) {
  uint broken = 0;
  UNROLLED
  for (int k = 0; k < KEYS / 8; k++) {
    const int slot = 8 * k + at.row;
    UNROLLED
    for (int j = 0; j < SHARE; j++) {
      const int column = 8 * (simd + SIMDS * j) + at.column;
      vec<T, 2> x = vec<T, 2>(T(0.0f));
      if ((any >> slot & 1) && column < D) {
        x = two(c.v, c.v_strides, c.head, base + slot, column);
      }
      if (!isfinite(float(x[0])) || !isfinite(float(x[1]))) {
        broken |= 1u << slot;
        x = vec<T, 2>(T(0.0f));
      }
      values[k][j] = x;
    }
  }
  return simd_or(broken);
}

// What a part of the softmax weighs when the maximum rises from `top` to `high`.
METAL_FUNC float share_of(float top, float high, float slope) {
  if (top == high) {
    return 1.0f;
  }
  return top == -INFINITY ? 0.0f : fast::exp2((top - high) * slope);
}

// Scores to weights, four lanes to a pair and 8 keys to a lane.
template <typename T, int D, int TILES>
METAL_FUNC void weigh(
    const thread Scratch<T, D, TILES>& s,
    int pair,
    int segment,
    uint seen,
    uint broken,
    float slope,
    thread float& top,
    thread float& sum) {
  threadgroup float* w = s.weight(pair, 8 * segment);
  seen >>= 8 * segment;
  broken >>= 8 * segment;
  float x[8];
  float high = top;
  UNROLLED
  for (int i = 0; i < 8; i++) {
    x[i] = w[i];
    high = seen >> i & 1 ? max(high, x[i]) : high;
  }
  high = max(high, simd_shuffle_xor(high, 1));
  high = max(high, simd_shuffle_xor(high, 2));
  UNROLLED
  for (int i = 0; i < 8; i++) {
    const float p = broken >> i & 1 ? NAN : fast::exp2((x[i] - high) * slope);
    x[i] = seen >> i & 1 ? p : 0.0f;
    w[i] = x[i];
  }
  float part = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
  part += simd_shuffle_xor(part, 1);
  part += simd_shuffle_xor(part, 2);
  const float factor = share_of(top, high, slope);
  sum = fma(sum, factor, part);
  top = high;
  if (segment == 0) {
    s.factor[pair] = factor;
  }
}

// outputs = outputs * factor + weights . values
template <typename T, int D, int TILES, int SIMDS, int SHARE>
METAL_FUNC void gather(
    const thread Scratch<T, D, TILES>& s,
    const thread vec<T, 2> (&values)[KEYS / 8][SHARE],
    int simd,
    Place at,
    thread Fragment (&outputs)[TILES][SHARE]) {
  UNROLLED
  for (int tile = 0; tile < TILES; tile++) {
    const int pair = 8 * tile + at.row;
    UNROLLED
    for (int j = 0; j < SHARE; j++) {
      elements(outputs[tile][j]) *= s.factor[pair];
    }
    UNROLLED
    for (int k = 0; k < KEYS / 8; k++) {
      Fragment weight, value;
      const threadgroup float* w = s.weight(pair, 8 * k + at.column);
      elements(weight) = float2(w[0], w[1]);
      UNROLLED
      for (int j = 0; j < SHARE; j++) {
        if (8 * (simd + SIMDS * j) < D) {
          elements(value) = float2(float(values[k][j][0]), float(values[k][j][1]));
          simdgroup_multiply_accumulate(
              outputs[tile][j], weight, value, outputs[tile][j]);
        }
      }
    }
  }
}

// The keys at absolute positions `begin` to `end`, multiples of the tile.
template <typename T, int D, int TILES, int SIMDS, int SHARE>
METAL_FUNC void attend(
    const thread Context<T>& c,
    const thread Scratch<T, D, TILES>& s,
    int begin,
    int end,
    int row,
    int simd,
    int lane,
    thread Running<TILES, SHARE>& run) {
  constexpr int MINE = (TILES + SIMDS / 4 - 1) / (SIMDS / 4);
  const Place at = place_of(lane);
  for (int position = begin; position < end; position += KEYS) {
    const int base = position - c.first;
    uint any;
    const uint seen = look(c, row, base, lane, any);
    if (any == 0) {
      continue;
    }
    vec<T, 2> values[KEYS / 8][SHARE];
    Fragment scores[MINE];
    uint broken = load_values<T, D, SIMDS>(c, base, any, simd, at, values);
    score<T, D, TILES, SIMDS>(c, s, base, any, simd, at, scores);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    put_scores<T, D, TILES, SIMDS>(scores, simd, at, s);
    if (lane == 0) {
      s.broken[simd] = broken;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simd < TILES) {
      for (int i = 0; i < SIMDS; i++) {
        broken |= s.broken[i];
      }
      const int pair = 8 * simd + lane / 4;
      weigh(s, pair, lane % 4, seen, broken, c.slope, run.top, run.sum);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    gather<T, D, TILES, SIMDS>(s, values, simd, at, run.outputs);
  }
}

// One chunk of keys for the pairs from `begin`, of which `left` are left.
template <typename T, int D, int TILES, int SIMDS, int SHARE>
METAL_FUNC void attend_chunk(
    const thread Context<T>& c,
    const device T* q,
    const thread Scratch<T, D, TILES>& s,
    int chunk,
    int begin,
    int left,
    int simd,
    int lane,
    thread Running<TILES, SHARE>& run) {
  UNROLLED
  for (int tile = 0; tile < TILES; tile++) {
    UNROLLED
    for (int j = 0; j < SHARE; j++) {
      run.outputs[tile][j] = zero();
    }
  }
  run.top = -INFINITY;
  run.sum = 0.0f;
  const int pair = 8 * simd + lane / 4;
  const int row = pair < left ? (begin + pair) % c.rows : -1;
  const int from = max(chunk_start(chunk), c.first / KEYS * KEYS);
  const int to = min(chunk_start(chunk + 1), c.first + c.length);
  load_queries(q, left, s, simd * 32 + lane, SIMDS * 32);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  attend<T, D, TILES, SIMDS>(c, s, from, to, row, simd, lane, run);
}

// An output from its sums over chunks; 0 for a row that sees nothing. Adding 0 makes
// -0 of values that cancelled or vanished the 0 that keys of no weight would.
METAL_FUNC float quotient(float sum, float total) {
  return (total == 0.0f ? 0.0f : sum / total) + 0.0f;
}

// A sink's logit in the scale of scores.
template <typename S>
METAL_FUNC float sink_of(const device S* sinks, int head, float slope) {
  return sinks ? float(sinks[head]) * M_LOG2E_F / slope : -INFINITY;
}

// A chunk's part of the sums: parts[head, chunk, pair] is D sums of weighted values,
// the maximum that they are relative to and the sum of weights. Threadgroups start in
// the order x, y, z: those that share keys side by side, the widest chunks first.
template <typename T, int D, int TILES, int SIMDS>
METAL_FUNC void attention_parts(
    const thread Context<T>& c,
    const thread Scratch<T, D, TILES>& s,
    const device T* q,
    device float* parts,
    int pairs,
    int first_chunk,
    uint3 group,
    uint3 groups,
    int simd,
    int lane) {
  constexpr int SHARE = (D / 8 + SIMDS - 1) / SIMDS;
  const int slot = groups.z - 1 - group.z, begin = group.x * 8 * TILES;
  const int left = pairs - begin;
  Running<TILES, SHARE> run;
  q += (long(c.head) * pairs + begin) * D;
  attend_chunk<T, D, TILES, SIMDS>(
      c, q, s, first_chunk + slot, begin, left, simd, lane, run);
  parts += ((long(c.head) * groups.z + slot) * pairs + begin) * (D + 2);
  const Place at = place_of(lane);
  UNROLLED
  for (int tile = 0; tile < TILES; tile++) {
    const int pair = 8 * tile + at.row;
    UNROLLED
    for (int j = 0; j < SHARE; j++) {
      const int column = 8 * (simd + SIMDS * j) + at.column;
      if (pair < left && column < D) {
        parts[pair * (D + 2) + column] = elements(run.outputs[tile][j])[0];
        parts[pair * (D + 2) + column + 1] = elements(run.outputs[tile][j])[1];
      }
    }
  }
  const int pair = 8 * simd + lane / 4;
  if (simd < TILES && pair < left && lane % 4 == 0) {
    parts[pair * (D + 2) + D] = run.top;
    parts[pair * (D + 2) + D + 1] = run.sum;
  }
}

// One element of the result from the parts of all chunks, in ascending order.
template <typename T, typename S>
METAL_FUNC void attention_join(
    const device float* parts,
    const device S* sinks,
    device T* out,
    const constant int* parts_shape,
    int rows,
    float slope,
    uint3 at) {
  const int chunks = parts_shape[1], pairs = parts_shape[2], width = parts_shape[3];
  const int column = at.x, pair = at.y, head = at.z, D = width - 2;
  const long step = long(pairs) * width;
  parts += head * chunks * step + pair * width;
  const float sink = sink_of(sinks, (head * pairs + pair) / rows, slope);
  float high = sink, total = 0.0f, sum = 0.0f;
  for (int i = 0; i < chunks; i++) {
    high = max(high, parts[i * step + D]);
  }
  for (int i = 0; i < chunks; i++) {
    const device float* part = parts + i * step;
    const float share = share_of(part[D], high, slope);
    total = fma(share, part[D + 1], total);
    sum = fma(share, part[column], sum);
  }
  total += sinks ? share_of(sink, high, slope) : 0.0f;
  out[(long(head) * pairs + pair) * D + column] = T(quotient(sum, total));
}
