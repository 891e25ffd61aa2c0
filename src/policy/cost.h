/* SPDX-License-Identifier: Apache-2.0
 * What an answer costs: device-seconds times a rate, or a price a call or a minute. Money is int64 microdollars. Pure. */
#ifndef SP_POLICY_COST_H
#define SP_POLICY_COST_H

#include <stdint.h>

typedef struct sp_price {
    int64_t per_hour;   /* microdollars; of the device */
    int64_t per_minute; /* of media (audio, video) */
    int64_t per_call;
} sp_price;

int64_t sp_price_of(const sp_price *price, int64_t device_ns, int64_t media_ns);

/* The same for one of many: what an answer costs beyond whole microdollars goes on to the next in *carry (begins as 0), so
 * that the sum is right where each costs less than one (5 ms at $0.05 an hour are 0.07 microdollars). */
int64_t sp_price_next(const sp_price *price, int64_t device_ns, int64_t media_ns, int64_t *carry);

/* `spillway cost`: the same work by a rented device and by an API. */
typedef struct sp_cost_case {
    int64_t sessions;
    double seconds;         /* of media each */
    double speed;           /* times real time on the device */
    int64_t device_per_hour, api_per_minute;
} sp_cost_case;
typedef struct sp_cost_table {
    double media_minutes, device_hours;
    int64_t api, device, device_all_day; /* microdollars; the last: rented for whole days */
    int64_t break_even_sessions_per_day; /* from here a device rented all day costs no more than the API; -1 = more
                                          * than it can do in a day */
} sp_cost_table;
sp_cost_table sp_cost_compare(const sp_cost_case *work);

#endif
