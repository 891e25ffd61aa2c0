/* SPDX-License-Identifier: Apache-2.0
 * sp_view: borrowed bytes, never stored past the call that lent them; checked size arithmetic. */
#ifndef SP_BASE_VIEW_H
#define SP_BASE_VIEW_H

#include "base/attr.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct sp_view {
    const uint8_t *data;
    size_t size_bytes;
} sp_view;

static inline sp_view sp_view_make(const void *data, size_t size_bytes)
{
    return (sp_view){ (const uint8_t *)data, size_bytes };
}

static inline sp_view sp_view_of(const char *text)
{
    return sp_view_make(text, strlen(text));
}

static inline bool sp_view_starts_with(sp_view view, const void *prefix, size_t prefix_bytes)
{
    return view.size_bytes >= prefix_bytes && memcmp(view.data, prefix, prefix_bytes) == 0;
}

static inline bool sp_view_equals(sp_view view, const char *text)
{
    return view.size_bytes == strlen(text) && memcmp(view.data, text, view.size_bytes) == 0;
}

/* Sizes from outside go through these before any allocation: false = it would overflow, *ret_size untouched. */
static inline SP_MUST_USE bool sp_size_mul(size_t a, size_t b, size_t *ret_size)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret_size = product;
    return true;
}

static inline SP_MUST_USE bool sp_size_add(size_t a, size_t b, size_t *ret_size)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret_size = sum;
    return true;
}

#endif
