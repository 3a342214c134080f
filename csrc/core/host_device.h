// Functions that kernels on the CPU's and on the GPU's side share.
#pragma once

#if defined(__CUDACC__)
#define SALIENCE_HOST_DEVICE __host__ __device__
#else
#define SALIENCE_HOST_DEVICE
#endif
