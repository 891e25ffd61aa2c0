/* SPDX-License-Identifier: Apache-2.0
 * Inside `spillway doctor`: what doctor.c found, printed for people by doctor_print.c. */
#ifndef SP_CLI_DOCTOR_H
#define SP_CLI_DOCTOR_H

#include <jansson.h>
#include <stdio.h>

/* Owned by the caller: {"present":, "reason":, "remedy":, "devices":[...]}, what NVML says now. */
json_t *sp_doctor_devices(void);

/* Owned by the caller: {"present":, "reason":, "reason_code":, "remedy":, "version":, "codes":, "devices":[...]}, of our own CUDA
 * kernels. */
json_t *sp_doctor_cuda(void);

void sp_doctor_print(const json_t *findings, FILE *out);

#endif
