// Vectors of AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define TARGET_AVX2 __attribute__((target("avx2,fma,bmi2")))
#define INLINE_AVX2 __attribute__((target("avx2,fma,bmi2"), always_inline)) static inline

namespace paretoserve {
namespace {

struct Avx2 {
  using Floats = __m256;
  using Words = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 16;

  INLINE_AVX2 Floats zero() { return _mm256_setzero_ps(); }
  INLINE_AVX2 Floats load(const float* from) { return _mm256_loadu_ps(from); }
  INLINE_AVX2 void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
  INLINE_AVX2 Floats broadcast(const float* from) { return _mm256_broadcast_ss(from); }
  INLINE_AVX2 Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  INLINE_AVX2 Floats multiply_add(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  // Keeps a NaN: the instruction returns its second operand then.
  INLINE_AVX2 Floats relu(Floats a) { return _mm256_max_ps(_mm256_setzero_ps(), a); }

  // The sum of products of weights and the features at their columns.
  INLINE_AVX2 float gather_product(const float* values, const uint16_t* offsets, int64_t count,
                                   const float* features) {
    Floats sum = zero(), other = zero();
    int64_t i = 0;
    for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
      sum = multiply_add(load(values + i), gather(features, offsets + i), sum);
      other = multiply_add(load(values + i + kLanes), gather(features, offsets + i + kLanes), other);
    }
    for (; i + kLanes <= count; i += kLanes)
      sum = multiply_add(load(values + i), gather(features, offsets + i), sum);
    float rest = 0;
    for (; i < count; ++i) rest = __builtin_fmaf(values[i], features[offsets[i]], rest);
    sum = add(sum, other);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) + rest;
  }
  INLINE_AVX2 Floats gather(const float* features, const uint16_t* offsets) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets));
    return _mm256_i32gather_ps(features, _mm256_cvtepu16_epi32(narrow), 4);
  }

  INLINE_AVX2 Words load_words(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  // Four features in each 128 bits, and the selection of one per lane by the lowest two bits.
  INLINE_AVX2 Floats broadcast_group(const float* from) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from));
  }
  INLINE_AVX2 Floats select(Floats group, Words columns) {
    return _mm256_permutevar_ps(group, columns);
  }
  INLINE_AVX2 Words next_columns(Words columns) { return _mm256_srli_epi32(columns, 2); }
};

// Sums of products of 7-bit features and 8-bit weights, four products per 32-bit lane.
struct Avx2Int8 {
  using Words = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 16;

  INLINE_AVX2 Words zero() { return _mm256_setzero_si256(); }
  INLINE_AVX2 Words load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  INLINE_AVX2 void store(int32_t* to, Words value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
  }
  INLINE_AVX2 Words add(Words a, Words b) { return _mm256_add_epi32(a, b); }
  INLINE_AVX2 Words broadcast4(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
  }
  INLINE_AVX2 Words broadcast16(const uint8_t* from) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  // The columns of a step, as positions in the 16 features of its pair of steps.
  template <int kStep>
  INLINE_AVX2 Words positions(Words columns) {
    const Words offset = _mm256_set1_epi32(kStep % 2 ? 0x0c0c0808 : 0x04040000);
    const Words shifted = kStep ? _mm256_srli_epi16(columns, 2 * kStep) : columns;
    return _mm256_or_si256(_mm256_and_si256(shifted, _mm256_set1_epi8(3)), offset);
  }
  INLINE_AVX2 Words select(Words features, Words positions) {
    return _mm256_shuffle_epi8(features, positions);
  }
  INLINE_AVX2 Words add_products(Words sums, Words features, Words weights) {
    const Words pairs = _mm256_maddubs_epi16(features, weights);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace
}  // namespace paretoserve
