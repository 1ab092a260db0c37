// The sparse matrices of a group, dense: y [rows of all members, columns], which must be filled with zeros. For products
// of many tokens. The same tables and streams as for streams.cu; a value is written where its lane's place is.
#include "steps.cuh"

__device__ __forceinline__ u16 value_of(const Step& step, int slot, float scale) {
#if INT8
  int number = (signed char)(step.value[slot / 4] >> 8 * (slot % 4));
  return number ? rounded(number * scale) : 0;
#else
  return step.value[slot / 2] >> 16 * (slot % 2);
#endif
}

extern "C" __global__ void __launch_bounds__(WARPS * LANES, 1) unpack_group(const __grid_constant__ Group g) {
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const Work work = g.work[blockIdx.x * WARPS + warp];
  const char* values = g.steps + (size_t)work.first * STEP_BYTES + lane * 16;
  const char* gaps = g.steps + (size_t)work.first * STEP_BYTES + (STEP_BYTES - 128) + lane * 4;
  const u16* start = g.starts + (size_t)work.record * LANES + lane;
  for (const Record* record = g.records + work.record; record->phase != END; record++, start += LANES) {
    const int steps = record->steps, panel = g.left_slots ? record->phase / 2 : record->phase;
    const bool sparse = panel < g.panels && (!g.left_slots || record->phase % 2);
    const int row = sparse ? g.rows[record->octet * ROWS + lane / 4] : -1;
    if (row >= 0) {
      u16* to = g.y + (size_t)row * g.columns + panel * g.panel + lane % 4;
      const float scale = g.scales ? g.scales[row] : 1;
      int place = *start;
      for (int n = 0; n < steps; n++) {
        Step step;
        load_step<0>(values + n * STEP_BYTES, gaps + n * STEP_BYTES, step);
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++, place++) {
          place += step.gaps >> (2 * (slot / 4) + 8 * (slot % 4)) & 3;
          u16 bits = value_of(step, slot, scale);
          if (bits) to[4 * (size_t)place] = bits;
        }
      }
    }
    values += (size_t)steps * STEP_BYTES, gaps += (size_t)steps * STEP_BYTES;
  }
}
