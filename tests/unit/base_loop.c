/* SPDX-License-Identifier: Apache-2.0
 * base/loop. */
#include "base/loop.h"
#include "test.h"
