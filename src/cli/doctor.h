/* SPDX-License-Identifier: Apache-2.0
 * Inside `spillway doctor`: what doctor.c found, printed for people by doctor_print.c. */
#ifndef SP_CLI_DOCTOR_H
#define SP_CLI_DOCTOR_H

#include <jansson.h>
#include <stdio.h>

void sp_doctor_print(const json_t *findings, FILE *out);

#endif
