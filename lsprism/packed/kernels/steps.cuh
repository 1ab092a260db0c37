// Multiplies a warp's steps one after the other, while those that come next are loaded.
#pragma once
#include "group.cuh"
#include "rounding.cuh"

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
  // Multiply by step i and load another one to its place.
  template <int i> __device__ __forceinline__ void advance(const Constants& constants, u32& at, Totals& totals) {
    add_half<0, SLOTS * i>(step[i], step[i].gaps, constants, at, totals);
    add_half<1, SLOTS * i + 8>(step[i], step[i].gaps >> 4, constants, at, totals);
    if (left > DEPTH + i) load_step<DEPTH + i>(values, gaps, step[i]);
  }
};
