/* SPDX-License-Identifier: Apache-2.0
 * Conditions as people write them. What must hold: nothing outside the text is read, every string of an accepted one
 * ends inside the struct, it can be tested on a request, and its own text parses to the same again. */
#include "policy/condition.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static const char *look_up(void *context, const char *name)
{
    return context && name[0] ? context : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    char *text = malloc(size_bytes + 1);
    SP_ASSERT(text);
    memcpy(text, data, size_bytes);
    text[size_bytes] = '\0';
    sp_condition condition, again;
    sp_error err = { 0 };

    if (sp_condition_parse(text, &condition, &err)) {
        SP_ASSERT(err.status == SP_INVALID && err.message[0] && err.code[0]);
    } else {
        SP_ASSERT(!strcmp(condition.text, text));
        SP_ASSERT(memchr(condition.name, 0, sizeof(condition.name)) && memchr(condition.value, 0, sizeof(condition.value)));
        SP_ASSERT(condition.tier_count >= 0 && condition.tier_count <= 8 && condition.number >= 0);
        for (int i = 0; i < condition.tier_count; i++)
            SP_ASSERT(memchr(condition.tiers[i], 0, sizeof(condition.tiers[i])) && condition.tiers[i][0]);
        SP_ASSERT(condition.from_minute >= 0 && condition.from_minute < 1440 && condition.to_minute >= 0 && condition.to_minute <= 1440);
        sp_facts facts = { .tier = "pro", .duration_s = -1, .minute_of_day = (int)(size_bytes % 1440) };
        (void)sp_condition_holds(&condition, &facts);
        facts.header = facts.parameter = look_up;
        facts.context = text;
        (void)sp_condition_holds(&condition, &facts);
        SP_ASSERT(!sp_condition_parse(condition.text, &again, &err) && !memcmp(&condition, &again, sizeof(again)));
    }
    free(text);
    return 0;
}
