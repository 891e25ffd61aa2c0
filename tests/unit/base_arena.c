/* SPDX-License-Identifier: Apache-2.0
 * base/arena. */
#include "base/arena.h"
#include "test.h"
