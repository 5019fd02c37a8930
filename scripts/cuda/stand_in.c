// A stand-in for NVIDIA's driver: memory is the host's, full of ones, and kernels do nothing. What a program computes on it
// is wrong, but every call must be one that a driver accepts: kernels that exist, launches within the limits, no tensor of
// a type or layout that an operation refuses. stand_in.sh builds it.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void* Any;
typedef unsigned long long Device;

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int number) { return *device = number, number == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { return *value = 1, 0; }
int cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "stand-in"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { return *bytes = 1ull << 34, 0; }
int cuDevicePrimaryCtxRetain(Any* context, int device) { return *context = (Any)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxSetCurrent(Any context) { return 0; }
int cuCtxGetCurrent(Any* context) { return *context = (Any)1, 0; }
int cuCtxSynchronize(void) { return 0; }
int cuGetErrorName(int error, const char** name) { return *name = "STAND_IN", 0; }
int cuGetErrorString(int error, const char** text) { return *text = "refused by the stand-in", 0; }

int cuStreamCreate(Any* stream, unsigned flags) { return *stream = (Any)2, 0; }
int cuStreamDestroy_v2(Any stream) { return 0; }
int cuStreamSynchronize(Any stream) { return 0; }
int cuStreamWaitEvent(Any stream, Any event, unsigned flags) { return 0; }
int cuStreamIsCapturing(Any stream, int* status) { return *status = 0, 0; }
// What was asked for is done at once: an event is reached when it is recorded.
int cuEventCreate(Any* event, unsigned flags) { return *event = calloc(1, sizeof(struct timespec)), 0; }
int cuEventDestroy_v2(Any event) { return free(event), 0; }
int cuEventRecord(Any event, Any stream) { return clock_gettime(CLOCK_MONOTONIC, event), 0; }
int cuEventElapsedTime(float* ms, Any from, Any to) {
    struct timespec *a = from, *b = to;
    return *ms = (b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) * 1e-6, 0;
}
int cuEventElapsedTime_v2(float* ms, Any from, Any to) { return cuEventElapsedTime(ms, from, to); }
int cuEventQuery(Any event) { return 0; }
int cuEventSynchronize(Any event) { return 0; }

// Ones: what is worked out of zeros is refused here and there, as a scale of 0.
int cuMemAllocAsync(Device* at, size_t bytes, Any stream) {
    // A driver calls this an invalid value.
    if (!bytes) return fprintf(stderr, "stand-in: an allocation of 0 bytes\n"), 1;
    float* numbers = malloc(bytes + 8);
    if (!numbers) return 2;
    for (size_t i = 0; i < bytes / 4 + 1; i++) numbers[i] = 1;
    return *at = (Device)numbers, 0;
}
int cuMemAlloc_v2(Device* at, size_t bytes) { return cuMemAllocAsync(at, bytes, 0); }
int cuMemFreeAsync(Device at, Any stream) { return free((Any)at), 0; }
int cuMemFree_v2(Device at) { return free((Any)at), 0; }
int cuMemHostAlloc(Any* at, size_t bytes, unsigned flags) { return *at = malloc(bytes), *at ? 0 : 2; }
int cuMemFreeHost(Any at) { return free(at), 0; }
int cuMemcpyHtoDAsync_v2(Device to, const void* from, size_t n, Any stream) { return memcpy((Any)to, from, n), 0; }
int cuMemcpyDtoHAsync_v2(Any to, Device from, size_t n, Any stream) { return memcpy(to, (Any)from, n), 0; }
int cuMemcpyDtoDAsync_v2(Device to, Device from, size_t n, Any stream) { return memmove((Any)to, (Any)from, n), 0; }
int cuMemsetD8Async(Device to, unsigned char byte, size_t n, Any stream) { return memset((Any)to, byte, n), 0; }
int cuMemGetInfo_v2(size_t* free, size_t* all) { return *free = 1ull << 33, *all = 1ull << 34, 0; }
int cuDeviceGetDefaultMemPool(Any* pool, int device) { return *pool = (Any)4, 0; }
int cuMemPoolSetAttribute(Any pool, int attribute, Any value) { return 0; }
int cuMemPoolGetAttribute(Any pool, int attribute, Any value) { return *(uint64_t*)value = 0, 0; }

// A module is PTX, or the fat binary that build.rs made, whose kernels OURS names.
struct Module {
    char* ptx;
};
int cuModuleLoadData(Any* module, const void* image) {
    uint32_t magic;
    memcpy(&magic, image, 4);
    struct Module* new = malloc(sizeof *new);
    new->ptx = magic == 0xba55ed50 ? 0 : strdup(image);
    return *module = new, 0;
}
int cuModuleUnload(Any module) { return 0; }
int cuModuleGetFunction(Any* function, Any module, const char* name) {
    char entry[256];
    const char* ptx = ((struct Module*)module)->ptx;
    snprintf(entry, sizeof entry, ptx ? ".entry %s(" : " %s ", name);
    if (!strstr(ptx ? ptx : OURS, entry)) return fprintf(stderr, "stand-in: no kernel %s\n", name), 500;
    return *function = strdup(name), 0;
}
int cuFuncGetAttribute(int* value, int attribute, Any function) { return *value = 1024, 0; }
int cuFuncSetAttribute(Any function, int attribute, int value) { return 0; }
int cuLaunchKernel(
    const char* name, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
    Any stream, Any* arguments, Any* extra) {
    int fits = x && y && z && x < 1u << 31 && y < 65536 && z < 65536 && bx * by * bz && bx * by * bz <= 1024;
    if (fits) return 0;
    return fprintf(stderr, "stand-in: %s: %u × %u × %u blocks of %u threads\n", name, x, y, z, bx * by * bz), 1;
}
