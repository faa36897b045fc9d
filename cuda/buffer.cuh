// Device memory that frees itself; `failed` where CUDA had none to give.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace endorecon {

struct Buffer {
    void* p = nullptr;
    explicit Buffer(size_t bytes) { failed = cudaMalloc(&p, bytes) != cudaSuccess; }
    Buffer(const void* host, size_t bytes) : Buffer(bytes) {
        if (!failed) failed = cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice) != cudaSuccess;
    }
    ~Buffer() { cudaFree(p); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    template <class T>
    T* as() {
        return static_cast<T*>(p);
    }
    bool failed = false;
};

}  // namespace endorecon
