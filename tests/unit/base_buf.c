/* SPDX-License-Identifier: Apache-2.0
 * base/buf. */
#include "base/buf.h"
#include "test.h"
