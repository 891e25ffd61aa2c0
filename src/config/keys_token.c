/* SPDX-License-Identifier: Apache-2.0
 * Keys of tokens[]. */
#include "config/keys.h"

#include "config/value.h"

#include <string.h>

static const struct {
    const char *name;
    unsigned bit;
} scopes[] = { { "infer", SP_SCOPE_INFER }, { "admin", SP_SCOPE_ADMIN }, { "metrics", SP_SCOPE_METRICS } };

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static void sha256_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_token_config *token = object;
    bool good = node->kind == SP_YAML_SCALAR && strlen(node->text) == 64;

    for (int i = 0; good && i < 32; i++) {
        int high = hex_digit(node->text[2 * i]), low = hex_digit(node->text[2 * i + 1]);
        good = high >= 0 && low >= 0;
        token->sha256[i] = (uint8_t)(high * 16 + low);
    }
    if (!good) /* the text is not told: somebody may have put the token itself here */
        sp_reader_complain(reader, node,
                           "must be the 64 hex digits of the token's SHA-256 (spillway token new prints them)");
}

static void sha256_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_token_config *token = object;

    sp_writer_key(writer, key->name);
    sp_buf_append_text(writer->out, " '");
    for (int i = 0; i < 32; i++)
        sp_buf_printf(writer->out, "%02x", token->sha256[i]);
    sp_buf_append_text(writer->out, "'\n");
}

static void scope_read(sp_reader *reader, const sp_yaml_node *node, sp_token_config *token)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(scopes); i++) {
        if (node->kind == SP_YAML_SCALAR && !strcmp(node->text, scopes[i].name)) {
            token->scopes |= scopes[i].bit;
            return;
        }
    }
    sp_reader_complain(reader, node, "must be infer, admin or metrics, not '%.60s'", node->text);
}

static void scopes_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_token_config *token = object;
    int index = 0;

    token->scopes = 0;
    if (node->kind == SP_YAML_SCALAR) {
        scope_read(reader, node, token);
        return;
    }
    if (node->kind == SP_YAML_MAP || !node->first)
        sp_reader_complain(reader, node, "must be a list of infer, admin, metrics");
    for (const sp_yaml_node *member = node->first; member && node->kind == SP_YAML_LIST; member = member->next) {
        size_t mark = sp_reader_enter_index(reader, index++);
        scope_read(reader, member, token);
        sp_reader_leave(reader, mark);
    }
}

static void scopes_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_token_config *token = object;
    const char *comma = "";

    sp_writer_key(writer, key->name);
    sp_buf_append_text(writer->out, " [");
    for (size_t i = 0; i < SP_ARRAY_LEN(scopes); i++) {
        if (token->scopes & scopes[i].bit) {
            sp_buf_printf(writer->out, "%s%s", comma, scopes[i].name);
            comma = ", ";
        }
    }
    sp_buf_append_text(writer->out, "]\n");
}

static const sp_key token_keys[] = {
    { SP_ROW(sp_token_config, "name", SP_KEY_TEXT, name), .size = sizeof(((sp_token_config *)0)->name),
      .required = true },
    { SP_ROW(sp_token_config, "sha256", SP_KEY_CUSTOM, sha256), .read = sha256_read, .write = sha256_write,
      .required = true },
    { SP_ROW(sp_token_config, "scopes", SP_KEY_CUSTOM, scopes), .read = scopes_read, .write = scopes_write },
    SP_ROW_TEXT(sp_token_config, "tier", tier),
    SP_ROW_TEXT(sp_token_config, "tenant", tenant),
    SP_ROW_NUMBER(sp_token_config, "local_only", SP_KEY_BOOL, local_only, 0, 0),
    SP_ROW_NUMBER(sp_token_config, "rate_per_s", SP_KEY_DOUBLE, rate_per_s, 0, 1000000000),
    SP_ROW_NUMBER(sp_token_config, "burst", SP_KEY_DOUBLE, burst, 0, 1000000000),
    SP_ROW_NUMBER(sp_token_config, "requests_per_day", SP_KEY_LONG, requests_per_day, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_token_config, "expires", SP_KEY_DATE, expires_unix_s, 0, INT64_MAX),
};

static void token_init(void *object)
{
    ((sp_token_config *)object)->scopes = SP_SCOPE_INFER;
}

static void token_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_token_config *token = object;

    if (token->burst > 0 && token->rate_per_s <= 0)
        sp_reader_complain(reader, node, "burst needs rate_per_s beside it");
    else if (token->rate_per_s > 0 && token->burst <= 0)
        token->burst = token->rate_per_s > 1 ? token->rate_per_s : 1; /* one second's worth */
}

const sp_schema sp_token_schema = {
    .what = "a token",
    .keys = token_keys,
    .key_count = SP_ARRAY_LEN(token_keys),
    .init = token_init,
    .check = token_check,
};
