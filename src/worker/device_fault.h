/* SPDX-License-Identifier: Apache-2.0
 * Why a device cannot be used, as a stable word (sp_error.code), and what a person can do about it. The words:
 *   no_gpu  no_driver  no_library  mismatch   found at the probe: SP_UNSUPPORTED
 *   no_code  bad_arithmetic   the CUDA plug-in does not fit the GPU, or is built without its flags: SP_UNSUPPORTED
 *   missing_plugin  bad_plugin   there is none: the engine's own provider goes on without it
 *   not_registered  slots' memory cannot be made known to the device: it is staged
 *   oom       device memory: SP_NOMEM, bytes asked and free in the message where they are known
 *   sticky    the device failed in a way that only a new process cures: SP_UNAVAILABLE
 *   hang      a run that did not end; the watchdog says so */
#ifndef SP_WORKER_DEVICE_FAULT_H
#define SP_WORKER_DEVICE_FAULT_H

/* "" for a word that has none. */
const char *sp_device_remedy(const char *code);

/* The word for an engine's reason ("no driver: ..."); "no_device" when it begins like none of the known ones. */
const char *sp_device_code_of(const char *reason);

#endif
