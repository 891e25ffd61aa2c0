/* SPDX-License-Identifier: Apache-2.0
 * Where a sequence's state lives: the incarnation of the worker that answered its first request. Requests that come while
 * that answer is still out wait for it, in order; without an answer they go anywhere and are told to begin anew.
 * Bounded: beyond SP_LIMIT_SEQUENCES the one that was idle longest is forgotten, and goes anywhere again. */
#include "serving/parts.h"

#include <stdlib.h>

#define BUCKETS 1024

typedef struct sp_sequence_entry {
    sp_sequence_key key;
    struct sp_sequence_entry *chain;        /* of its bucket */
    struct sp_sequence_entry *newer, *older; /* by last use */
    bool starting;
    sp_pin pin;
    sp_sequence_waiter *first, *last;
} entry;

struct sp_sequences {
    sp_loop *loop;
    entry *buckets[BUCKETS];
    entry *newest, *oldest;
    int count;
};

sp_status sp_sequences_new(sp_loop *loop, sp_sequences **ret_sequences, sp_error *reterr)
{
    sp_sequences *sequences = calloc(1, sizeof(*sequences));
    if (!sequences)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the table of sequences");
    sequences->loop = loop;
    *ret_sequences = sequences;
    return SP_OK;
}

static entry **entry_at(sp_sequences *sequences, const sp_sequence_key *key)
{
    entry **at = &sequences->buckets[(key->id * UINT64_C(0x9e3779b97f4a7c15) + key->model) >> 32 & (BUCKETS - 1)];
    while (*at && ((*at)->key.id != key->id || (*at)->key.model != key->model || strcmp((*at)->key.text, key->text) != 0))
        at = &(*at)->chain;
    return at;
}

static void age_take(sp_sequences *sequences, entry *e)
{
    if (e->newer)
        e->newer->older = e->older;
    else
        sequences->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        sequences->oldest = e->newer;
    e->newer = e->older = NULL;
}

static void age_put(sp_sequences *sequences, entry *e)
{
    e->older = sequences->newest;
    if (e->older)
        e->older->newer = e;
    else
        sequences->oldest = e;
    sequences->newest = e;
}

static void entry_free(sp_sequences *sequences, entry *e)
{
    entry **at = entry_at(sequences, &e->key);
    *at = e->chain;
    age_take(sequences, e);
    sequences->count--;
    free(e);
}

void sp_sequences_free(sp_sequences *sequences)
{
    while (sequences && sequences->newest)
        entry_free(sequences, sequences->newest);
    free(sequences);
}

/* The oldest that nobody waits for; among a few only, so that it stays quick. */
static void forget_one(sp_sequences *sequences)
{
    entry *e = sequences->oldest;
    for (int i = 0; e && e->starting && i < 16; i++)
        e = e->newer;
    if (e && !e->starting)
        entry_free(sequences, e);
}

static entry *entry_new(sp_sequences *sequences, const sp_sequence_key *key)
{
    if (sequences->count >= SP_LIMIT_SEQUENCES)
        forget_one(sequences);
    entry *e = sequences->count < SP_LIMIT_SEQUENCES ? calloc(1, sizeof(*e)) : NULL;
    if (!e)
        return NULL;
    e->key = *key;
    entry **at = entry_at(sequences, key);
    e->chain = *at; /* NULL: there was none */
    *at = e;
    age_put(sequences, e);
    sequences->count++;
    return e;
}

sp_sequence_way sp_sequence_begin(sp_sequences *sequences, const sp_sequence_key *key, bool start, sp_sequence_waiter *waiter,
                                  sp_pin *ret_pin)
{
    entry *e = *entry_at(sequences, key);
    *ret_pin = (sp_pin){ 0 };
    if (e && e->starting) {
        waiter->entry = e;
        waiter->next = NULL;
        waiter->previous = e->last;
        if (e->last)
            e->last->next = waiter;
        else
            e->first = waiter;
        e->last = waiter;
        return SP_SEQUENCE_WAIT;
    }
    if (start && !e)
        e = entry_new(sequences, key); /* without memory for it, it is not pinned */
    if (!e)
        return SP_SEQUENCE_GO;
    age_take(sequences, e);
    age_put(sequences, e);
    if (start) { /* whoever has an old one of this name: it starts afresh, anywhere */
        e->starting = true;
        e->pin = (sp_pin){ 0 };
    }
    *ret_pin = e->pin;
    return SP_SEQUENCE_GO;
}

static sp_sequence_waiter *waiter_take(sp_sequence_waiter *waiter)
{
    entry *e = waiter->entry;
    if (waiter->previous)
        waiter->previous->next = waiter->next;
    else
        e->first = waiter->next;
    if (waiter->next)
        waiter->next->previous = waiter->previous;
    else
        e->last = waiter->previous;
    waiter->entry = NULL;
    waiter->next = waiter->previous = NULL;
    return waiter;
}

void sp_sequence_leave(sp_sequences *sequences, sp_sequence_waiter *waiter)
{
    (void)sequences;
    if (waiter->entry)
        (void)waiter_take(waiter);
}

void sp_sequence_done(sp_sequences *sequences, const sp_sequence_key *key, bool start, bool end, bool ok, bool lost, sp_pin pin)
{
    entry *e = *entry_at(sequences, key);
    if (!e)
        return;
    if (start) {
        e->starting = false;
        e->pin = ok ? pin : (sp_pin){ 0 };
    }
    /* They ask again one by one: the first of them may start the sequence anew, and then the others wait for that. */
    sp_sequence_waiter *waiting = NULL, **tail = &waiting;
    while (e->first) {
        *tail = waiter_take(e->first);
        tail = &(*tail)->next;
    }
    if (lost || (end && !e->starting) || (start && !ok))
        entry_free(sequences, e);
    while (waiting) {
        sp_sequence_waiter *w = waiting;
        waiting = w->next;
        w->next = NULL;
        w->again(w);
    }
}
