// Attention of a block of rows over cached keys and values. Begins with the text of
// block_attention_tiles.metal when it is compiled.
//
// A pair is one query head and one row; the pairs of a KV head form tiles of 8. A
// threadgroup computes one KV head, one chunk of keys and up to 8 tiles of pairs. It
// reads keys and values once, straight into registers: its simdgroups share the keys
// for the scores (eight simdgroups read each key twice, for half of the pairs each),
// and the columns of the values for the weighted sums. Scores and weights pass between
// them through threadgroup memory.
//
// A row's bits depend only on the keys that it sees. Chunks and tiles of keys begin at
// absolute positions, every sum has one order, every multiply-add is written as one,
// and a key that a row does not see has a weight of exactly 0 and does not change a
// maximum. The number of simdgroups and of tiles of pairs does not change any bit.

// The factor of sums relative to maximum `top` when the maximum rises to `high`.
METAL_FUNC float rescale(float top, float high, float slope) {
  if (top == high) {
    return 1.0f;
  }
  return top == -INFINITY ? 0.0f : fast::exp2((top - high) * slope);
}

// Replaces scores by weights. Four lanes share a pair, and each has 8 keys.
template <typename T, int D, int TILES>
METAL_FUNC void softmax_step(
    const thread Scratch<T, D, TILES>& s,
    int pair,
    int segment,
    uint seen,
    uint nonfinite,
    float slope,
    thread float& top,
    thread float& sum) {
  threadgroup float* w = s.weight(pair, 8 * segment);
  seen >>= 8 * segment;
  nonfinite >>= 8 * segment;
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
    const float p = nonfinite >> i & 1 ? NAN : fast::exp2((x[i] - high) * slope);
    x[i] = seen >> i & 1 ? p : 0.0f;
    w[i] = x[i];
  }
  float part = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
  part += simd_shuffle_xor(part, 1);
  part += simd_shuffle_xor(part, 2);
  const float factor = rescale(top, high, slope);
  sum = fma(sum, factor, part);
  top = high;
  if (segment == 0) {
    s.factor[pair] = factor;
  }
}

// outputs = outputs * factor + weights . values
template <typename T, int D, int TILES, int SIMDS, int SHARE>
METAL_FUNC void add_values(
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

// Adds the keys at absolute positions `begin` to `end`, from the tile that `begin`
// starts.
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
  const Place at = place_in_fragment(lane);
  for (int position = begin; position < end; position += KEYS) {
    const int base = position - c.first;
    uint visible;
    const uint seen = visible_keys(c, row, base, lane, visible);
    if (visible == 0) {
      continue;
    }
    vec<T, 2> values[KEYS / 8][SHARE];
    Fragment scores[MINE];
    uint nonfinite = load_values<T, D, SIMDS>(c, base, visible, simd, at, values);
    score<T, D, TILES, SIMDS>(c, s, base, visible, simd, at, scores);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    store_scores<T, D, TILES, SIMDS>(scores, simd, at, s);
    if (lane == 0) {
      s.nonfinite[simd] = nonfinite;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simd < TILES) {
      for (int i = 0; i < SIMDS; i++) {
        nonfinite |= s.nonfinite[i];
      }
      const int pair = 8 * simd + lane / 4;
      softmax_step(s, pair, lane % 4, seen, nonfinite, c.slope, run.top, run.sum);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    add_values<T, D, TILES, SIMDS>(s, values, simd, at, run.outputs);
  }
}

// Computes the sums of one chunk of keys for the `left` pairs from `begin` on.
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

// An output from its sums over chunks; 0 for a row that sees no key. Adding 0 turns -0,
// from values that cancelled or underflowed, into the 0 that keys without weight give.
METAL_FUNC float quotient(float sum, float total) {
  return (total == 0.0f ? 0.0f : sum / total) + 0.0f;
}

// A sink's logit on the scale of the scores.
template <typename S>
METAL_FUNC float sink_score(const device S* sinks, int head, float slope) {
  return sinks ? float(sinks[head]) * M_LOG2E_F / slope : -INFINITY;
}

// Writes a chunk's sums: parts[head, chunk, pair] holds D sums of weighted values, the
// maximum to which they are relative, and the sum of weights. Threadgroups start in the
// order x, y, z, so those that share keys start together, and the widest chunks first.
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
  const Place at = place_in_fragment(lane);
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

// Computes one element of the result from the parts of all chunks, in ascending order.
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
  const float sink = sink_score(sinks, (head * pairs + pair) / rows, slope);
  float high = sink, total = 0.0f, sum = 0.0f;
  for (int i = 0; i < chunks; i++) {
    high = max(high, parts[i * step + D]);
  }
  for (int i = 0; i < chunks; i++) {
    const device float* part = parts + i * step;
    const float share = rescale(part[D], high, slope);
    total = fma(share, part[D + 1], total);
    sum = fma(share, part[column], sum);
  }
  total += sinks ? rescale(sink, high, slope) : 0.0f;
  out[(long(head) * pairs + pair) * D + column] = T(quotient(sum, total));
}
