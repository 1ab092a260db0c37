// y = (S + L R) x + bias for 1 to 8 tokens, S sparse (a bitmap and packed values) or dense, accumulated in float.
//
// One step processes W columns: load W packed values, expand them by W bits of the bitmap, multiply, and advance by the
// number of set bits. Rows are distributed over the threads of the OpenMP runtime that torch uses.
#include "block.h"

namespace {

template <class T>
void multiply(const Layer& layer, const void* x, void* y, int64_t tokens, int threads) {
    for (int64_t done = 0; done < tokens; done += kTokens) {
        const T* from = static_cast<const T*>(x) + done * layer.columns;
        T* to = static_cast<T*>(y) + done * layer.rows;
        int now = int(std::min<int64_t>(kTokens, tokens - done));
        if (now == 1) multiply_few<T, 1>(&layer, 1, from, &to, now, threads);
        else if (now == 2) multiply_few<T, 2>(&layer, 1, from, &to, now, threads);
        else if (now <= 4) multiply_few<T, 4>(&layer, 1, from, &to, now, threads);
        else multiply_few<T, 8>(&layer, 1, from, &to, now, threads);
    }
}

// Store W values of a row. V: type of the stored values, T: dtype of the model, O: dtype of the output.
template <class T, class V, class O>
inline void store_row(O* to, typename Lanes<V>::V values, float scale) {
    using L = Lanes<V>;
    if constexpr (std::is_same_v<O, V>) L::store(to, values);
    else if constexpr (std::is_same_v<V, Int8>) {
        T scaled[L::W];
        store_scaled(scaled, values, scale);
        for (int i = 0; i < L::W; ++i) to[i] = from_float<O>(to_float(scaled[i]));
    } else if constexpr (sizeof(values) == L::W * sizeof(float)) std::memcpy(to, &values, sizeof(values));
    else {
        V stored[L::W];
        L::store(stored, values);
        for (int i = 0; i < L::W; ++i) to[i] = to_float(stored[i]);
    }
}

template <class T, class V, class O, bool Safe>
void unpack_row(const Layer& layer, int64_t row, O* to) {
    using L = Lanes<V>;
    SparseRow<V, Safe> packed(layer, row);
    const float scale = layer.scales ? scale_of<T>(layer.scales, row) : 1.0f;
    int64_t first = 0;
    for (; first + L::W <= layer.columns; first += L::W) store_row<T, V, O>(to + first, packed.whole(first), scale);
    if (first < layer.columns) {
        O rest[L::W];
        const int count = int(layer.columns - first);
        store_row<T, V, O>(rest, packed.some(first, count), scale);
        std::memcpy(to + first, rest, count * sizeof(O));
    }
}

template <class T, class V, class O>
void unpack_rows(const Layer& layer, int64_t from, int64_t to, void* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if ((to - from) * layer.columns > kAlone)
    for (int64_t row = from; row < to; ++row) {
        O* here = static_cast<O*>(out) + (row - from) * layer.columns;
        if (layer.offsets[row + 1] + Lanes<V>::W <= layer.nonzeros) unpack_row<T, V, O, true>(layer, row, here);
        else unpack_row<T, V, O, false>(layer, row, here);
    }
}

template <class T>
void unpack(const Layer& layer, int64_t from, int64_t to, void* out, bool wide, int threads) {
    if (layer.scales && wide) unpack_rows<T, Int8, float>(layer, from, to, out, threads);
    else if (layer.scales) unpack_rows<T, Int8, T>(layer, from, to, out, threads);
    else if (wide) unpack_rows<T, T, float>(layer, from, to, out, threads);
    else unpack_rows<T, T, T>(layer, from, to, out, threads);
}

}  // namespace

extern "C" {

// y [tokens, rows] = W x + bias for x [tokens, columns]. dtype of all values: 0 float32, 1 float16, 2 bfloat16.
void prism_multiply(const Layer* layer, const void* x, void* y, int64_t tokens, int dtype, int threads) {
    if (dtype == 0) multiply<float>(*layer, x, y, tokens, threads);
    else if (dtype == 1) multiply<Float16>(*layer, x, y, tokens, threads);
    else multiply<BFloat16>(*layer, x, y, tokens, threads);
}

// Unpack rows `from` to `to` of a sparse matrix into out [to - from, columns]. `out_dtype`: that of the layer, or
// float32.
void prism_unpack(const Layer* layer, int64_t from, int64_t to, void* out, int dtype, int out_dtype, int threads) {
    const bool wide = out_dtype == 0;
    if (dtype == 0) unpack<float>(*layer, from, to, out, wide, threads);
    else if (dtype == 1) unpack<Float16>(*layer, from, to, out, wide, threads);
    else unpack<BFloat16>(*layer, from, to, out, wide, threads);
}

// The two halves of a decoder block for one token; see block.h.
void prism_begin_block(const Block* block, const void* x, const void* cosine, const void* sine, void* query, void* key,
                       void* value, int dtype, int threads) {
    if (dtype == 0) begin_block<float>(*block, x, cosine, sine, query, key, value, threads);
    else if (dtype == 1) begin_block<Float16>(*block, x, cosine, sine, query, key, value, threads);
    else begin_block<BFloat16>(*block, x, cosine, sine, query, key, value, threads);
}

void prism_end_block(const Block* block, const void* x, const void* query, const Past* past, void* y, int dtype,
                     int threads) {
    if (dtype == 0) end_block<float>(*block, x, query, *past, y, threads);
    else if (dtype == 1) end_block<Float16>(*block, x, query, *past, y, threads);
    else end_block<BFloat16>(*block, x, query, *past, y, threads);
}

// offsets [rows + 1] of the rows' values for a bitmap [rows, ceil(columns / 8)]; ignores bits beyond `columns`.
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
