// What a launch is given: tables of launch.py, streams of streams.py. Arguments of gpu.py is the same struct.
#pragma once
typedef unsigned u32;
typedef unsigned short u16;
typedef unsigned long long u64;

constexpr int SLOTS = 16, LANES = 32, ROWS = 8;             // of a step
constexpr u32 STRIDE = 8 * TOKENS;                          // bytes from one place of a lane's x to the next
constexpr u32 STEP_BYTES = (INT8 ? 512 : 1024) + 128;       // values, then gaps
constexpr int SUMS = ROWS * TOKENS;                         // of a warp and eight rows

struct Record { int steps, slot, phase, octet; };           // consecutive steps of one octet that one warp multiplies
constexpr int END = 1 << 30;                                // the phase of what follows a warp's last record
struct Work { int record, first, steps, unused; };          // of one warp
struct Range { int first, count; };

struct Group {
  const char* steps;               // of all warps, in their order
  const Work* work;                // [blocks, WARPS]
  const Record* records;           // of all warps, after the last one of each a phase END
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
  const u16* norm;                 // weight of the RMSNorm of x; null without
  const u16* residual;             // [tokens, rows], added to y; null without
  int members[5];                  // first stacked row of each member, and the end
  int tokens, columns, panel, panels, panels_held, reach, rank, left_reach, most, right_most, x_at;
  int gated;                       // x is silu(gate) * up, of gate [tokens, columns] and up, one after the other
  float epsilon;                   // of the RMSNorm
};

static_assert(sizeof(Group) == ARGUMENT_BYTES, "gpu.py has other fields");
