// Rotary position embedding of the queries and keys of one token, after their RMSNorm where the model has one. A thread
// block of one warp has one head; each product and sum is rounded as PyTorch's are.
#include "rounding.cuh"

constexpr int LANES = 32, MOST = 8;  // of a warp; numbers of a lane: heads of up to 256

struct Rotary {
  const unsigned short *query, *key, *cosine, *sine, *query_norm, *key_norm;
  unsigned short *query_out, *key_out;
  int heads, width;  // of queries; a multiple of 64
  float epsilon;
};
static_assert(sizeof(Rotary) == ARGUMENT_BYTES, "gpu.py has other fields");

extern "C" __global__ void __launch_bounds__(LANES) rotate_heads(const __grid_constant__ Rotary g) {
  const int lane = threadIdx.x, count = g.width / LANES;
  const bool query = blockIdx.x < g.heads;
  const int head = query ? blockIdx.x : blockIdx.x - g.heads;
  const unsigned short* from = (query ? g.query : g.key) + head * g.width;
  const unsigned short* norm = query ? g.query_norm : g.key_norm;
  unsigned short* to = (query ? g.query_out : g.key_out) + head * g.width;
  float value[MOST], total = 0;
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    value[n] = n < count ? widened(from[n * LANES + lane]) : 0;
    total += value[n] * value[n];
  }
  if (norm) {
    float inverse = rsqrtf(sum_of_warp(total) / g.width + g.epsilon);
#pragma unroll
    for (int n = 0; n < MOST; n++) {
      if (n < count) value[n] = kept(widened(norm[n * LANES + lane]) * kept(value[n] * inverse));
    }
  }
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    if (n >= count) break;
    int at = n * LANES + lane;
    float other = 0;
#pragma unroll
    for (int m = 0; m < MOST; m++) {
      if (m == (n < count / 2 ? n + count / 2 : n - count / 2)) other = value[m];
    }
    float turned = kept((n < count / 2 ? -other : other) * widened(g.sine[at]));
    to[at] = rounded(kept(value[n] * widened(g.cosine[at])) + turned);
  }
}
