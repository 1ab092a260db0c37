// y = (S + L R) x + bias for 1 to 8 tokens, S sparse (a bitmap and packed values) or dense, sums in float.
//
// A step of W columns: load W packed values, spread them by W bits of the bitmap, multiply, go on by the bits' count.
// Rows are shared out between the threads of the OpenMP runtime that torch itself uses. Nothing is read past the end
// of a buffer: rows near the end of the values take the cautious path.
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

constexpr int kGroup = 4;             // layers of one call
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
            for (int64_t i = 0; i < columns; ++i)
                if constexpr (sizeof(X) == sizeof(T))
                    std::memcpy(data + n * stride + i, from + n * columns + i, sizeof(T));
                else data[n * stride + i] = to_float(from[n * columns + i]);
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
void multiply_block(const Layer* layers, int64_t count, const T* x, T* const* y, int tokens, int threads) {
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

template <class T>
void multiply(const Layer* layers, int64_t count, const void* x, void* y, int64_t tokens, int threads) {
    T* at[kGroup] = {static_cast<T*>(y)};
    for (int64_t i = 1; i < count; ++i) at[i] = at[i - 1] + tokens * layers[i - 1].rows;
    for (int64_t done = 0; done < tokens; done += kTokens) {
        const T* part = static_cast<const T*>(x) + done * layers[0].columns;
        int now = int(std::min<int64_t>(kTokens, tokens - done));
        if (now == 1) multiply_block<T, 1>(layers, count, part, at, now, threads);
        else if (now == 2) multiply_block<T, 2>(layers, count, part, at, now, threads);
        else if (now <= 4) multiply_block<T, 4>(layers, count, part, at, now, threads);
        else multiply_block<T, 8>(layers, count, part, at, now, threads);
        for (int64_t i = 0; i < count; ++i) at[i] += now * layers[i].rows;
    }
}

template <class T, bool Safe>
void unpack_row(const Layer& layer, int64_t row, T* to) {
    using L = Lanes<T>;
    SparseRow<T, Safe> packed(layer, row);
    int64_t first = 0;
    for (; first + L::W <= layer.columns; first += L::W) L::store(to + first, packed.whole(first));
    if (first == layer.columns) return;
    T rest[L::W];
    L::store(rest, packed.some(first, int(layer.columns - first)));
    std::memcpy(to + first, rest, (layer.columns - first) * sizeof(T));
}

template <class T>
void unpack(const Layer& layer, int64_t from, int64_t to, void* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if ((to - from) * layer.columns > kAlone)
    for (int64_t row = from; row < to; ++row) {
        T* here = static_cast<T*>(out) + (row - from) * layer.columns;
        if (layer.offsets[row + 1] + Lanes<T>::W <= layer.nonzeros) unpack_row<T, true>(layer, row, here);
        else unpack_row<T, false>(layer, row, here);
    }
}

}  // namespace

extern "C" {

// dtype: 0 float32, 1 float16, 2 bfloat16, of everything. At most kGroup layers, all of one width.
void prism_multiply(const Layer* layers, int64_t count, const void* x, void* y, int64_t tokens, int dtype,
                    int threads) {
    if (dtype == 0) multiply<float>(layers, count, x, y, tokens, threads);
    else if (dtype == 1) multiply<Float16>(layers, count, x, y, tokens, threads);
    else multiply<BFloat16>(layers, count, x, y, tokens, threads);
}

// Rows `from` to `to` of a sparse matrix as dense ones, into out [to - from, columns].
void prism_unpack(const Layer* layer, int64_t from, int64_t to, void* out, int dtype, int threads) {
    if (dtype == 0) unpack<float>(*layer, from, to, out, threads);
    else if (dtype == 1) unpack<Float16>(*layer, from, to, out, threads);
    else unpack<BFloat16>(*layer, from, to, out, threads);
}

// offsets [rows + 1] of a bitmap [rows, ceil(columns / 8)]; bits past `columns` count nothing.
void prism_offsets(const uint8_t* bitmap, int64_t rows, int64_t columns, int64_t* offsets) {
    const int64_t stride = bitmap_stride(columns);
    offsets[0] = 0;
    for (int64_t row = 0; row < rows; ++row) {
        int64_t ones = 0;
        for (int64_t first = 0; first < columns; first += 32)
            ones += __builtin_popcount(
                some_places(bitmap + row * stride, first, int(std::min<int64_t>(32, columns - first))));
        offsets[row + 1] = offsets[row] + ones;
    }
}
}
