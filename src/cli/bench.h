/* SPDX-License-Identifier: Apache-2.0
 * `spillway bench URL`: measures any HTTP/1.1 server. Client code only; it knows nothing of the server's insides. */
#ifndef SP_CLI_BENCH_H
#define SP_CLI_BENCH_H

/* argv[0] is the command's name. Returns the exit code: 0 all answers were 2xx and as expected, 1 some were not,
 * 2 the command line was wrong, 3 the server could not be reached. */
int sp_cli_bench(int argc, char **argv);

#endif
