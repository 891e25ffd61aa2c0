/* SPDX-License-Identifier: Apache-2.0
 * base/status. */
#include "base/status.h"
#include "test.h"
