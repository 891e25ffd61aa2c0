/* SPDX-License-Identifier: Apache-2.0
 * See seen.h. */
#include "cli/seen.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

static void text_take(const json_t *root, const char *key, char *ret_text, size_t text_bytes)
{
    const char *text = json_string_value(json_object_get(root, key));
    (void)snprintf(ret_text, text_bytes, "%s", text ? text : "");
}

static void way_take(const json_t *attempts, char *ret_way, size_t way_bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < json_array_size(attempts) && used < way_bytes; i++) {
        const json_t *one = json_array_get(attempts, i);
        const char *link = json_string_value(json_object_get(one, "link")), *status = json_string_value(json_object_get(one, "status"));
        used += (size_t)snprintf(ret_way + used, way_bytes - used, "%s%.40s %.20s %.0f ms", i ? ", " : "", link ? link : "?",
                                 status ? status : "?", json_number_value(json_object_get(one, "ms")));
    }
}

bool sp_seen_read(sp_view body, sp_seen *ret_seen)
{
    *ret_seen = (sp_seen){ 0 };
    json_t *root = json_loadb((const char *)body.data, body.size_bytes, 0, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        return false;
    }
    text_take(root, "provider", ret_seen->provider, sizeof(ret_seen->provider));
    text_take(root, json_object_get(root, "error") ? "error" : "reason", ret_seen->reason, sizeof(ret_seen->reason));
    way_take(json_object_get(root, "attempts"), ret_seen->way, sizeof(ret_seen->way));
    const json_t *cost = json_object_get(root, "cost_usd"), *predictions = json_object_get(root, "predictions");
    ret_seen->has_cost = json_is_number(cost);
    ret_seen->cost_usd = json_number_value(cost);
    ret_seen->simpler = json_is_true(json_object_get(root, "simpler"));
    text_take(json_array_get(predictions, 0), "label", ret_seen->label, sizeof(ret_seen->label));
    for (size_t i = 0; i < json_array_size(predictions) && i < SP_SEEN_CLASSES; i++) {
        const json_t *one = json_array_get(predictions, i);
        ret_seen->classes[i].id = (int)json_integer_value(json_object_get(one, "class_id"));
        ret_seen->classes[i].probability = json_number_value(json_object_get(one, "probability"));
        ret_seen->count++;
    }
    json_decref(root);
    return true;
}

/* Of the classes that `a` lists. */
static double difference_one_way(const sp_seen *a, const sp_seen *b)
{
    double largest = 0, least_of_b = b->count ? b->classes[b->count - 1].probability : 1;
    for (int i = 0; i < a->count; i++) {
        double p = a->classes[i].probability, apart = fmax(p - least_of_b, 0);
        for (int k = 0; k < b->count; k++)
            if (b->classes[k].id == a->classes[i].id)
                apart = fabs(p - b->classes[k].probability);
        largest = fmax(largest, apart);
    }
    return largest;
}

double sp_seen_difference(const sp_seen *a, const sp_seen *b)
{
    return fmax(difference_one_way(a, b), difference_one_way(b, a));
}

bool sp_seen_same_first(const sp_seen *a, const sp_seen *b)
{
    return a->count && b->count && a->classes[0].id == b->classes[0].id;
}
