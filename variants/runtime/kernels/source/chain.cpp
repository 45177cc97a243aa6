// Runs the layers of a network one after another in one call.
//
// Between two layers, a caller in Python takes longer than a small layer, most of all when its
// instructions are not in a cache. chain.py in the parent folder makes the steps.
#include "chain.h"

#include "interface.h"
#include "layers.h"
#include "scratch.h"

namespace paretoserve {
namespace {

thread_local Scratch between;

template <class Function>
void for_each(const float* features, int64_t count, float* result, Function function) {
  for (int64_t i = 0; i < count; ++i) result[i] = function(features[i]);
}

void run_elementwise(const Step& step, int64_t rows, const float* features, float* result) {
  const int64_t count = rows * step.outputs;
  const float scalar = step.scalar;
  switch (step.kind) {
    case kAdd: return for_each(features, count, result, [=](float x) { return x + scalar; });
    case kSubtract: return for_each(features, count, result, [=](float x) { return x - scalar; });
    case kMultiply: return for_each(features, count, result, [=](float x) { return x * scalar; });
    case kDivide: return for_each(features, count, result, [=](float x) { return x / scalar; });
    default: return for_each(features, count, result, [](float x) { return x < 0 ? 0 : x; });
  }
}

template <class Value>
const Value* weight(const Step& step, int index) {
  return static_cast<const Value*>(step.weight[index]);
}

int run_step(const Step& step, int instruction_set, int threads, int64_t rows,
             const float* features, float* result) {
  const auto call = [&](auto function, auto... weights) {
    return function(instruction_set, step.algorithm, threads, rows, step.inputs, step.outputs,
                    features, weights..., step.bias, step.relu, result);
  };
  switch (step.kind) {
    case kPacked:
      return call(paretoserve_linear_packed, weight<float>(step, 0));
    case kPackedInt8:
      return call(paretoserve_linear_packed_int8, weight<int8_t>(step, 0), weight<float>(step, 1),
                  weight<int32_t>(step, 2));
    case k24:
      return call(paretoserve_linear24, weight<float>(step, 0), weight<uint32_t>(step, 1));
    case k24Int8:
      return call(paretoserve_linear24_int8, weight<int8_t>(step, 0), weight<uint8_t>(step, 1),
                  weight<float>(step, 2), weight<int32_t>(step, 3));
    case kSparse:
      return call(paretoserve_linear_sparse, weight<float>(step, 0), weight<uint16_t>(step, 1),
                  weight<int32_t>(step, 2), step.nonzeros);
    default:
      run_elementwise(step, rows, features, result);
      return 0;
  }
}

}  // namespace
}  // namespace paretoserve

using namespace paretoserve;

// Results between steps alternate between two halves of the scratch memory.
EXPORT int paretoserve_chain(int instruction_set, int threads, const void* steps, int64_t count,
                             int64_t rows, const float* features, float* result) {
  const auto* chain = static_cast<const Step*>(steps);
  int64_t widest = 0;
  for (int64_t i = 0; i + 1 < count; ++i)
    if (chain[i].outputs > widest) widest = chain[i].outputs;
  const int64_t half = divide_up(rows * widest, 16) * 16;
  const Shrink shrink(between);
  auto* memory = static_cast<float*>(between.reserve(2 * half * int64_t{sizeof(float)}));
  if (!memory) return 1;
  for (int64_t i = 0; i < count; ++i) {
    float* target = i + 1 == count ? result : memory + i % 2 * half;
    if (run_step(chain[i], instruction_set, threads, rows, features, target)) return 1;
    features = target;
  }
  return 0;
}
