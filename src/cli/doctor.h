/* SPDX-License-Identifier: Apache-2.0
 * Inside `spillway doctor`: what doctor.c found, printed for people by doctor_print.c. */
#ifndef SP_CLI_DOCTOR_H
#define SP_CLI_DOCTOR_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

/* A question that is asked once, on a thread of its own, which is left behind when it gets no answer. The thread writes what it
 * found where nobody else looks, then tells; only after SP_DOCTOR_ANSWERED it is read. */
typedef struct sp_doctor_ask {
    pthread_mutex_t lock; /* guards done */
    pthread_cond_t bell;
    bool done;
} sp_doctor_ask;
#define SP_DOCTOR_ASK { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false }
typedef enum sp_doctor_answer { SP_DOCTOR_ANSWERED, SP_DOCTOR_HANGS, SP_DOCTOR_NOT_ASKED } sp_doctor_answer;
sp_doctor_answer sp_doctor_wait(sp_doctor_ask *ask, void *(*who)(void *), int patience_s);
void sp_doctor_tell(sp_doctor_ask *ask);

/* Owned by the caller: {"present":, "reason":, "remedy":, "devices":[...]}, what NVML says now. */
json_t *sp_doctor_devices(void);

/* Owned by the caller: {"present":, "reason":, "reason_code":, "remedy":, "version":, "codes":, "devices":[...]}, of our own CUDA
 * kernels. */
json_t *sp_doctor_cuda(void);

void sp_doctor_print(const json_t *findings, FILE *out);

#endif
