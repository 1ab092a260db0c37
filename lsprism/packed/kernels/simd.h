// SIMD operations on W consecutive columns, per instruction set. Each Lanes<T> defines: W; X, the type of prepared
// inputs; V, a register of W values of the matrix; F, a register of sums. `load_some` reads only the first `count` <= W
// values; the others are zero.
#pragma once
#include "dtypes.h"

#if LEVEL < LEVEL_AVX512

// For each 8-bit mask: the index of the packed value for each position; negative for a zero.
struct Places {
    alignas(32) int32_t from[256][8];
    constexpr Places() : from() {
        for (int places = 0; places < 256; ++places)
            for (int i = 0, next = 0; i < 8; ++i) from[places][i] = places >> i & 1 ? next++ : -1;
    }
};
inline constexpr Places kPlaces;

#endif
#if LEVEL == LEVEL_PORTABLE

template <class T>
struct Lanes {
    static constexpr int W = 8;
    using X = float;
    struct V {
        float at[W];
    };
    using F = V;

    static F zero() { return {}; }
    static V load(const T* from) {
        V v;
        for (int i = 0; i < W; ++i) v.at[i] = to_float(from[i]);
        return v;
    }
    static V load_some(const T* from, int count) {
        V v = {};
        for (int i = 0; i < count; ++i) v.at[i] = to_float(from[i]);
        return v;
    }
    static V expand(V packed, uint32_t places) {
        float choice[1 + W] = {0.0f};
        std::memcpy(choice + 1, packed.at, sizeof(packed.at));
        V v;
        for (int i = 0; i < W; ++i) v.at[i] = choice[1 + kPlaces.from[places][i]];
        return v;
    }
    static F multiply_add(V w, const X* x, F sums) {
        for (int i = 0; i < W; ++i) sums.at[i] += w.at[i] * x[i];
        return sums;
    }
    static F add(F a, F b) {
        for (int i = 0; i < W; ++i) a.at[i] += b.at[i];
        return a;
    }
    static float total(F s) {
        return ((s.at[0] + s.at[4]) + (s.at[2] + s.at[6])) + ((s.at[1] + s.at[5]) + (s.at[3] + s.at[7]));
    }
    static void store(T* to, V v) {
        for (int i = 0; i < W; ++i) to[i] = from_float<T>(v.at[i]);
    }
};

#elif LEVEL == LEVEL_AVX2

inline __m256 load_floats(const float* from) { return _mm256_loadu_ps(from); }
inline __m256 load_floats(const Int8* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline __m256 load_floats(const BFloat16* from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline __m256 load_floats(const Float16* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

template <class T>
struct Lanes {
    static constexpr int W = 8;
    using X = float;
    using V = __m256;
    using F = __m256;

    static F zero() { return _mm256_setzero_ps(); }
    static V load(const T* from) { return load_floats(from); }
    static V load_some(const T* from, int count) {
        T all[W] = {};
        if (count) std::memcpy(all, from, count * sizeof(T));
        return load(all);
    }
    static V expand(V packed, uint32_t places) {
        __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(kPlaces.from[places]));
        __m256 none = _mm256_castsi256_ps(_mm256_srai_epi32(from, 31));
        return _mm256_andnot_ps(none, _mm256_permutevar8x32_ps(packed, from));
    }
    static F multiply_add(V w, const X* x, F sums) { return _mm256_fmadd_ps(w, _mm256_loadu_ps(x), sums); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static float total(F sums) {
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static void store(T* to, V v) {
        alignas(32) float all[W];
        _mm256_store_ps(all, v);
        for (int i = 0; i < W; ++i) to[i] = from_float<T>(all[i]);
    }
};

#else

// A zeroed register. Expand instructions depend on the previous content of their target, even if all of it is
// overwritten (measured on Zen 4: twice the time). The asm prevents the compiler from optimizing the zero away.
inline __m512i fresh_zero() {
    __m512i zero = _mm512_setzero_si512();
    asm("" : "+v"(zero));
    return zero;
}

// Values whose mask bit is zero are not read.
inline __m512 load_floats(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
inline __m512 load_floats(const Int8* from, __mmask16 mask) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from)));
}
inline __m512 load_floats(const BFloat16* from, __mmask16 mask) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline __m512 load_floats(const Float16* from, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
}
inline void store_floats(float* to, __m512 v) { _mm512_storeu_ps(to, v); }
inline void store_floats(BFloat16* to, __m512 v) {  // exact: v was loaded from BFloat16
    __m512i high = _mm512_srli_epi32(_mm512_castps_si512(v), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(high));
}
inline void store_floats(Float16* to, __m512 v) {
    __m256i half = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
}

template <class T>
struct Lanes {
    static constexpr int W = 16;
    using X = float;
    using V = __m512;
    using F = __m512;

    static F zero() { return _mm512_setzero_ps(); }
    static V load(const T* from) { return load_floats(from, 0xffff); }
    static V load_some(const T* from, int count) { return load_floats(from, __mmask16((1u << count) - 1)); }
    static V expand(V packed, uint32_t places) {
        return _mm512_mask_expand_ps(_mm512_castsi512_ps(fresh_zero()), __mmask16(places), packed);
    }
    static F multiply_add(V w, const X* x, F sums) { return _mm512_fmadd_ps(w, _mm512_loadu_ps(x), sums); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static float total(F sums) { return _mm512_reduce_add_ps(sums); }
    static void store(T* to, V v) { store_floats(to, v); }
};

#if LEVEL == LEVEL_AVX512_BF16

template <>  // products of bfloat16 pairs are added to one float: 32 columns at once, with bfloat16 inputs
struct Lanes<BFloat16> {
    static constexpr int W = 32;
    using X = BFloat16;
    using V = __m512i;
    using F = __m512;

    static F zero() { return _mm512_setzero_ps(); }
    static V load(const BFloat16* from) {
        V v = _mm512_loadu_si512(from);
        return v;
    }
    static V load_some(const BFloat16* from, int count) {
        return _mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << count) - 1), from);
    }
    static V expand(V packed, uint32_t places) {
        return _mm512_mask_expand_epi16(fresh_zero(), places, packed);
    }
    static F multiply_add(V w, const X* x, F sums) {
        return _mm512_dpbf16_ps(sums, (__m512bh)w, (__m512bh)_mm512_loadu_si512(x));
    }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static float total(F sums) { return _mm512_reduce_add_ps(sums); }
    static void store(BFloat16* to, V v) { _mm512_storeu_si512(to, v); }
};

template <>  // products of integer pairs are added to one int32; Inputs scales its values so that it cannot overflow
struct Lanes<WholeInt8> {
    static constexpr int W = 32;
    using X = int16_t;
    using V = __m512i;
    using F = __m512i;

    static F zero() { return _mm512_setzero_si512(); }
    static V load(const WholeInt8* from) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static V load_some(const WholeInt8* from, int count) {
        return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(__mmask32((uint64_t(1) << count) - 1), from));
    }
    static V expand(V packed, uint32_t places) { return _mm512_mask_expand_epi16(fresh_zero(), places, packed); }
    static F multiply_add(V w, const X* x, F sums) { return _mm512_dpwssd_epi32(sums, w, _mm512_loadu_si512(x)); }
    static F add(F a, F b) { return _mm512_add_epi32(a, b); }
    static float total(F sums) { return _mm512_reduce_add_ps(_mm512_cvtepi32_ps(sums)); }
};

#endif
#endif

// Store W values of an int8 row, multiplied by its scale.
template <class T>
inline void store_scaled(T* to, typename Lanes<Int8>::V v, float scale) {
    float all[Lanes<Int8>::W];
    std::memcpy(all, &v, sizeof(all));
    for (int i = 0; i < Lanes<Int8>::W; ++i) to[i] = from_float<T>(all[i] * scale);
}

// U registers of the weighted sum below, starting at column `first`; returns the next column.
#if LEVEL > LEVEL_PORTABLE
template <class T, int U>
inline int64_t some_columns(const T* rows, int64_t stride, const float* factors, int64_t count, int64_t first, float* to) {
#if LEVEL >= LEVEL_AVX512
    constexpr int W = 16;
    __m512 sums[U];
    for (int u = 0; u < U; ++u) sums[u] = _mm512_setzero_ps();
    for (int64_t n = 0; n < count; ++n)
        for (int u = 0; u < U; ++u)
            sums[u] = _mm512_fmadd_ps(_mm512_set1_ps(factors[n]), load_floats(rows + n * stride + first + u * W, 0xffff),
                                      sums[u]);
    for (int u = 0; u < U; ++u) _mm512_storeu_ps(to + first + u * W, sums[u]);
#else
    constexpr int W = 8;
    __m256 sums[U];
    for (int u = 0; u < U; ++u) sums[u] = _mm256_setzero_ps();
    for (int64_t n = 0; n < count; ++n)
        for (int u = 0; u < U; ++u)
            sums[u] = _mm256_fmadd_ps(_mm256_set1_ps(factors[n]), load_floats(rows + n * stride + first + u * W), sums[u]);
    for (int u = 0; u < U; ++u) _mm256_storeu_ps(to + first + u * W, sums[u]);
#endif
    return first + U * W;
}
#endif

// to [columns] = sum of factors[n] * rows[n], over `count` rows that start at multiples of `stride`.
template <class T>
inline void weighted_sum(const T* rows, int64_t stride, const float* factors, int64_t count, int64_t columns, float* to) {
    int64_t first = 0;
#if LEVEL > LEVEL_PORTABLE
    constexpr int W = LEVEL >= LEVEL_AVX512 ? 16 : 8;
    while (first + 4 * W <= columns) first = some_columns<T, 4>(rows, stride, factors, count, first, to);
    while (first + W <= columns) first = some_columns<T, 1>(rows, stride, factors, count, first, to);
#endif
    for (int64_t i = first; i < columns; ++i) to[i] = 0;
    for (int64_t n = 0; n < count && first < columns; ++n)
        for (int64_t i = first; i < columns; ++i) to[i] += factors[n] * to_float(rows[n * stride + i]);
}
