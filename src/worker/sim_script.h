/* SPDX-License-Identifier: Apache-2.0
 * What SPILLWAY_SIM says of one simulated device, parsed (the grammar stands in sim.h). Of sim.c and sim_script.c. */
#ifndef SP_WORKER_SIM_SCRIPT_H
#define SP_WORKER_SIM_SCRIPT_H

#include "base/status.h"

#define SP_SIM_FAULTS 16
#define SP_SIM_FOR_EVER UINT64_MAX

typedef enum sp_sim_fault_kind { SP_SIM_OOM, SP_SIM_STICKY, SP_SIM_HANG, SP_SIM_SLOW, SP_SIM_THROTTLE, SP_SIM_CRASH } sp_sim_fault_kind;

/* When a fault begins and how long it lasts. None of nth, every and at: whenever `file` allows. */
typedef struct sp_sim_when {
    uint64_t nth, every;
    int64_t at_ns;
    int64_t for_ns;    /* 0 = counted in runs */
    uint64_t for_runs; /* SP_SIM_FOR_EVER; 0 = 1 */
    char file[128];    /* "" = no condition */
} sp_sim_when;

typedef struct sp_sim_fault {
    sp_sim_fault_kind kind;
    double factor;  /* slow, throttle */
    uint64_t bytes; /* oom; 0 = all */
    sp_sim_when when;
} sp_sim_fault;

typedef struct sp_sim_script {
    uint64_t memory_bytes, model_bytes, item_bytes;
    int64_t fixed_ns, item_ns;
    int batch;
    char probe[16]; /* "" = it is there */
    char probe_file[128];
    sp_sim_fault faults[SP_SIM_FAULTS];
    int fault_count;
} sp_sim_script;

/* The settings for worker `name`; devices of other names are read too, so that a mistake shows at every worker. */
sp_status sp_sim_script_parse(const char *text, const char *name, sp_sim_script *ret_script, sp_error *reterr);

#endif
