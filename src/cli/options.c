/* SPDX-License-Identifier: Apache-2.0
 * See options.h. getopt_long is not used: it prints its own messages, accepts abbreviations (which turn into other
 * options as a program grows) and cannot say which option was meant. */
#include "cli/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX SP_NEAREST_WORD_BYTES
#define HELP_COLUMN 28   /* where the explanations begin */
#define NAMES_MAX 64

int sp_cli_fail(int code, const char *command, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "spillway%s%s: ", command ? " " : "", command ? command : "");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return code;
}

static void print_option(const sp_option *option, FILE *out)
{
    char left[80];
    int width = snprintf(left, sizeof(left), "  %c%c%s--%s%s%s", option->letter ? '-' : ' ',
                         option->letter ? option->letter : ' ', option->letter ? ", " : "  ", option->name,
                         option->value ? " " : "", option->value ? option->value : "");

    fputs(left, out);
    if (width >= HELP_COLUMN - 1) {
        fputc('\n', out);
        width = 0;
    }
    for (const char *line = option->help; *line;) {
        size_t length = strcspn(line, "\n");
        fprintf(out, "%*s%.*s\n", HELP_COLUMN - width, "", (int)length, line);
        width = 0;
        line += length + (line[length] == '\n');
    }
}

void sp_usage_print(const sp_usage *usage, FILE *out)
{
    fprintf(out, "usage: spillway %s%s%s%s\n\n%s\n\noptions:\n", usage->command, usage->option_count ? " [options]" : "",
            *usage->arguments ? " " : "", usage->arguments, usage->summary);
    for (int i = 0; i < usage->option_count; i++)
        if (usage->options[i].help)
            print_option(&usage->options[i], out);
    print_option(&(sp_option){ .name = "help", .letter = 'h', .help = "print this and exit" }, out);
    if (usage->notes)
        fprintf(out, "\n%s", usage->notes);
    fprintf(out, "\nexamples:\n%s", usage->examples);
    fputs("\nexit codes: 0 ok, 1 failed, 2 usage, 3 something needed is not available\n", out);
}

static bool add_item(const sp_usage *usage, const sp_option *option, const char *value)
{
    char *list = option->target;
    size_t used = strlen(list);

    if (used + strlen(value) + 2 > SP_OPTION_LIST_BYTES) {
        (void)sp_cli_fail(0, usage->command, "--%s: more than %d bytes; the configuration file takes more", option->name,
                          SP_OPTION_LIST_BYTES);
        return false;
    }
    snprintf(list + used, SP_OPTION_LIST_BYTES - used, "%s%s", used ? "," : "", value);
    return true;
}

static bool store(const sp_usage *usage, const sp_option *option, const char *value)
{
    char *end;
    long long number;

    if (option->given)
        *option->given = true;
    switch (option->kind) {
    case SP_OPTION_FLAG:
        *(bool *)option->target = true;
        return true;
    case SP_OPTION_LIST:
    case SP_OPTION_TEXT:
        if (!*value) {
            (void)sp_cli_fail(0, usage->command, "--%s needs a value that is not empty", option->name);
            return false;
        }
        if (option->kind == SP_OPTION_LIST)
            return add_item(usage, option, value);
        *(const char **)option->target = value;
        return true;
    case SP_OPTION_INT:
        errno = 0;
        number = strtoll(value, &end, 10);
        if (errno || end == value || *end || number < option->least || number > option->most) {
            (void)sp_cli_fail(0, usage->command, "--%s must be a whole number from %lld to %lld, not '%s'", option->name,
                              (long long)option->least, (long long)option->most, value);
            return false;
        }
        *(int64_t *)option->target = number;
        return true;
    }
    return false;
}

static void report_unknown(const sp_usage *usage, const char *word, size_t name_length)
{
    const char *names[NAMES_MAX];
    char name[WORD_MAX + 1];
    int count = 0;

    for (int i = 0; i < usage->option_count && count < NAMES_MAX - 1; i++)
        if (usage->options[i].help)
            names[count++] = usage->options[i].name;
    names[count++] = "help";
    snprintf(name, sizeof(name), "%.*s", (int)name_length, word);
    const char *nearest = name_length <= WORD_MAX ? sp_nearest(name, names, count) : NULL;
    (void)sp_cli_fail(0, usage->command, "unknown option '--%.*s'%s%s%s (spillway %s --help lists them)", (int)name_length,
                      word, nearest ? ", did you mean '--" : "", nearest ? nearest : "", nearest ? "'?" : "",
                      usage->command);
}

static const sp_option *find_long(const sp_usage *usage, const char *word, size_t name_length)
{
    for (int i = 0; i < usage->option_count; i++)
        if (strlen(usage->options[i].name) == name_length && !strncmp(usage->options[i].name, word, name_length))
            return &usage->options[i];
    return NULL;
}

static const sp_option *find_letter(const sp_usage *usage, char letter)
{
    for (int i = 0; i < usage->option_count; i++)
        if (usage->options[i].letter && usage->options[i].letter == letter)
            return &usage->options[i];
    return NULL;
}

/* Reads the option at argv[*at] and its value, which may be the next word. */
static bool read_option(const sp_usage *usage, int argc, char **argv, int *at)
{
    const char *word = argv[*at];
    const sp_option *option;
    const char *value = NULL;

    if (word[1] == '-') {
        size_t name_length = strcspn(word + 2, "=");
        option = find_long(usage, word + 2, name_length);
        if (!option) {
            report_unknown(usage, word + 2, name_length);
            return false;
        }
        if (word[2 + name_length] == '=')
            value = word + 2 + name_length + 1;
    } else {
        option = find_letter(usage, word[1]);
        if (!option) {
            (void)sp_cli_fail(0, usage->command, "unknown option '-%c' (spillway %s --help lists them)", word[1],
                              usage->command);
            return false;
        }
        if (word[2])
            value = word + 2;
    }
    if (option->kind == SP_OPTION_FLAG) {
        if (value) {
            (void)sp_cli_fail(0, usage->command, "--%s takes no value", option->name);
            return false;
        }
    } else if (!value) {
        if (*at + 1 >= argc) {
            (void)sp_cli_fail(0, usage->command, "--%s needs a value: --%s %s", option->name, option->name, option->value);
            return false;
        }
        value = argv[++*at];
    }
    return store(usage, option, value);
}

bool sp_options_parse(const sp_usage *usage, int argc, char **argv, int *ret_argument_count, int *ret_exit)
{
    bool options_ended = false;
    int count = 0;

    *ret_exit = SP_EXIT_USAGE;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (options_ended || word[0] != '-' || !word[1]) {
            argv[count++] = word;
        } else if (!strcmp(word, "--")) {
            options_ended = true;
        } else if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            sp_usage_print(usage, stdout);
            *ret_exit = SP_EXIT_OK;
            return false;
        } else if (!read_option(usage, argc, argv, &i)) {
            return false;
        }
    }
    if (count < usage->least_arguments) {
        (void)sp_cli_fail(0, usage->command, "%s is missing (usage: spillway %s [options] %s)", usage->arguments,
                          usage->command, usage->arguments);
        return false;
    }
    if (usage->most_arguments >= 0 && count > usage->most_arguments) {
        (void)sp_cli_fail(0, usage->command, "'%s' is one word too many (usage: spillway %s [options]%s%s)",
                          argv[usage->most_arguments], usage->command, *usage->arguments ? " " : "", usage->arguments);
        return false;
    }
    *ret_argument_count = count;
    return true;
}
