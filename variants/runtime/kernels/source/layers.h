// What the kernels compute, and the table through which an instruction set offers them.
// packing.py documents the layouts.
#pragma once

#include <cstdint>

namespace paretoserve {

constexpr int64_t kBlock = 32;    // outputs of a block
constexpr int64_t kChunk = 128;   // columns of a chunk of a sparse weight
constexpr int64_t kPadding = 32;  // `in` is padded to a multiple of it in the layouts of 2:4

constexpr int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

// activation(features @ weight.T + bias): features [rows, inputs], result [rows, outputs].
// Features have room for `stride` values per row, which are zero beyond `inputs`.
struct Layer {
  int64_t rows, inputs, outputs, stride;
  const float* features;
  const float* bias;  // or nullptr
  bool relu;
  float* result;
};

struct DenseLayer : Layer {
  const float* weight;
};

struct Layer24 : Layer {
  const float* values;
  const uint32_t* indices;
};

struct SparseLayer : Layer {
  const float* values;
  const uint16_t* offsets;
  const int32_t* starts;
};

// Features quantized to 0..127, [rows, stride]: a feature is about (quantized - zero) * step.
struct QuantizedRows {
  uint8_t* values;
  float* steps;
  int32_t* zeros;
};

struct Int8Layer : Layer {
  const int8_t* values;
  const float* scales;
  const int32_t* sums;
  QuantizedRows quantized;
};

struct Int8Layer24 : Int8Layer {
  const uint8_t* indices;
};

// Up to 32 rows of features, transposed: [columns, width]. Unused rows are zero.
struct Panel {
  const float* features;
  int64_t first_row, rows, width;  // width is 8, 16 or 32
};

// All functions compute some outputs completely, so that threads need no synchronization.
struct FloatKernels {
  void (*dense_rows)(const DenseLayer&, int64_t block);
  void (*rows24)(const Layer24&, int64_t block);
  void (*rows_sparse)(const SparseLayer&, int64_t block);
  void (*panel24)(const Layer24&, const Panel&, int64_t first_block, int64_t end_block);
  void (*panel_sparse)(const SparseLayer&, const Panel&, int64_t first_block, int64_t end_block);
  int64_t smallest_panel;  // width
  int64_t panel24_from;    // rows from which panel24 is faster than rows24
};

struct Int8Kernels {
  void (*quantize_row)(const Int8Layer&, int64_t row);
  void (*dense_rows)(const Int8Layer&, int64_t block);
  void (*rows24)(const Int8Layer24&, int64_t block);
};

constexpr int64_t kBlocksPerPanelCall = 8;  // at most; bounds the sums that a call keeps

extern const FloatKernels portable_float_kernels;
extern const Int8Kernels portable_int8_kernels;
#if defined(__x86_64__)
extern const FloatKernels avx2_float_kernels;
extern const Int8Kernels avx2_int8_kernels;
extern const FloatKernels avx512_float_kernels;
extern const Int8Kernels vnni_int8_kernels;
#endif

}  // namespace paretoserve
