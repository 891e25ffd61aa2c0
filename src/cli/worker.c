/* SPDX-License-Identifier: Apache-2.0
 * `spillway worker`: what the supervisor execs for each child process. Hidden: descriptor 3 must be the control socket
 * (src/worker/slot.h), so by hand it can only fail. And `spillway frames`, which a device worker execs to decode a video
 * (src/worker/frames.h). */
#include "cli/cli.h"

#include "base/log.h"
#include "worker/frames.h"
#include "worker/visible.h"
#include "worker/worker.h"

#include <fcntl.h>
#include <stdlib.h>

int sp_command_worker(int argc, char **argv)
{
    sp_worker_config config = { .plan = "" };
    int64_t spin_us = 0, model_memory = 0;
    sp_log_level level = SP_LOG_INFO;
    const char *level_text = getenv("SPILLWAY_LOG_LEVEL");
    const sp_option options[] = {
        { .name = "kind", .kind = SP_OPTION_TEXT, .target = &config.kind },
        { .name = "name", .kind = SP_OPTION_TEXT, .target = &config.name },
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .target = &config.model_repository },
        { .name = "model", .kind = SP_OPTION_TEXT, .target = &config.model },
        { .name = "model-memory", .kind = SP_OPTION_INT, .target = &model_memory, .most = INT64_MAX },
        { .name = "plan", .kind = SP_OPTION_TEXT, .target = &config.plan },
        { .name = "require-sandbox", .kind = SP_OPTION_FLAG, .target = &config.require_sandbox },
        { .name = "refuse-cpu-nodes", .kind = SP_OPTION_FLAG, .target = &config.refuse_cpu_nodes },
        { .name = "nvjpeg", .kind = SP_OPTION_FLAG, .target = &config.nvjpeg },
        { .name = "data-dir", .kind = SP_OPTION_TEXT, .target = &config.data_dir },
        { .name = "again", .kind = SP_OPTION_FLAG, .target = &config.again },
        { .name = "spin-us", .kind = SP_OPTION_INT, .target = &spin_us, .most = 1000000 },
    };
    const sp_usage usage = {
        .command = "worker", .arguments = "", .summary = "A child process of `spillway serve`; not for use by hand.",
        .options = options, .option_count = SP_ARRAY_LEN(options),
        .examples = "  spillway serve --workers codec0,cpu0     starts two of them\n",
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    if (!config.kind || !config.name)
        return sp_cli_fail(SP_EXIT_USAGE, "worker", "--kind and --name are needed; `spillway serve` starts workers");
    if (fcntl(3, F_GETFD) < 0)
        return sp_cli_fail(SP_EXIT_USAGE, "worker", "descriptor 3 is no control socket; `spillway serve` starts workers");
    sp_worker_show_its_gpu(config.kind, config.name);
    config.spin_us = (int)spin_us;
    config.model_memory_bytes = (uint64_t)model_memory;
    if (level_text && !sp_log_level_parse(level_text, &level))
        level = SP_LOG_INFO;
    sp_log_open(config.name, level);
    return sp_worker_main(&config);
}

int sp_command_frames(int argc, char **argv)
{
    sp_log_level level = SP_LOG_INFO;
    const char *level_text = getenv("SPILLWAY_LOG_LEVEL");

    (void)argv;
    if (argc > 1 || fcntl(3, F_GETFD) < 0)
        return sp_cli_fail(SP_EXIT_USAGE, "frames", "descriptor 3 is no socket; device workers of `spillway serve` start decoders");
    if (level_text && !sp_log_level_parse(level_text, &level))
        level = SP_LOG_INFO;
    sp_log_open("frames", level);
    return sp_frames_main();
}
