/* SPDX-License-Identifier: Apache-2.0
 * base/metrics. */
#include "base/metrics.h"
#include "test.h"
