/* SPDX-License-Identifier: Apache-2.0
 * Strings between the ABI's packing (length, bytes, length, bytes ...) and the library's string tensors. The library owns
 * std::string objects, so each run copies in and out; elements may hold any bytes, NUL too. */
#include "ort.h"

#include <stdlib.h>
#include <string.h>

OrtStatus *ort_strings_wrap(const OrtApi *api, const sp_engine_tensor *tensor, OrtValue **ret_value)
{
    OrtAllocator *allocator = NULL;
    OrtValue *value = NULL;
    OrtStatus *st = api->GetAllocatorWithDefaultOptions(&allocator);
    if (!st)
        st = api->CreateTensorAsOrtValue(allocator, tensor->dims, (size_t)tensor->rank,
                                         ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &value);
    const uint8_t *at = tensor->data, *end = tensor->size_bytes ? at + tensor->size_bytes : at;
    for (size_t i = 0; !st && at < end; i++) {
        uint32_t length = plug_length_read(at);
        char *room = NULL;
        st = api->GetResizedStringTensorElementBuffer(value, i, length, &room);
        if (!st && length)
            memcpy(room, at + 4, length);
        at += 4 + (size_t)length;
    }
    if (st && value)
        api->ReleaseValue(value);
    else
        *ret_value = value;
    return st;
}

/* At least `wanted` elements at the returned address; NULL = no memory, and what was there stays. */
static void *grow(void *memory, size_t *capacity, size_t wanted, size_t element_bytes)
{
    if (memory && *capacity >= wanted)
        return memory;
    size_t fresh = wanted < 64 ? 64 : wanted, fresh_bytes = 0;
    void *larger = __builtin_mul_overflow(fresh, element_bytes, &fresh_bytes) ? NULL : realloc(memory, fresh_bytes);
    if (larger)
        *capacity = fresh;
    return larger;
}

static bool make_room(ort_packed *packed, size_t bytes, size_t count)
{
    void *room = grow(packed->bytes, &packed->capacity_bytes, bytes, 1);
    if (!room)
        return false;
    packed->bytes = room;
    room = grow(packed->offsets, &packed->offset_capacity, count, sizeof(size_t));
    if (room)
        packed->offsets = room;
    return room != NULL;
}

OrtStatus *ort_strings_pack(const OrtApi *api, const OrtValue *value, size_t count, ort_packed *packed,
                            sp_engine_tensor *tensor)
{
    size_t text_bytes = 0, all_bytes = 0;
    OrtStatus *st = api->GetStringTensorDataLength(value, &text_bytes);
    if (st)
        return st;
    if (__builtin_mul_overflow(count, (size_t)4, &all_bytes) ||
        __builtin_add_overflow(all_bytes, text_bytes, &all_bytes) || !make_room(packed, all_bytes, count))
        return api->CreateStatus(ORT_FAIL, "out of memory for an output's strings");
    /* The text goes to the end of the buffer and moves forward element by element, each behind its length: where an
     * element is written lies at or before where it is read, because as many lengths are still to come as lie between. */
    uint8_t *text = packed->bytes + 4 * count, *at = packed->bytes;
    if (count)
        st = api->GetStringTensorContent(value, text, text_bytes, packed->offsets, count);
    for (size_t i = 0; !st && i < count; i++) {
        size_t end = i + 1 < count ? packed->offsets[i + 1] : text_bytes, length = end - packed->offsets[i];
        if (length > UINT32_MAX)
            return api->CreateStatus(ORT_NOT_IMPLEMENTED, "an output has a string of more than 4 GiB");
        memmove(at + 4, text + packed->offsets[i], length);
        plug_length_write(at, (uint32_t)length);
        at += 4 + length;
    }
    tensor->data = packed->bytes;
    tensor->size_bytes = all_bytes;
    return st;
}
