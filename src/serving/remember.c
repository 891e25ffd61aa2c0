/* SPDX-License-Identifier: Apache-2.0
 * Answers of models with response_cache: which question it was, and the answer as bytes. The key takes in everything that
 * the answer depends on: the model file, its configuration's place, the inputs and the form in which outputs are wanted. */
#include "serving/parts.h"

#include <openssl/evp.h>
#include <stdio.h>

/* An answer larger than this is not kept: copying it in and out would hold the loop. */
#define VALUE_BYTES (256u * 1024)
#define MAGIC 0x31524b53u /* "SKR1" */

typedef struct value_head {
    uint32_t magic, count;
    sp_infer_output outputs[]; /* offsets from the start of the value */
} value_head;

sp_status sp_remember_key(const sp_served *served, const sp_infer_head *head, sp_view body, sp_cache_key *ret_key)
{
    char text[320];
    unsigned size_bytes = 0;
    uint8_t digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    int n = snprintf(text, sizeof(text), "spillway infer 1\n%.128s\n%s\n%s\n%u %u\n", served->name, served->version_text,
                     served->file->digest, head->input_count, head->wish_count);
    bool good = hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1 && EVP_DigestUpdate(hash, text, (size_t)n) == 1 &&
                EVP_DigestUpdate(hash, head->wishes, head->wish_count * sizeof(head->wishes[0])) == 1;
    /* In the order of ports: clients may name them in any. */
    for (uint32_t port = 0; good && port < SP_INFER_PORTS; port++) {
        for (int i = 0; good && i < head->input_count; i++) {
            const sp_infer_tensor *t = &head->inputs[i];
            if (t->port != port)
                continue;
            good = EVP_DigestUpdate(hash, &t->port, 4) == 1 && EVP_DigestUpdate(hash, t->dims, t->rank * sizeof(t->dims[0])) == 1 &&
                   EVP_DigestUpdate(hash, &t->bytes, sizeof(t->bytes)) == 1 &&
                   EVP_DigestUpdate(hash, body.data + t->offset, t->bytes) == 1;
        }
    }
    good = good && EVP_DigestFinal_ex(hash, digest, &size_bytes) == 1 && size_bytes == sizeof(ret_key->sha256);
    EVP_MD_CTX_free(hash);
    if (!good)
        return SP_NOMEM;
    memcpy(ret_key->sha256, digest, sizeof(ret_key->sha256));
    return SP_OK;
}

bool sp_remember_write(const sp_infer_answer *infer, const uint8_t *data, sp_buf *out)
{
    static const uint8_t zeros[8];
    const value_head head = { .magic = MAGIC, .count = infer->count };
    sp_infer_output outputs[SP_INFER_PORTS];
    uint64_t at = sizeof(head) + infer->count * sizeof(outputs[0]);
    sp_buf_init(out, VALUE_BYTES);
    for (uint32_t i = 0; i < infer->count; i++) {
        outputs[i] = infer->outputs[i];
        at = SP_ALIGN_UP(at, (uint64_t)8);
        outputs[i].offset = at;
        at += outputs[i].bytes;
        if (outputs[i].bytes > VALUE_BYTES || at > VALUE_BYTES)
            return false;
    }
    sp_buf_append(out, &head, sizeof(head));
    sp_buf_append(out, outputs, infer->count * sizeof(outputs[0]));
    for (uint32_t i = 0; i < infer->count; i++) {
        sp_buf_append(out, zeros, outputs[i].offset - SP_MIN(outputs[i].offset, (uint64_t)out->size_bytes));
        sp_buf_append(out, data + infer->outputs[i].offset, outputs[i].bytes);
    }
    return sp_buf_ok(out);
}

/* From a cache that others may write to: checked like anything from outside. */
bool sp_remember_read(sp_view value, sp_infer_answer *ret_infer, const uint8_t **ret_data)
{
    value_head head;
    if (value.size_bytes < sizeof(head))
        return false;
    memcpy(&head, value.data, sizeof(head));
    if (head.magic != MAGIC || head.count > SP_INFER_PORTS || value.size_bytes < sizeof(head) + head.count * sizeof(sp_infer_output))
        return false;
    memset(ret_infer, 0, offsetof(sp_infer_answer, outputs));
    ret_infer->count = head.count;
    memcpy(ret_infer->outputs, value.data + sizeof(head), head.count * sizeof(sp_infer_output));
    for (uint32_t i = 0; i < head.count; i++) {
        const sp_infer_output *o = &ret_infer->outputs[i];
        if (o->offset > value.size_bytes || o->bytes > value.size_bytes - o->offset || o->rank > SP_INFER_RANK || o->port >= SP_INFER_PORTS)
            return false;
    }
    *ret_data = value.data;
    return true;
}
