/* SPDX-License-Identifier: Apache-2.0
 * deploy/spillway.yaml: it is valid as it stands and with every key switched on, and no key of the schema is missing. */
#include "config/keys.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *example(size_t *ret_bytes)
{
    char *text = test_read_file(SP_TREE "/deploy/spillway.yaml", ret_bytes);
    REQUIRE(text);
    return text;
}

static void check_valid(const char *text, size_t text_bytes)
{
    sp_complaints complaints;
    sp_config *config = NULL;
    sp_error err = { 0 };

    sp_complaints_init(&complaints);
    CHECK(sp_config_parse("deploy/spillway.yaml", text, text_bytes, &config, &complaints, &err) == SP_OK);
    sp_buf_append(&complaints.text, "", 1);
    CHECK_TEXT((const char *)complaints.text.data, "");
    sp_complaints_done(&complaints);
    sp_config_unref(config);
}

/* Takes the # of "#key:" and "#  - x" away, in place: what stands at the line's beginning and is no remark ("# text"). */
static size_t switch_on(char *text, size_t text_bytes)
{
    size_t used = 0;

    for (char *line = text, *end; line < text + text_bytes; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + text_bytes - line));
        if (!end)
            end = text + text_bytes;
        bool off = line[0] == '#' && line + 1 < end && (line[1] != ' ' || line[2] == ' ');
        char *from = off ? line + 1 : line;
        /* The head of the file shows commands, indented by three. */
        bool remark = off && !strncmp(line, "#   ", 4) && line[4] != ' ' && line[4] != '-' && line[4] != '#';
        from = remark ? line : from;
        memmove(text + used, from, (size_t)(end - from));
        used += (size_t)(end - from);
        text[used++] = '\n';
    }
    return used;
}

TEST(the_example_is_valid_as_it_stands)
{
    size_t bytes;
    char *text = example(&bytes);

    check_valid(text, bytes);
    free(text);
}

static void check_keys(const sp_schema *schema, const sp_yaml_node *node, const char *path);

static void check_members(const sp_key *key, const sp_yaml_node *list, const char *path)
{
    /* A key may stand in any member of a list: gather them into one map. */
    sp_yaml_node all = { .kind = SP_YAML_MAP };
    sp_yaml_node *last = NULL;
    for (const sp_yaml_node *member = list->first; member; member = member->next) {
        for (const sp_yaml_node *child = member->first; child; child = child->next) {
            sp_yaml_node *copy = malloc(sizeof(*copy));
            REQUIRE(copy);
            *copy = *child;
            copy->next = NULL;
            if (last)
                last->next = copy;
            else
                all.first = copy;
            last = copy;
        }
    }
    if (key->schema->shorthand && !all.first)
        return;
    check_keys(key->schema, &all, path);
    for (sp_yaml_node *next, *copy = all.first; copy; copy = next) {
        next = copy->next;
        free(copy);
    }
}

static void check_keys(const sp_schema *schema, const sp_yaml_node *node, const char *path)
{
    for (int i = 0; i < schema->key_count; i++) {
        const sp_key *key = &schema->keys[i];
        const sp_yaml_node *child = sp_yaml_get(node, key->name);
        char here[160];
        (void)snprintf(here, sizeof(here), "%.90s.%s", path, key->name);
        if (!child && schema == &sp_secret_schema)
            continue; /* env or file, never both; the next test sees each */
        if (!child)
            test_fail(__FILE__, __LINE__, "deploy/spillway.yaml does not show %s", here);
        else if (key->kind == SP_KEY_MAP)
            check_keys(key->schema, child, here);
        else if (key->kind == SP_KEY_LIST || key->kind == SP_KEY_NAMED)
            check_members(key, child, here);
        else if (!strcmp(key->name, "rates"))
            check_members(&sp_rates_schema.keys[0], child, here);
    }
}

TEST(the_example_with_everything_on_is_valid_and_shows_every_key)
{
    size_t bytes;
    char *text = example(&bytes);
    sp_complainer complainer = { .file = "x" };
    sp_yaml_node *root = NULL;
    sp_error err = { 0 };
    sp_arena *arena = sp_arena_new(SP_CONFIG_ARENA_BYTES);

    bytes = switch_on(text, bytes);
    check_valid(text, bytes);
    CHECK(sp_yaml_parse(text, bytes, arena, &complainer, &root, &err) == SP_OK);
    REQUIRE(root);
    check_keys(&sp_config_schema, root, "");
    text[bytes - 1] = '\0';
    CHECK(strstr(text, "env:") && strstr(text, "file:"));
    sp_arena_free(arena);
    free(text);
}
