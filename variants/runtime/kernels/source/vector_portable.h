// Vectors in portable C++, of four lanes, which compilers map to SSE2 and NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define TARGET_PORTABLE
#define INLINE_PORTABLE __attribute__((always_inline)) static inline

namespace paretoserve {
namespace {

struct Portable {
  typedef float Floats __attribute__((vector_size(16)));
  typedef uint32_t Words __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 16;

  INLINE_PORTABLE Floats zero() { return Floats{0, 0, 0, 0}; }
  INLINE_PORTABLE Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  INLINE_PORTABLE void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }
  INLINE_PORTABLE Floats broadcast(const float* from) {
    return Floats{*from, *from, *from, *from};
  }
  INLINE_PORTABLE Floats add(Floats a, Floats b) { return a + b; }
  INLINE_PORTABLE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FP_FAST_FMAF)
    for (int lane = 0; lane < kLanes; ++lane) c[lane] = std::fmaf(a[lane], b[lane], c[lane]);
    return c;
#else
    return a * b + c;
#endif
  }
  INLINE_PORTABLE float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
    return std::fmaf(a, b, c);
#else
    return a * b + c;
#endif
  }
  INLINE_PORTABLE Floats relu(Floats a) {
    for (int lane = 0; lane < kLanes; ++lane) a[lane] = a[lane] < 0 ? 0 : a[lane];
    return a;
  }

  // The sum of products of weights and the features at their columns.
  INLINE_PORTABLE float gather_product(const float* values, const uint16_t* offsets,
                                       int64_t count, const float* features) {
    float sums[4] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4)
      for (int64_t k = 0; k < 4; ++k)
        sums[k] = multiply_add(values[i + k], features[offsets[i + k]], sums[k]);
    for (; i < count; ++i) sums[0] = multiply_add(values[i], features[offsets[i]], sums[0]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  INLINE_PORTABLE Words load_words(const void* from) {
    Words value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  INLINE_PORTABLE Floats broadcast_group(const float* from) { return load(from); }
  INLINE_PORTABLE Floats select(Floats group, Words columns) {
    float features[4];
    std::memcpy(features, &group, sizeof features);
    return Floats{features[columns[0] & 3], features[columns[1] & 3], features[columns[2] & 3],
                  features[columns[3] & 3]};
  }
  INLINE_PORTABLE Words next_columns(Words columns) { return columns >> 2; }
};

}  // namespace
}  // namespace paretoserve
