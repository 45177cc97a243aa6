// Kernels that compute one block of outputs for all rows of features: SIMD across the outputs.
//
// The including file defines TARGET, the attribute of the instruction set. A weight is read from
// memory once: all groups of rows use a block while it is in the cache.
#pragma once

#include "layers.h"

namespace paretoserve {
namespace {

// Stores the sums of a block, [kBlock], for one row.
template <class Vector>
TARGET void finish_row(const Layer& layer, int64_t block, int64_t row, const float* sums) {
  const int64_t first = block * kBlock;
  const int64_t count = layer.outputs - first < kBlock ? layer.outputs - first : kBlock;
  float* result = layer.result + row * layer.outputs + first;
  int64_t lane = 0;
  for (; lane + Vector::kLanes <= count; lane += Vector::kLanes) {
    auto value = Vector::load(sums + lane);
    if (layer.bias) value = Vector::add(value, Vector::load(layer.bias + first + lane));
    Vector::store(result + lane, layer.relu ? Vector::relu(value) : value);
  }
  for (; lane < count; ++lane) {
    const float value = layer.bias ? sums[lane] + layer.bias[first + lane] : sums[lane];
    result[lane] = layer.relu && value < 0 ? 0 : value;
  }
}

template <class Vector, int kVectors, int kRows>
TARGET void dense_group(const DenseLayer& layer, int64_t block, int64_t row) {
  // A single row needs more sums than vectors, to hide the latency of additions.
  constexpr int kSets = kVectors * kRows <= 4 ? 2 : 1;
  const float* features = layer.features + row * layer.stride;
  const float* weight = layer.weight + block * layer.inputs * kBlock;
  float sums[kRows][kBlock];
  for (int64_t part = 0; part < kBlock; part += kVectors * Vector::kLanes) {
    typename Vector::Floats acc[kSets][kVectors][kRows];
    for (auto& set : acc)
      for (auto& vector : set)
        for (auto& sum : vector) sum = Vector::zero();
    int64_t column = 0;
    for (; column + kSets <= layer.inputs; column += kSets) {
#pragma GCC unroll 2
      for (int set = 0; set < kSets; ++set) {
        const float* from = weight + (column + set) * kBlock + part;
        typename Vector::Floats loaded[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) loaded[v] = Vector::load(from + v * Vector::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const auto feature = Vector::broadcast(features + r * layer.stride + column + set);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v)
            acc[set][v][r] = Vector::multiply_add(loaded[v], feature, acc[set][v][r]);
        }
      }
    }
    for (; column < layer.inputs; ++column)
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVectors; ++v)
          acc[0][v][r] = Vector::multiply_add(
              Vector::load(weight + column * kBlock + part + v * Vector::kLanes),
              Vector::broadcast(features + r * layer.stride + column), acc[0][v][r]);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        auto sum = acc[0][v][r];
        for (int set = 1; set < kSets; ++set) sum = Vector::add(sum, acc[set][v][r]);
        Vector::store(sums[r] + part + v * Vector::kLanes, sum);
      }
  }
  for (int r = 0; r < kRows; ++r) finish_row<Vector>(layer, block, row + r, sums[r]);
}

template <class Vector, int kVectors, int kRows>
TARGET void group24(const Layer24& layer, int64_t block, int64_t row) {
  constexpr int kSets = kVectors * kRows <= 4 ? 2 : 1;
  const int64_t chunks = layer.stride / kPadding;
  const float* features = layer.features + row * layer.stride;
  float sums[kRows][kBlock];
  for (int64_t part = 0; part < kBlock; part += kVectors * Vector::kLanes) {
    typename Vector::Floats acc[kSets][kVectors][kRows];
    for (auto& set : acc)
      for (auto& vector : set)
        for (auto& sum : vector) sum = Vector::zero();
    const float* weight = layer.values + block * (layer.stride / 2) * kBlock + part;
    const uint32_t* indices = layer.indices + block * chunks * kBlock + part;
    for (int64_t chunk = 0; chunk < chunks; ++chunk, indices += kBlock) {
      typename Vector::Words columns[kVectors];
      for (int v = 0; v < kVectors; ++v)
        columns[v] = Vector::load_words(indices + v * Vector::kLanes);
      for (int group = 0; group < 8; ++group) {
        typename Vector::Floats loaded[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
          loaded[r] = Vector::broadcast_group(features + r * layer.stride + chunk * kPadding +
                                              group * 4);
#pragma GCC unroll 2
        for (int slot = 0; slot < 2; ++slot, weight += kBlock) {
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            const auto values = Vector::load(weight + v * Vector::kLanes);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
              auto& sum = acc[slot % kSets][v][r];
              sum = Vector::multiply_add(values, Vector::select(loaded[r], columns[v]), sum);
            }
            columns[v] = Vector::next_columns(columns[v]);
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        auto sum = acc[0][v][r];
        for (int set = 1; set < kSets; ++set) sum = Vector::add(sum, acc[set][v][r]);
        Vector::store(sums[r] + part + v * Vector::kLanes, sum);
      }
  }
  for (int r = 0; r < kRows; ++r) finish_row<Vector>(layer, block, row + r, sums[r]);
}

// Vectors per pass, so that the sums of `rows` rows fit the registers beside the operands.
template <class Vector>
constexpr int vectors_dense(int rows) {
  constexpr int kAll = kBlock / Vector::kLanes;
  const int limit = (Vector::kRegisters - 4) / rows;
  int vectors = 1;
  while (vectors * 2 <= limit && vectors * 2 <= kAll && vectors < 4) vectors *= 2;
  return vectors;
}

// The same for 2:4, where there are also the columns of each vector, and a group of features of
// each row.
template <class Vector>
constexpr int vectors24(int rows) {
  return rows <= 2 && kBlock / Vector::kLanes >= 4 ? 4 : 2;
}

// Computes the rows from `row` on, in groups of kRows, and the rest in a smaller group.
template <class Vector, int kRows>
TARGET void dense_rows_from(const DenseLayer& layer, int64_t block, int64_t row) {
  for (; row + kRows <= layer.rows; row += kRows)
    dense_group<Vector, vectors_dense<Vector>(kRows), kRows>(layer, block, row);
  if constexpr (kRows > 1)
    if (row < layer.rows) dense_rows_from<Vector, kRows - 1>(layer, block, row);
}

template <class Vector, int kRows>
TARGET void rows24_from(const Layer24& layer, int64_t block, int64_t row) {
  for (; row + kRows <= layer.rows; row += kRows)
    group24<Vector, vectors24<Vector>(kRows), kRows>(layer, block, row);
  if constexpr (kRows > 1)
    if (row < layer.rows) rows24_from<Vector, kRows - 1>(layer, block, row);
}

template <class Vector>
TARGET void dense_rows(const DenseLayer& layer, int64_t block) {
  dense_rows_from<Vector, (Vector::kRegisters > 16 ? 8 : 6)>(layer, block, 0);
}

template <class Vector>
TARGET void rows24(const Layer24& layer, int64_t block) {
  rows24_from<Vector, (Vector::kRegisters > 16 ? 8 : 4)>(layer, block, 0);
}

// A row of features is gathered by the columns of the nonzero weights.
template <class Vector>
TARGET void rows_sparse(const SparseLayer& layer, int64_t block) {
  const int64_t chunks = divide_up(layer.inputs, kChunk);
  const int64_t end = (block + 1) * kBlock < layer.outputs ? (block + 1) * kBlock : layer.outputs;
  for (int64_t row = 0; row < layer.rows; ++row) {
    const float* features = layer.features + row * layer.stride;
    for (int64_t output = block * kBlock; output < end; ++output) {
      const int32_t* starts = layer.starts + output * (chunks + 1);
      float sum = Vector::gather_product(layer.values + starts[0], layer.offsets + starts[0],
                                         starts[chunks] - starts[0], features);
      if (layer.bias) sum += layer.bias[output];
      layer.result[row * layer.outputs + output] = layer.relu && sum < 0 ? 0 : sum;
    }
  }
}

}  // namespace
}  // namespace paretoserve
