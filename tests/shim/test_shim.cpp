// SPDX-License-Identifier: Apache-2.0
// The stand-in for a GPU finds what it is there for: a barrier, an event or a lane that is missing, memory that is read before it
// was written, a launch that no device takes; and what it computes is what CUDA would.
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "test.h"
}
#include "internal.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

extern "C" const sp_shim_control *sp_shim_control_get(void);

// Under ASan it is the one that finds it.
#define SP_SHIM_ASAN_WORDS(words) (SP_SHIM_ASAN ? "heap-buffer-overflow" : words)

namespace {

const sp_shim_control *shim = sp_shim_control_get();

#define OK(call) CHECK_INT((call), cudaSuccess)

struct order_case {
    sp_shim_order threads, blocks;
};
const order_case ORDERS[6] = {
    { SP_SHIM_FORWARD, SP_SHIM_FORWARD }, { SP_SHIM_REVERSE, SP_SHIM_FORWARD }, { SP_SHIM_SHUFFLED, SP_SHIM_FORWARD },
    { SP_SHIM_FORWARD, SP_SHIM_REVERSE }, { SP_SHIM_REVERSE, SP_SHIM_REVERSE }, { SP_SHIM_SHUFFLED, SP_SHIM_REVERSE },
};

cudaStream_t stream_new()
{
    cudaStream_t stream = nullptr;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

template <typename T> T *device_new(size_t count)
{
    void *device = nullptr;
    OK(cudaMalloc(&device, count * sizeof(T)));
    return static_cast<T *>(device);
}

template <typename T> std::vector<T> take_back(const T *device, size_t count, cudaStream_t stream)
{
    std::vector<T> host(count);
    OK(cudaMemcpyAsync(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    return host;
}

// Runs `launch(stream, out)` in all six orders; true when all gave the same `count` numbers.
template <typename Launch> bool equal_in_all_orders(size_t count, Launch launch)
{
    std::vector<std::vector<uint32_t>> results;
    for (const order_case &order : ORDERS) {
        shim->reset();
        shim->order(order.threads, order.blocks, 7);
        cudaStream_t stream = stream_new();
        uint32_t *out = device_new<uint32_t>(count);
        OK(launch(stream, out));
        results.push_back(take_back(out, count, stream));
        OK(cudaFree(out));
        OK(cudaStreamDestroy(stream));
    }
    for (const auto &result : results) {
        if (result != results[0])
            return false;
    }
    return true;
}

// What `body` says on stderr before it aborts; "" when it does not abort.
std::string last_words(void (*body)())
{
    int ends[2];
    if (pipe(ends) != 0)
        return "no pipe";
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        (void)dup2(ends[1], 2);
        (void)close(ends[0]);
        body();
        _exit(0);
    }
    (void)close(ends[1]);
    std::string words;
    char buffer[512];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;)
        words.append(buffer, (size_t)n);
    (void)close(ends[0]);
    int status = 0;
    (void)waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : words;
}

#define CHECK_DIES(body, words) CHECK(last_words(body).find(words) != std::string::npos)

void run_and_wait(cudaError_t launched)
{
    if (launched != cudaSuccess || cudaStreamSynchronize(nullptr) != cudaSuccess)
        _exit(0);
}

// ---- kernels ----

template <bool barrier> __global__ void turn_round(uint32_t *out)
{
    SP_SHARED(uint32_t, row);
    unsigned i = threadIdx.x;
    row[i] = blockIdx.x * 1000 + i;
    if (barrier)
        __syncthreads();
    out[blockIdx.x * blockDim.x + i] = row[blockDim.x - 1 - i];
}

// Warps that wait for their own lanes only, in step with each other unless one runs ahead: then it reads what another one has not
// written yet.
template <bool barrier> __global__ void in_step(uint32_t *out)
{
    SP_SHARED(uint32_t, row);
    for (int round = 0; round < 4; round++) {
        unsigned lanes = __ballot_sync(0xffffffffu, (threadIdx.x + (unsigned)round) % 3 == 0);
        if (threadIdx.x % 32 == 0)
            row[threadIdx.x / 32] = lanes;
        (void)__ballot_sync(0xffffffffu, 1);
    }
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = row[1 - threadIdx.x / 32];
}

// Two rounds through the same shared memory: the second barrier keeps the next round's writes away from this one's readers.
template <bool barrier> __global__ void two_rounds(uint32_t *out)
{
    SP_SHARED(uint32_t, row);
    uint32_t sum = 0;
    for (unsigned round = 0; round < 2; round++) {
        row[threadIdx.x] = threadIdx.x * (round + 1);
        __syncthreads();
        sum = sum * 31 + row[(threadIdx.x + 1) % blockDim.x];
        if (barrier)
            __syncthreads();
    }
    out[threadIdx.x] = sum;
}

template <bool barrier> __global__ void warp_turns(uint32_t *out)
{
    SP_SHARED(uint32_t, row);
    row[threadIdx.x] = threadIdx.x;
    if (barrier)
        __syncwarp();
    out[threadIdx.x] = row[threadIdx.x ^ 31u];
}

__global__ void note_order(uint32_t *out, uint32_t *next)
{
    out[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

__global__ void read_before_writing(uint32_t *out, const uint32_t *device)
{
    SP_SHARED(uint32_t, row);
    out[threadIdx.x] = row[threadIdx.x];
    out[32 + threadIdx.x] = device[threadIdx.x];
    __syncthreads();
    row[threadIdx.x] = 0; // the next block must not see it
}

__global__ void add_one(uint32_t *out, const uint32_t *in, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = in[i] + 1;
}

__global__ void warp_sums(uint32_t *out)
{
    uint32_t lane = threadIdx.x & 31u, v = threadIdx.x * threadIdx.x;
    uint32_t tree = v, scan = v;
    for (unsigned d = 16; d; d >>= 1)
        tree += __shfl_xor_sync(0xffffffffu, tree, d);
    for (unsigned d = 1; d < 32; d <<= 1) {
        uint32_t other = __shfl_up_sync(0xffffffffu, scan, d);
        scan += lane >= d ? other : 0;
    }
    uint64_t wide = __shfl_sync(0xffffffffu, (unsigned long long)v << 33, 5);
    float part = __shfl_down_sync(0xffffffffu, (float)lane, 3, 8);
    out[threadIdx.x * 8 + 0] = tree;
    out[threadIdx.x * 8 + 1] = scan;
    out[threadIdx.x * 8 + 2] = (uint32_t)(wide >> 33);
    out[threadIdx.x * 8 + 3] = (uint32_t)part;
    out[threadIdx.x * 8 + 4] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    out[threadIdx.x * 8 + 5] = (uint32_t)__any_sync(0xffffffffu, lane == 31) * 2 + (uint32_t)__all_sync(0xffffffffu, lane < 31);
    out[threadIdx.x * 8 + 6] = (uint32_t)__syncthreads_count(threadIdx.x % 5 == 0);
    out[threadIdx.x * 8 + 7] = __shfl_sync(0xffffffffu, v, (int)lane + 1, 16);
}

__global__ void atomics(unsigned *u, int *s, unsigned long long *w)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    (void)atomicAdd(&u[0], i);
    (void)atomicMax(&u[1], i);
    (void)atomicMin(&u[2], i);
    (void)atomicOr(&u[3], 1u << (i & 31u));
    (void)atomicXor(&u[4], i);
    (void)atomicInc(&u[5], 99u);
    (void)atomicCAS(&u[6], 7u, 8u);
    (void)atomicMin(&s[0], -(int)i);
    (void)atomicSub(&s[1], (int)i);
    (void)atomicAdd(&w[0], (unsigned long long)i << 40);
}

__global__ void bits(uint32_t *out)
{
    uint32_t i = threadIdx.x;
    out[i * 8 + 0] = (uint32_t)__popc(i * 0x01010101u);
    out[i * 8 + 1] = (uint32_t)__ffs((int)(i << 5)) * 100 + (uint32_t)__clz((int)i);
    out[i * 8 + 2] = __brev(i);
    out[i * 8 + 3] = __byte_perm(0x83828180u, 0x07060504u, 0x4 | i % 4 << 4 | (i % 4 + 8) << 8 | 0x7000);
    out[i * 8 + 4] = (uint32_t)__clzll((long long)i << 32) + (uint32_t)__ffsll((long long)i << 40) * 100;
    out[i * 8 + 5] = __funnelshift_r(0x11223344u, 0x55667788u, i);
    out[i * 8 + 6] = __umulhi(0x80000000u, i);
    out[i * 8 + 7] = __float_as_uint((float)i);
}

// ---- broken ones ----

__global__ void half_a_barrier()
{
    if (threadIdx.x < 32)
        __syncthreads();
}

__global__ void half_a_shuffle(uint32_t *out)
{
    if (threadIdx.x < 16)
        *out = __shfl_sync(0xffffffffu, threadIdx.x, 0);
}

__global__ void part_of_a_mask()
{
    (void)__ballot_sync(0xffffu, 1);
}

__global__ void two_kinds()
{
    if (threadIdx.x & 1u)
        (void)__ballot_sync(0xffffffffu, 1);
    else
        (void)__shfl_sync(0xffffffffu, 1, 0);
}

__global__ void over_the_end(unsigned char *memory, size_t bytes, bool of_shared)
{
    SP_SHARED(unsigned char, row);
    if (threadIdx.x == 0)
        (of_shared ? row : memory)[bytes] = 1;
}

__global__ void nothing(int)
{
}

} // namespace

// ---- what it must find ----

TEST(a_missing_barrier_shows)
{
    CHECK(equal_in_all_orders(3 * 64, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((turn_round<true>), 3, 64, 256, s, out); }));
    CHECK(!equal_in_all_orders(3 * 64, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((turn_round<false>), 3, 64, 256, s, out); }));
    CHECK(equal_in_all_orders(64, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((two_rounds<true>), 1, 64, 256, s, out); }));
    CHECK(!equal_in_all_orders(64, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((two_rounds<false>), 1, 64, 256, s, out); }));
    CHECK(equal_in_all_orders(64, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((in_step<true>), 1, 64, 8, s, out); }));
    CHECK(!equal_in_all_orders(64, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((in_step<false>), 1, 64, 8, s, out); }));
    CHECK(equal_in_all_orders(32, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((warp_turns<true>), 1, 32, 128, s, out); }));
    CHECK(!equal_in_all_orders(32, [](cudaStream_t s, uint32_t *out) { return SP_LAUNCH((warp_turns<false>), 1, 32, 128, s, out); }));
}

TEST(a_float_of_fresh_memory_is_nan)
{
    shim->reset();
    cudaStream_t stream = stream_new();
    uint32_t *out = device_new<uint32_t>(64), *fresh = device_new<uint32_t>(32);
    OK(SP_LAUNCH(read_before_writing, 2, 32, 128, stream, out, fresh));
    for (uint32_t value : take_back(out, 64, stream))
        CHECK_INT(value, 0xffffffffu);
    OK(cudaFree(out));
    OK(cudaFree(fresh));
    OK(cudaStreamDestroy(stream));
}

// in -> device on one stream, the kernel on another one.
static std::vector<uint32_t> copy_then_compute(uint64_t seed, bool with_event)
{
    const unsigned n = 32;
    shim->reset();
    shim->streams(seed);
    cudaStream_t copies = stream_new(), computes = stream_new();
    cudaEvent_t copied = nullptr;
    void *host = nullptr;
    OK(cudaMallocHost(&host, n * 4));
    for (unsigned i = 0; i < n; i++)
        ((uint32_t *)host)[i] = i;
    uint32_t *in = device_new<uint32_t>(n), *out = device_new<uint32_t>(n);
    OK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    OK(cudaMemcpyAsync(in, host, n * 4, cudaMemcpyHostToDevice, copies));
    OK(cudaEventRecord(copied, copies));
    if (with_event)
        OK(cudaStreamWaitEvent(computes, copied));
    OK(SP_LAUNCH(add_one, 1, n, 0, computes, out, in, n));
    std::vector<uint32_t> result = take_back(out, n, computes);
    OK(cudaEventDestroy(copied));
    OK(cudaFree(in));
    OK(cudaFree(out));
    OK(cudaFreeHost(host));
    OK(cudaStreamDestroy(copies));
    OK(cudaStreamDestroy(computes));
    return result;
}

TEST(a_missing_event_shows)
{
    unsigned wrong = 0;
    for (uint64_t seed = 1; seed <= 16; seed++) {
        std::vector<uint32_t> right = copy_then_compute(seed, true);
        for (unsigned i = 0; i < right.size(); i++)
            CHECK_INT(right[i], i + 1);
        wrong += copy_then_compute(seed, false) != right;
    }
    CHECK(wrong > 0 && wrong < 16); /* by luck right, as on a device */
}

TEST(pinned_memory_is_read_when_the_copy_runs)
{
    shim->reset();
    cudaStream_t stream = stream_new();
    uint32_t *device = device_new<uint32_t>(2), pageable = 1, *pinned = nullptr;
    OK(cudaMallocHost((void **)&pinned, 4));
    *pinned = 1;
    OK(cudaMemcpyAsync(device, &pageable, 4, cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpyAsync(device + 1, pinned, 4, cudaMemcpyHostToDevice, stream));
    pageable = *pinned = 2;
    std::vector<uint32_t> got = take_back(device, 2, stream);
    CHECK_INT(got[0], 1);
    CHECK_INT(got[1], 2);
    sp_shim_counters counters;
    shim->counters(&counters);
    CHECK_INT(counters.copies, 3);
    CHECK_INT(counters.pageable_copies, 2);
    OK(cudaFreeHost(pinned));
    OK(cudaFree(device));
    OK(cudaStreamDestroy(stream));
}

TEST(what_no_device_runs_is_named)
{
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(half_a_barrier, 1, 64, 0, nullptr)); },
               "kernel half_a_barrier, block (0,0,0): a barrier that not all threads reach: 32 of 64 wait at __syncthreads, 32 have ended");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(half_a_shuffle, 1, 32, 0, nullptr, nullptr)); },
               "kernel half_a_shuffle, block (0,0,0): a warp operation with missing lanes: 16 of 32 lanes of warp 0");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(part_of_a_mask, 1, 32, 0, nullptr)); }, "kernel part_of_a_mask: a warp operation with mask 0000ffff");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(two_kinds, 1, 32, 0, nullptr)); }, "kernel two_kinds, block (0,0,0): the lanes of warp 0 are at different");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(nothing, 1, 33, 0, nullptr, 0)); }, "kernel nothing: a block of 33 threads is no multiple of 32");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(nothing, 1, 1056, 0, nullptr, 0)); }, "kernel nothing: a block of 1056 x 1 x 1 threads");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(nothing, 1, dim3(1, 1, 128), 0, nullptr, 0)); }, "kernel nothing: a block of 1 x 1 x 128 threads");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(nothing, dim3(1, 65536), 32, 0, nullptr, 0)); }, "kernel nothing: a grid of 1 x 65536 x 1 blocks");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(nothing, 0, 32, 0, nullptr, 0)); }, "kernel nothing: a grid of 0 x 1 x 1 blocks");
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(nothing, 1, 32, 227 * 1024 + 1, nullptr, 0)); }, "kernel nothing: 232449 bytes of shared memory");
}

TEST(writes_behind_the_end_are_found)
{
    CHECK_DIES(
        [] {
            unsigned char *memory = device_new<unsigned char>(100);
            run_and_wait(SP_LAUNCH(over_the_end, 1, 32, 64, nullptr, memory, (size_t)100, false));
            (void)cudaFree(memory);
        },
        SP_SHIM_ASAN_WORDS("something wrote 1 bytes behind an allocation of 100 bytes"));
    CHECK_DIES([] { run_and_wait(SP_LAUNCH(over_the_end, 1, 32, 64, nullptr, nullptr, (size_t)64, true)); },
               SP_SHIM_ASAN_WORDS("kernel over_the_end, block (0,0,0): wrote 1 bytes behind its 64 bytes of shared memory"));
}

TEST(orders_are_what_they_say)
{
    const unsigned n = 3 * 64;
    std::vector<std::vector<uint32_t>> all;
    for (const order_case &order : ORDERS) {
        shim->reset();
        shim->order(order.threads, order.blocks, 5);
        cudaStream_t stream = stream_new();
        uint32_t *out = device_new<uint32_t>(n), *next = device_new<uint32_t>(1);
        OK(cudaMemsetAsync(next, 0, 4, stream));
        OK(SP_LAUNCH(note_order, 3, dim3(16, 2, 2), 0, stream, out, next));
        all.push_back(take_back(out, n, stream));
        OK(cudaFree(out));
        OK(cudaFree(next));
        OK(cudaStreamDestroy(stream));
    }
    // threadIdx.x of a thread: its number modulo 16.
    for (unsigned i = 0; i < n; i++) {
        unsigned block = i / 64, thread = i % 64;
        CHECK_INT(all[0][i], block * 16 + thread % 16);
        CHECK_INT(all[1][i], block * 16 + 15 - thread % 16);
        CHECK_INT(all[3][i], (2 - block) * 16 + thread % 16);
    }
    CHECK(all[2] != all[0] && all[2] != all[1] && all[5] != all[2]);
}

// ---- what it computes ----

TEST(warps_compute_what_cuda_does)
{
    for (const order_case &order : ORDERS) {
        shim->reset();
        shim->order(order.threads, order.blocks, 3);
        cudaStream_t stream = stream_new();
        uint32_t *out = device_new<uint32_t>(96 * 8);
        OK(SP_LAUNCH(warp_sums, 1, 96, 0, stream, out));
        std::vector<uint32_t> got = take_back(out, 96 * 8, stream);
        for (uint32_t t = 0; t < 96; t++) {
            uint32_t first = t & ~31u, lane = t & 31u, tree = 0, scan = 0, from = first + (lane & 16u) + ((lane + 1) & 15u);
            for (uint32_t i = first; i < first + 32; i++) {
                tree += i * i;
                scan += i <= t ? i * i : 0;
            }
            CHECK_INT(got[t * 8 + 0], tree);
            CHECK_INT(got[t * 8 + 1], scan);
            CHECK_INT(got[t * 8 + 2], (first + 5) * (first + 5));
            CHECK_INT(got[t * 8 + 3], lane % 8 < 5 ? lane + 3 : lane);
            CHECK_INT(got[t * 8 + 4], 0x49249249u);
            CHECK_INT(got[t * 8 + 5], 2);
            CHECK_INT(got[t * 8 + 6], 20);
            CHECK_INT(got[t * 8 + 7], from * from);
        }
        OK(cudaFree(out));
        OK(cudaStreamDestroy(stream));
    }
}

TEST(atomics_and_bits_compute_what_cuda_does)
{
    shim->reset();
    cudaStream_t stream = stream_new();
    unsigned *u = device_new<unsigned>(7);
    int *s = device_new<int>(2);
    unsigned long long *wide = device_new<unsigned long long>(1);
    const unsigned first[7] = { 0, 0, 50, 0, 0, 0, 7 };
    OK(cudaMemcpyAsync(u, first, sizeof(first), cudaMemcpyHostToDevice, stream));
    OK(cudaMemsetAsync(s, 0, 8, stream));
    OK(cudaMemsetAsync(wide, 0, 8, stream));
    OK(SP_LAUNCH(atomics, 4, 64, 0, stream, u, s, wide));
    std::vector<unsigned> got = take_back(u, 7, stream);
    const unsigned expected[7] = { 255 * 128, 255, 0, 0xffffffffu, 0, 56, 8 };
    CHECK_BYTES(got.data(), expected, sizeof(expected));
    CHECK_INT(take_back(s, 2, stream)[0], -255);
    CHECK_INT(take_back(s, 2, stream)[1], -255 * 128);
    CHECK(take_back(wide, 1, stream)[0] == (unsigned long long)(255 * 128) << 40);

    uint32_t *out = device_new<uint32_t>(32 * 8);
    OK(SP_LAUNCH(bits, 1, 32, 0, stream, out));
    std::vector<uint32_t> b = take_back(out, 32 * 8, stream);
    CHECK_INT(b[5 * 8 + 0], 8);
    CHECK_INT(b[5 * 8 + 1], 629);
    CHECK_INT(b[0 * 8 + 1], 32);
    CHECK_INT(b[5 * 8 + 2], 0xa0000000u);
    CHECK_INT(b[1 * 8 + 3], 0x07ff8104u); /* byte 4; byte 1; the sign of byte 1; byte 7 */
    CHECK_INT(b[5 * 8 + 4], 29 + 4100);
    CHECK_INT(b[8 * 8 + 5], 0x88112233u);
    CHECK_INT(b[6 * 8 + 6], 3);
    CHECK_INT(b[3 * 8 + 7], 0x40400000u);
    OK(cudaFree(out));
    OK(cudaFree(u));
    OK(cudaFree(s));
    OK(cudaFree(wide));
    OK(cudaStreamDestroy(stream));
}

// ---- graphs ----

TEST(a_graph_repeats_what_was_captured)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        shim->reset();
        shim->streams(seed);
        cudaStream_t main_stream = stream_new(), side = stream_new();
        cudaEvent_t fork_event = nullptr, join = nullptr;
        OK(cudaEventCreateWithFlags(&fork_event, cudaEventDisableTiming));
        OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
        uint32_t *a = device_new<uint32_t>(32), *b = device_new<uint32_t>(32), *host = nullptr;
        OK(cudaMallocHost((void **)&host, 128));
        OK(cudaStreamBeginCapture(main_stream, cudaStreamCaptureModeThreadLocal));
        OK(cudaMemcpyAsync(a, host, 128, cudaMemcpyHostToDevice, main_stream));
        OK(cudaEventRecord(fork_event, main_stream));
        OK(cudaStreamWaitEvent(side, fork_event));
        OK(SP_LAUNCH(add_one, 1, 32, 0, side, b, a, 32u));
        OK(cudaEventRecord(join, side));
        OK(cudaStreamWaitEvent(main_stream, join));
        OK(SP_LAUNCH(add_one, 1, 32, 0, main_stream, b, b, 32u));
        OK(cudaMemcpyAsync(host, b, 128, cudaMemcpyDeviceToHost, main_stream));
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t exec = nullptr;
        OK(cudaStreamEndCapture(main_stream, &graph));
        OK(cudaGraphInstantiate(&exec, graph, 0));
        OK(cudaGraphDestroy(graph));
        for (unsigned i = 0; i < 32; i++)
            host[i] = i;
        for (int turn = 0; turn < 3; turn++)
            OK(cudaGraphLaunch(exec, side));
        OK(cudaStreamSynchronize(side));
        for (unsigned i = 0; i < 32; i++)
            CHECK_INT(host[i], i + 6);
        OK(cudaGraphExecDestroy(exec));
        OK(cudaEventDestroy(fork_event));
        OK(cudaEventDestroy(join));
        OK(cudaFree(a));
        OK(cudaFree(b));
        OK(cudaFreeHost(host));
        OK(cudaStreamDestroy(main_stream));
        OK(cudaStreamDestroy(side));
    }
}

TEST(what_a_capture_forbids_breaks_it)
{
    shim->reset();
    cudaStream_t stream = stream_new(), side = stream_new();
    cudaEvent_t event = nullptr;
    uint32_t *device = device_new<uint32_t>(32), pageable = 0;
    void *more = nullptr;
    cudaGraph_t graph = nullptr;
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaMalloc(&more, 4), cudaErrorStreamCaptureUnsupported);
    CHECK_INT(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaMemcpyAsync(device, &pageable, 4, cudaMemcpyHostToDevice, stream), cudaErrorStreamCaptureUnsupported);
    CHECK_INT(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK_INT(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    CHECK_INT(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(side, event));
    OK(cudaMemsetAsync(device, 0, 4, side)); // nobody waits for it
    CHECK_INT(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
    CHECK(graph == nullptr);

    OK(cudaEventDestroy(event));
    OK(cudaFree(device));
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(side));
}

// ---- failures ----

TEST(calls_fail_by_name)
{
    shim->reset();
    void *device = nullptr, *host = nullptr;
    shim->fail("cudaMalloc", 2, cudaErrorMemoryAllocation, 1);
    OK(cudaMalloc(&device, 64));
    void *second = nullptr;
    CHECK_INT(cudaMalloc(&second, 64), cudaErrorMemoryAllocation);
    CHECK_INT(cudaGetLastError(), cudaErrorMemoryAllocation);
    CHECK_INT(cudaGetLastError(), cudaSuccess);
    OK(cudaMalloc(&second, 64));
    CHECK_INT(shim->failed(), 1);
    CHECK_INT(shim->calls("cudaMalloc"), 3);
    shim->fail("cudaMallocHost", 1, cudaErrorMemoryAllocation, 2);
    CHECK_INT(cudaMallocHost(&host, 64), cudaErrorMemoryAllocation);
    CHECK_INT(cudaMallocHost(&host, 64), cudaErrorMemoryAllocation);
    OK(cudaMallocHost(&host, 64));
    (void)cudaGetLastError();

    shim->fail("run:nothing", 1, cudaErrorIllegalAddress, 1);
    OK(SP_LAUNCH(nothing, 1, 32, 0, nullptr, 0));
    CHECK_INT(cudaStreamSynchronize(nullptr), cudaErrorIllegalAddress);
    CHECK_INT(cudaStreamSynchronize(nullptr), cudaErrorIllegalAddress); /* it stays */
    CHECK_INT(SP_LAUNCH(nothing, 1, 32, 0, nullptr, 0), cudaErrorIllegalAddress);
    shim->reset();
    OK(SP_LAUNCH(nothing, 1, 32, 0, nullptr, 0));
    OK(cudaStreamSynchronize(nullptr));

    sp_shim_device none = shim->device(nullptr), before = none;
    none.driver_version = 0;
    (void)shim->device(&none);
    int count = 1;
    CHECK_INT(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    none = before;
    none.count = 0;
    (void)shim->device(&none);
    CHECK_INT(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    (void)shim->device(&before);
    (void)cudaGetLastError();
    CHECK_INT(cudaMalloc(&second + 0, (size_t)5 << 30), cudaErrorMemoryAllocation);
    (void)cudaGetLastError();
    OK(cudaFree(device));
    OK(cudaFreeHost(host));
    shim->reset();
}

// ---- time ----

TEST(copies_and_kernels_overlap_on_the_fake_clock)
{
    shim->reset();
    shim->costs(0, 0, 1e6); // each operation takes a millisecond
    cudaStream_t a = stream_new(), b = stream_new();
    cudaEvent_t begin = nullptr, end_a = nullptr, end_b = nullptr;
    OK(cudaEventCreateWithFlags(&begin, 0));
    OK(cudaEventCreateWithFlags(&end_a, 0));
    OK(cudaEventCreateWithFlags(&end_b, 0));
    uint32_t *host = nullptr, *device = device_new<uint32_t>(32);
    OK(cudaMallocHost((void **)&host, 128));
    OK(cudaEventRecord(begin, a));
    for (int i = 0; i < 4; i++) {
        OK(cudaMemcpyAsync(device, host, 128, cudaMemcpyHostToDevice, a));
        OK(SP_LAUNCH(nothing, 1, 32, 0, b, 0));
    }
    OK(cudaEventRecord(end_a, a));
    OK(cudaEventRecord(end_b, b));
    float ms_a = 0, ms_b = 0;
    CHECK_INT(cudaEventElapsedTime(&ms_a, begin, end_a), cudaErrorNotReady);
    (void)cudaGetLastError();
    OK(cudaDeviceSynchronize());
    OK(cudaEventElapsedTime(&ms_a, begin, end_a));
    OK(cudaEventElapsedTime(&ms_b, begin, end_b));
    CHECK(ms_a > 3.99f && ms_a < 4.01f && ms_b > 3.99f && ms_b < 4.01f);
    OK(cudaEventDestroy(begin));
    OK(cudaEventDestroy(end_a));
    OK(cudaEventDestroy(end_b));
    OK(cudaFree(device));
    OK(cudaFreeHost(host));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
    shim->reset();
}
