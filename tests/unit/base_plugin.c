/* SPDX-License-Identifier: Apache-2.0
 * base/plugin: the search path and what a failed open says. */
#include "base/plugin.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TEST(a_missing_plugin_names_itself_and_where_it_was_looked_for)
{
    sp_error err = { 0 };
    void *handle = NULL;
    REQUIRE(setenv("SPILLWAY_PLUGINS", "/nowhere/a::/nowhere/b", 1) == 0);
    CHECK_INT(sp_plugin_open("libspillway_none.so", &handle, NULL, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "missing_plugin");
    CHECK(strstr(err.message, "libspillway_none.so") && strstr(err.message, "/nowhere/a, /nowhere/b"));
    CHECK(handle == NULL);
    REQUIRE(unsetenv("SPILLWAY_PLUGINS") == 0);
    CHECK_INT(sp_plugin_open("libspillway_none.so", &handle, NULL, &err), SP_UNSUPPORTED);
    CHECK(strstr(err.message, "../lib/spillway"));
}

TEST(a_file_that_is_no_library_is_bad_and_the_linker_says_why)
{
    char dir[] = "/tmp/spillway-plugin-XXXXXX", path[64];
    REQUIRE(mkdtemp(dir) != NULL);
    (void)snprintf(path, sizeof(path), "%s/libx.so", dir);
    FILE *file = fopen(path, "we");
    REQUIRE(file != NULL);
    CHECK(fputs("not an ELF file, whatever its name says; long enough to be read as a header of one\n", file) >= 0);
    CHECK_INT(fclose(file), 0);
    REQUIRE(setenv("SPILLWAY_PLUGINS", dir, 1) == 0);
    sp_error err = { 0 };
    void *handle = NULL;
    CHECK_INT(sp_plugin_open("libx.so", &handle, NULL, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "bad_plugin");
    CHECK(strstr(err.message, path) != NULL);
    REQUIRE(unsetenv("SPILLWAY_PLUGINS") == 0);
    (void)unlink(path); /* a leftover in /tmp is no failure */
    (void)rmdir(dir);
}
