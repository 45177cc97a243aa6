// INT8: quantizes features to 7 bits, and multiplies them with 2:4 sparse or dense weights.
//
// The including file defines TARGET, and LANES, the floats of a vector. Everything but the sums of
// products is C++ without contracted operations, so that all instruction sets give the same bits.
#pragma once

#include <cstring>
#include <limits>

#include "layers.h"

namespace paretoserve {
namespace {

// Rounds half to even what is below 2**22: adding 1.5 * 2**23 leaves no bits for a fraction.
constexpr float kRounder = 12582912.0f;
TARGET inline float round_even(float value) { return (value + kRounder) - kRounder; }

// The range of a row includes 0, and its step is NaN if a feature is not finite.
TARGET void quantize_row(const Int8Layer& layer, int64_t row) {
  constexpr int kLanes = LANES;
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef int32_t Words __attribute__((vector_size(4 * kLanes)));
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  const int64_t inputs = layer.inputs;  // bytes alias everything, so that it would be read again
  const float* features = layer.features + row * inputs;
  uint8_t* quantized = layer.quantized.values + row * layer.stride;
  Floats lows = {}, highs = {}, invalids = {};
  int64_t column = 0;
  for (; column + kLanes <= inputs; column += kLanes) {
    Floats loaded;
    std::memcpy(&loaded, features + column, sizeof loaded);
    lows = loaded < lows ? loaded : lows;
    highs = loaded > highs ? loaded : highs;
    invalids += loaded - loaded;  // 0, or NaN for a NaN or an infinity
  }
  float low = 0, high = 0, invalid = 0;
  for (; column < inputs; ++column) {
    const float feature = features[column];
    low = feature < low ? feature : low;
    high = feature > high ? feature : high;
    invalid += feature - feature;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    low = lows[lane] < low ? lows[lane] : low;
    high = highs[lane] > high ? highs[lane] : high;
    invalid += invalids[lane];
  }
  std::memset(quantized + inputs, 0, layer.stride - inputs);
  const bool finite = invalid == 0;
  const float step = static_cast<float>((static_cast<double>(high) - low) / 127);
  layer.quantized.steps[row] = finite ? step : std::numeric_limits<float>::quiet_NaN();
  layer.quantized.zeros[row] = 0;
  if (!finite || step == 0) {
    std::memset(quantized, 0, inputs);
    return;
  }
  const float zero = round_even(-low / step);
  layer.quantized.zeros[row] = static_cast<int32_t>(zero);
  for (column = 0; column + kLanes <= inputs; column += kLanes) {
    Floats levels;
    std::memcpy(&levels, features + column, sizeof levels);
    levels = (levels / step + kRounder) - kRounder + zero;
    levels = levels < 0 ? Floats{} : levels;
    levels = levels > 127 ? Floats{} + 127 : levels;
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(levels, Words), Bytes);
    std::memcpy(quantized + column, &bytes, sizeof bytes);
  }
  for (; column < inputs; ++column) {
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
template <class Vector, int kVectors, int kRows>
TARGET void dense_group_int8(const Int8Layer& layer, int64_t block, int64_t row) {
  constexpr int kSets = kVectors * kRows <= 4 ? 2 : 1;  // as in kernels_rows.h
  const uint8_t* features = layer.quantized.values + row * layer.stride;
  int32_t products[kRows][kBlock];
  for (int64_t part = 0; part < kBlock; part += kVectors * Vector::kLanes) {
    typename Vector::Words acc[kSets][kVectors][kRows];
    for (auto& set : acc)
      for (auto& vector : set)
        for (auto& sum : vector) sum = Vector::zero();
    const int8_t* values = layer.values + (block * layer.stride / 4 * kBlock + part) * 4;
    for (int64_t column = 0; column < layer.stride; column += 8) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, values += 4 * kBlock) {
        typename Vector::Words weights[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) weights[v] = Vector::load(values + v * Vector::kLanes * 4);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const auto four = Vector::broadcast4(features + r * layer.stride + column + 4 * half);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            auto& sum = acc[half % kSets][v][r];
            sum = Vector::add_products(sum, four, weights[v]);
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        auto sum = acc[0][v][r];
        for (int set = 1; set < kSets; ++set) sum = Vector::add(sum, acc[set][v][r]);
        Vector::store(products[r] + part + v * Vector::kLanes, sum);
      }
  }
  for (int r = 0; r < kRows; ++r) finish_row_int8(layer, block, row + r, products[r]);
}

template <class Vector, int kStep, int kSets, int kVectors, int kRows>
TARGET __attribute__((always_inline)) inline void add_step(
    const int8_t* values, const typename Vector::Words* columns, const uint8_t* features,
    int64_t stride, typename Vector::Words (&acc)[kSets][kVectors][kRows]) {
  typename Vector::Words positions[kVectors], weights[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    positions[v] = Vector::template positions<kStep>(columns[v]);
    weights[v] = Vector::load(values + (kStep * kBlock + v * Vector::kLanes) * 4);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const auto loaded = Vector::broadcast16(features + r * stride + kStep / 2 * 16);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      auto& sum = acc[kStep % kSets][v][r];
      sum = Vector::add_products(sum, Vector::select(loaded, positions[v]), weights[v]);
    }
  }
}

template <class Vector, int kVectors, int kRows>
TARGET void group24_int8(const Int8Layer24& layer, int64_t block, int64_t row) {
  constexpr int kSets = kVectors * kRows <= 4 ? 2 : 1;
  const int64_t chunks = layer.stride / kPadding;
  const uint8_t* features = layer.quantized.values + row * layer.stride;
  int32_t products[kRows][kBlock];
  for (int64_t part = 0; part < kBlock; part += kVectors * Vector::kLanes) {
    typename Vector::Words acc[kSets][kVectors][kRows];
    for (auto& set : acc)
      for (auto& vector : set)
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
      for (int v = 0; v < kVectors; ++v) {
        auto sum = acc[0][v][r];
        for (int set = 1; set < kSets; ++set) sum = Vector::add(sum, acc[set][v][r]);
        Vector::store(products[r] + part + v * Vector::kLanes, sum);
      }
  }
  for (int r = 0; r < kRows; ++r) finish_row_int8(layer, block, row + r, products[r]);
}

// Vectors per pass, so that the sums of `rows` rows fit the registers beside the operands.
template <class Vector>
constexpr int vectors_int8(int rows) {
  return Vector::kRegisters > 16 || rows > 1 ? 2 : 4;
}

// Computes the rows from `row` on, in groups of kRows, and the rest in smaller groups.
template <class Vector, int kRows>
TARGET void dense_rows_int8_from(const Int8Layer& layer, int64_t block, int64_t row) {
  for (; row + kRows <= layer.rows; row += kRows)
    dense_group_int8<Vector, vectors_int8<Vector>(kRows), kRows>(layer, block, row);
  if constexpr (kRows > 1)
    if (row < layer.rows) dense_rows_int8_from<Vector, kRows / 2>(layer, block, row);
}

template <class Vector, int kRows>
TARGET void rows24_int8_from(const Int8Layer24& layer, int64_t block, int64_t row) {
  for (; row + kRows <= layer.rows; row += kRows)
    group24_int8<Vector, vectors_int8<Vector>(kRows), kRows>(layer, block, row);
  if constexpr (kRows > 1)
    if (row < layer.rows) rows24_int8_from<Vector, kRows / 2>(layer, block, row);
}

template <class Vector>
TARGET void dense_rows_int8(const Int8Layer& layer, int64_t block) {
  dense_rows_int8_from<Vector, (Vector::kRegisters > 16 ? 8 : 4)>(layer, block, 0);
}

template <class Vector>
TARGET void rows24_int8(const Int8Layer24& layer, int64_t block) {
  rows24_int8_from<Vector, (Vector::kRegisters > 16 ? 8 : 4)>(layer, block, 0);
}
#else
TARGET void dense_rows_int8_portable(const Int8Layer& layer, int64_t block) {
  for (int64_t row = 0; row < layer.rows; ++row) {
    const uint8_t* features = layer.quantized.values + row * layer.stride;
    const int8_t* values = layer.values + block * layer.stride * kBlock;
    int32_t products[kBlock] = {};
    for (int64_t column = 0; column < layer.stride; column += 4, values += 4 * kBlock)
      for (int64_t lane = 0; lane < kBlock; ++lane)
        for (int slot = 0; slot < 4; ++slot)
          products[lane] += features[column + slot] * values[lane * 4 + slot];
    finish_row_int8(layer, block, row, products);
  }
}

TARGET void rows24_int8_portable(const Int8Layer24& layer, int64_t block) {
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
