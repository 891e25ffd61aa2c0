/* SPDX-License-Identifier: Apache-2.0
 * `spillway version`: what this binary is, without loading anything (doctor asks the libraries for theirs). */
#include "cli/cli.h"

#include "worker/slot.h"

#include <string.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

#ifdef SP_FAULTS
#define FAULTS true
#else
#define FAULTS false
#endif

int sp_command_version(int argc, char **argv)
{
    bool json = false;
    const sp_option options[] = {
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &json, .help = "one JSON object" },
    };
    const sp_usage usage = {
        .command = "version", .arguments = "", .summary = "Prints the version of Spillway and how it was built.",
        .options = options, .option_count = SP_ARRAY_LEN(options),
        .examples = "  spillway version\n  spillway version --json\n",
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    if (json)
        printf("{\"version\":\"%s\",\"compiler\":\"%s\",\"slot_abi\":%u,\"fault_points\":%s}\n", SP_VERSION, COMPILER,
               SP_SLOT_ABI, FAULTS ? "true" : "false");
    else
        printf("spillway %s\n  compiler      %s\n  slot protocol %u\n  fault points  %s\n", SP_VERSION, COMPILER, SP_SLOT_ABI,
               FAULTS ? "compiled in" : "none");
    return SP_EXIT_OK;
}
