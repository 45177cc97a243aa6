// The kernels in portable C++.
#include "vector_portable.h"

#define TARGET TARGET_PORTABLE
#define LANES 4
#include "kernels_int8.h"
#include "kernels_panel.h"
#include "kernels_rows.h"

namespace paretoserve {
const FloatKernels portable_float_kernels{
    dense_rows<Portable>,   rows24<Portable>, rows_sparse<Portable>, panel24<Portable>,
    panel_sparse<Portable>, 8, 13,
};
const Int8Kernels portable_int8_kernels{quantize_row, dense_rows_int8_portable, rows24_int8_portable};
}  // namespace paretoserve
