// y = W x for 1 to 8 tokens, W a group of matrices that read the same x, in the format of streams.py.
//
// Compiled at run time for one device by nvrtc.py. Options: TOKENS (1, 2, 4, 8), WARPS of a thread
// block, DEPTH (steps that a warp loads ahead), HALF (float16 instead of bfloat16), INT8 (values of 8 bits), AROUND
// (a norm or a gate before the product, a residual after it), ARGUMENT_BYTES (of Group, as gpu.py has it).
//
// A warp multiplies eight rows; a lane has every fourth column of one row. It reads its values by loads of 16 bytes,
// adds up their gaps to addresses of x in shared memory, and leaves the sums to the tensor cores: an mma is used as 32
// dot products, since a lane supplies its own values (A) and its own x (B), and only the diagonal of the result counts.
// All thread blocks are resident at once, and tables (launch.py) say which steps each warp multiplies.
#include "steps.cuh"

// The warp's sums of eight rows go to `to` [ROWS, TOKENS].
__device__ __forceinline__ void store_sums(const Totals& totals, int lane, float* to) {
  int row = lane >> 2;
  if ((lane & 3) != row >> 1) return;
#pragma unroll
  for (int n = 0; n < TOKENS; n++) {
    float even = row & 1 ? totals.even[n][1] : totals.even[n][0];
    float odd = row & 1 ? totals.odd[n][3] : totals.odd[n][2];
    to[row * TOKENS + n] = even + odd;
  }
}

__device__ __forceinline__ float add_up(const float* sums, Range slots, int of) {
  float total = 0;
  for (int n = slots.first; n < slots.first + slots.count; n++) total += sums[n * SUMS + of];
  return total;
}

__device__ __forceinline__ float add_parts(const float* partial, Range blocks, int octet, int of) {
  float total = 0;
  for (int n = blocks.first; n < blocks.first + blocks.count; n++) total += __ldcg(partial + (octet + n) * SUMS + of);
  return total;
}

// 1 / RMS of each token's x, to `inverse`; `sums` is free memory.
__device__ void measure_x(const Group& g, float* sums, float* inverse) {
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  for (int token = 0; token < g.tokens; token++) {
    float total = 0;
    for (int i = threadIdx.x; i < g.columns; i += WARPS * LANES) {
      float value = widened(g.x[(size_t)token * g.columns + i]);
      total += value * value;
    }
    total = sum_of_warp(total);
    if (lane == 0) sums[token * WARPS + warp] = total;
  }
  __syncthreads();
  if (threadIdx.x < g.tokens) {
    float total = 0;
    for (int n = 0; n < WARPS; n++) total += sums[threadIdx.x * WARPS + n];
    inverse[threadIdx.x] = rsqrtf(total / g.columns + g.epsilon);
  }
  __syncthreads();
}

// x of a token and a column, after what comes before the product; rounded where PyTorch rounds.
__device__ __forceinline__ u16 x_of(const Group& g, int token, int column, const float* inverse) {
  size_t at = (size_t)token * g.columns + column;
  if (AROUND && g.norm) return rounded(widened(g.norm[column]) * kept(widened(g.x[at]) * inverse[token]));
  if (!AROUND || !g.gated) return g.x[at];
  float gate = widened(g.x[at]), up = widened(g.x[(size_t)g.tokens * g.columns + at]);
  return rounded(kept(gate / (1 + expf(-gate))) * up);
}

// Columns of x from panel `first` on, each panel followed by zeros up to `reach` places.
__device__ void copy_x(const Group& g, int first, const float* inverse, u16* to) {
  int width = g.reach * 4;
  for (int n = 0; n < g.panels_held; n++) {
    int begin = (first + n) * g.panel;
    for (int i = threadIdx.x; i < width * TOKENS; i += WARPS * LANES) {
      int token = i / width, place = i % width, column = begin + place;
      bool there = token < g.tokens && place < g.panel && column < g.columns;
      to[(n * width + place) * TOKENS + token] = there ? x_of(g, token, column, inverse) : (u16)0;
    }
  }
}

// This block's part of R x: to memory, and the others are told.
__device__ u64 hand_in(const Group& g, const float* sums) {
  __syncthreads();
  Range own = g.right_octets[blockIdx.x];
  for (int i = threadIdx.x; i < own.count * SUMS; i += WARPS * LANES) {
    Range slots = g.right_slots[blockIdx.x * g.right_most + i / SUMS];
    g.right_partial[(own.first + i / SUMS + blockIdx.x) * SUMS + i % SUMS] = add_up(sums, slots, i % SUMS);
  }
  __syncthreads();
  u64 ticket = 0;
  if (threadIdx.x == 0) {
    __threadfence();
    ticket = atomicAdd(g.arrived, 1ull);
  }
  return ticket;
}

// R x of all blocks, in the place of x.
__device__ void collect(const Group& g, u64 ticket, u16* to) {
  if (threadIdx.x == 0) {
    u64 all = (ticket / gridDim.x + 1) * gridDim.x, seen;
    do asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(g.arrived) : "memory");
    while (seen < all);
  }
  __syncthreads();  // also: x has been read
  for (int i = threadIdx.x; i < g.left_reach * 4 * TOKENS; i += WARPS * LANES) {
    int row = i / TOKENS, octet = row / ROWS;
    float total = 0;
    if (row < g.rank) {
      total = add_parts(g.right_partial, g.right_parts[octet], octet, i - octet * SUMS);
      if (g.right_scales) total *= g.right_scales[row];
    }
    to[i] = rounded(total);
  }
  __syncthreads();
}

__device__ __forceinline__ void store_y(const Group& g, int row, int token, float total) {
  if (token >= g.tokens) return;
  int member = (row >= g.members[1]) + (row >= g.members[2]) + (row >= g.members[3]);
  int first = g.members[member], rows = g.members[member + 1] - first;
  if (g.bias) total += g.bias[row];
  size_t at = (size_t)first * g.tokens + (size_t)token * rows + (row - first);
  g.y[at] = rounded(AROUND && g.residual ? kept(total) + widened(g.residual[at]) : total);
}

// Sums of the block's octets to y; those that other blocks have a part of are added up by the last of these.
__device__ void finish(const Group& g, const float* sums) {
  __syncthreads();
  Range own = g.octets[blockIdx.x];
  for (int i = threadIdx.x; i < own.count * SUMS; i += WARPS * LANES) {
    int octet = own.first + i / SUMS, of = i % SUMS, row = g.rows[octet * ROWS + of / TOKENS];
    float total = add_up(sums, g.slots[blockIdx.x * g.most + i / SUMS], of);
    if (g.scales && row >= 0) total *= g.scales[row];
    if (g.left_slots) {
      float left = add_up(sums, g.left_slots[blockIdx.x * g.most + i / SUMS], of);
      total += g.left_scales && row >= 0 ? left * g.left_scales[row] : left;
    }
    if (g.parts[octet].count > 1) g.partial[(octet + blockIdx.x) * SUMS + of] = total;
    else if (row >= 0) store_y(g, row, of % TOKENS, total);
  }
  if (!own.count) return;
  __shared__ bool last[2];
  __syncthreads();
  if (threadIdx.x < 2) {  // only the first and the last octet may have several parts
    int octet = own.first + (threadIdx.x ? own.count - 1 : 0), parts = g.parts[octet].count;
    bool asked = parts > 1 && (threadIdx.x == 0 || own.count > 1);
    __threadfence();
    last[threadIdx.x] = asked && atomicInc(g.counters + octet, parts - 1) == (u32)(parts - 1);
    __threadfence();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * SUMS; i += WARPS * LANES) {
    int octet = own.first + (i < SUMS ? 0 : own.count - 1), of = i % SUMS, row = g.rows[octet * ROWS + of / TOKENS];
    if (last[i / SUMS] && row >= 0) store_y(g, row, of % TOKENS, add_parts(g.partial, g.parts[octet], octet, of));
  }
}

static_assert(DEPTH <= 6, "more steps to write below");
#define ADVANCE(i)                                  \
  if constexpr (i < DEPTH) {                        \
    ring.advance<i>(constants, at, totals);         \
    if (steps == i + 1) break;                      \
  }

extern "C" __global__ void __launch_bounds__(WARPS * LANES, 1) multiply_group(const __grid_constant__ Group g) {
  extern __shared__ __align__(16) char shared[];
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const Work work = g.work[blockIdx.x * WARPS + warp];
  const Constants constants(gridDim.y);
  Ring ring;
  ring.left = __shfl_sync(~0u, work.steps, 0);
  ring.values = g.steps + (size_t)work.first * STEP_BYTES + lane * 16;
  ring.gaps = g.steps + (size_t)work.first * STEP_BYTES + (STEP_BYTES - 128) + lane * 4;
  ring.fill<0>();
  const Record* record = g.records + work.record;
  const u16* start = g.starts + (size_t)work.record * LANES + lane;
  Record next = *record;
  u32 place = *start;
  float* sums = (float*)shared;
  u16* x = (u16*)(shared + g.x_at);
  const u32 lane_at = (u32)__cvta_generic_to_shared(x) + (lane & 3) * 2 * TOKENS - STRIDE;
  __shared__ float inverse[TOKENS];
  if (AROUND && g.norm) measure_x(g, sums, inverse);
  const bool factors = g.left_slots != nullptr;
  const int phases = factors ? 2 * g.panels + 1 : g.panels;
  u64 ticket = 0;
  for (int phase = 0; phase < phases; phase++) {
    int panel = factors ? phase / 2 : phase;
    if (panel == g.panels) {
      collect(g, ticket, x);
    } else if (factors && phase % 2) {
      if (panel == g.panels - 1) ticket = hand_in(g, sums);
    } else if (panel % g.panels_held == 0) {
      if (phase) __syncthreads();
      copy_x(g, panel, inverse, x);
      __syncthreads();
    }
    u32 panel_at = panel == g.panels ? lane_at : lane_at + panel % g.panels_held * g.reach * STRIDE;
    while (next.phase == phase) {
      const u32 all = __shfl_sync(~0u, next.steps, 0);
      int steps = all, slot = next.slot;
      u32 at = panel_at + place * STRIDE;
      next = *++record;
      place = *(start += LANES);
      Totals totals = {};
#pragma unroll 1
      while (true) {
        ADVANCE(0) ADVANCE(1) ADVANCE(2) ADVANCE(3) ADVANCE(4) ADVANCE(5)
        at += DEPTH * SLOTS * STRIDE;
        ring.values += DEPTH * STEP_BYTES, ring.gaps += DEPTH * STEP_BYTES;
        ring.left -= DEPTH, steps -= DEPTH;
      }
      ring.rotate_by<1>((all - 1) % DEPTH + 1);  // not by `steps`: as a constant at each exit, it would cost moves
      store_sums(totals, lane, sums + slot * SUMS);
    }
  }
  finish(g, sums);
}
