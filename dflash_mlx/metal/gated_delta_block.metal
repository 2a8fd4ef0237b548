// The gated delta rule over the rows of a block, and the state after any of them.
//
// Every row of q, k, v, g and beta changes each row S of a head's state [Dv, Dk]:
//     S = g S    delta = (v - k.S) beta    S = S + k delta    y = q.S
// (arXiv 2412.06464, equation 10; with a gate per element, arXiv 2510.26692). A sum
// over Dk consists of 32 chains of neighbours, each added in order, then the sum of the
// chains. The gate's product and the update are separate statements and no sum is split
// in another way, so a compiler fuses the same products and sums here as in a kernel
// for one row.
//
// Inputs are pointers of a deduced type, because MLX passes small ones as `constant`.

#include <metal_stdlib>
using namespace metal;

// A lane's arrays are kept in registers only if every index is known at compile time.
#define UNROLL _Pragma("clang loop unroll(full)")

/// Sum of `Count` numbers, a power of two; neighbours are added first.
template <int Count>
METAL_FUNC float pairwise(const thread float* parts) {
  return pairwise<Count / 2>(parts) + pairwise<Count / 2>(parts + Count / 2);
}

template <>
METAL_FUNC float pairwise<1>(const thread float* parts) {
  return parts[0];
}

/// Sum of the 32 chains of a row, of which each lane holds `Chains`. One chain per lane
/// is added in simd_sum's order; of several, neighbours are added first.
template <int Chains>
METAL_FUNC float over_row(const thread float* parts) {
  if (Chains == 1) {
    return simd_sum(parts[0]);
  }
  float sum = pairwise<Chains>(parts);
  UNROLL
  for (ushort step = 1; step < 32 / Chains; step *= 2) {
    sum += simd_shuffle_xor(sum, step);
  }
  return sum;
}

/// Applies one row of the block to one lane's part of one row of the state.
/// Returns the row's delta and its y.
template <int Chains, int Length, bool Vector, typename Q, typename K, typename G>
METAL_FUNC float2 advance(thread float* s, Q q, K k, G g, float v, float beta) {
  float parts[Chains];
  UNROLL
  for (int c = 0; c < Chains; ++c) {
    float sum = 0.0f;
    UNROLL
    for (int i = 0; i < Length; ++i) {
      const int e = c * Length + i;
      s[e] = s[e] * float(g[Vector ? e : 0]);
      sum += s[e] * float(k[e]);
    }
    parts[c] = sum;
  }
  const float delta = (v - over_row<Chains>(parts)) * beta;
  UNROLL
  for (int c = 0; c < Chains; ++c) {
    float sum = 0.0f;
    UNROLL
    for (int i = 0; i < Length; ++i) {
      const int e = c * Length + i;
      s[e] = s[e] + float(k[e]) * delta;
      sum += s[e] * float(q[e]);
    }
    parts[c] = sum;
  }
  return float2(delta, over_row<Chains>(parts));
}

/// Applies all rows of a block.
///
/// Shapes: q, k [B, T, Hk, Dk]; v, y, tape [B, T, Hv, Dv]; beta [B, T, Hv]; g the same
/// or, with Vector, [B, T, Hv, Dk]; state, last [B, Hv, Dv, Dk].
/// A lane holds `Chains` chains of `Rows` rows of the state; a simdgroup holds
/// Chains * Rows rows.
/// Grid: 32 lanes, simdgroups for Dv, B * Hv.
template <int Dk, int Chains, int Rows, bool Vector, typename Q, typename K,
          typename V, typename G, typename B, typename S, typename Out>
METAL_FUNC void gated_delta_block(Q q, K k, V v, G g, B beta, S state, device Out* y,
                                  device float* last, device float* tape,
                                  const constant int* k_shape,
                                  const constant int* v_shape, uint3 at) {
  constexpr int lanes = 32 / Chains, width = Dk / lanes;
  const int count = k_shape[1], k_heads = k_shape[2], v_heads = v_shape[2];
  const int height = v_shape[3], lane = at.x % lanes, from = lane * width;
  const int head = at.z % v_heads, start = at.z / v_heads * count;
  const int first = (at.y * Chains + at.x / lanes) * Rows;

  const int k_head = head / (v_heads / k_heads);
  q += (start * k_heads + k_head) * Dk + from;
  k += (start * k_heads + k_head) * Dk + from;
  g += (start * v_heads + head) * (Vector ? Dk : 1) + (Vector ? from : 0);
  beta += start * v_heads + head;

  int row[Rows];  // rows past the end repeat the last row and are not stored
  float s[Rows][width];
  UNROLL
  for (int r = 0; r < Rows; ++r) {
    row[r] = min(first + r, height - 1);
    UNROLL
    for (int e = 0; e < width; ++e) {
      s[r][e] = float(state[(int(at.z) * height + row[r]) * Dk + from + e]);
    }
  }
  for (int t = 0; t < count; ++t) {
    const int out = ((start + t) * v_heads + head) * height;
    float2 made[Rows];
    UNROLL
    for (int r = 0; r < Rows; ++r) {
      made[r] = advance<Chains, Dk / 32, Vector>(
          s[r], q, k, g, float(v[out + row[r]]), float(beta[0]));
    }
    UNROLL
    for (int r = 0; r < Rows; ++r) {
      if (lane == 0 && first + r < height) {
        tape[out + row[r]] = made[r].x;
        y[out + row[r]] = Out(made[r].y);
      }
    }
    q += k_heads * Dk;
    k += k_heads * Dk;
    g += v_heads * (Vector ? Dk : 1);
    beta += v_heads;
  }
  UNROLL
  for (int r = 0; r < Rows; ++r) {
    UNROLL
    for (int e = 0; e < width; ++e) {
      if (first + r < height) {
        last[(int(at.z) * height + row[r]) * Dk + from + e] = s[r][e];
      }
    }
  }
}

/// Computes the state after the first `keep` rows of a block from its tape.
///
/// Shapes as above; `last` is the result. A thread holds one column of `Rows` rows.
/// Grid: Dk, groups of Rows rows for Dv, B * Hv.
template <int Rows, bool Vector, typename S, typename K, typename G, typename D>
METAL_FUNC void gated_delta_rewind(S state, K k, G g, D tape, int keep,
                                   device float* last, const constant int* k_shape,
                                   const constant int* tape_shape, uint3 at) {
  const int count = k_shape[1], k_heads = k_shape[2], width = k_shape[3];
  const int v_heads = tape_shape[2], height = tape_shape[3], column = at.x;
  const int head = at.z % v_heads, start = at.z / v_heads * count;
  const int k_head = head / (v_heads / k_heads), first = at.y * Rows;

  float s[Rows];
  int row[Rows];
  UNROLL
  for (int r = 0; r < Rows; ++r) {
    row[r] = min(first + r, height - 1);
    s[r] = state[(int(at.z) * height + row[r]) * width + column];
  }
  for (int t = start; t < start + min(keep, count); ++t) {
    const float key = float(k[(t * k_heads + k_head) * width + column]);
    const int gate = t * v_heads + head;
    const float decay = float(g[Vector ? gate * width + column : gate]);
    UNROLL
    for (int r = 0; r < Rows; ++r) {
      s[r] = s[r] * decay;
      s[r] = s[r] + key * tape[gate * height + row[r]];
    }
  }
  UNROLL
  for (int r = 0; r < Rows; ++r) {
    if (first + r < height) {
      last[(int(at.z) * height + row[r]) * width + column] = s[r];
    }
  }
}
