// A step of a chain of layers; chain.cpp runs them.
#pragma once

#include <cstdint>

namespace paretoserve {

// As _KINDS in chain.py numbers them.
enum Kind : int32_t {
  kPacked,
  kPackedInt8,
  k24,
  k24Int8,
  kSparse,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kRelu,
};

// The layout is that of Step in chain.py. Elementwise kinds have equal inputs and outputs, and use
// nothing below but `scalar`.
struct Step {
  Kind kind;
  int32_t algorithm;
  int64_t inputs, outputs;
  float scalar;
  int32_t relu;
  const float* bias;
  const void* weight[4];
  int64_t nonzeros;
};

}  // namespace paretoserve

// Runs `count` steps, at least one, of the type Step: features [rows, inputs of the first] to
// result [rows, outputs of the last]. Returns 0, or 1 if there is not enough memory.
extern "C" __attribute__((visibility("default"))) int paretoserve_chain(
    int instruction_set, int threads, const void* steps, int64_t count, int64_t rows,
    const float* features, float* result);
