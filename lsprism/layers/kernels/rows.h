// Rows of a layer y = (S + L R) x + bias times a few vectors. Nothing is read past the end of a buffer: rows near the end
// of the values take the cautious path.
#pragma once
#include <omp.h>

#include <algorithm>
#include <vector>

#include "lanes.h"

// As in cpu.py. A part that a layer has not is null.
struct Layer {
    int64_t rows, columns, rank, nonzeros;
    const void* values;      // [nonzeros] with a bitmap, [rows, columns] without
    const uint8_t* bitmap;   // [rows, ceil(columns / 8)]
    const int64_t* offsets;  // [rows + 1]: where each row's values begin
    const void* left;        // [rows, rank]
    const void* right;       // [rank, columns]
    const void* bias;        // [rows]
};

namespace {

constexpr int kGroup = 3;             // layers of one input in one call
constexpr int kTokens = 8;            // of one pass over a matrix
constexpr int64_t kAlone = 1 << 14;   // multiplications that do not pay for a second thread

int64_t up_to_multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

int64_t bitmap_stride(int64_t columns) { return (columns + 7) / 8; }

// `count` <= 32 bits of a bitmap row from column `first` on, a multiple of 8; no byte is read that holds none of them.
inline uint32_t some_places(const uint8_t* row, int64_t first, int count) {
    uint32_t places = 0;
    std::memcpy(&places, row + first / 8, (count + 7) / 8);
    return count == 32 ? places : places & ((1u << count) - 1);
}

template <int W>
inline uint32_t whole_places(const uint8_t* row, int64_t first) {
    if constexpr (W == 8) return row[first / 8];
    if constexpr (W == 16) {
        uint16_t places;
        std::memcpy(&places, row + first / 8, 2);
        return places;
    }
    uint32_t places;
    std::memcpy(&places, row + first / 8, 4);
    return places;
}

// A row of a sparse matrix, read from left to right. Safe: W values after it are in the buffer.
template <class T, bool Safe>
struct SparseRow {
    using L = Lanes<T>;
    const T* next;
    const T* end;
    const uint8_t* bitmap;

    SparseRow(const Layer& layer, int64_t row)
        : next(static_cast<const T*>(layer.values) + layer.offsets[row]),
          end(static_cast<const T*>(layer.values) + layer.nonzeros),
          bitmap(layer.bitmap + row * bitmap_stride(layer.columns)) {}
    typename L::V spread(uint32_t places) {
        auto packed = Safe ? L::load(next) : L::load_some(next, int(std::min<int64_t>(L::W, end - next)));
        next += __builtin_popcount(places);
        return L::expand(packed, places);
    }
    typename L::V whole(int64_t first) { return spread(whole_places<L::W>(bitmap, first)); }
    typename L::V some(int64_t first, int count) { return spread(some_places(bitmap, first, count)); }
};

template <class T>
struct DenseRow {
    using L = Lanes<T>;
    const T* at;

    DenseRow(const void* matrix, int64_t columns, int64_t row) : at(static_cast<const T*>(matrix) + row * columns) {}
    typename L::V whole(int64_t first) { return L::load(at + first); }
    typename L::V some(int64_t first, int count) { return L::load_some(at + first, count); }
};

// sums[n] += row . x[n]; x [N, stride], zero from `columns` to the next multiple of W. One row after the other is read,
// since the hardware prefetches one long stream better than several; U sums each hide the latency of adding.
template <class T, int N, class Row>
inline void add_products(Row row, int64_t columns, const typename Lanes<T>::X* x, int64_t stride,
                         typename Lanes<T>::F (&sums)[N]) {
    using L = Lanes<T>;
    constexpr int U = N == 1 ? 4 : N <= 4 ? 2 : 1;
    typename L::F parts[U][N];
    for (int u = 0; u < U; ++u)
        for (int n = 0; n < N; ++n) parts[u][n] = L::zero();
    int64_t first = 0;
    for (; first + U * L::W <= columns; first += U * L::W)
        for (int u = 0; u < U; ++u) {
            auto w = row.whole(first + u * L::W);
            for (int n = 0; n < N; ++n)
                parts[u][n] = L::multiply_add(w, x + n * stride + first + u * L::W, parts[u][n]);
        }
    for (; first + L::W <= columns; first += L::W) {
        auto w = row.whole(first);
        for (int n = 0; n < N; ++n) sums[n] = L::multiply_add(w, x + n * stride + first, sums[n]);
    }
    if (first < columns) {
        auto w = row.some(first, int(columns - first));
        for (int n = 0; n < N; ++n) sums[n] = L::multiply_add(w, x + n * stride + first, sums[n]);
    }
    for (int u = 0; u < U; ++u)
        for (int n = 0; n < N; ++n) sums[n] = L::add(sums[n], parts[u][n]);
}

// N vectors in the format that Lanes<T> wants: each begins at a multiple of `stride` and ends with zeros.
template <class T>
struct Inputs {
    using X = typename Lanes<T>::X;
    X* data;
    int64_t stride;

    Inputs(std::vector<X>& room, int64_t columns, int count) : stride(up_to_multiple(columns, Lanes<T>::W)) {
        room.assign(stride * count, X{});
        data = room.data();
    }
    void set(int64_t n, int64_t column, float value) {
        if constexpr (sizeof(X) == sizeof(float)) data[n * stride + column] = value;
        else data[n * stride + column] = from_float<T>(value);
    }
    void copy(const T* from, int64_t columns, int64_t count) {
        for (int64_t n = 0; n < count; ++n)
            if constexpr (sizeof(X) == sizeof(T))
                std::memcpy(data + n * stride, from + n * columns, columns * sizeof(T));
            else
                for (int64_t i = 0; i < columns; ++i) data[n * stride + i] = to_float(from[n * columns + i]);
    }
};

// One row of a layer for N tokens, of which `tokens` are real; t = right x.
template <class T, int N>
inline void row_of_layer(const Layer& layer, int64_t row, const Inputs<T>& x, const Inputs<T>& t, T* y, int tokens) {
    using L = Lanes<T>;
    typename L::F sums[N];
    for (int n = 0; n < N; ++n) sums[n] = L::zero();
    if (layer.bitmap && layer.offsets[row + 1] + L::W <= layer.nonzeros)
        add_products<T, N>(SparseRow<T, true>(layer, row), layer.columns, x.data, x.stride, sums);
    else if (layer.bitmap)
        add_products<T, N>(SparseRow<T, false>(layer, row), layer.columns, x.data, x.stride, sums);
    else if (layer.values)
        add_products<T, N>(DenseRow<T>(layer.values, layer.columns, row), layer.columns, x.data, x.stride, sums);
    if (layer.rank)
        add_products<T, N>(DenseRow<T>(layer.left, layer.rank, row), layer.rank, t.data, t.stride, sums);
    float shift = layer.bias ? to_float(static_cast<const T*>(layer.bias)[row]) : 0.0f;
    for (int n = 0; n < N; ++n)
        if (n < tokens) y[n * layer.rows + row] = from_float<T>(L::total(sums[n]) + shift);
}

int64_t multiplications(const Layer& layer) {
    int64_t of_values = layer.bitmap ? layer.nonzeros : layer.values ? layer.rows * layer.columns : 0;
    return of_values + layer.rank * (layer.rows + layer.columns);
}

// Up to N tokens through `count` layers of one input; x [tokens, columns], y one [tokens, rows] after the other.
template <class T, int N>
void multiply_few(const Layer* layers, int64_t count, const T* x, T* const* y, int tokens, int threads) {
    static thread_local std::vector<typename Lanes<T>::X> rooms[1 + kGroup];
    Inputs<T> inputs(rooms[0], layers[0].columns, N);
    inputs.copy(x, layers[0].columns, tokens);
    std::vector<Inputs<T>> middle;
    int64_t work = 0, ranks = 0;
    for (int64_t i = 0; i < count; ++i) {
        middle.emplace_back(rooms[1 + i], layers[i].rank, N);
        work += multiplications(layers[i]) * tokens;
        ranks += layers[i].rank;
    }
#pragma omp parallel num_threads(threads) if (work > kAlone)
    {
        for (int64_t i = 0; i < count && ranks; ++i) {
            const Layer& layer = layers[i];
#pragma omp for schedule(static) nowait
            for (int64_t row = 0; row < layer.rank; ++row) {
                typename Lanes<T>::F sums[N];
                for (int n = 0; n < N; ++n) sums[n] = Lanes<T>::zero();
                add_products<T, N>(DenseRow<T>(layer.right, layer.columns, row), layer.columns, inputs.data,
                                   inputs.stride, sums);
                for (int n = 0; n < N; ++n) middle[i].set(n, row, Lanes<T>::total(sums[n]));
            }
        }
        if (ranks) {
#pragma omp barrier
        }
        for (int64_t i = 0; i < count; ++i) {
            const Layer& layer = layers[i];
            const int64_t chunk = std::max<int64_t>(1, layer.rows / (threads * 8));
#pragma omp for schedule(dynamic, chunk) nowait
            for (int64_t row = 0; row < layer.rows; ++row)
                row_of_layer<T, N>(layer, row, inputs, middle[i], y[i], tokens);
        }
    }
}

}  // namespace
