// INT8: quantizes features to 7 bits, and multiplies them with 2:4 sparse weights.
//
// The including file defines TARGET. Everything but the sums of products is plain C++ without
// contracted operations, so that all instruction sets give the same bits.
#pragma once

#include <cfloat>
#include <limits>

#include "layers.h"

namespace paretoserve {
namespace {

// Rounds half to even what is below 2**22: adding 1.5 * 2**23 leaves no bits for a fraction.
TARGET inline float round_even(float value) { return (value + 12582912.0f) - 12582912.0f; }

// The range of a row includes 0, and its step is NaN if a feature is not finite.
TARGET void quantize_row(const Int8Layer& layer, int64_t row) {
  constexpr int kLanes = 16;
  const int64_t inputs = layer.inputs;  // bytes alias everything, so that it would be read again
  const float* __restrict features = layer.features + row * inputs;
  uint8_t* __restrict quantized = layer.quantized.values + row * layer.stride;
  float low[kLanes] = {}, high[kLanes] = {}, invalid[kLanes] = {};
  int64_t column = 0;
  for (; column + kLanes <= inputs; column += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float feature = features[column + lane];
      low[lane] = feature < low[lane] ? feature : low[lane];
      high[lane] = feature > high[lane] ? feature : high[lane];
      invalid[lane] += feature - feature;  // 0, or NaN for a NaN or an infinity
    }
  for (; column < inputs; ++column) {
    const float feature = features[column];
    low[0] = feature < low[0] ? feature : low[0];
    high[0] = feature > high[0] ? feature : high[0];
    invalid[0] += feature - feature;
  }
  for (int lane = 1; lane < kLanes; ++lane) {
    low[0] = low[lane] < low[0] ? low[lane] : low[0];
    high[0] = high[lane] > high[0] ? high[lane] : high[0];
    invalid[0] += invalid[lane];
  }
  for (column = inputs; column < layer.stride; ++column) quantized[column] = 0;
  const bool finite = invalid[0] == 0;
  const float step = static_cast<float>((static_cast<double>(high[0]) - low[0]) / 127);
  layer.quantized.steps[row] = finite ? step : std::numeric_limits<float>::quiet_NaN();
  layer.quantized.zeros[row] = 0;
  if (!finite || step == 0) {
    for (column = 0; column < inputs; ++column) quantized[column] = 0;
    return;
  }
  const float zero = round_even(-low[0] / step);
  layer.quantized.zeros[row] = static_cast<int32_t>(zero);
  for (column = 0; column < inputs; ++column) {
    float level = round_even(features[column] / step) + zero;
    level = level < 0 ? 0 : level;
    level = level > 127 ? 127 : level;
    quantized[column] = static_cast<uint8_t>(static_cast<int32_t>(level));
  }
}

// Stores the sums of products of a block, [kBlock], for one row.
TARGET void finish_row_int8(const Int8Layer& layer, int64_t block, int64_t row,
                            const int32_t* products) {
  const int64_t first = block * kBlock;
  const int64_t count = layer.outputs - first < kBlock ? layer.outputs - first : kBlock;
  const float step = layer.quantized.steps[row];
  const int32_t zero = layer.quantized.zeros[row];
  float* result = layer.result + row * layer.outputs + first;
  for (int64_t lane = 0; lane < count; ++lane) {
    const float exact = static_cast<float>(products[lane] - zero * layer.sums[first + lane]);
    float value = exact * layer.scales[first + lane] * step;
    if (layer.bias) value += layer.bias[first + lane];
    result[lane] = layer.relu && value < 0 ? 0 : value;
  }
}

#if defined(VECTOR_INT8)
template <class Vector, int kStep, int kVectors, int kRows>
TARGET __attribute__((always_inline)) inline void add_step(
    const int8_t* values, const typename Vector::Words* columns, const uint8_t* features,
    int64_t stride, typename Vector::Words (&acc)[kVectors][kRows]) {
  typename Vector::Words loaded[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
    loaded[r] = Vector::broadcast16(features + r * stride + kStep / 2 * 16);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const auto positions = Vector::template positions<kStep>(columns[v]);
    const auto weights = Vector::load(values + (kStep * kBlock + v * Vector::kLanes) * 4);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      acc[v][r] = Vector::add_products(acc[v][r], Vector::select(loaded[r], positions), weights);
  }
}

template <class Vector, int kVectors, int kRows>
TARGET void group24_int8(const Int8Layer& layer, int64_t block, int64_t row) {
  const int64_t chunks = layer.stride / kPadding;
  const uint8_t* features = layer.quantized.values + row * layer.stride;
  int32_t products[kRows][kBlock];
  for (int64_t part = 0; part < kBlock; part += kVectors * Vector::kLanes) {
    typename Vector::Words acc[kVectors][kRows];
    for (auto& vector : acc)
      for (auto& sum : vector) sum = Vector::zero();
    const int8_t* values = layer.values + (block * chunks * 4 * kBlock + part) * 4;
    const uint8_t* indices = layer.indices + (block * chunks * kBlock + part) * 4;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      typename Vector::Words columns[kVectors];
      for (int v = 0; v < kVectors; ++v)
        columns[v] = Vector::load(indices + v * Vector::kLanes * 4);
      const uint8_t* from = features + chunk * kPadding;
      add_step<Vector, 0>(values, columns, from, layer.stride, acc);
      add_step<Vector, 1>(values, columns, from, layer.stride, acc);
      add_step<Vector, 2>(values, columns, from, layer.stride, acc);
      add_step<Vector, 3>(values, columns, from, layer.stride, acc);
      values += 16 * kBlock;
      indices += 4 * kBlock;
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        Vector::store(products[r] + part + v * Vector::kLanes, acc[v][r]);
  }
  for (int r = 0; r < kRows; ++r) finish_row_int8(layer, block, row + r, products[r]);
}

template <class Vector>
TARGET void rows24_int8(const Int8Layer& layer, int64_t block) {
  constexpr bool kMany = Vector::kRegisters > 16;
  int64_t row = 0;
  for (; row + 4 <= layer.rows; row += 4) group24_int8<Vector, kMany ? 2 : 1, 4>(layer, block, row);
  for (; row + 2 <= layer.rows; row += 2) group24_int8<Vector, 2, 2>(layer, block, row);
  if (row < layer.rows) group24_int8<Vector, kMany ? 2 : 4, 1>(layer, block, row);
}
#else
TARGET void rows24_int8_portable(const Int8Layer& layer, int64_t block) {
  const int64_t chunks = layer.stride / kPadding;
  for (int64_t row = 0; row < layer.rows; ++row) {
    const uint8_t* features = layer.quantized.values + row * layer.stride;
    int32_t products[kBlock] = {};
    for (int64_t chunk = 0; chunk < chunks; ++chunk, features += kPadding) {
      const int8_t* values = layer.values + (block * chunks + chunk) * 16 * kBlock;
      const uint8_t* indices = layer.indices + (block * chunks + chunk) * 4 * kBlock;
      for (int step = 0; step < 4; ++step)
        for (int64_t lane = 0; lane < kBlock; ++lane)
          for (int slot = 0; slot < 4; ++slot) {
            const int column = indices[lane * 4 + slot] >> 2 * step & 3;
            products[lane] += features[step * 8 + slot / 2 * 4 + column] *
                              values[(step * kBlock + lane) * 4 + slot];
          }
    }
    finish_row_int8(layer, block, row, products);
  }
}
#endif

}  // namespace
}  // namespace paretoserve
