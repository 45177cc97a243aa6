// Kernels that compute several blocks of outputs for one panel of rows: SIMD across the rows.
//
// The including file defines TARGET. The loops visit some columns for all outputs before the next
// columns, so that this part of the panel stays in a cache. Each weight is read
// once and multiplied with a vector of rows in place, without moving features in registers.
#pragma once

#include <cstring>

#include "layers.h"

namespace paretoserve {
namespace {

constexpr int64_t kMaxWidth = 32;

// Bytes of a panel that are visited together. 2:4 weights use each column of features often, which
// pays in the first cache. Sparse weights have few nonzeros in a part of a row: small parts would
// end loops too often, and break up the stream of the weights, so that the second cache is better.
constexpr int64_t kPartBytes24 = 16 << 10;
constexpr int64_t kPartBytesSparse = 64 << 10;
constexpr int64_t kPartBytesSparseNarrow = 128 << 10;  // of panels with up to 16 rows

// Sums of a call, [outputs, width].
struct PanelSums {
  alignas(64) float values[kBlocksPerPanelCall * kBlock * kMaxWidth];
};

// Stores the sums of outputs `first` to `end`: adds the bias, and transposes.
template <class Vector, int kVectors>
TARGET void finish_panel(const Layer& layer, const Panel& panel, int64_t first, int64_t end,
                         const float* sums) {
  constexpr int64_t kWidth = kVectors * Vector::kLanes;
  constexpr int64_t kTile = 8;
  float tile[kTile][kWidth];
  for (int64_t output = first; output < end; output += kTile) {
    const int64_t count = end - output < kTile ? end - output : kTile;
    for (int64_t i = 0; i < count; ++i)
      for (int v = 0; v < kVectors; ++v) {
        auto value = Vector::load(sums + (output - first + i) * kWidth + v * Vector::kLanes);
        if (layer.bias) value = Vector::add(value, Vector::broadcast(layer.bias + output + i));
        Vector::store(&tile[i][v * Vector::kLanes], layer.relu ? Vector::relu(value) : value);
      }
    for (int64_t row = 0; row < panel.rows; ++row) {
      float* result = layer.result + (panel.first_row + row) * layer.outputs + output;
      if (count == kTile)
        for (int64_t i = 0; i < kTile; ++i) result[i] = tile[i][row];
      else
        for (int64_t i = 0; i < count; ++i) result[i] = tile[i][row];
    }
  }
}

TARGET inline uint32_t rotate_right(uint32_t value, int bits) {
  return value >> (bits & 31) | value << (-bits & 31);
}

template <class Vector, int kVectors>
TARGET void panel24_width(const Layer24& layer, const Panel& panel, int64_t first_block,
                          int64_t end_block) {
  constexpr int64_t kWidth = kVectors * Vector::kLanes;
  constexpr int kLogWidth = kWidth == 8 ? 3 : kWidth == 16 ? 4 : 5;
  constexpr int kOutputs = kVectors >= 8 ? 1 : 8 / kVectors;  // per pass
  PanelSums sums;
  if (layer.stride == 0) std::memset(sums.values, 0, sizeof sums.values);
  const int64_t words = layer.stride / kPadding;  // of indices per output
  constexpr int64_t kWords = kPartBytes24 / (kWidth * 4) / kPadding;
  for (int64_t word = 0; word < words; word += kWords) {
    const int64_t end_word = word + kWords < words ? word + kWords : words;
    for (int64_t block = first_block; block < end_block; ++block) {
      for (int64_t lane = 0; lane < kBlock; lane += kOutputs) {
        float* kept = sums.values + ((block - first_block) * kBlock + lane) * kWidth;
        typename Vector::Floats acc[kOutputs][kVectors];
        for (int o = 0; o < kOutputs; ++o)
          for (int v = 0; v < kVectors; ++v)
            acc[o][v] = word ? Vector::load(kept + o * kWidth + v * Vector::kLanes)
                             : Vector::zero();
        // The values of the next block for these columns are elsewhere in memory.
        const float* next =
            layer.values + ((block + 1) * words + word) * 16 * kBlock + lane * 16 * kWords;
        for (int64_t ahead = 0; ahead < kOutputs * kWords; ++ahead)
          __builtin_prefetch(next + 16 * ahead);
        for (int64_t w = word; w < end_word; ++w) {
          const uint32_t* indices = layer.indices + (block * words + w) * kBlock + lane;
          const float* values = layer.values + (block * words + w) * 16 * kBlock + lane;
          const float* features = panel.features + w * kPadding * kWidth;
#pragma GCC unroll 8
          for (int group = 0; group < 8; ++group, features += 4 * kWidth) {
#pragma GCC unroll 2
            for (int slot = 0; slot < 2; ++slot, values += kBlock) {
#pragma GCC unroll 8
              for (int o = 0; o < kOutputs; ++o) {
                const auto value = Vector::broadcast(values + o);
                // One rotation leaves the column times kWidth.
                const uint32_t line =
                    rotate_right(indices[o], 4 * group + 2 * slot - kLogWidth) & (3 * kWidth);
                const float* from = features + line;
#pragma GCC unroll 8
                for (int v = 0; v < kVectors; ++v)
                  acc[o][v] = Vector::multiply_add(
                      value, Vector::load(from + v * Vector::kLanes), acc[o][v]);
              }
            }
          }
        }
        for (int o = 0; o < kOutputs; ++o)
          for (int v = 0; v < kVectors; ++v)
            Vector::store(kept + o * kWidth + v * Vector::kLanes, acc[o][v]);
      }
    }
  }
  const int64_t end = end_block * kBlock < layer.outputs ? end_block * kBlock : layer.outputs;
  finish_panel<Vector, kVectors>(layer, panel, first_block * kBlock, end, sums.values);
}

template <class Vector, int kVectors>
TARGET void panel_sparse_width(const SparseLayer& layer, const Panel& panel, int64_t first_block,
                               int64_t end_block) {
  constexpr int64_t kWidth = kVectors * Vector::kLanes;
  constexpr int kSets = kVectors == 1 ? 4 : 2;  // sums of an output, to hide the latency
  PanelSums sums;
  if (layer.stride == 0) std::memset(sums.values, 0, sizeof sums.values);
  const int64_t first = first_block * kBlock;
  const int64_t end = end_block * kBlock < layer.outputs ? end_block * kBlock : layer.outputs;
  const int64_t chunks = divide_up(layer.inputs, kChunk);
  constexpr int64_t kBytes = kWidth > 16 ? kPartBytesSparse : kPartBytesSparseNarrow;
  constexpr int64_t kChunks = kBytes / (kWidth * 4) / kChunk;
  for (int64_t chunk = 0; chunk < chunks; chunk += kChunks) {
    const int64_t end_chunk = chunk + kChunks < chunks ? chunk + kChunks : chunks;
    for (int64_t output = first; output < end; ++output) {
      const int32_t* starts = layer.starts + output * (chunks + 1);
      float* kept = sums.values + (output - first) * kWidth;
      typename Vector::Floats acc[kSets][kVectors];
      for (int v = 0; v < kVectors; ++v) {
        acc[0][v] = chunk ? Vector::load(kept + v * Vector::kLanes) : Vector::zero();
        for (int set = 1; set < kSets; ++set) acc[set][v] = Vector::zero();
      }
      int64_t i = starts[chunk];
      const int64_t last = starts[end_chunk];
      for (; i + kSets <= last; i += kSets) {
#pragma GCC unroll 4
        for (int set = 0; set < kSets; ++set) {
          const auto value = Vector::broadcast(layer.values + i + set);
          const float* from = panel.features + int64_t{layer.offsets[i + set]} * kWidth;
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v)
            acc[set][v] = Vector::multiply_add(value, Vector::load(from + v * Vector::kLanes),
                                               acc[set][v]);
        }
      }
      for (; i < last; ++i)
        for (int v = 0; v < kVectors; ++v)
          acc[0][v] = Vector::multiply_add(
              Vector::broadcast(layer.values + i),
              Vector::load(panel.features + int64_t{layer.offsets[i]} * kWidth +
                           v * Vector::kLanes),
              acc[0][v]);
      for (int v = 0; v < kVectors; ++v) {
        for (int set = 1; set < kSets; ++set) acc[0][v] = Vector::add(acc[0][v], acc[set][v]);
        Vector::store(kept + v * Vector::kLanes, acc[0][v]);
      }
    }
  }
  finish_panel<Vector, kVectors>(layer, panel, first, end, sums.values);
}

// Vectors of a panel of 8 rows. Wider vectors need panels of 16.
template <class Vector>
constexpr int kVectorsOf8 = Vector::kLanes > 8 ? 1 : 8 / Vector::kLanes;

template <class Vector>
TARGET void panel24(const Layer24& layer, const Panel& panel, int64_t first, int64_t end) {
  switch (panel.width) {
    case 8: return panel24_width<Vector, kVectorsOf8<Vector>>(layer, panel, first, end);
    case 16: return panel24_width<Vector, 16 / Vector::kLanes>(layer, panel, first, end);
    case 32: return panel24_width<Vector, 32 / Vector::kLanes>(layer, panel, first, end);
  }
}

template <class Vector>
TARGET void panel_sparse(const SparseLayer& layer, const Panel& panel, int64_t first,
                         int64_t end) {
  switch (panel.width) {
    case 8: return panel_sparse_width<Vector, kVectorsOf8<Vector>>(layer, panel, first, end);
    case 16: return panel_sparse_width<Vector, 16 / Vector::kLanes>(layer, panel, first, end);
    case 32: return panel_sparse_width<Vector, 32 / Vector::kLanes>(layer, panel, first, end);
  }
}

}  // namespace
}  // namespace paretoserve
