// SPDX-License-Identifier: Apache-2.0
// The threads of one launch as fibres on one host thread.
//
//   pass over the block's threads in the given order:
//     not begun   -> a fibre begins it; while threads end without waiting, the same fibre goes on with the next ones, so a
//                    kernel without barriers is a loop of plain calls
//     ready       -> its fibre goes on
//     waiting     -> left alone: at the block's barrier until all threads are there, at a warp's operation until all lanes are
//   A whole pass in which nobody moved is a barrier that some thread never reaches.
//
// Threads run one at a time and until they wait, so a missing barrier gives what the order gives: other bytes in another order.
// Forward and reverse, a warp goes on until all its threads wait for others: the first one, or the last, is ahead of all by as
// much as barriers allow, so of any two warps each is once. Shuffled, all move on together, in a new order each pass.
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#if SP_SHIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define THREADS_MAX 1024u
#define STACK_BYTES ((size_t)(SP_SHIM_ASAN ? 256 : 64) * 1024)
#define GUARD_BYTES 4096u
#define SHARED_GUARD 256u
#define SHARED_GUARD_BYTE 0xa5

uint3 sp_shim_thread_idx, sp_shim_block_idx;
dim3 sp_shim_block_dim, sp_shim_grid_dim;

void sp_shim_die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("cuda stand-in: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    fflush(stderr);
    abort();
}

// ---- switching stacks ----

// Keeps the callee's registers on the old stack, its stack pointer in *save, and goes on where `to` was kept.
extern "C" void sp_shim_switch(void **save, void *to);
#if defined(__x86_64__)
__asm__(".text\n.p2align 4\n.hidden sp_shim_switch\n.globl sp_shim_switch\n.type sp_shim_switch,@function\n"
        "sp_shim_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n.size sp_shim_switch, .-sp_shim_switch\n");
#elif defined(__aarch64__)
__asm__(".text\n.p2align 4\n.hidden sp_shim_switch\n.globl sp_shim_switch\n.type sp_shim_switch,%function\n"
        "sp_shim_switch:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n"
        "  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n"
        "  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n  ldp x25, x26, [sp, #48]\n"
        "  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n"
        "  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n  ret\n.size sp_shim_switch, .-sp_shim_switch\n");
#else
#error "the stand-in for a GPU knows x86-64 and aarch64"
#endif

namespace {

struct fibre {
    void *stack_pointer;
    char *stack; // the lowest byte
    void *fake_stack;
};

enum class place : uint8_t { not_begun, ready, at_barrier, at_warp, ended };

struct warp_state {
    int arrived;
    sp_shim_warp_op op;
    unsigned turn; // values[turn & 1] is being filled: the other one may still be read
    uint64_t values[2][32];
};

// The launch that runs.
struct launch_state {
    const char *name;
    const std::function<void()> *thread;
    sp_shim_orders orders;
    unsigned threads;
    uint3 index[THREADS_MAX];
    unsigned order[THREADS_MAX];
    place places[THREADS_MAX];
    fibre *fibres[THREADS_MAX];
    warp_state warps[THREADS_MAX / 32];
    unsigned current;       // thread
    unsigned position;      // in `order`, of this pass
    unsigned ended, at_barrier, moved;
    int barrier_true, barrier_result; // __syncthreads_count
    uint64_t random;
    unsigned char *shared;
    size_t shared_bytes;
};

launch_state *run;
std::vector<fibre *> &idle_fibres = *new std::vector<fibre *>; // kept for later launches, and past the end: a leak checker looks then
void *scheduler_stack_pointer;
#if SP_SHIM_ASAN
void *scheduler_fake_stack;
const void *scheduler_bottom;
size_t scheduler_bytes;
#endif

void to_scheduler(fibre *self)
{
#if SP_SHIM_ASAN
    __sanitizer_start_switch_fiber(&self->fake_stack, scheduler_bottom, scheduler_bytes);
#endif
    sp_shim_switch(&self->stack_pointer, scheduler_stack_pointer);
#if SP_SHIM_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, &scheduler_bottom, &scheduler_bytes);
#endif
}

void to_fibre(fibre *next)
{
#if SP_SHIM_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, next->stack, STACK_BYTES);
#endif
    sp_shim_switch(&scheduler_stack_pointer, next->stack_pointer);
#if SP_SHIM_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void go_on_as(unsigned thread)
{
    run->current = thread;
    sp_shim_thread_idx = run->index[thread];
}

// Runs the thread at run->position, and those behind it as long as nobody has to wait.
void run_threads(fibre *self)
{
    for (;;) {
        unsigned thread = run->order[run->position];
        run->fibres[thread] = self;
        go_on_as(thread);
        (*run->thread)();
        run->places[run->current] = place::ended;
        run->fibres[run->current] = nullptr;
        run->ended++;
        run->moved++;
        if (run->position + 1 >= run->threads || run->places[run->order[run->position + 1]] != place::not_begun)
            return;
        run->position++;
    }
}

extern "C" __attribute__((noreturn)) void sp_shim_fibre_main(fibre *self)
{
#if SP_SHIM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_bytes);
#endif
    for (;;) {
        run_threads(self);
        idle_fibres.push_back(self);
        to_scheduler(self);
    }
}

fibre *fibre_of_scheduler_start; // handed to a fibre that begins
extern "C" void sp_shim_fibre_begin()
{
    sp_shim_fibre_main(fibre_of_scheduler_start);
}

fibre *fibre_new()
{
    void *memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0)
        sp_shim_die("no memory for the stacks of a block's threads");
    fibre *made = new fibre();
    made->stack = (char *)memory + GUARD_BYTES;
    uintptr_t top = ((uintptr_t)made->stack + STACK_BYTES) & ~(uintptr_t)63;
#if defined(__x86_64__)
    // As if called: the return address, on a stack that is 16-byte aligned before the call.
    uintptr_t *frame = (uintptr_t *)top - 2;
    frame[0] = (uintptr_t)sp_shim_fibre_begin;
    frame -= 6; // the six registers
#else
    uintptr_t *frame = (uintptr_t *)top - 20;
    frame[11] = (uintptr_t)sp_shim_fibre_begin; // x30
#endif
    made->stack_pointer = frame;
    return made;
}

// Waits in the scheduler until this thread is ready again.
void wait_as(place where)
{
    unsigned thread = run->current;
    fibre *self = run->fibres[thread];
    run->places[thread] = where;
    to_scheduler(self);
    go_on_as(thread);
}

void shuffle_order()
{
    for (unsigned i = run->threads - 1; i > 0; i--)
        std::swap(run->order[i], run->order[sp_shim_random(&run->random) % (i + 1)]);
}

void die_stuck()
{
    unsigned at_warp = 0, first_warp = THREADS_MAX;
    for (unsigned i = 0; i < run->threads; i++) {
        if (run->places[i] == place::at_warp) {
            at_warp++;
            first_warp = first_warp < i / 32 ? first_warp : i / 32;
        }
    }
    if (at_warp)
        sp_shim_die("kernel %s, block (%u,%u,%u): a warp operation with missing lanes: %d of 32 lanes of warp %u are there; "
                    "%u threads wait at __syncthreads, %u have ended", run->name, blockIdx.x, blockIdx.y, blockIdx.z,
                    run->warps[first_warp].arrived, first_warp, run->at_barrier, run->ended);
    sp_shim_die("kernel %s, block (%u,%u,%u): a barrier that not all threads reach: %u of %u wait at __syncthreads, %u have ended",
                run->name, blockIdx.x, blockIdx.y, blockIdx.z, run->at_barrier, run->threads, run->ended);
}

// The threads at these places of the order, each until it waits.
void pass(unsigned from, unsigned to)
{
    for (run->position = from; run->position < to; run->position++) {
        unsigned thread = run->order[run->position];
        if (run->places[thread] == place::ready) {
            run->moved++;
            to_fibre(run->fibres[thread]);
        } else if (run->places[thread] == place::not_begun) {
            if (idle_fibres.empty())
                idle_fibres.push_back(fibre_new());
            fibre *next = idle_fibres.back();
            idle_fibres.pop_back();
            fibre_of_scheduler_start = next;
            run->moved++;
            to_fibre(next);
        }
    }
}

void run_block()
{
    memset(run->shared, 0xff, run->shared_bytes);
    for (unsigned i = 0; i < run->threads; i++)
        run->places[i] = place::not_begun;
    for (unsigned i = 0; i < run->threads / 32; i++)
        run->warps[i].arrived = 0;
    run->ended = run->at_barrier = 0;
    run->barrier_true = 0;
    while (run->ended < run->threads) {
        run->moved = 0;
        if (run->orders.threads == SP_SHIM_SHUFFLED) {
            shuffle_order();
            pass(0, run->threads);
        }
        for (unsigned first = 0; run->orders.threads != SP_SHIM_SHUFFLED && first < run->threads; first += 32) {
            unsigned before;
            do {
                before = run->moved;
                pass(first, first + 32);
            } while (run->moved != before);
        }
        if (!run->moved)
            die_stuck();
    }
    if (!SP_SHIM_ASAN) {
        for (unsigned i = 0; i < SHARED_GUARD; i++) {
            if (run->shared[run->shared_bytes + i] != SHARED_GUARD_BYTE)
                sp_shim_die("kernel %s, block (%u,%u,%u): wrote %u bytes behind its %zu bytes of shared memory", run->name,
                            blockIdx.x, blockIdx.y, blockIdx.z, i + 1, run->shared_bytes);
        }
    }
}

void number_threads(dim3 block)
{
    unsigned i = 0;
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++)
                run->index[i++] = uint3{ x, y, z };
    for (i = 0; i < run->threads; i++)
        run->order[i] = run->orders.threads == SP_SHIM_REVERSE ? run->threads - 1 - i : i;
}

} // namespace

// ---- what a kernel calls ----

// "plane_edges.cu:64", read when the library is loaded.
static const char *skip_name = getenv("SPILLWAY_SHIM_SKIP");
unsigned sp_shim_skip_line = skip_name && strchr(skip_name, ':') ? (unsigned)strtoul(strchr(skip_name, ':') + 1, nullptr, 10) : 0;

bool sp_shim_skips(const char *file)
{
    static bool told;
    size_t bytes = (size_t)(strchr(skip_name, ':') - skip_name);
    const char *name = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    if (strlen(name) != bytes || strncmp(name, skip_name, bytes) != 0)
        return false;
    if (!told)
        fprintf(stderr, "cuda stand-in: left out: %s\n", skip_name);
    told = true;
    return true;
}

void *sp_shim_shared()
{
    return run->shared;
}

int sp_shim_lane()
{
    return (int)(run->current & 31u);
}

int sp_shim_count(bool predicate)
{
    run->barrier_true += predicate;
    sp_shim_barrier();
    return run->barrier_result;
}

void sp_shim_barrier()
{
    if (++run->at_barrier < run->threads) {
        wait_as(place::at_barrier);
        return;
    }
    for (unsigned i = 0; i < run->threads; i++)
        run->places[i] = place::ready;
    run->at_barrier = 0;
    run->barrier_result = run->barrier_true;
    run->barrier_true = 0;
    run->moved++;
    wait_as(place::ready); // the last one there is not the first one on, but in its turn
}

const uint64_t *sp_shim_exchange(sp_shim_warp_op op, unsigned mask, uint64_t value)
{
    unsigned thread = run->current, first = thread & ~31u;
    warp_state *warp = &run->warps[thread / 32];
    if (mask != 0xffffffffu)
        sp_shim_die("kernel %s: a warp operation with mask %08x; only the full mask is allowed", run->name, mask);
    if (warp->arrived && warp->op != op)
        sp_shim_die("kernel %s, block (%u,%u,%u): the lanes of warp %u are at different warp operations", run->name, blockIdx.x,
                    blockIdx.y, blockIdx.z, thread / 32);
    warp->op = op;
    uint64_t *values = warp->values[warp->turn & 1u];
    values[thread & 31u] = value;
    if (++warp->arrived < 32) {
        wait_as(place::at_warp);
        return values;
    }
    for (unsigned i = first; i < first + 32; i++)
        run->places[i] = place::ready;
    warp->arrived = 0;
    warp->turn++;
    run->moved++;
    wait_as(place::ready);
    return values;
}

void sp_shim_run_kernel(const char *name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &thread,
                        const sp_shim_orders &orders)
{
    if (!run)
        run = new launch_state();
    run->name = name;
    run->thread = &thread;
    run->orders = orders;
    run->random = orders.seed;
    run->threads = block.x * block.y * block.z;
    run->shared_bytes = shared_bytes;
    void *shared = nullptr;
    if (posix_memalign(&shared, 128, shared_bytes + (SP_SHIM_ASAN ? 0 : SHARED_GUARD)) != 0)
        sp_shim_die("no memory for %zu bytes of shared memory", shared_bytes);
    run->shared = (unsigned char *)shared;
    if (!SP_SHIM_ASAN)
        memset(run->shared + shared_bytes, SHARED_GUARD_BYTE, SHARED_GUARD);
    sp_shim_block_dim = block;
    sp_shim_grid_dim = grid;
    number_threads(block);
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = orders.blocks == SP_SHIM_REVERSE ? blocks - 1 - i : i;
        sp_shim_block_idx = uint3{ (unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y) };
        run_block();
    }
    free(shared);
    run->shared = nullptr;
}
