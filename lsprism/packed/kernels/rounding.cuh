// Numbers of 16 bits: bfloat16, or float16 where HALF.
#pragma once

__device__ __forceinline__ unsigned short rounded(float value) {
  unsigned short bits;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#endif
  return bits;
}

__device__ __forceinline__ float widened(unsigned short bits) {
#if HALF
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return __uint_as_float((unsigned)bits << 16);
#endif
}

// Rounded to 16 bits and back, as after each operation of PyTorch.
__device__ __forceinline__ float kept(float value) { return widened(rounded(value)); }

__device__ __forceinline__ float sum_of_warp(float value) {
  for (int other = 16; other; other /= 2) value += __shfl_xor_sync(~0u, value, other);
  return value;
}
