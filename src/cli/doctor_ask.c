/* SPDX-License-Identifier: Apache-2.0
 * Asking a driver that may never answer: a hang is a finding, not a reason to hang. */
#include "cli/doctor.h"

#include <time.h>

sp_doctor_answer sp_doctor_wait(sp_doctor_ask *ask, void *(*who)(void *), int patience_s)
{
    pthread_t thread;
    struct timespec until;
    if (pthread_create(&thread, NULL, who, NULL) != 0)
        return SP_DOCTOR_NOT_ASKED;
    (void)pthread_detach(thread);
    (void)clock_gettime(CLOCK_REALTIME, &until); /* what pthread_cond_timedwait counts in */
    until.tv_sec += patience_s;
    (void)pthread_mutex_lock(&ask->lock);
    int waited = 0;
    while (!ask->done && waited == 0)
        waited = pthread_cond_timedwait(&ask->bell, &ask->lock, &until);
    sp_doctor_answer answer = ask->done ? SP_DOCTOR_ANSWERED : SP_DOCTOR_HANGS;
    (void)pthread_mutex_unlock(&ask->lock);
    return answer;
}

void sp_doctor_tell(sp_doctor_ask *ask)
{
    (void)pthread_mutex_lock(&ask->lock);
    ask->done = true;
    (void)pthread_cond_signal(&ask->bell);
    (void)pthread_mutex_unlock(&ask->lock);
}
