/* SPDX-License-Identifier: Apache-2.0
 * The program `spillway`: finds the command in a table and hands over. Nothing is loaded or started here, so that
 * `serve` answers within milliseconds of exec. */
#include "cli/cli.h"

#include "base/fault.h"

#include <stdlib.h>
#include <string.h>

typedef struct command {
    const char *name;
    sp_command_fn *run;
    const char *summary; /* NULL = hidden */
} command;

static const command commands[] = {
    { "serve", sp_command_serve, "answer requests over HTTP" },
    { "classify", sp_command_classify, "say what pictures show, without a server" },
    { "detect", sp_command_detect, "find things in pictures, without a server" },
    { "analyze", sp_command_analyze, "analyse every frame of a video, in worker processes" },
    { "compare", sp_command_compare, "compare two reports of videos" },
    { "config", sp_command_config, "check a configuration file, or show what it comes to" },
    { "token", sp_command_token, "make an access token" },
    { "doctor", sp_command_doctor, "show engines, devices and limits of this machine, and what is missing" },
    { "inspect", sp_command_inspect, "show what a model of a Triton repository would be served as" },
    { "models", sp_command_models, "list the models that are here, or that can be pulled" },
    { "pull", sp_command_pull, "download a model of the catalogue" },
    { "bench", sp_command_bench, "put load on a server and measure it" },
    { "chaos", sp_command_chaos, "make faults in a live server and count what was lost" },
    { "cost", sp_command_cost, "compare the cost of rented devices with that of an API" },
    { "results", sp_command_results, "write stored answers as JSON lines or CSV" },
    { "version", sp_command_version, "print versions" },
    { "worker", sp_command_worker, NULL }, /* spawned by serve, never by hand */
    { "frames", sp_command_frames, NULL }, /* spawned by device workers, never by hand */
};

static void print_help(FILE *out)
{
    fputs("usage: spillway COMMAND [options]\n\n"
          "Spillway is an inference and media server that answers every request.\n\ncommands:\n", out);
    for (size_t i = 0; i < SP_ARRAY_LEN(commands); i++)
        if (commands[i].summary)
            fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nexamples:\n"
          "  spillway serve                      start on 127.0.0.1:8000\n"
          "  spillway classify cat.jpg           top-5 of one picture\n"
          "  spillway doctor                     what works on this machine, and why not\n"
          "  spillway COMMAND --help             options and examples of one command\n"
          "\nexit codes:\n"
          "  0  ok\n"
          "  1  the operation failed (for several files: at least one of them)\n"
          "  2  usage: unknown command or option, bad value, bad configuration file\n"
          "  3  something needed is not available: a model, a library, a free port\n", out);
}

static int unknown_command(const char *word)
{
    const char *names[SP_ARRAY_LEN(commands)];
    int count = 0;

    for (size_t i = 0; i < SP_ARRAY_LEN(commands); i++)
        if (commands[i].summary)
            names[count++] = commands[i].name;
    const char *nearest = sp_nearest(word, names, count);
    const char *what = word[0] == '-' ? "option" : "command";
    if (nearest)
        return sp_cli_fail(SP_EXIT_USAGE, NULL, "unknown %s '%s', did you mean '%s'? (spillway --help lists them)", what,
                           word, nearest);
    return sp_cli_fail(SP_EXIT_USAGE, NULL, "unknown %s '%s' (spillway --help lists the commands)", what, word);
}

static int run_command(const char *name, int argc, char **argv)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i].name, name))
            return commands[i].run(argc, argv);
    return unknown_command(name);
}

int main(int argc, char **argv)
{
    sp_error err = { 0 };

    if (argc < 2) {
        print_help(stderr);
        return SP_EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (!strcmp(argv[1], "help") && argc == 2)) {
        print_help(stdout);
        return SP_EXIT_OK;
    }
    if (!strcmp(argv[1], "help")) {
        char *words[] = { argv[2], (char[]){ "--help" }, NULL };
        return run_command(argv[2], 2, words);
    }
    if (!strcmp(argv[1], "--version")) {
        char *words[] = { argv[1], NULL };
        return sp_command_version(1, words);
    }
    if (sp_fault_arm(getenv("SPILLWAY_FAULTS"), &err))
        return sp_cli_fail(SP_EXIT_USAGE, NULL, "%s", err.message);
    return run_command(argv[1], argc - 1, argv + 1);
}
