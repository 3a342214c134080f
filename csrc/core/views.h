// Borrowed memory, as every operation sees it. Nothing here owns or checks what it points to.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace salience {

// A row-major matrix whose rows may lie apart: element (i, j) is data[i * row_stride + j].
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;

  SALIENCE_HOST_DEVICE T* row(int64_t i) const { return data + i * row_stride; }
};

enum class ElementType { float32, float16, bfloat16 };

inline int64_t element_bytes(ElementType type) { return type == ElementType::float32 ? 4 : 2; }

// A row-major matrix of one of the types above; `row_stride` counts elements.
struct Elements {
  const void* data = nullptr;
  ElementType type = ElementType::float32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;
};

// Compressed sparse rows: row i holds entries indptr[i] .. indptr[i + 1]. `values` may be null where
// only the pattern matters.
struct Csr {
  const int64_t* indptr = nullptr;
  const int32_t* indices = nullptr;
  const float* values = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t entries = 0;
};

}  // namespace salience
