// A GPU that is none: enough of CUDA's libraries for ONNX Runtime to create its CUDA provider, place the nodes of a graph
// and load its weights. Memory is the host's, kernels do nothing, so no graph can be run. cuda_stand_in.py adds every
// other function that the provider asks for, as one that returns 0.

#include <stdlib.h>
#include <string.h>

static int object[64]; // whatever a handle points to

static int take(void **pointer, size_t bytes) {
    size_t rounded = (bytes + 511) / 256 * 256;
    *pointer = aligned_alloc(256, rounded);
    memset(*pointer, 0, rounded);
    return 0;
}

static int handle(void **made) {
    *made = object;
    return 0;
}

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 75: *value = 9; break;      // compute capability 9.0
    case 76: *value = 0; break;
    case 16: *value = 132; break;    // multiprocessors
    case 10: *value = 32; break;     // a warp
    case 97: *value = 232448; break; // shared memory of a block, opted in
    default: *value = 1024;
    }
    return 0;
}

// cudaDeviceProp of CUDA 13, by offset.
int cudaGetDeviceProperties(char *properties, int device) {
    memset(properties, 0, 600);
    strcpy(properties, "stand-in");
    *(size_t *)(properties + 288) = 80000000000; // memory
    *(size_t *)(properties + 296) = 49152;       // shared memory of a block
    *(int *)(properties + 304) = 65536;          // registers
    *(int *)(properties + 308) = 32;             // a warp
    *(int *)(properties + 320) = 1024;           // threads of a block
    for (int axis = 0; axis < 3; axis++) {
        *(int *)(properties + 324 + 4 * axis) = 1024;
        *(int *)(properties + 336 + 4 * axis) = 65535;
    }
    *(int *)(properties + 360) = 9; // compute capability
    *(int *)(properties + 384) = 132;
    *(int *)(properties + 388) = 132;
    return 0;
}

int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = 80000000000; return 0; }
int cudaMalloc(void **pointer, size_t bytes) { return take(pointer, bytes); }
int cudaMallocHost(void **pointer, size_t bytes) { return take(pointer, bytes); }
int cudaHostAlloc(void **pointer, size_t bytes) { return take(pointer, bytes); }
int cudaMallocFromPoolAsync(void **pointer, size_t bytes) { return take(pointer, bytes); }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaFreeHost(void *pointer) { free(pointer); return 0; }
int cudaFreeAsync(void *pointer) { free(pointer); return 0; }
int cudaMemcpy(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); return 0; }
int cudaMemset(void *to, int value, size_t bytes) { memset(to, value, bytes); return 0; }
int cudaMemsetAsync(void *to, int value, size_t bytes) { memset(to, value, bytes); return 0; }
int cudaPointerGetAttributes(char *attributes) { memset(attributes, 0, 24); return 0; }

int cudaStreamCreate(void **made) { return handle(made); }
int cudaStreamCreateWithFlags(void **made) { return handle(made); }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaEventCreate(void **made) { return handle(made); }
int cudaEventCreateWithFlags(void **made) { return handle(made); }
int cudaMemPoolCreate(void **made) { return handle(made); }
int cudaLibraryLoadData(void **made) { return handle(made); }
int cudaLibraryGetKernel(void **made) { return handle(made); }
int __cudaGetKernel(void **made) { return handle(made); }
void **__cudaRegisterFatBinary(void) { return (void **)object; }
int cudaFuncGetAttributes(char *attributes) { memset(attributes, 0, 64); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 1; return 0; }
const char *cudaGetErrorString(int error) { return "stand-in"; }
const char *cudaGetErrorName(int error) { return "stand-in"; }

int cublasCreate_v2(void **made) { return handle(made); }
int cublasLtCreate(void **made) { return handle(made); }
int cublasLtMatrixLayoutCreate(void **made) { return handle(made); }
int cublasLtMatmulDescCreate(void **made) { return handle(made); }
int cublasLtMatmulPreferenceCreate(void **made) { return handle(made); }
int curandCreateGenerator(void **made) { return handle(made); }
int cudnnCreate(void **made) { return handle(made); }
size_t cudnnGetVersion(void) { return 92600; }
const char *cudnnGetErrorString(int error) { return "stand-in"; }
