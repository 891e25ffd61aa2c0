// SPDX-License-Identifier: Apache-2.0
// What tests steer the stand-in by (shim.h).
#include "world.h"

using namespace shim;

namespace {

void control_reset()
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    run_everything();
    w().sticky = cudaSuccess;
    last_error = cudaSuccess;
    w().failures.clear();
    w().failed = 0;
    w().calls.clear();
    w().orders = sp_shim_orders();
    w().random = 1;
    w().device = DEVICE_AT_FIRST;
    w().foreign = false;
    w().byte_ns = 0.04;
    w().thread_ns = 0.001;
    w().operation_ns = 1000;
    sp_shim_counters old = w().counters, fresh = {};
    fresh.streams = old.streams;
    fresh.events = old.events;
    fresh.graphs = old.graphs;
    fresh.pools = old.pools;
    fresh.device_bytes = old.device_bytes;
    fresh.host_bytes = old.host_bytes;
    w().counters = fresh;
}

void control_order(sp_shim_order threads, sp_shim_order blocks, uint64_t seed)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().orders.threads = threads;
    w().orders.blocks = blocks;
    w().orders.seed = seed;
}

void control_streams(uint64_t seed)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().random = seed;
}

void control_fail(const char *name, uint64_t nth, int error, uint64_t times)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    fail_later(name, nth, (cudaError_t)error, times);
}

uint64_t control_failed()
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    return w().failed;
}

uint64_t control_calls(const char *name)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    return w().calls[name];
}

void control_counters(sp_shim_counters *ret_counters)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    *ret_counters = w().counters;
}

sp_shim_device control_device(const sp_shim_device *device)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    sp_shim_device old = w().device;
    if (device)
        w().device = *device;
    return old;
}

void control_foreign(bool allowed)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().foreign = allowed;
}

void control_costs(double byte_ns, double thread_ns, double operation_ns)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().byte_ns = byte_ns;
    w().thread_ns = thread_ns;
    w().operation_ns = operation_ns;
}

int control_enqueue(void *stream, void (*run)(void *argument), void *argument)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    operation op;
    op.name = "engine";
    op.on = engine::compute;
    op.cost_ns = w().operation_ns;
    op.run = [=]() {
        run(argument);
        return cudaSuccess;
    };
    return enqueue(stream_of((cudaStream_t)stream), std::move(op));
}

int control_sync(void *stream)
{
    return cudaStreamSynchronize((cudaStream_t)stream);
}

const sp_shim_control control = {
    sizeof(sp_shim_control), control_reset,  control_order,  control_streams, control_fail,  control_failed, control_calls,
    control_counters,        control_device, control_foreign, control_costs,  control_enqueue, control_sync,
};

} // namespace

extern "C" __attribute__((visibility("default"))) const sp_shim_control *sp_shim_control_get(void)
{
    return &control;
}
