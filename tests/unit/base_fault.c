/* SPDX-License-Identifier: Apache-2.0
 * base/fault. */
#include "base/fault.h"
#include "test.h"
