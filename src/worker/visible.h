/* SPDX-License-Identifier: Apache-2.0
 * One GPU for each device worker: its process sees that one and no other, so that nothing that any library does in it can touch a
 * neighbour's. Inside, it is always device 0. */
#ifndef SP_WORKER_VISIBLE_H
#define SP_WORKER_VISIBLE_H

/* The number at the end of a worker's name: 3 of "cuda3", 0 of "cuda". */
int sp_worker_number(const char *name);

/* At the start of a "cuda" or "tensorrt" worker's process, before anything of CUDA's is opened and while it has one thread: the GPU
 * of the worker's number among those that our environment shows (CUDA_VISIBLE_DEVICES: numbers, UUIDs, MIG's names), or, when that
 * is not set, among all, in the order of the PCI bus, which is NVML's too. A number that nobody has shows none. Other kinds:
 * nothing. */
void sp_worker_show_its_gpu(const char *kind, const char *name);

#endif
