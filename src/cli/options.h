/* SPDX-License-Identifier: Apache-2.0
 * Command-line options: one table per command gives parsing, `--help`, and errors that name the option and suggest the
 * nearest. Knows no command. */
#ifndef SP_CLI_OPTIONS_H
#define SP_CLI_OPTIONS_H

#include "base/attr.h"
#include "base/nearest.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* What every command returns; printed by `spillway --help`. */
typedef enum sp_exit {
    SP_EXIT_OK = 0,
    SP_EXIT_FAILED = 1,      /* the operation was tried and failed (for several files: at least one) */
    SP_EXIT_USAGE = 2,       /* unknown command or option, bad value, bad configuration file */
    SP_EXIT_UNAVAILABLE = 3, /* something it needs is not here: a model, a library, a free port */
} sp_exit;

#define SP_OPTION_LIST_BYTES 512

typedef enum sp_option_kind {
    SP_OPTION_FLAG, /* target: bool, set to true */
    SP_OPTION_LIST, /* target: char[SP_OPTION_LIST_BYTES]: what is given again is added behind a comma */
    SP_OPTION_TEXT, /* target: const char *, borrowed from argv; "" is an error */
    SP_OPTION_INT,  /* target: int64_t, least..most */
} sp_option_kind;

typedef struct sp_option {
    const char *name; /* "http-port": written --http-port */
    char letter;      /* 'k': also written -k; 0 = none */
    sp_option_kind kind;
    const char *value; /* placeholder in the help: "PORT"; NULL for a flag */
    void *target;
    int64_t least, most;
    const char *help; /* may hold '\n'; NULL = hidden */
    bool *given;      /* set to true when it was on the command line; may be NULL */
} sp_option;

typedef struct sp_usage {
    const char *command;   /* "serve" */
    const char *arguments; /* "FILE..." or "" */
    const char *summary;   /* what it does, a sentence or a paragraph */
    const sp_option *options;
    int option_count;
    int least_arguments, most_arguments; /* of the words that are no options; most -1 = no bound */
    const char *examples;  /* lines of text, each ending in '\n' */
    const char *notes;     /* further lines below the examples, or NULL */
} sp_usage;

/* Reads argv[1..argc-1]: "--name value", "--name=value", "-k value", "-kvalue", "--" ends the options. Words that are no
 * options are moved to argv[0..*ret_argument_count-1] in their order.
 * True: go on. False: *ret_exit is what to exit with; --help was printed on stdout, or the error on stderr. */
bool sp_options_parse(const sp_usage *usage, int argc, char **argv, int *ret_argument_count, int *ret_exit);

void sp_usage_print(const sp_usage *usage, FILE *out);

/* "spillway COMMAND: message" on stderr; returns `code`, so that failing reads `return sp_cli_fail(...)`. */
int sp_cli_fail(int code, const char *command, const char *format, ...) SP_PRINTF(3, 4);

#endif
