/* SPDX-License-Identifier: Apache-2.0
 * `spillway token new`: makes a bearer token and the lines of the configuration that let it in. The token itself is
 * printed once and kept nowhere; the configuration gets its SHA-256. */
#include "cli/cli.h"

#include "config/config.h"

#include <openssl/sha.h>
#include <string.h>
#include <sys/random.h>

#define TOKEN_RANDOM_BYTES 32 /* as many as the digest has: guessing either is hopeless */
#define TOKEN_TEXT_BYTES (3 + TOKEN_RANDOM_BYTES * 4 / 3 + 2) /* "sw_", base64url without padding, NUL */

typedef struct words {
    const char *name, *scopes, *tier, *tenant, *rate, *burst, *expires;
    int64_t requests_per_day;
    bool local_only;
} words;

static const char examples[] =
    "  spillway token new --name web\n"
    "  spillway token new --name shop --scopes infer,metrics --tier premium --tenant acme --rate 50\n"
    "  spillway token new --name ops --scopes admin --expires 2027-12-31\n";

static const char notes[] =
    "The first line printed is the token, shown this once: give it to the caller, who sends it as\n"
    "`Authorization: Bearer sw_...`. The lines below it go under tokens: in the configuration file; then\n"
    "kill -HUP lets it in.\n";

static bool parse(words *w, int argc, char **argv, int *ret_count, int *ret_exit)
{
    const sp_option options[] = {
        { .name = "name",
          .kind = SP_OPTION_TEXT,
          .value = "NAME",
          .target = &w->name,
          .help = "what logs and events call it (required)" },
        { .name = "scopes",
          .kind = SP_OPTION_TEXT,
          .value = "LIST",
          .target = &w->scopes,
          .help = "infer, metrics, admin: comma-separated (default infer)" },
        { .name = "tier",
          .kind = SP_OPTION_TEXT,
          .value = "TIER",
          .target = &w->tier,
          .help = "what conditions of links ask for" },
        { .name = "tenant",
          .kind = SP_OPTION_TEXT,
          .value = "NAME",
          .target = &w->tenant,
          .help = "whose jobs and results these are" },
        { .name = "rate",
          .kind = SP_OPTION_TEXT,
          .value = "N",
          .target = &w->rate,
          .help = "requests per second (default: no bound)" },
        { .name = "burst",
          .kind = SP_OPTION_TEXT,
          .value = "N",
          .target = &w->burst,
          .help = "how many may come at once (default: a second's)" },
        { .name = "requests-per-day",
          .kind = SP_OPTION_INT,
          .value = "N",
          .target = &w->requests_per_day,
          .most = INT64_MAX,
          .help = "default: no bound" },
        { .name = "expires",
          .kind = SP_OPTION_TEXT,
          .value = "DATE",
          .target = &w->expires,
          .help = "2027-12-31 (UTC; default: never)" },
        { .name = "local-only",
          .kind = SP_OPTION_FLAG,
          .target = &w->local_only,
          .help = "its requests never leave this machine" },
    };
    const sp_usage usage = {
        .command = "token",
        .arguments = "new",
        .summary = "Makes an access token.",
        .options = options,
        .option_count = SP_ARRAY_LEN(options),
        .least_arguments = 1,
        .most_arguments = 1,
        .examples = examples,
        .notes = notes,
    };

    return sp_options_parse(&usage, argc, argv, ret_count, ret_exit);
}

static bool make_token(char ret_text[TOKEN_TEXT_BYTES])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[TOKEN_RANDOM_BYTES + 1] = { 0 };
    char *p = ret_text + 3;

    if (getrandom(random, TOKEN_RANDOM_BYTES, 0) != TOKEN_RANDOM_BYTES)
        return false;
    memcpy(ret_text, "sw_", 3);
    for (int bit = 0; bit < TOKEN_RANDOM_BYTES * 8; bit += 6) {
        unsigned pair = (unsigned)random[bit / 8] << 8 | random[bit / 8 + 1];
        *p++ = digits[pair >> (10 - bit % 8) & 63];
    }
    *p = '\0';
    explicit_bzero(random, sizeof(random));
    return true;
}

static void append_quoted(sp_buf *out, const char *key, const char *text)
{
    if (!text)
        return;
    sp_buf_printf(out, "    %s: '", key);
    for (; *text; text++)
        sp_buf_append(out, *text == '\'' ? "''" : text, *text == '\'' ? 2 : 1);
    sp_buf_append_text(out, "'\n");
}

static void write_lines(const words *w, const char *token, sp_buf *out)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];

    (void)SHA256((const unsigned char *)token, strlen(token), digest);
    sp_buf_append_text(out, "  - name: '");
    for (const char *p = w->name; *p; p++)
        sp_buf_append(out, *p == '\'' ? "''" : p, *p == '\'' ? 2 : 1);
    sp_buf_append_text(out, "'\n    sha256: '");
    for (size_t i = 0; i < sizeof(digest); i++)
        sp_buf_printf(out, "%02x", digest[i]);
    sp_buf_printf(out, "'\n    scopes: [%s]\n", w->scopes ? w->scopes : "infer");
    append_quoted(out, "tier", w->tier);
    append_quoted(out, "tenant", w->tenant);
    append_quoted(out, "rate_per_s", w->rate);
    append_quoted(out, "burst", w->burst);
    if (w->requests_per_day)
        sp_buf_printf(out, "    requests_per_day: %lld\n", (long long)w->requests_per_day);
    append_quoted(out, "expires", w->expires);
    if (w->local_only)
        sp_buf_append_text(out, "    local_only: true\n");
}

/* The lines are held to what the configuration accepts, so that a wrong option is told now. */
static sp_status lines_check(const sp_buf *lines, sp_error *reterr)
{
    sp_buf text;
    sp_config *config = NULL;

    sp_buf_init(&text, lines->limit_bytes + 16);
    sp_buf_append_text(&text, "tokens:\n");
    sp_buf_append(&text, lines->data, lines->size_bytes);
    sp_status status = sp_buf_ok(&text)
                           ? sp_config_parse_effective((const char *)text.data, text.size_bytes, &config, reterr)
                           : SP_FAIL(reterr, SP_NOMEM, "no memory for the token");
    if (!status && config->token_count != 1)
        status = SP_FAIL(reterr, SP_INVALID, "an option holds a character that no name may hold");
    sp_config_unref(config);
    sp_buf_done(&text);
    return status;
}

int sp_command_token(int argc, char **argv)
{
    words w = { 0 };
    char token[TOKEN_TEXT_BYTES];
    sp_error err = { 0 };
    sp_buf lines;
    int count, code;

    if (!parse(&w, argc, argv, &count, &code))
        return code;
    if (strcmp(argv[0], "new") != 0)
        return sp_cli_fail(SP_EXIT_USAGE, "token",
                           "'%s' is not known; only `spillway token new` is (spillway token --help)", argv[0]);
    if (!w.name)
        return sp_cli_fail(SP_EXIT_USAGE, "token", "--name is missing: what logs should call this token");
    if (!make_token(token))
        return sp_cli_fail(SP_EXIT_FAILED, "token", "the kernel gave no random bytes");
    sp_buf_init(&lines, 8192);
    write_lines(&w, token, &lines);
    if (lines_check(&lines, &err)) {
        const char *what = strstr(err.message, "tokens[0]"); /* what the line in our own text is, nobody need know */
        code = sp_cli_fail(SP_EXIT_USAGE, "token", "%s",
                           what ? what + strlen("tokens[0]") + (what[strlen("tokens[0]")] == '.') : err.message);
    } else {
        printf("%s\n# The token is shown this once. These lines go under tokens: in the configuration file:\n%.*s",
               token, (int)lines.size_bytes, (const char *)lines.data);
        code = SP_EXIT_OK;
    }
    explicit_bzero(token, sizeof(token));
    sp_buf_done(&lines);
    return code;
}
