/* SPDX-License-Identifier: Apache-2.0
 * Passes for a provider's library of ONNX Runtime's: it can be opened, and nothing more is asked of it. */
__attribute__((visibility("default"))) int spillway_standin_provider(void);

int spillway_standin_provider(void)
{
    return 1;
}
