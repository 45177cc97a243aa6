// Calls the kernels with buffers of exact size, as a process of its own that sanitizers watch.
//
// Every instruction set and algorithm runs on shapes with and without remainders, with one and with
// three threads, from two callers at once, and in a child after a fork. Results must be equal.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "chain.h"

extern "C" {
int paretoserve_instruction_set();
int paretoserve_linear_packed(int, int, int, int64_t, int64_t, int64_t, const float*, const float*,
                              const float*, int, float*);
int paretoserve_linear_packed_int8(int, int, int, int64_t, int64_t, int64_t, const float*,
                                   const int8_t*, const float*, const int32_t*, const float*, int,
                                   float*);
int paretoserve_linear24(int, int, int, int64_t, int64_t, int64_t, const float*, const float*,
                         const uint32_t*, const float*, int, float*);
int paretoserve_linear24_int8(int, int, int, int64_t, int64_t, int64_t, const float*,
                              const int8_t*, const uint8_t*, const float*, const int32_t*,
                              const float*, int, float*);
int paretoserve_linear_sparse(int, int, int, int64_t, int64_t, int64_t, const float*, const float*,
                              const uint16_t*, const int32_t*, int64_t, const float*, int, float*);
}

namespace {

using Random = std::minstd_rand;

template <class T>
std::vector<T> random_values(Random& random, int64_t count, int64_t least, int64_t range) {
  std::vector<T> values(count);
  for (auto& value : values)
    value = static_cast<T>(least + static_cast<int64_t>(random()) % range);
  values.shrink_to_fit();
  return values;
}

// Calls all operators on one layer; returns their results.
std::vector<float> run(int instruction_set, int threads, int64_t rows, int64_t inputs,
                       int64_t outputs) {
  Random random(1);
  const int64_t blocks = (outputs + 31) / 32, padded = (inputs + 31) / 32 * 32;
  const int64_t chunks = (inputs + 127) / 128;
  const auto features = random_values<float>(random, rows * inputs, -50, 101);
  const auto bias = random_values<float>(random, outputs, -50, 101);
  const auto dense = random_values<float>(random, blocks * inputs * 32, -50, 101);
  const auto values = random_values<float>(random, blocks * padded / 2 * 32, -50, 101);
  const auto indices = random_values<uint32_t>(random, blocks * padded, 0, 1 << 30);
  const auto values8 = random_values<int8_t>(random, blocks * padded / 2 * 32, -127, 255);
  const auto indices8 = random_values<uint8_t>(random, blocks * padded * 4, 0, 256);
  const auto dense8 = random_values<int8_t>(random, blocks * padded * 32, -127, 255);
  const auto scales = random_values<float>(random, outputs, 1, 3);
  const auto sums = random_values<int32_t>(random, outputs, -1000, 2001);
  std::vector<uint16_t> offsets;
  std::vector<int32_t> starts;
  for (int64_t output = 0; output < outputs; ++output) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      starts.push_back(static_cast<int32_t>(offsets.size()));
      for (int64_t column = chunk * 128; column < (chunk + 1) * 128 && column < inputs; ++column)
        if (random() % 3 == 0) offsets.push_back(static_cast<uint16_t>(column));
    }
    starts.push_back(static_cast<int32_t>(offsets.size()));
  }
  offsets.shrink_to_fit();
  starts.shrink_to_fit();
  const auto nonzeros = static_cast<int64_t>(offsets.size());
  const auto sparse = random_values<float>(random, nonzeros, -50, 101);

  std::vector<float> all;
  std::vector<float> result(rows * outputs);
  int failures = 0;
  const auto keep = [&](int failed) {
    failures += failed;
    all.insert(all.end(), result.begin(), result.end());
  };
  keep(paretoserve_linear_packed(instruction_set, 0, threads, rows, inputs, outputs,
                                 features.data(), dense.data(), bias.data(), 1, result.data()));
  keep(paretoserve_linear_packed_int8(instruction_set, 0, threads, rows, inputs, outputs,
                                      features.data(), dense8.data(), scales.data(), sums.data(),
                                      bias.data(), 1, result.data()));
  keep(paretoserve_linear24_int8(instruction_set, 0, threads, rows, inputs, outputs,
                                 features.data(), values8.data(), indices8.data(), scales.data(),
                                 sums.data(), bias.data(), 0, result.data()));
  for (int algorithm = 1; algorithm <= 2; ++algorithm) {
    keep(paretoserve_linear24(instruction_set, algorithm, threads, rows, inputs, outputs,
                              features.data(), values.data(), indices.data(), nullptr, 0,
                              result.data()));
    keep(paretoserve_linear_sparse(instruction_set, algorithm, threads, rows, inputs, outputs,
                                   features.data(), sparse.data(), offsets.data(), starts.data(),
                                   nonzeros, bias.data(), 1, result.data()));
  }
  paretoserve::Step steps[3] = {};
  steps[0] = {paretoserve::kMultiply, 0, inputs, inputs, 2};
  steps[1] = {paretoserve::k24, 1, inputs, outputs, 0, 1, bias.data()};
  steps[1].weight[0] = values.data();
  steps[1].weight[1] = indices.data();
  steps[2] = {paretoserve::kAdd, 0, outputs, outputs, 3};
  keep(paretoserve_chain(instruction_set, threads, steps, 3, rows, features.data(),
                         result.data()));
  if (failures) std::exit(2);
  return all;
}

// All features and weights are small integers, so that sums are exact in any order.
bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 4));
}

void expect(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

}  // namespace

int main() {
  const int64_t shapes[][2] = {{4, 1}, {36, 33}, {128, 64}, {132, 70}, {260, 10}, {300, 300}};
  const int64_t all_rows[] = {0, 1, 2, 3, 5, 7, 8, 9, 15, 17, 33};
  for (const auto& shape : shapes)
    for (const int64_t rows : all_rows) {
      const auto expected = run(0, 1, rows, shape[0], shape[1]);
      for (int set = 0; set <= paretoserve_instruction_set(); ++set)
        expect(same(expected, run(set, 1, rows, shape[0], shape[1])), "instruction sets differ");
    }

  const int best = paretoserve_instruction_set();
  const auto expected = run(best, 1, 40, 600, 600);
  expect(same(expected, run(best, 3, 40, 600, 600)), "threads differ");
  std::vector<float> other;
  std::thread caller([&] { other = run(best, 3, 40, 600, 600); });
  for (int i = 0; i < 3; ++i)
    expect(same(expected, run(best, 3, 40, 600, 600)), "concurrent callers differ");
  caller.join();
  expect(same(expected, other), "the other caller differs");

  const pid_t child = fork();
  if (child == 0) _exit(same(expected, run(best, 3, 40, 600, 600)) ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child differs");
  std::puts("ok");
}
