/* SPDX-License-Identifier: Apache-2.0
 * base/log. */
#include "base/log.h"
#include "test.h"
