// The INT8 kernels for AVX-512 with VNNI.
#if defined(__x86_64__)

#include "vector_avx512.h"

#define TARGET TARGET_VNNI
#define LANES 16
#define VECTOR_INT8
#include "kernels_int8.h"

namespace paretoserve {
const Int8Kernels vnni_int8_kernels{quantize_row, dense_rows_int8<VnniInt8>, rows24_int8<VnniInt8>};
}  // namespace paretoserve

#endif
