// The C interface of the library, which compiled.py calls.
//
// Functions return 0, or 1 if there is not enough memory. `instruction_set` is a number of
// INSTRUCTION_SETS in library.py, at most what paretoserve_instruction_set() returned. `algorithm`
// is 0 to select by the number of rows, 1 for "rows", and 2 for "panel".
#include "interface.h"

#include <cstring>

#include "layers.h"
#include "pool.h"
#include "scratch.h"

namespace paretoserve {
namespace {

enum Algorithm { kAuto = 0, kRows = 1, kPanel = 2 };

// From this number of rows on, panel_sparse is faster than rows_sparse.
constexpr int64_t kPanelFromSparse = 2;

// Products per thread that are worth waking one: some 60 us, while waking takes 10 to 50.
constexpr int64_t kProductsPerThread = 1 << 20;

thread_local Scratch scratch;

const FloatKernels& float_kernels(int instruction_set) {
#if defined(__x86_64__)
  if (instruction_set >= 2) return avx512_float_kernels;
  if (instruction_set == 1) return avx2_float_kernels;
#endif
  (void)instruction_set;
  return portable_float_kernels;
}

const Int8Kernels& int8_kernels(int instruction_set) {
#if defined(__x86_64__)
  if (instruction_set >= 3) return vnni_int8_kernels;
  if (instruction_set >= 1) return avx2_int8_kernels;
#endif
  (void)instruction_set;
  return portable_int8_kernels;
}

int useful_threads(int threads, int64_t products) {
  const int64_t useful = products / kProductsPerThread;
  return useful < 1 ? 1 : useful < threads ? static_cast<int>(useful) : threads;
}

// Runs a function for each block of outputs.
template <class SomeLayer>
void run_rows(const SomeLayer& layer, int threads, int64_t weights,
              void (*kernel)(const SomeLayer&, int64_t)) {
  struct Context {
    const SomeLayer& layer;
    void (*kernel)(const SomeLayer&, int64_t);
  } context{layer, kernel};
  parallel_for(
      divide_up(layer.outputs, kBlock), useful_threads(threads, weights * layer.rows),
      [](void* pointer, int64_t block) {
        const auto& call = *static_cast<Context*>(pointer);
        call.kernel(call.layer, block);
      },
      &context);
}

int64_t panel_width(int64_t rows, int64_t smallest) {
  const int64_t width = rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
  return width < smallest ? smallest : width;
}

// Transposes columns of one panel: [rows, inputs] to [stride, width], padded with zeros.
void transpose(const Layer& layer, const Panel& panel, int64_t first, int64_t end, float* to) {
  for (int64_t column = first; column < end; ++column) {
    float* line = to + column * panel.width;
    const float* from = layer.features + panel.first_row * layer.inputs + column;
    const int64_t rows = column < layer.inputs ? panel.rows : 0;
    for (int64_t row = 0; row < rows; ++row) line[row] = from[row * layer.inputs];
    for (int64_t row = rows; row < panel.width; ++row) line[row] = 0;
  }
}

// Transposes the features into panels, and runs a function for each panel and some blocks.
template <class SomeLayer>
int run_panels(const SomeLayer& layer, int threads, int64_t weights, int64_t smallest,
               void (*kernel)(const SomeLayer&, const Panel&, int64_t, int64_t)) {
  struct Context {
    const SomeLayer& layer;
    void (*kernel)(const SomeLayer&, const Panel&, int64_t, int64_t);
    float* panels;
    int64_t smallest, blocks, blocks_per_call, calls_per_panel, chunks;

    Panel panel(int64_t index) const {
      const int64_t first = index * 32;
      const int64_t rows = layer.rows - first < 32 ? layer.rows - first : 32;
      return {panels + first * layer.stride, first, rows, panel_width(rows, smallest)};
    }
  };
  const int64_t count = divide_up(layer.rows, 32), blocks = divide_up(layer.outputs, kBlock);
  const Shrink shrink(scratch);
  void* memory = scratch.reserve(count * 32 * layer.stride * int64_t{sizeof(float)});
  if (!memory) return 1;
  threads = useful_threads(threads, weights * layer.rows);
  // Enough calls that the threads finish at about the same time.
  int64_t per_call = divide_up(blocks * count, 8 * threads);
  per_call = threads == 1 || per_call > kBlocksPerPanelCall ? kBlocksPerPanelCall : per_call;
  Context context{layer,    kernel, static_cast<float*>(memory),   smallest, blocks,
                  per_call, divide_up(blocks, per_call), divide_up(layer.stride, kChunk)};
  parallel_for(
      count * context.chunks, threads,
      [](void* pointer, int64_t index) {
        const auto& call = *static_cast<Context*>(pointer);
        const Panel panel = call.panel(index / call.chunks);
        const int64_t first = index % call.chunks * kChunk;
        const int64_t end = first + kChunk < call.layer.stride ? first + kChunk : call.layer.stride;
        transpose(call.layer, panel, first, end, const_cast<float*>(panel.features));
      },
      &context);
  parallel_for(
      count * context.calls_per_panel, threads,
      [](void* pointer, int64_t index) {
        const auto& call = *static_cast<Context*>(pointer);
        const int64_t first = index % call.calls_per_panel * call.blocks_per_call;
        const int64_t end = first + call.blocks_per_call;
        call.kernel(call.layer, call.panel(index / call.calls_per_panel), first,
                    end < call.blocks ? end : call.blocks);
      },
      &context);
  return 0;
}

// Quantizes the features, and runs a function for each block of outputs. `weights` is those of a
// row.
template <class SomeLayer>
int run_int8(SomeLayer& layer, int threads, int64_t weights, const Int8Kernels& kernels,
             void (*kernel)(const SomeLayer&, int64_t)) {
  layer.stride = divide_up(layer.inputs, kPadding) * kPadding;
  const Shrink shrink(scratch);
  auto* memory = static_cast<uint8_t*>(scratch.reserve(layer.rows * (layer.stride + 8)));
  if (!memory) return 1;
  layer.quantized.values = memory;
  layer.quantized.steps = reinterpret_cast<float*>(memory + layer.rows * layer.stride);
  layer.quantized.zeros = reinterpret_cast<int32_t*>(layer.quantized.steps + layer.rows);
  for (int64_t row = 0; row < layer.rows; ++row) kernels.quantize_row(layer, row);
  run_rows(layer, threads, weights * layer.outputs, kernel);
  return 0;
}

Layer make_layer(int64_t rows, int64_t inputs, int64_t outputs, const float* features,
                 const float* bias, int relu, float* result) {
  return {rows, inputs, outputs, inputs, features, bias, relu != 0, result};
}

}  // namespace
}  // namespace paretoserve

using namespace paretoserve;

EXPORT int paretoserve_version() { return 3; }

EXPORT int paretoserve_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("bmi2"))
    return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl"))
    return 1;
  return __builtin_cpu_supports("avx512vnni") ? 3 : 2;
#else
  return 0;
#endif
}

EXPORT int paretoserve_linear_packed(int instruction_set, int, int threads, int64_t rows,
                                     int64_t inputs, int64_t outputs, const float* features,
                                     const float* weight, const float* bias, int relu,
                                     float* result) {
  const DenseLayer layer{make_layer(rows, inputs, outputs, features, bias, relu, result), weight};
  run_rows(layer, threads, inputs * outputs, float_kernels(instruction_set).dense_rows);
  return 0;
}

EXPORT int paretoserve_linear24(int instruction_set, int algorithm, int threads, int64_t rows,
                                int64_t inputs, int64_t outputs, const float* features,
                                const float* values, const uint32_t* indices, const float* bias,
                                int relu, float* result) {
  const FloatKernels& kernels = float_kernels(instruction_set);
  Layer24 layer{make_layer(rows, inputs, outputs, features, bias, relu, result), values, indices};
  layer.stride = divide_up(inputs, kPadding) * kPadding;
  const int64_t weights = layer.stride / 2 * outputs;
  if (algorithm == kPanel || (algorithm == kAuto && rows >= kernels.panel24_from))
    return run_panels(layer, threads, weights, kernels.smallest_panel, kernels.panel24);
  const Shrink shrink(scratch);
  if (layer.stride != inputs) {
    auto* padded =
        static_cast<float*>(scratch.reserve(rows * layer.stride * int64_t{sizeof(float)}));
    if (!padded) return 1;
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(padded + row * layer.stride, features + row * inputs, inputs * sizeof(float));
      std::memset(padded + row * layer.stride + inputs, 0, (layer.stride - inputs) * sizeof(float));
    }
    layer.features = padded;
  }
  run_rows(layer, threads, weights, kernels.rows24);
  return 0;
}

EXPORT int paretoserve_linear_sparse(int instruction_set, int algorithm, int threads,
                                     int64_t rows, int64_t inputs, int64_t outputs,
                                     const float* features, const float* values,
                                     const uint16_t* offsets, const int32_t* starts,
                                     int64_t nonzeros, const float* bias, int relu,
                                     float* result) {
  const FloatKernels& kernels = float_kernels(instruction_set);
  const SparseLayer layer{make_layer(rows, inputs, outputs, features, bias, relu, result), values,
                          offsets, starts};
  if (algorithm == kPanel || (algorithm == kAuto && rows >= kPanelFromSparse))
    return run_panels(layer, threads, nonzeros, kernels.smallest_panel, kernels.panel_sparse);
  run_rows(layer, threads, nonzeros, kernels.rows_sparse);
  return 0;
}

EXPORT int paretoserve_linear_packed_int8(int instruction_set, int, int threads, int64_t rows,
                                          int64_t inputs, int64_t outputs, const float* features,
                                          const int8_t* values, const float* scales,
                                          const int32_t* sums, const float* bias, int relu,
                                          float* result) {
  const Int8Kernels& kernels = int8_kernels(instruction_set);
  Int8Layer layer{make_layer(rows, inputs, outputs, features, bias, relu, result), values, scales,
                  sums, {}};
  return run_int8(layer, threads, inputs, kernels, kernels.dense_rows);
}

EXPORT int paretoserve_linear24_int8(int instruction_set, int, int threads, int64_t rows,
                                     int64_t inputs, int64_t outputs, const float* features,
                                     const int8_t* values, const uint8_t* indices,
                                     const float* scales, const int32_t* sums, const float* bias,
                                     int relu, float* result) {
  const Int8Kernels& kernels = int8_kernels(instruction_set);
  Int8Layer24 layer{{make_layer(rows, inputs, outputs, features, bias, relu, result), values,
                     scales, sums, {}},
                    indices};
  return run_int8(layer, threads, inputs / 2, kernels, kernels.rows24);
}
