// The FP32 kernels for AVX-512.
#if defined(__x86_64__)

#include "vector_avx512.h"

#define TARGET TARGET_AVX512
#include "kernels_panel.h"
#include "kernels_rows.h"

namespace paretoserve {
const FloatKernels avx512_float_kernels{
    dense_rows<Avx512>,   rows24<Avx512>, rows_sparse<Avx512>, panel24<Avx512>,
    panel_sparse<Avx512>, 16, 32,
};
}  // namespace paretoserve

#endif
