// Vectors of AVX-512 (F, BW and VL), and of VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,fma,bmi2")))
#define INLINE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,fma,bmi2"), always_inline)) static inline
#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,fma,bmi2")))
#define INLINE_VNNI \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,fma,bmi2"), always_inline)) static inline

namespace paretoserve {
namespace {

struct Avx512 {
  using Floats = __m512;
  using Words = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 32;

  INLINE_AVX512 Floats zero() { return _mm512_setzero_ps(); }
  INLINE_AVX512 Floats load(const float* from) { return _mm512_loadu_ps(from); }
  INLINE_AVX512 void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
  INLINE_AVX512 Floats broadcast(const float* from) { return _mm512_set1_ps(*from); }
  INLINE_AVX512 Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  INLINE_AVX512 Floats multiply_add(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  INLINE_AVX512 Floats relu(Floats a) { return _mm512_max_ps(_mm512_setzero_ps(), a); }

  // The sum of products of weights and the features at their columns.
  INLINE_AVX512 float gather_product(const float* values, const uint16_t* offsets, int64_t count,
                                     const float* features) {
    Floats sum = zero(), other = zero();
    int64_t i = 0;
    for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
      sum = multiply_add(load(values + i), gather(features, offsets + i), sum);
      other = multiply_add(load(values + i + kLanes), gather(features, offsets + i + kLanes), other);
    }
    for (; i < count; i += kLanes) {
      const int64_t left = count - i;
      const __mmask16 mask = left < kLanes ? (1u << left) - 1 : 0xffff;
      const __m512i columns =
          _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, offsets + i));
      const Floats loaded = _mm512_mask_i32gather_ps(zero(), mask, columns, features, 4);
      sum = multiply_add(_mm512_maskz_loadu_ps(mask, values + i), loaded, sum);
    }
    return _mm512_reduce_add_ps(add(sum, other));
  }
  INLINE_AVX512 Floats gather(const float* features, const uint16_t* offsets) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets));
    return _mm512_i32gather_ps(_mm512_cvtepu16_epi32(narrow), features, 4);
  }

  INLINE_AVX512 Words load_words(const void* from) { return _mm512_loadu_si512(from); }
  INLINE_AVX512 Floats broadcast_group(const float* from) {
    return _mm512_broadcast_f32x4(_mm_loadu_ps(from));
  }
  INLINE_AVX512 Floats select(Floats group, Words columns) {
    return _mm512_permutevar_ps(group, columns);
  }
  INLINE_AVX512 Words next_columns(Words columns) { return _mm512_srli_epi32(columns, 2); }
};

struct VnniInt8 {
  using Words = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 32;

  INLINE_VNNI Words zero() { return _mm512_setzero_si512(); }
  INLINE_VNNI Words load(const void* from) { return _mm512_loadu_si512(from); }
  INLINE_VNNI void store(int32_t* to, Words value) { _mm512_storeu_si512(to, value); }
  INLINE_VNNI Words add(Words a, Words b) { return _mm512_add_epi32(a, b); }
  INLINE_VNNI Words broadcast4(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
  }
  INLINE_VNNI Words broadcast16(const uint8_t* from) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  template <int kStep>
  INLINE_VNNI Words positions(Words columns) {
    const Words offset = _mm512_set1_epi32(kStep % 2 ? 0x0c0c0808 : 0x04040000);
    const Words shifted = kStep ? _mm512_srli_epi16(columns, 2 * kStep) : columns;
    return _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi8(3), offset, 0xea);  // (a & b) | c
  }
  INLINE_VNNI Words select(Words features, Words positions) {
    return _mm512_shuffle_epi8(features, positions);
  }
  INLINE_VNNI Words add_products(Words sums, Words features, Words weights) {
    return _mm512_dpbusd_epi32(sums, features, weights);
  }
};

}  // namespace
}  // namespace paretoserve
