// Work stealing: distributes the rows of a layer over the threads.
#pragma once
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t kPieces = 32;  // per thread and layer; other threads can take over whole pieces

// The rows of a layer that belong to one thread: one contiguous range, because memory is read fastest sequentially.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end, piece;
};

// The shares [count, threads] of `count` layers; rows(i) is the number of rows of layer i.
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

// Process all rows of this thread, then the remaining rows of other threads, which may have been preempted.
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
