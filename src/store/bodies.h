/* SPDX-License-Identifier: Apache-2.0
 * Large job bodies as files of data_dir/bodies: written beside, fsynced, renamed; the directory is fsynced once for a
 * group, before the rows that name them commit. A file without a row is swept, a row without a file cannot come about.
 * Used by the store thread of the SQLite jobs only.
 *
 * A name that begins with a dot is a file on its way; sp_bodies_open removes what an earlier process left of them.
 *
 * Fault point `store.write`: each write, fsync and rename, as if the disk were full. */
#ifndef SP_STORE_BODIES_H
#define SP_STORE_BODIES_H

#include "base/buf.h"
#include "base/status.h"
#include "base/view.h"

typedef struct sp_bodies {
    int dir_fd;
    bool dirty;    /* a name was made since the directory was synced */
    sp_buf fresh;  /* names, each with its NUL, written for the group that is open */
    sp_buf doomed; /* to be removed when the group has committed */
} sp_bodies;

sp_status sp_bodies_open(sp_bodies *bodies, const char *data_dir, sp_error *reterr);
void sp_bodies_close(sp_bodies *bodies);

/* SP_UNAVAILABLE with code "disk_full" when it is; nothing is left behind then. `name`: letters, digits, - and _. */
sp_status sp_bodies_write(sp_bodies *bodies, const char *name, sp_view body, sp_error *reterr);
/* A file that is written and durable already gets this name. */
sp_status sp_bodies_adopt(sp_bodies *bodies, const char *file, const char *name, sp_error *reterr);
/* A piece of a file that grows over several groups, at `offset_bytes`; the last one makes it durable and gives it its name.
 * Nothing is left of one that is not ended but what sp_bodies_open removes. */
sp_status sp_bodies_grow(sp_bodies *bodies, const char *name, uint64_t offset_bytes, sp_view piece, bool last, sp_error *reterr);
bool sp_bodies_there(const sp_bodies *bodies, const char *name);
/* SP_NOT_FOUND: no such file. */
sp_status sp_bodies_read(sp_bodies *bodies, const char *name, int *ret_fd, sp_error *reterr);
void sp_bodies_remove(sp_bodies *bodies, const char *name); /* when the group has committed */

/* What one work did is undone alone: its file is removed at once, and what it doomed is not. */
typedef struct sp_bodies_mark {
    size_t fresh_bytes, doomed_bytes;
} sp_bodies_mark;
sp_bodies_mark sp_bodies_mark_get(const sp_bodies *bodies);
void sp_bodies_undo(sp_bodies *bodies, sp_bodies_mark mark);

/* Before the commit: the names are durable. After it: what was doomed goes, or what was fresh when it failed. */
sp_status sp_bodies_sync(sp_bodies *bodies, sp_error *reterr);
void sp_bodies_settle(sp_bodies *bodies, bool committed);

/* Removes each file that `wanted` does not want. Returns their count. */
int sp_bodies_sweep(sp_bodies *bodies, bool (*wanted)(const char *name, void *context), void *context);

bool sp_body_name_is_safe(const char *name);

#endif
