// Who computes which rows of a layer.
#pragma once
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t kPieces = 32;  // in which a thread takes its rows, so that others can take some of them

// The rows of a layer that are a thread's own: a single stretch, since memory is read fastest in long streams.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end, piece;
};

// [count, threads]: of `count` layers, of which rows(i) says the rows.
template <class Rows>
inline std::vector<Share> shared_out(int64_t count, int threads, Rows rows) {
    std::vector<Share> shares(count * threads);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t n = 0; n < threads; ++n) {
            Share& share = shares[i * threads + n];
            const int64_t first = rows(i) * n / threads;
            share.next.store(first, std::memory_order_relaxed);
            share.end = rows(i) * (n + 1) / threads;
            share.piece = std::max<int64_t>(1, (share.end - first) / kPieces);
        }
    return shares;
}

// All of this thread's rows, then what others, who may have been interrupted, have left of theirs.
template <class Work>
inline void take_rows(Share* shares, int threads, Work work) {
    const int self = omp_get_thread_num();
    for (int n = 0; n < threads; ++n) {
        Share& share = shares[(self + n) % threads];
        int64_t row;
        while ((row = share.next.fetch_add(share.piece, std::memory_order_relaxed)) < share.end)
            work(row, std::min(row + share.piece, share.end));
    }
}

}  // namespace
