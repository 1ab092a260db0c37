// Data types of stored values, and their conversions to and from float.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define LEVEL_PORTABLE 0
#define LEVEL_AVX2 1         // with FMA, F16C
#define LEVEL_AVX512 2       // F, BW, DQ, VL
#define LEVEL_AVX512_BF16 3  // and VBMI2, BF16, VNNI
#ifndef LEVEL
#define LEVEL LEVEL_PORTABLE
#endif
#if LEVEL > LEVEL_PORTABLE
#include <immintrin.h>
#endif

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};
struct Int8 {  // to be multiplied by the scale of its row
    int8_t number;
};
struct WholeInt8 {  // the same, for inputs quantized to int16
    int8_t number;
};

// The type of int8 values in products with inputs of type T: 16-bit inputs are quantized to int16 where this is faster.
template <class T>
struct Small {
    using Type = Int8;
};
#if LEVEL == LEVEL_AVX512_BF16
template <>
struct Small<BFloat16> {
    using Type = WholeInt8;
};
template <>
struct Small<Float16> {
    using Type = WholeInt8;
};
#endif

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline float to_float(float value) { return value; }

inline float to_float(Int8 value) { return value.number; }

inline float to_float(BFloat16 value) { return same_bits<float>(uint32_t(value.bits) << 16); }

inline float to_float(Float16 value) {
#if LEVEL > LEVEL_PORTABLE
    return _cvtsh_ss(value.bits);
#else
    uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
    if (rest >= 0x7c00) return same_bits<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // infinity or NaN
    if (rest < 0x400) return same_bits<float>(sign | same_bits<uint32_t>(float(rest) * 0x1p-24f));  // subnormal
    return same_bits<float>(sign | ((rest << 13) + (112u << 23)));
#endif
}

template <class T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
    return value;
}

template <>  // round to nearest, ties to even
inline BFloat16 from_float<BFloat16>(float value) {
    uint32_t bits = same_bits<uint32_t>(value);
    if (std::isnan(value)) return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>  // round to nearest, ties to even
inline Float16 from_float<Float16>(float value) {
#if LEVEL > LEVEL_PORTABLE
    return {uint16_t(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
#else
    uint32_t bits = same_bits<uint32_t>(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and more: infinity
    if (rest < 0x38800000) {  // subnormal: the addition rounds to units of 2^-24
        float units = same_bits<float>(rest) + 0.5f;
        return {uint16_t(sign | (same_bits<uint32_t>(units) - 0x3f000000))};
    }
    return {uint16_t(sign | ((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13))};
#endif
}
