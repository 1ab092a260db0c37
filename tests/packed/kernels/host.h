// Runs streams.cu on a CPU: the threads of a launch are fibers, and each PTX instruction is a function of its name.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)

struct Barrier {
  int size, waiting = 0, turn = 0;
  void wait();
};
struct Index { int x, y; };
struct Block { Barrier barrier; std::vector<char> shared; char fixed[256]; };  // fixed: variables in shared memory
struct Warp { Barrier barrier; int parity = 0; uint32_t a[2][32][4], b[2][32][2], word[2][32]; };
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  Index thread, block_index;
  Block* block;
  Warp* warp;
  int parity = 0;
};
inline ucontext_t scheduler;
inline Fiber* current;
inline Index grid;
inline void yield() { swapcontext(&current->context, &scheduler); }
inline void Barrier::wait() {
  int before = turn;
  if (++waiting == size) waiting = 0, turn++;
  else while (turn == before) yield();
}
#define threadIdx (current->thread)
#define blockIdx (current->block_index)
#define gridDim grid
constexpr uint32_t SHARED_BASE = 1024;

inline void __syncthreads() { current->block->barrier.wait(); }
inline void __threadfence() {}
inline float __ldcg(const float* at) { return *at; }
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long n) { *at += n; return *at - n; }
inline uint32_t atomicInc(uint32_t* at, uint32_t last) { uint32_t old = *at; *at = old >= last ? 0 : old + 1; return old; }
inline uint32_t __cvta_generic_to_shared(const void* at) {
  return uint32_t((const char*)at - current->block->shared.data()) + SHARED_BASE;
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t order) {
  uint64_t both = a | uint64_t(b) << 32;
  uint32_t found = 0;
  for (int n = 0; n < 4; n++) found |= uint32_t(both >> 8 * (order >> 4 * n & 7) & 255) << 8 * n;
  return found;
}
inline int __shfl_sync(uint32_t, int value, int lane) {
  Warp& w = *current->warp;
  int p = current->parity ^= 1;
  w.word[p][threadIdx.x % 32] = value;
  w.barrier.wait();
  return w.word[p][lane];
}

inline float __shfl_xor_sync(uint32_t, float value, int mask) {
  Warp& w = *current->warp;
  int p = current->parity ^= 1;
  memcpy(&w.word[p][threadIdx.x % 32], &value, 4);
  w.barrier.wait();
  memcpy(&value, &w.word[p][threadIdx.x % 32 ^ mask], 4);
  return value;
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }

inline float from_bits(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
inline float __uint_as_float(uint32_t bits) { return from_bits(bits); }
inline uint32_t to_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }
inline float widen_half(uint16_t bits) {
#if HALF
  _Float16 h; memcpy(&h, &bits, 2); return h;
#else
  return from_bits(uint32_t(bits) << 16);
#endif
}
inline uint16_t to_half(float f) {
#if HALF
  _Float16 h = f; uint16_t bits; memcpy(&bits, &h, 2); return bits;
#else
  uint32_t bits = to_bits(f);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
}

// PTX
inline void ptx_dp4a_u32_u32(uint32_t& d, uint32_t a, uint32_t b, uint32_t c) {
  for (int n = 0; n < 4; n++) c += (a >> 8 * n & 255) * (b >> 8 * n & 255);
  d = c;
}
inline void multiply_fragments(float* c, const uint32_t* a, const uint32_t* b) {
  Warp& w = *current->warp;
  int p = current->parity ^= 1, lane = threadIdx.x % 32;
  memcpy(w.a[p][lane], a, 16), memcpy(w.b[p][lane], b, 8);
  w.barrier.wait();
  for (int r = 0; r < 4; r++) {
    int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
    double sum = 0;
    for (int k = 0; k < 16; k++) {
      uint32_t left = w.a[p][row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], right = w.b[p][column * 4 + k % 8 / 2][k / 8];
      float x = widen_half(left >> k % 2 * 16), y = widen_half(right >> k % 2 * 16);
      if (x != 0) sum += double(x) * y;  // garbage off the diagonal need not be a number
    }
    c[r] += float(sum);
  }
}
inline void ptx_mma(float& c0, float& c1, float& c2, float& c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                    uint32_t b0, uint32_t b1) {
  float c[4] = {c0, c1, c2, c3};
  uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  multiply_fragments(c, a, b);
  c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
}
#define ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32 ptx_mma
#define ptx_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32 ptx_mma
inline void ptx_cvt_rn_f16_f32(uint16_t& d, float f) { d = to_half(f); }
inline void ptx_cvt_f32_f16(float& d, uint16_t bits) { d = widen_half(bits); }
inline void ptx_cvt_rn_bf16_f32(uint16_t& d, float f) { d = to_half(f); }
inline const char* shared_at(uint32_t at, int size) {
  uint32_t offset = at - SHARED_BASE;
  if (offset + size > current->block->shared.size()) __builtin_trap();
  return current->block->shared.data() + offset;
}
template <class... Words> void load_shared(uint32_t at, Words&... words) {
  const char* from = shared_at(at, 4 * sizeof...(words));
  if (at % (4 * sizeof...(words))) __builtin_trap();
  ((memcpy(&words, from, 4), from += 4), ...);
}
inline void ptx_ld_shared_u16(uint16_t& d, uint32_t at, int offset) { memcpy(&d, shared_at(at + offset, 2), 2); }
inline void ptx_ld_shared_u32(uint32_t& d, uint32_t at, int offset) { load_shared(at + offset, d); }
inline void ptx_ld_shared_v2_u32(uint32_t& a, uint32_t& b, uint32_t at, int offset) { load_shared(at + offset, a, b); }
inline void ptx_ld_shared_v4_u32(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t at, int offset) {
  load_shared(at + offset, a, b, c, d);
}
inline void ptx_ld_global_nc_L1__no_allocate_L2__256B_v4_u32(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, const char* at) {
  uint32_t words[4];
  memcpy(words, at, 16);
  a = words[0], b = words[1], c = words[2], d = words[3];
}
inline void ptx_ld_global_nc_L1__no_allocate_u32(uint32_t& d, const char* at) { memcpy(&d, at, 4); }
inline void ptx_ld_acquire_gpu_global_u64(unsigned long long& d, const unsigned long long* at) { yield(); d = *at; }
inline uint32_t join(float low, float high) { return to_half(low) | uint32_t(to_half(high)) << 16; }
inline void ptx_sub_f16x2(uint32_t& d, uint32_t a, uint32_t b) {
  d = join(widen_half(a) - widen_half(b), widen_half(a >> 16) - widen_half(b >> 16));
}
inline void ptx_fma_rn_bf16x2(uint32_t& d, uint32_t a, uint32_t b, uint32_t c) {
  d = join(widen_half(a) * widen_half(b) + widen_half(c), widen_half(a >> 16) * widen_half(b >> 16) + widen_half(c >> 16));
}

// All blocks at once; false: some wait for each other forever.
inline std::function<void()> body;
inline void enter() { body(); current->done = true; yield(); }
inline bool run(int blocks, int threads, int shared) {
  grid = {blocks, 1};
  std::vector<std::unique_ptr<Block>> all;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (int b = 0; b < blocks; b++) {
    all.emplace_back(new Block{{threads}, std::vector<char>(shared, char(0x7f))});
    for (int t = 0; t < threads; t++) {
      if (t % 32 == 0) warps.emplace_back(new Warp{{32}});
      Fiber* f = new Fiber;
      fibers.emplace_back(f);
      f->stack.resize(1 << 16), f->thread = {t, 0}, f->block_index = {b, 0};
      f->block = all.back().get(), f->warp = warps.back().get();
      getcontext(&f->context);
      f->context.uc_stack.ss_sp = f->stack.data(), f->context.uc_stack.ss_size = f->stack.size();
      makecontext(&f->context, enter, 0);
    }
  }
  for (long turn = 0; turn < 10000000; turn++) {
    bool alive = false;
    for (auto& f : fibers) {
      if (f->done) continue;
      alive = true, current = f.get();
      swapcontext(&scheduler, &f->context);
    }
    if (!alive) return true;
  }
  return false;
}
