/* SPDX-License-Identifier: Apache-2.0
 * What comes from Redis may be anything: every length is checked, every text ends. */
#include "gateway/flight_value.h"

#include <math.h>

typedef struct value_head {
    char magic[8];
    uint32_t head_bytes, class_bytes; /* sizes of this struct and of one class: other versions differ */
    uint32_t task, decode;
    uint32_t class_count, payload_bytes;
    char link[32], device[32], precision[16], model[64], version[16], engine[32];
} value_head;

static const char magic[8] = "spansw1";

void gw_value_write(sp_buf *out, const sp_answer *answer, sp_task task)
{
    value_head head = { .head_bytes = sizeof(head), .class_bytes = sizeof(sp_answer_class) };
    memcpy(head.magic, magic, sizeof(magic));
    head.task = task;
    head.decode = answer->decode;
    head.class_count = answer->classes ? answer->classes->count : 0;
    head.payload_bytes = (uint32_t)answer->payload.size_bytes;
    memcpy(head.link, answer->link, sizeof(head.link));
    memcpy(head.device, answer->device, sizeof(head.device));
    memcpy(head.precision, answer->precision, sizeof(head.precision));
    memcpy(head.model, answer->model, sizeof(head.model));
    memcpy(head.version, answer->version, sizeof(head.version));
    memcpy(head.engine, answer->engine, sizeof(head.engine));
    sp_buf_append(out, &head, sizeof(head));
    if (answer->classes)
        sp_buf_append(out, answer->classes->classes, head.class_count * sizeof(sp_answer_class));
    sp_buf_append(out, answer->payload.data, answer->payload.size_bytes);
}

static void text_take(char *dst, const char *src, size_t size_bytes)
{
    memcpy(dst, src, size_bytes);
    dst[size_bytes - 1] = 0;
}

bool gw_value_read(sp_view value, sp_task task, sp_answer *ret_answer, sp_answer_classes *ret_classes)
{
    value_head head;
    if (value.size_bytes < sizeof(head))
        return false;
    memcpy(&head, value.data, sizeof(head));
    if (memcmp(head.magic, magic, sizeof(magic)) != 0 || head.head_bytes != sizeof(head) ||
        head.class_bytes != sizeof(sp_answer_class) || head.task != (uint32_t)task || head.decode >= SP_DECODE_COUNT ||
        head.class_count > SP_ARRAY_LEN(ret_classes->classes) || head.payload_bytes > SP_LIMIT_ANSWER_BYTES)
        return false;
    size_t classes_bytes = head.class_count * sizeof(sp_answer_class);
    if (value.size_bytes != sizeof(head) + classes_bytes + head.payload_bytes)
        return false;
    memset(ret_answer, 0, sizeof(*ret_answer));
    text_take(ret_answer->link, head.link, sizeof(head.link));
    text_take(ret_answer->device, head.device, sizeof(head.device));
    text_take(ret_answer->precision, head.precision, sizeof(head.precision));
    text_take(ret_answer->model, head.model, sizeof(head.model));
    text_take(ret_answer->version, head.version, sizeof(head.version));
    text_take(ret_answer->engine, head.engine, sizeof(head.engine));
    ret_answer->decode = (sp_decode)head.decode;
    ret_classes->count = head.class_count;
    memcpy(ret_classes->classes, value.data + sizeof(head), classes_bytes);
    for (uint32_t i = 0; i < head.class_count; i++) {
        ret_classes->classes[i].label[SP_LIMIT_LABEL_BYTES - 1] = 0;
        if (!isfinite(ret_classes->classes[i].probability))
            return false;
    }
    if (head.class_count)
        ret_answer->classes = ret_classes;
    ret_answer->payload = sp_view_make(value.data + sizeof(head) + classes_bytes, head.payload_bytes);
    return true;
}
