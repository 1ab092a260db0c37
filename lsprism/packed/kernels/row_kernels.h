// Products of a layer's rows, y = (S + L R) x + bias, with a few vectors. Never reads beyond the end of a buffer: rows
// near the end of the values use bounds-checked loads.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "simd.h"
#include "scheduler.h"

// Mirrored by Layer in cpu.py. Missing parts are null.
struct Layer {
    int64_t rows, columns, rank, nonzeros;
    const void* values;      // [nonzeros] with a bitmap, [rows, columns] without
    const uint8_t* bitmap;   // [rows, ceil(columns / 8)]
    const int64_t* offsets;  // [rows + 1]: index of each row's first value
    const void* left;        // [rows, rank]
    const void* right;       // [rank, columns]
    const void* bias;        // [rows]
    // Scales of the rows of values, left and right, if these are int8.
    const void *scales, *left_scales, *right_scales;
};

namespace {

constexpr int kGroup = 3;             // maximum number of layers with the same input in one call
constexpr int kTokens = 8;            // maximum number of tokens in one pass over a matrix
constexpr int64_t kAlone = 1 << 14;   // up to this many multiplications, one thread is faster than several
constexpr int64_t kAhead = 3072;      // prefetch distance in bytes; the hardware prefetcher stops at 4096-byte pages

int64_t up_to_multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

int64_t bitmap_stride(int64_t columns) { return (columns + 7) / 8; }

// `count` <= 32 bits of a bitmap row from column `first`, a multiple of 8; reads only the bytes that contain them.
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

// A row of a sparse matrix, read from left to right. Safe: the buffer has at least W values after this row.
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
        __builtin_prefetch(reinterpret_cast<const char*>(next) + kAhead);
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

// sums[n] += row . x[n]; x [N, stride], zero from `columns` to the next multiple of W. Rows are read one at a time,
// because the hardware prefetches one long stream better than several; U partial sums hide the latency of additions.
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

// N input vectors in the format of Lanes<V>: each starts at a multiple of `stride` and is padded with zeros. Integer
// vectors have a scale each.
template <class V>
struct Inputs {
    using X = typename Lanes<V>::X;
    static constexpr bool kWhole = std::is_same_v<X, int16_t>;
    X* data;
    int64_t stride;
    float scales[kWhole ? kTokens : 1] = {1.0f};

    Inputs(std::vector<X>& room, int64_t columns, int count) : stride(up_to_multiple(columns, Lanes<V>::W)) {
        room.assign(stride * count, X{});
        data = room.data();
    }
    float scale(int64_t n) const { return kWhole ? scales[n] : 1.0f; }
    void set(int64_t n, int64_t column, float value) { data[n * stride + column] = from_float<X>(value); }
    template <class T>
    void copy(const T* from, int64_t columns, int64_t count) {
        for (int64_t n = 0; n < count; ++n, from += columns)
            if constexpr (kWhole) copy_whole(n, from, columns);
            else if constexpr (std::is_same_v<X, T>) std::memcpy(data + n * stride, from, columns * sizeof(T));
            else
                for (int64_t i = 0; i < columns; ++i) set(n, i, to_float(from[i]));
    }
    // Quantize to the largest range that fits into 16 bits, and into 31 bits for stride / 32 sums of two products with
    // |int8| <= 127.
    template <class T>
    void copy_whole(int64_t n, const T* from, int64_t columns) {
        const float limit = std::min(32767.0f, std::floor(2147483000.0f / (2 * 127 * float(stride / 32))));
        float most = 0;
        for (int64_t i = 0; i < columns; ++i) {
            const float size = std::abs(to_float(from[i]));
            most = size > most || size != size ? size : most;
        }
        scales[n] = most / limit;
        if (!std::isfinite(most)) {
            scales[n] = NAN;  // makes all sums NaN
            return;
        }
        const float factor = most > 0 ? limit / most : 0;
        for (int64_t i = 0; i < columns; ++i) data[n * stride + i] = X(std::nearbyint(to_float(from[i]) * factor));
    }
};

// Input vectors in two formats: for values of type T, and for int8 values.
template <class T, class S>
struct Both {
    Inputs<T> plain;
    Inputs<S> small;

    struct Room {
        std::vector<typename Inputs<T>::X> plain;
        std::vector<typename Inputs<S>::X> small;
    };
    Both(Room& room, int64_t plain_columns, int64_t small_columns, int count)
        : plain(room.plain, plain_columns, count), small(room.small, small_columns, count) {}
};

template <class T>
using Given = Both<T, typename Small<T>::Type>;
template <class T>
using Middle = Both<T, Int8>;

template <class T>
inline float scale_of(const void* scales, int64_t row) {
    return to_float(static_cast<const T*>(scales)[row]);
}

// sums[n] += row . x[n] for a row of the layer's values, of type V: sparse with a bitmap, else dense.
template <class V, int N>
inline void add_row(const Layer& layer, int64_t row, const Inputs<V>& x, typename Lanes<V>::F (&sums)[N]) {
    if (!layer.bitmap) add_products<V, N>(DenseRow<V>(layer.values, layer.columns, row), layer.columns, x.data, x.stride, sums);
    else if (layer.offsets[row + 1] + Lanes<V>::W <= layer.nonzeros)
        add_products<V, N>(SparseRow<V, true>(layer, row), layer.columns, x.data, x.stride, sums);
    else add_products<V, N>(SparseRow<V, false>(layer, row), layer.columns, x.data, x.stride, sums);
}

template <class V, int N>
inline void clear(typename Lanes<V>::F (&sums)[N]) {
    for (auto& sum : sums) sum = Lanes<V>::zero();
}

// One output row of a layer for N tokens, of which the first `tokens` are stored; t = right x.
template <class T, int N>
inline void row_of_layer(const Layer& layer, int64_t row, const Given<T>& x, const Middle<T>& t, T* y, int tokens) {
    using S = typename Small<T>::Type;
    typename Lanes<T>::F sums[N];
    float found[N];
    clear<T>(sums);
    if (layer.values && !layer.scales) add_row<T, N>(layer, row, x.plain, sums);
    if (layer.rank && !layer.left_scales)
        add_products<T, N>(DenseRow<T>(layer.left, layer.rank, row), layer.rank, t.plain.data, t.plain.stride, sums);
    for (int n = 0; n < N; ++n) found[n] = Lanes<T>::total(sums[n]) + (layer.bias ? scale_of<T>(layer.bias, row) : 0);
    if (layer.scales) {
        typename Lanes<S>::F small[N];
        clear<S>(small);
        add_row<S, N>(layer, row, x.small, small);
        const float scale = scale_of<T>(layer.scales, row);
        for (int n = 0; n < N; ++n) found[n] += scale * x.small.scale(n) * Lanes<S>::total(small[n]);
    }
    if (layer.left_scales) {
        typename Lanes<Int8>::F small[N];
        clear<Int8>(small);
        add_products<Int8, N>(DenseRow<Int8>(layer.left, layer.rank, row), layer.rank, t.small.data, t.small.stride, small);
        for (int n = 0; n < N; ++n) found[n] += scale_of<T>(layer.left_scales, row) * Lanes<Int8>::total(small[n]);
    }
    for (int n = 0; n < N; ++n)
        if (n < tokens) y[n * layer.rows + row] = from_float<T>(found[n]);
}

// t[n][row] = right row . x[n]
template <class T, int N>
inline void row_of_right(const Layer& layer, int64_t row, const Given<T>& x, Middle<T>& t) {
    using S = typename Small<T>::Type;
    const int64_t columns = layer.columns;
    float found[N];
    if (layer.right_scales) {
        typename Lanes<S>::F sums[N];
        clear<S>(sums);
        add_products<S, N>(DenseRow<S>(layer.right, columns, row), columns, x.small.data, x.small.stride, sums);
        const float scale = scale_of<T>(layer.right_scales, row);
        for (int n = 0; n < N; ++n) found[n] = scale * x.small.scale(n) * Lanes<S>::total(sums[n]);
    } else {
        typename Lanes<T>::F sums[N];
        clear<T>(sums);
        add_products<T, N>(DenseRow<T>(layer.right, columns, row), columns, x.plain.data, x.plain.stride, sums);
        for (int n = 0; n < N; ++n) found[n] = Lanes<T>::total(sums[n]);
    }
    for (int n = 0; n < N; ++n)
        if (layer.left_scales) t.small.set(n, row, found[n]);
        else t.plain.set(n, row, found[n]);
}

int64_t multiplications(const Layer& layer) {
    int64_t of_values = layer.bitmap ? layer.nonzeros : layer.values ? layer.rows * layer.columns : 0;
    return of_values + layer.rank * (layer.rows + layer.columns);
}

// Multiply up to N tokens by `count` layers with the same input; x [tokens, columns], y[i] [tokens, rows] of layer i.
template <class T, int N>
void multiply_few(const Layer* layers, int64_t count, const T* x, T* const* y, int tokens, int threads) {
    static thread_local typename Given<T>::Room given;
    static thread_local typename Middle<T>::Room rooms[kGroup];
    const int64_t columns = layers[0].columns;
    int64_t work = 0, ranks = 0, plain = 0, small = 0;
    std::vector<Middle<T>> middle;
    for (int64_t i = 0; i < count; ++i) {
        const Layer& layer = layers[i];
        middle.emplace_back(rooms[i], layer.left_scales ? 0 : layer.rank, layer.left_scales ? layer.rank : 0, N);
        work += multiplications(layer) * tokens;
        ranks += layer.rank;
        if (layer.scales || layer.right_scales) small = columns;
        if ((layer.values && !layer.scales) || (layer.right && !layer.right_scales)) plain = columns;
    }
    std::vector<Share> shares = shared_out(count, threads, [&](int64_t i) { return layers[i].rows; });
    Given<T> inputs(given, plain, small, N);
    if (plain) inputs.plain.copy(x, columns, tokens);
    if (small) inputs.small.copy(x, columns, tokens);
#pragma omp parallel num_threads(threads) if (work > kAlone)
    {
        for (int64_t i = 0; i < count && ranks; ++i) {
#pragma omp for schedule(static) nowait
            for (int64_t row = 0; row < layers[i].rank; ++row) row_of_right<T, N>(layers[i], row, inputs, middle[i]);
        }
        if (ranks) {
#pragma omp barrier
        }
        for (int64_t i = 0; i < count; ++i)
            take_rows(shares.data() + i * threads, threads, [&, &layer = layers[i], to = y[i]](int64_t row, int64_t last) {
                for (; row < last; ++row) row_of_layer<T, N>(layer, row, inputs, middle[i], to, tokens);
            });
    }
}

}  // namespace
