// A decoder block of the Llama family for one token:
//
//     h = x + O attention(rotate(Q n), rotate(K n), V n),  n = norm(x);   y = h + Down(silu(Gate m) * (Up m)),  m = norm(h)
//
// in two halves; in between, the caller appends the new key and value to the KV cache. Sums are floats; intermediate
// results are rounded to T at the same points as in the model's own code.
#pragma once
#include "row_kernels.h"

// Mirrored by _Block in cpu.py.
struct Block {
    Layer query, key, value, output, gate, up, down;
    const void* norms[4];  // weights: before attention, before the MLP [hidden]; of queries, of keys [head_dim], or null
    int64_t heads, key_heads, head_dim;
    double epsilon, scaling;
};

// keys and values [key_heads, tokens, head_dim]; strides in elements. Mirrored by _Past in cpu.py.
struct Past {
    const void *keys, *values;
    int64_t tokens, key_head, key_token, value_head, value_token;
};

namespace {

// exp with a relative error of 2e-7, in operations that the compiler can vectorize: 2^whole * 2^rest, |rest| <= 1/2.
inline float quick_exp(float x) {
    float power = std::min(std::max(x * 1.44269504f, -126.0f), 126.0f);
    float whole = (power + 12582912.0f) - 12582912.0f;  // rounds to the nearest integer
    float z = (power - whole) * 0.693147181f;
    float e = 1 + z * (1 + z * (0.5f + z * (0.166666667f + z * (0.0416666667f + z * (0.00833333f + z * 0.00138889f)))));
    return e * same_bits<float>((int32_t(whole) + 127) << 23);
}

template <class T>
inline float rounded(float value) {
    return to_float(from_float<T>(value));
}

// y = weight * x / sqrt(mean(x^2) + epsilon); y may be x.
template <class T>
void rms_norm(const T* x, const void* weight, double epsilon, int64_t count, T* y) {
    const T* scale = static_cast<const T*>(weight);
    constexpr int kLanes = 16;
    float squares[kLanes] = {}, sum = 0;
    for (int64_t i = 0; i < count; ++i) squares[i % kLanes] += to_float(x[i]) * to_float(x[i]);
    for (float part : squares) sum += part;
    float factor = 1.0f / std::sqrt(sum / float(count) + float(epsilon));
    for (int64_t i = 0; i < count; ++i) y[i] = from_float<T>(to_float(scale[i]) * rounded<T>(to_float(x[i]) * factor));
}

// Rotary position embedding of x [heads, dim] in place; cosine and sine [dim].
template <class T>
void rotate(T* x, int64_t heads, int64_t dim, const T* cosine, const T* sine) {
    for (T* head = x; head < x + heads * dim; head += dim)
        for (int64_t i = 0; i < dim / 2; ++i) {
            int64_t j = i + dim / 2;
            float a = to_float(head[i]), b = to_float(head[j]);
            head[i] = from_float<T>(a * to_float(cosine[i]) - b * to_float(sine[i]));
            head[j] = from_float<T>(b * to_float(cosine[j]) + a * to_float(sine[j]));
        }
}

template <class T>
void add_to(T* sum, const T* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sum[i] = from_float<T>(to_float(sum[i]) + to_float(x[i]));
}

// out [N, dim] = softmax(scaling * keys . queries) . values, for N heads with the same keys and values.
template <class T, int N>
void attend(const Inputs<T>& queries, const T* keys, const T* values, const Past& past, int64_t dim, float scaling,
            T* out) {
    static thread_local std::vector<float> shares, sums;
    shares.resize(N * past.tokens);
    sums.resize(dim);
    for (int64_t n = 0; n < past.tokens; ++n) {
        typename Lanes<T>::F products[N];
        for (auto& product : products) product = Lanes<T>::zero();
        add_products<T, N>(DenseRow<T>(keys, past.key_token, n), dim, queries.data, queries.stride, products);
        for (int i = 0; i < N; ++i) shares[i * past.tokens + n] = Lanes<T>::total(products[i]) * scaling;
    }
    for (int i = 0; i < N; ++i) {
        float *share = shares.data() + i * past.tokens, total = 0;
        const float most = *std::max_element(share, share + past.tokens);
        for (int64_t n = 0; n < past.tokens; ++n) share[n] = quick_exp(share[n] - most);
        for (int64_t n = 0; n < past.tokens; ++n) total += share[n];
        weighted_sum(values, past.value_token, share, past.tokens, dim, sums.data());
        for (int64_t j = 0; j < dim; ++j) out[i * dim + j] = from_float<T>(sums[j] / total);
    }
}

template <class T, int N>
void attend_all(const Block& block, const T* query, const Past& past, T* out, int threads) {
    const int64_t dim = block.head_dim, group = block.heads / block.key_heads;
    static thread_local std::vector<typename Lanes<T>::X> room;
    Inputs<T> queries(room, dim, int(block.heads));
    queries.copy(query, dim, block.heads);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (2 * block.heads * dim * past.tokens > kAlone)
    for (int64_t head = 0; head < block.heads; head += N) {
        Inputs<T> own = queries;
        own.data += head * queries.stride;
        attend<T, N>(own, static_cast<const T*>(past.keys) + head / group * past.key_head,
                     static_cast<const T*>(past.values) + head / group * past.value_head, past, dim,
                     float(block.scaling), out + head * dim);
    }
}

template <class T>
void attention(const Block& block, const T* query, const Past& past, T* out, int threads) {
    const int64_t group = block.heads / block.key_heads;
    if (group % 4 == 0) attend_all<T, 4>(block, query, past, out, threads);
    else if (group % 3 == 0) attend_all<T, 3>(block, query, past, out, threads);
    else if (group % 2 == 0) attend_all<T, 2>(block, query, past, out, threads);
    else attend_all<T, 1>(block, query, past, out, threads);
}

// Computes queries [heads, head_dim], key and value [key_heads, head_dim] from the hidden state x.
template <class T>
void begin_block(const Block& block, const void* x, const void* cosine, const void* sine, void* query, void* key,
                 void* value, int threads) {
    static thread_local std::vector<T> normed;
    const int64_t dim = block.head_dim;
    normed.resize(block.query.columns);
    rms_norm(static_cast<const T*>(x), block.norms[0], block.epsilon, block.query.columns, normed.data());
    T *q = static_cast<T*>(query), *k = static_cast<T*>(key);
    T* to[3] = {q, k, static_cast<T*>(value)};
    multiply_few<T, 1>(&block.query, 3, normed.data(), to, 1, threads);
    for (int64_t head = 0; head < block.heads && block.norms[2]; ++head)
        rms_norm(q + head * dim, block.norms[2], block.epsilon, dim, q + head * dim);
    for (int64_t head = 0; head < block.key_heads && block.norms[3]; ++head)
        rms_norm(k + head * dim, block.norms[3], block.epsilon, dim, k + head * dim);
    rotate(q, block.heads, dim, static_cast<const T*>(cosine), static_cast<const T*>(sine));
    rotate(k, block.key_heads, dim, static_cast<const T*>(cosine), static_cast<const T*>(sine));
}

// Computes y [hidden] from x, the queries of begin_block, and all keys and values so far.
template <class T>
void end_block(const Block& block, const void* x, const void* query, const Past& past, void* out, int threads) {
    const int64_t hidden = block.query.columns, wide = block.gate.rows;
    static thread_local std::vector<T> rooms[4];
    T* y = static_cast<T*>(out);
    rooms[0].resize(block.output.columns), rooms[1].resize(hidden), rooms[2].resize(wide), rooms[3].resize(wide);
    T *attended = rooms[0].data(), *part = rooms[1].data(), *gate = rooms[2].data(), *up = rooms[3].data();
    attention(block, static_cast<const T*>(query), past, attended, threads);
    multiply_few<T, 1>(&block.output, 1, attended, &y, 1, threads);
    add_to(y, static_cast<const T*>(x), hidden);
    rms_norm(y, block.norms[1], block.epsilon, hidden, part);
    T* both[2] = {gate, up};
    multiply_few<T, 1>(&block.gate, 2, part, both, 1, threads);
    for (int64_t i = 0; i < wide; ++i) {
        float g = to_float(gate[i]);
        gate[i] = from_float<T>(rounded<T>(g / (1 + quick_exp(-g))) * to_float(up[i]));
    }
    multiply_few<T, 1>(&block.down, 1, gate, &part, 1, threads);
    add_to(y, part, hidden);
}

}  // namespace
