// y = W x for 1 to 8 tokens, W a group of matrices that read the same x, in the format of streams.py.
//
// Compiled at run time for one device by nvrtc.py, without headers. Options: TOKENS (1, 2, 4, 8), WARPS of a thread
// block, DEPTH (steps that a warp loads ahead), HALF (float16 instead of bfloat16), INT8 (values of 8 bits),
// ARGUMENT_BYTES (of Group, as gpu.py has it).
//
// A warp multiplies eight rows; a lane has every fourth column of one row. It reads its values by loads of 16 bytes,
// adds up their gaps to addresses of x in shared memory, and leaves the sums to the tensor cores: an mma is used as 32
// dot products, since a lane supplies its own values (A) and its own x (B), and only the diagonal of the result counts.
// All thread blocks are resident at once, and tables (launch.py) say which steps each warp multiplies.
typedef unsigned u32;
typedef unsigned short u16;
typedef unsigned long long u64;

constexpr int SLOTS = 16, LANES = 32, ROWS = 8;             // of a step
constexpr u32 STRIDE = 8 * TOKENS;                          // bytes from one place of a lane's x to the next
constexpr u32 STEP_BYTES = (INT8 ? 512 : 1024) + 128;       // values, then gaps
constexpr u32 GUARD = DEPTH * SLOTS * STRIDE;               // addresses may point below x before an offset is added
constexpr int SUMS = ROWS * TOKENS;                         // of a warp and eight rows

struct Record { int steps, slot, phase, unused; };          // consecutive steps of one octet that one warp multiplies
struct Work { int record, first, steps, unused; };          // of one warp
struct Range { int first, count; };

struct Group {
  const char* steps;               // of all warps, in their order
  const Work* work;                // [blocks, WARPS]
  const Record* records;           // of all warps, each list ends with a phase that does not exist
  const u16* starts;               // [records, LANES]: the place of x where a lane starts
  const Range* octets;             // [blocks]: the octets that a block has a part of
  const Range* parts;              // [octets]: the blocks that have a part of an octet
  const Range* slots;              // [blocks, most]: where in shared memory the sums of an octet are
  const Range* left_slots;
  const int* rows;                 // [octets * ROWS]: row of the stacked matrices, -1: none
  const float* scales;             // of stacked rows; null without
  const float* left_scales;
  const float* bias;
  const u16* x;                    // [tokens, columns]
  u16* y;                          // [tokens, rows] of each member, one after the other
  float* partial;                  // [octets + blocks, SUMS]
  u32* counters;                   // [octets], zero
  const Range* right_octets;       // the same for the right factors
  const Range* right_parts;
  const Range* right_slots;
  const float* right_scales;
  float* right_partial;
  u64* arrived;                    // blocks that have written theirs, ever
  int members[5];                  // first stacked row of each member, and the end
  int tokens, columns, panel, panels, panels_held, reach, rank, left_reach, most, right_most, x_at;
};
static_assert(sizeof(Group) == ARGUMENT_BYTES, "gpu.py has other fields");

__device__ __forceinline__ u32 dp4a(u32 a, u32 b, u32 c) {
  u32 d;
  asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if HALF
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
#endif
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u16 rounded(float value) {
  u16 bits;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#endif
  return bits;
}

// x of one column for all tokens.
constexpr int WORDS = TOKENS == 1 ? 1 : TOKENS / 2;
struct Entry { u32 word[WORDS]; };

template <int offset> __device__ __forceinline__ Entry look_up(u32 at) {
  Entry e;
#if TOKENS == 1
  u16 half;
  asm volatile("ld.shared.u16 %0, [%1+%2];" : "=h"(half) : "r"(at), "n"(offset));
  e.word[0] = half;
#elif TOKENS == 2
  asm volatile("ld.shared.u32 %0, [%1+%2];" : "=r"(e.word[0]) : "r"(at), "n"(offset));
#elif TOKENS == 4
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2+%3];" : "=r"(e.word[0]), "=r"(e.word[1]) : "r"(at), "n"(offset));
#else
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(e.word[0]), "=r"(e.word[1]), "=r"(e.word[2]), "=r"(e.word[3]) : "r"(at), "n"(offset));
#endif
  return e;
}

// What a lane has of a step.
struct Step { u32 value[INT8 ? 4 : 8], gaps; };

__device__ __forceinline__ void load(const char* at, u32* words) {
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "l"(at));
}

template <int place> __device__ __forceinline__ void load_step(const char* values, const char* gaps, Step& step) {
  load(values + place * STEP_BYTES, step.value);
  if (!INT8) load(values + place * STEP_BYTES + 512, step.value + 4);
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(step.gaps) : "l"(gaps + place * STEP_BYTES));
}

// Constants that stay in registers: `one` is 1, but the compiler, which would load them again for each use, cannot know.
struct Constants {
  u32 low, sign, stride[4], quarter[4];
  __device__ __forceinline__ Constants(u32 one) {
    low = 0x007f007f * one, sign = 0x00800080 * one;
    u32 ones = one;
    for (int i = 0; i < 4; i++, ones = ones << 8 | one) stride[i] = STRIDE * ones, quarter[i] = STRIDE / 4 * ones;
  }
};

// Two numbers of 8 bits, bytes `first` and `first + 1` of a word, in 16 bits each.
template <int first> __device__ __forceinline__ u32 widen(u32 word, const Constants& constants) {
#if HALF
  u32 pair = __byte_perm(word ^ 0x80808080u, 0x64646464u, 0x4040 | first | (first + 1) << 8);  // 1024 + 128 + number
  asm("sub.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(pair), "r"(0x64806480u));
#else
  u32 pair = __byte_perm(word, 0, 0x4040 | first | (first + 1) << 8);
  u32 low = (pair & constants.low) | 0x43004300u;    // 128 + the low seven bits
  u32 sign = (pair & constants.sign) | 0xc300c300u;  // -128, or -256 where the number is negative
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(low), "r"(0x3f803f80u), "r"(sign));
#endif
  return pair;
}

template <int half> __device__ __forceinline__ void take_eight(const Step& step, const Constants& constants, u32 (&a)[4]) {
#if INT8
  u32 one = step.value[2 * half], two = step.value[2 * half + 1];
  a[0] = widen<0>(one, constants), a[1] = widen<2>(one, constants), a[2] = widen<0>(two, constants), a[3] = widen<2>(two, constants);
#else
  for (int i = 0; i < 4; i++) a[i] = step.value[4 * half + i];
#endif
}

struct Totals { float even[TOKENS][4], odd[TOKENS][4]; };

// Add the products of a pair of pairs of slots: their values are a[0], a[2] or a[1], a[3].
__device__ __forceinline__ void multiply(float (&c)[TOKENS][4], const u32 (&a)[4], Entry e0, Entry e1, Entry e4, Entry e5) {
#pragma unroll
  for (int n = 0; n < TOKENS; n++) {
    const u32 order = n & 1 ? 0x7632 : 0x5410;
    mma(c[n], a, __byte_perm(e0.word[n / 2], e1.word[n / 2], order), __byte_perm(e4.word[n / 2], e5.word[n / 2], order));
  }
}

// Half a step: eight slots whose first one is slot `first` since `at` was set.
template <int half, int first> __device__ __forceinline__ void add_half(const Step& step, u32 gaps, const Constants& constants, u32& at, Totals& totals) {
  constexpr int O = STRIDE * (first + 1), S = STRIDE;
  u32 a[4];
  take_eight<half>(step, constants, a);
  u32 e = gaps & 0x03030303u, f = gaps & 0x0c0c0c0cu;  // f: four times the gaps
  u32 p3 = dp4a(e, constants.stride[3], at), p7 = dp4a(f, constants.quarter[3], p3);
  Entry x0 = look_up<O>(dp4a(e, constants.stride[0], at)), x1 = look_up<O + S>(dp4a(e, constants.stride[1], at));
  Entry x4 = look_up<O + 4 * S>(dp4a(f, constants.quarter[0], p3)), x5 = look_up<O + 5 * S>(dp4a(f, constants.quarter[1], p3));
  multiply(totals.even, a, x0, x1, x4, x5);
  Entry x2 = look_up<O + 2 * S>(dp4a(e, constants.stride[2], at)), x3 = look_up<O + 3 * S>(p3);
  Entry x6 = look_up<O + 6 * S>(dp4a(f, constants.quarter[2], p3)), x7 = look_up<O + 7 * S>(p7);
  multiply(totals.odd, a, x2, x3, x6, x7);
  at = p7;
}

struct Ring {
  Step step[DEPTH];
  const char *values, *gaps;  // of the step that is multiplied next
  int left;                   // steps of the warp that are not multiplied yet
  template <int i> __device__ __forceinline__ void fill() {
    if constexpr (i < DEPTH) {
      if (i < left) load_step<i>(values, gaps, step[i]);
      fill<i + 1>();
    }
  }
  // After `done` steps: the next one comes first again.
  template <int done> __device__ __forceinline__ void rotate() {
    Step next[DEPTH];
    for (int i = 0; i < DEPTH; i++) next[i] = step[(i + done) % DEPTH];
    for (int i = 0; i < DEPTH; i++) step[i] = next[i];
    values += done * STEP_BYTES, gaps += done * STEP_BYTES, left -= done;
  }
  template <int i> __device__ __forceinline__ void rotate_by(int done) {
    if constexpr (i <= DEPTH) {
      if (done == i) rotate<i>();
      else rotate_by<i + 1>(done);
    }
  }
  // Multiply by step i and those after it, loading another one to the place of each. True: the record has ended.
  template <int i> __device__ __forceinline__ bool advance(int steps, const Constants& constants, u32& at, Totals& totals) {
    if constexpr (i < DEPTH) {
      add_half<0, SLOTS * i>(step[i], step[i].gaps, constants, at, totals);
      add_half<1, SLOTS * i + 8>(step[i], step[i].gaps >> 4, constants, at, totals);
      if (left > DEPTH + i) load_step<DEPTH + i>(values, gaps, step[i]);
      return steps == i + 1 || advance<i + 1>(steps, constants, at, totals);
    }
    return false;
  }
};

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

// Columns of x from panel `first` on, each panel followed by zeros up to `reach` places.
__device__ void copy_x(const Group& g, int first, u16* to) {
  int width = g.reach * 4;
  for (int n = 0; n < g.panels_held; n++) {
    int begin = (first + n) * g.panel;
    for (int i = threadIdx.x; i < width * TOKENS; i += WARPS * LANES) {
      int token = i / width, place = i % width, column = begin + place;
      bool there = token < g.tokens && place < g.panel && column < g.columns;
      to[(n * width + place) * TOKENS + token] = there ? g.x[(size_t)token * g.columns + column] : (u16)0;
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
  g.y[(size_t)first * g.tokens + (size_t)token * rows + (row - first)] = rounded(total);
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
      copy_x(g, panel, x);
      __syncthreads();
    }
    u32 panel_at = panel == g.panels ? lane_at : lane_at + panel % g.panels_held * g.reach * STRIDE;
    while (next.phase == phase) {
      int steps = __shfl_sync(~0u, next.steps, 0), slot = next.slot;  // the same in all lanes, and known to be
      u32 at = panel_at + place * STRIDE;
      next = *++record;
      place = *(start += LANES);
      Totals totals = {};
#pragma unroll 1
      while (!ring.advance<0>(steps, constants, at, totals)) {
        at += DEPTH * SLOTS * STRIDE;
        ring.values += DEPTH * STEP_BYTES, ring.gaps += DEPTH * STEP_BYTES;
        ring.left -= DEPTH, steps -= DEPTH;
      }
      asm volatile("" : "+r"(steps));  // else the compiler rotates, and so moves registers, inside of the loop
      ring.rotate_by<1>(steps);
      store_sums(totals, lane, sums + slot * SUMS);
    }
  }
  finish(g, sums);
}
