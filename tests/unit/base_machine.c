/* SPDX-License-Identifier: Apache-2.0
 * base/machine. */
#include "base/machine.h"
#include "test.h"
