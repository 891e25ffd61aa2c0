/* SPDX-License-Identifier: Apache-2.0
 * Compiler attributes and the scope-exit helpers every room uses. Holds no logic of its own. */
#ifndef SP_BASE_ATTR_H
#define SP_BASE_ATTR_H

#include <stddef.h>

#define SP_MUST_USE __attribute__((warn_unused_result))
#define SP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define SP_UNUSED __attribute__((unused))
#define SP_NORETURN __attribute__((noreturn))
#define SP_EXPORT __attribute__((visibility("default")))
#define SP_LIKELY(x) __builtin_expect(!!(x), 1)
#define SP_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* C spells it restrict; nvcc and C++ know only the double-underscore form. */
#define SP_RESTRICT __restrict__

/* Runs `fn(&variable)` when the variable leaves its scope. `fn` must accept NULL and half-built objects. */
#define SP_CLEANUP(fn) __attribute__((cleanup(fn)))

/* Hands a pointer's ownership out of a scope that would otherwise clean it up. */
#define SP_STEAL(ptr)                  \
    __extension__({                    \
        __typeof__(ptr) stolen_ = ptr; \
        (ptr) = NULL;                  \
        stolen_;                       \
    })

/* Defines `name##p`, the cleanup form of a NULL-tolerant destructor `fn(type *)`. */
#define SP_DEFINE_CLEANUP(type, fn)                          \
    static inline SP_UNUSED void fn##p(type **object)        \
    {                                                        \
        fn(*object);                                         \
        *object = NULL;                                      \
    }

void sp_fd_closep(int *fd); /* closes *fd when it is >= 0 and sets it to -1; keeps errno */

#define SP_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define SP_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SP_MAX(a, b) ((a) > (b) ? (a) : (b))
#define SP_CLAMP(x, low, high) SP_MIN(SP_MAX(x, low), high)
#define SP_ALIGN_UP(x, a) (((x) + ((a) - 1)) & ~((__typeof__(x))(a) - 1))

#endif
