// Vectors of AVX-512 (F and BW), and of VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,fma")))
#define INLINE_AVX512 __attribute__((target("avx512f,avx512bw,fma"), always_inline)) static inline
#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni,fma")))
#define INLINE_VNNI \
  __attribute__((target("avx512f,avx512bw,avx512vnni,fma"), always_inline)) static inline

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
  INLINE_AVX512 float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  INLINE_AVX512 Floats relu(Floats a) { return _mm512_max_ps(_mm512_setzero_ps(), a); }

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
  INLINE_VNNI Words broadcast16(const uint8_t* from) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  template <int kStep>
  INLINE_VNNI Words positions(Words columns) {
    const Words offset = _mm512_set1_epi32(kStep % 2 ? 0x0c0c0808 : 0x04040000);
    const Words shifted = kStep ? _mm512_srli_epi16(columns, 2 * kStep) : columns;
    return _mm512_or_si512(_mm512_and_si512(shifted, _mm512_set1_epi8(3)), offset);
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
