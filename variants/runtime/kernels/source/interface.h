// The functions of the library that other files of it call; interface.cpp describes them.
#pragma once

#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int paretoserve_linear_packed(int instruction_set, int algorithm, int threads, int64_t rows,
                                     int64_t inputs, int64_t outputs, const float* features,
                                     const float* weight, const float* bias, int relu,
                                     float* result);

EXPORT int paretoserve_linear_packed_int8(int instruction_set, int algorithm, int threads,
                                          int64_t rows, int64_t inputs, int64_t outputs,
                                          const float* features, const int8_t* values,
                                          const float* scales, const int32_t* sums,
                                          const float* bias, int relu, float* result);

EXPORT int paretoserve_linear24(int instruction_set, int algorithm, int threads, int64_t rows,
                                int64_t inputs, int64_t outputs, const float* features,
                                const float* values, const uint32_t* indices, const float* bias,
                                int relu, float* result);

EXPORT int paretoserve_linear24_int8(int instruction_set, int algorithm, int threads, int64_t rows,
                                     int64_t inputs, int64_t outputs, const float* features,
                                     const int8_t* values, const uint8_t* indices,
                                     const float* scales, const int32_t* sums, const float* bias,
                                     int relu, float* result);

EXPORT int paretoserve_linear_sparse(int instruction_set, int algorithm, int threads, int64_t rows,
                                     int64_t inputs, int64_t outputs, const float* features,
                                     const float* values, const uint16_t* offsets,
                                     const int32_t* starts, int64_t nonzeros, const float* bias,
                                     int relu, float* result);
