// The kernels for AVX2 and FMA.
#if defined(__x86_64__)

#include "vector_avx2.h"

#define TARGET TARGET_AVX2
#define LANES 8
#define VECTOR_INT8
#include "kernels_int8.h"
#include "kernels_panel.h"
#include "kernels_rows.h"

namespace paretoserve {
const FloatKernels avx2_float_kernels{
    dense_rows<Avx2>,   rows24<Avx2>, rows_sparse<Avx2>, panel24<Avx2>,
    panel_sparse<Avx2>, 8, 13,
};
const Int8Kernels avx2_int8_kernels{quantize_row, dense_rows_int8<Avx2Int8>, rows24_int8<Avx2Int8>};
}  // namespace paretoserve

#endif
