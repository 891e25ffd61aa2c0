/* SPDX-License-Identifier: Apache-2.0
 * config.pbtxt: protobuf's text format, read in one pass into a document. Recursion goes no deeper than the schema's messages.
 * Grammar as in protobuf's text format specification: # comments, "..." and '...' with escapes and concatenation, {} and <>,
 * lists in [], `:` optional before messages, `,` and `;` between fields, enum words or numbers, maps as key/value entries.
 * Not read, since ModelConfig has none: extensions, Any. */
#include "model/document.h"

#include "base/buf.h"
#include "model/config.h"

#include <errno.h>
#include <stdlib.h>

#define TOKEN_TEXT_BYTES 64 /* of a number or word that means something */

typedef enum token_kind { TOKEN_END, TOKEN_WORD, TOKEN_NUMBER, TOKEN_STRING, TOKEN_SYMBOL } token_kind;

typedef struct text_reader {
    const char *file;
    const uint8_t *at, *end;
    int line;
    token_kind token;
    int token_line;
    const uint8_t *token_at;
    size_t token_bytes;
    sp_document_path path;
    sp_buf string; /* of the string token that is being put together */
    sp_error *reterr;
} text_reader;

static sp_status read_message(text_reader *r, const sp_message *message, char close, int opened_line, json_t *object);

/* --- errors ------------------------------------------------------------------------------------------------------------ */

static sp_status failed_at(text_reader *r, int line, sp_status status, const char *message)
{
    return SP_FAIL(r->reterr, status, "%s:%d: %s%s%s", r->file, line, r->path.text, r->path.length ? ": " : "", message);
}

static sp_status failed(text_reader *r, const char *message)
{
    return failed_at(r, r->token_line, SP_INVALID, message);
}

/* "expected X, found Y". */
static sp_status expected(text_reader *r, const char *what)
{
    char message[160];

    if (r->token == TOKEN_END)
        (void)snprintf(message, sizeof(message), "expected %s, but the file ends", what);
    else
        (void)snprintf(message, sizeof(message), "expected %s, found %.*s", what, (int)SP_MIN(r->token_bytes, (size_t)40),
                       (const char *)r->token_at);
    return failed(r, message);
}

/* --- tokens ------------------------------------------------------------------------------------------------------------ */

static bool is_letter(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static void skip_blanks(text_reader *r)
{
    for (; r->at < r->end; r->at++) {
        if (*r->at == '#') {
            while (r->at < r->end && *r->at != '\n')
                r->at++;
            if (r->at == r->end)
                return;
        }
        if (*r->at == '\n')
            r->line++;
        else if (*r->at != ' ' && *r->at != '\t' && *r->at != '\r' && *r->at != '\v' && *r->at != '\f')
            return;
    }
}

static sp_status scan_string(text_reader *r)
{
    uint8_t quote = *r->at++;

    for (; r->at < r->end && *r->at != quote; r->at++) {
        if (*r->at == '\\' && r->at + 1 < r->end)
            r->at++;
        if (*r->at == '\n')
            return failed(r, "the text is not closed in its line");
    }
    if (r->at == r->end)
        return failed(r, "the text is not closed");
    r->at++;
    return SP_OK;
}

static sp_status next(text_reader *r)
{
    skip_blanks(r);
    r->token_at = r->at;
    r->token_line = r->line;
    r->token_bytes = 0;
    if (r->at == r->end) {
        r->token = TOKEN_END;
        return SP_OK;
    }
    uint8_t c = *r->at;
    sp_status status = SP_OK;
    if (is_letter(c)) {
        r->token = TOKEN_WORD;
        while (r->at < r->end && (is_letter(*r->at) || is_digit(*r->at)))
            r->at++;
    } else if (is_digit(c) || (c == '.' && r->at + 1 < r->end && is_digit(r->at[1]))) {
        r->token = TOKEN_NUMBER;
        while (r->at < r->end && (is_letter(*r->at) || is_digit(*r->at) || *r->at == '.' ||
                                  ((*r->at == '+' || *r->at == '-') && (r->at[-1] == 'e' || r->at[-1] == 'E'))))
            r->at++;
    } else if (c == '"' || c == '\'') {
        r->token = TOKEN_STRING;
        status = scan_string(r);
    } else {
        r->token = TOKEN_SYMBOL;
        r->at++;
    }
    r->token_bytes = (size_t)(r->at - r->token_at);
    return status;
}

static bool at_symbol(const text_reader *r, char symbol)
{
    return r->token == TOKEN_SYMBOL && *r->token_at == (uint8_t)symbol;
}

static bool token_text(const text_reader *r, char ret_text[TOKEN_TEXT_BYTES])
{
    if (r->token_bytes >= TOKEN_TEXT_BYTES)
        return false;
    memcpy(ret_text, r->token_at, r->token_bytes);
    ret_text[r->token_bytes] = '\0';
    return true;
}

/* --- strings ------------------------------------------------------------------------------------------------------------ */

static int hex_digit(uint8_t c)
{
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void append_code_point(sp_buf *out, uint32_t code)
{
    uint8_t bytes[4];
    size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = count; i-- > 1; code >>= 6)
        bytes[i] = (uint8_t)(0x80 | (code & 0x3F));
    bytes[0] = (uint8_t)(count == 1 ? code : (0xF00u >> count & 0xFFu) | code);
    sp_buf_append(out, bytes, count);
}

/* Digits of `base` at *at, at most `most`; how many there were. */
static int digits(const uint8_t **at, const uint8_t *end, int base, int most, uint32_t *ret_value)
{
    int count = 0;

    for (*ret_value = 0; count < most && *at < end && hex_digit(**at) >= 0 && hex_digit(**at) < base; count++, (*at)++)
        *ret_value = *ret_value * (uint32_t)base + (uint32_t)hex_digit(**at);
    return count;
}

/* Behind the backslash. */
static bool unescape(sp_buf *out, const uint8_t **at, const uint8_t *end)
{
    static const char letters[] = "abfnrtv\\'\"?", values[] = "\a\b\f\n\r\t\v\\'\"?";
    uint32_t value;

    if (hex_digit(**at) >= 0 && **at < '8' && is_digit(**at)) {
        (void)digits(at, end, 8, 3, &value);
        sp_buf_append(out, &(uint8_t){ (uint8_t)value }, 1);
        return value <= 0xFF;
    }
    uint8_t letter = *(*at)++;
    if (letter == 'x' || letter == 'X') {
        bool any = digits(at, end, 16, 2, &value) > 0;
        sp_buf_append(out, &(uint8_t){ (uint8_t)value }, 1);
        return any;
    }
    if (letter == 'u' || letter == 'U') {
        int wanted = letter == 'u' ? 4 : 8;
        bool all = digits(at, end, 16, wanted, &value) == wanted;
        if (!all || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
            return false;
        append_code_point(out, value);
        return true;
    }
    const char *found = memchr(letters, letter, sizeof(letters) - 1);
    if (found)
        sp_buf_append(out, &values[found - letters], 1);
    return found != NULL;
}

/* One or more string tokens into r->string. */
static sp_status read_string(text_reader *r)
{
    sp_status status = SP_OK;

    sp_buf_clear(&r->string);
    while (!status && r->token == TOKEN_STRING) {
        const uint8_t *at = r->token_at + 1, *end = r->token_at + r->token_bytes - 1;
        while (at < end) {
            if (*at != '\\') {
                sp_buf_append(&r->string, at++, 1);
                continue;
            }
            at++;
            if (!unescape(&r->string, &at, end))
                return failed(r, "the text has an escape that is none");
        }
        status = next(r);
    }
    if (!status && !sp_buf_ok(&r->string))
        status = failed(r, "the text is too long");
    return status;
}

/* --- values -------------------------------------------------------------------------------------------------------------- */

static sp_status read_integer(text_reader *r, bool negative, int64_t *ret_number)
{
    char text[TOKEN_TEXT_BYTES + 1], *end;

    if (r->token != TOKEN_NUMBER || !token_text(r, text + 1))
        return expected(r, "a whole number");
    text[0] = negative ? '-' : '+';
    errno = 0;
    *ret_number = strtoll(text, &end, 0);
    if (*end)
        return expected(r, "a whole number");
    return errno ? failed(r, "the number is too large") : SP_OK;
}

static sp_status read_float(text_reader *r, bool negative, double *ret_number)
{
    char text[TOKEN_TEXT_BYTES], *end;

    if ((r->token != TOKEN_NUMBER && r->token != TOKEN_WORD) || !token_text(r, text))
        return expected(r, "a number");
    double value = strtod(text, &end);
    bool suffix = r->token == TOKEN_NUMBER && (*end == 'f' || *end == 'F') && !end[1];
    if (end == text || (*end && !suffix))
        return expected(r, "a number");
    *ret_number = negative ? -value : value;
    return SP_OK;
}

static sp_status read_bool(text_reader *r, json_t **ret_value)
{
    static const char *const words[] = { "false", "true", "False", "True", "f", "t", "0", "1" };
    char text[TOKEN_TEXT_BYTES];

    if ((r->token == TOKEN_WORD || r->token == TOKEN_NUMBER) && token_text(r, text)) {
        for (size_t i = 0; i < SP_ARRAY_LEN(words); i++) {
            if (!strcmp(text, words[i])) {
                *ret_value = json_boolean(i & 1);
                return SP_OK;
            }
        }
    }
    return expected(r, "true or false");
}

/* A scalar whose type is not text: its token is the current one, after the sign. Leaves the token. */
static sp_status read_scalar(text_reader *r, const sp_field *field, bool negative, json_t **ret_value)
{
    char word[TOKEN_TEXT_BYTES];
    sp_error err = { 0 };
    int64_t number = 0;
    double real = 0;
    sp_status status;

    switch (field->kind) {
    case SP_FIELD_BOOL:
        return negative ? expected(r, "true or false") : read_bool(r, ret_value);
    case SP_FIELD_FLOAT:
        status = read_float(r, negative, &real);
        if (!status && sp_value_float(real, ret_value, &err))
            status = failed(r, err.message);
        return status;
    case SP_FIELD_ENUM:
        if (r->token == TOKEN_WORD && !negative) {
            if (!token_text(r, word))
                return failed(r, "unknown value");
            return sp_value_word(field, word, ret_value, &err) ? failed(r, err.message) : SP_OK;
        }
        if (r->token != TOKEN_NUMBER)
            return expected(r, "one of its words");
        status = read_integer(r, negative, &number);
        if (!status && sp_value_word_number(field, number, ret_value, &err))
            status = failed(r, err.message);
        return status;
    default:
        status = read_integer(r, negative, &number);
        if (!status && sp_value_integer(field, number, ret_value, &err))
            status = failed(r, err.message);
        return status;
    }
}

static sp_status read_submessage(text_reader *r, const sp_message *message, json_t **ret_value)
{
    char close = at_symbol(r, '{') ? '}' : at_symbol(r, '<') ? '>' : 0;
    int opened_line = r->token_line;

    if (!close)
        return expected(r, "{");
    SP_CLEANUP(sp_json_unrefp) json_t *object = json_object();
    if (!object)
        return failed_at(r, opened_line, SP_NOMEM, "out of memory");
    sp_status status = next(r);
    if (!status)
        status = read_message(r, message, close, opened_line, object);
    if (!status)
        *ret_value = SP_STEAL(object);
    return status;
}

/* One value of any kind but a map's entry; moves past it. */
static sp_status read_value(text_reader *r, const sp_field *field, json_t **ret_value)
{
    sp_error err = { 0 };
    int line = r->token_line;
    sp_status status;

    if (field->kind == SP_FIELD_MESSAGE)
        return read_submessage(r, field->message, ret_value);
    if (field->kind == SP_FIELD_TEXT) {
        if (r->token != TOKEN_STRING)
            return expected(r, "a text in quotes");
        status = read_string(r);
        sp_view view = sp_buf_view(&r->string);
        const char *text = view.size_bytes ? (const char *)view.data : "";
        if (!status && (status = sp_value_text(field, text, view.size_bytes, ret_value, &err)))
            status = failed_at(r, line, status, err.message);
        return status;
    }
    bool negative = at_symbol(r, '-');
    status = negative ? next(r) : SP_OK;
    if (!status)
        status = read_scalar(r, field, negative, ret_value);
    if (status)
        return status;
    status = next(r);
    if (status)
        json_decref(SP_STEAL(*ret_value));
    return status;
}

/* The key of a map's entry as text. */
static sp_status read_key(text_reader *r, const sp_field *map, char *ret_key, size_t key_bytes)
{
    int64_t number = 0;
    sp_status status;

    if (map->number_keys) {
        status = read_integer(r, false, &number);
        (void)snprintf(ret_key, key_bytes, "%lld", (long long)number);
        return status ? status : next(r);
    }
    if (r->token != TOKEN_STRING)
        return expected(r, "a text in quotes");
    status = read_string(r);
    if (status)
        return status;
    sp_view text = sp_buf_view(&r->string);
    SP_CLEANUP(sp_json_unrefp) json_t *key = NULL; /* made for its checks: length, UTF-8, no NUL */
    sp_error err = { 0 };
    if (sp_value_text(map, text.size_bytes ? (const char *)text.data : "", text.size_bytes, &key, &err))
        return failed(r, err.message);
    (void)snprintf(ret_key, key_bytes, "%s", json_string_value(key));
    return SP_OK;
}

/* { key: ... value: ... }, in any order; what is missing is empty. */
static sp_status read_entry(text_reader *r, const sp_field *field, char *ret_key, size_t key_bytes, json_t **ret_value)
{
    char close = at_symbol(r, '{') ? '}' : at_symbol(r, '<') ? '>' : 0, word[TOKEN_TEXT_BYTES];
    SP_CLEANUP(sp_json_unrefp) json_t *value = NULL;
    bool has_key = false;

    (void)snprintf(ret_key, key_bytes, "%s", field->number_keys ? "0" : "");
    if (!close)
        return expected(r, "{ key: ... value: ... }");
    sp_status status = next(r);
    while (!status && !at_symbol(r, close)) {
        if (r->token != TOKEN_WORD || !token_text(r, word))
            return expected(r, "key or value");
        bool key = !strcmp(word, "key");
        if (!key && strcmp(word, "value"))
            return expected(r, "key or value");
        if (key ? has_key : value != NULL)
            return failed(r, key ? "the entry has two keys" : "the entry has two values");
        if ((status = next(r)))
            return status;
        if (at_symbol(r, ':')) {
            if ((status = next(r)))
                return status;
        } else if (key || field->kind != SP_FIELD_MESSAGE) {
            return expected(r, ":");
        }
        status = key ? read_key(r, field, ret_key, key_bytes) : read_value(r, field, &value);
        has_key |= key;
        if (!status && (at_symbol(r, ',') || at_symbol(r, ';')))
            status = next(r);
    }
    if (!status && !value) {
        value = field->kind == SP_FIELD_MESSAGE ? json_object() : json_string("");
        if (!value)
            status = failed_at(r, r->token_line, SP_NOMEM, "out of memory");
    }
    if (!status)
        status = next(r);
    if (!status)
        *ret_value = SP_STEAL(value);
    return status;
}

/* --- fields ---------------------------------------------------------------------------------------------------------------- */

static sp_status read_one(text_reader *r, const sp_message *message, const sp_field *field, json_t *object)
{
    char key[4096];
    int line = r->token_line;
    json_t *value = NULL;
    sp_error err = { 0 };
    sp_status status = field->shape == SP_FIELD_MAP ? read_entry(r, field, key, sizeof(key), &value) : read_value(r, field, &value);

    if (!status && (status = sp_value_put(message, field, object, key, value, &err)))
        status = failed_at(r, line, status, err.message);
    return status;
}

/* [a, b]: behind the bracket. */
static sp_status read_list(text_reader *r, const sp_message *message, const sp_field *field, json_t *object)
{
    sp_error err = { 0 };

    if (field->shape == SP_FIELD_ONE)
        return failed(r, "takes one value, not a list");
    if (sp_value_put(message, field, object, NULL, NULL, &err))
        return failed(r, err.message);
    sp_status status = next(r);
    for (size_t i = 0; !status && !at_symbol(r, ']'); i++) {
        if (i && !at_symbol(r, ','))
            return expected(r, ", or ]");
        if (i && (status = next(r)))
            return status;
        size_t before = sp_path_push_index(&r->path, i);
        status = read_one(r, message, field, object);
        sp_path_pop(&r->path, before);
    }
    return status ? status : next(r);
}

static sp_status read_field(text_reader *r, const sp_message *message, const sp_field *field, json_t *object)
{
    sp_status status = next(r);

    if (status)
        return status;
    if (at_symbol(r, ':'))
        status = next(r);
    else if (field->kind != SP_FIELD_MESSAGE && field->shape != SP_FIELD_MAP)
        return expected(r, ":");
    if (!status)
        status = at_symbol(r, '[') ? read_list(r, message, field, object) : read_one(r, message, field, object);
    if (!status && (at_symbol(r, ',') || at_symbol(r, ';')))
        status = next(r);
    return status;
}

static sp_status unknown_field(text_reader *r, const sp_message *message, const char *name)
{
    char text[160];
    const char *nearest = sp_field_nearest(message, name);

    (void)snprintf(text, sizeof(text), "unknown field%s%s%s", nearest ? "; did you mean " : "", nearest ? nearest : "",
                   nearest ? "?" : "");
    return failed(r, text);
}

static sp_status read_message(text_reader *r, const sp_message *message, char close, int opened_line, json_t *object)
{
    char name[TOKEN_TEXT_BYTES], text[80];
    sp_status status = SP_OK;

    while (!status && !(close && at_symbol(r, close))) {
        if (r->token == TOKEN_END && !close)
            return SP_OK;
        if (r->token == TOKEN_END) {
            (void)snprintf(text, sizeof(text), "%c is missing for what was opened in line %d", close, opened_line);
            return failed(r, text);
        }
        if (r->token != TOKEN_WORD)
            return expected(r, close ? "a field's name or the closing bracket" : "a field's name");
        if (!token_text(r, name))
            return expected(r, "a field's name");
        const sp_field *field = sp_field_find(message, name);
        size_t before = sp_path_push(&r->path, name);
        status = field ? read_field(r, message, field, object) : unknown_field(r, message, name);
        sp_path_pop(&r->path, before);
    }
    return status ? status : next(r);
}

sp_status sp_document_of_text(const char *file, sp_view text, json_t **ret_document, sp_error *reterr)
{
    text_reader reader = { .file = file, .at = text.data, .end = text.data + text.size_bytes, .line = 1, .reterr = reterr };

    if (text.size_bytes > SP_LIMIT_MODEL_CONFIG_BYTES)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s: larger than %u bytes", file, SP_LIMIT_MODEL_CONFIG_BYTES);
    SP_CLEANUP(sp_json_unrefp) json_t *document = json_object();
    if (!document)
        return SP_FAIL(reterr, SP_NOMEM, "%s: out of memory", file);
    sp_buf_init(&reader.string, 64 * 1024);
    if (text.size_bytes >= 3 && !memcmp(text.data, "\xEF\xBB\xBF", 3))
        reader.at += 3; /* a byte order mark */
    sp_status status = next(&reader);
    if (!status)
        status = read_message(&reader, &sp_schema_model_config, 0, 1, document);
    sp_buf_done(&reader.string);
    if (!status)
        *ret_document = SP_STEAL(document);
    return status;
}
