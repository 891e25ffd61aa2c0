/* SPDX-License-Identifier: Apache-2.0
 * The configuration: spillway.yaml and its environment overrides as one immutable, shared snapshot. A reload makes a new
 * one; whoever works with the old one keeps its reference. Secrets are named here (environment variable or file), never
 * held. Every key is documented in deploy/spillway.yaml. */
#ifndef SP_CONFIG_CONFIG_H
#define SP_CONFIG_CONFIG_H

#include "base/buf.h"
#include "base/status.h"
#include "policy/breaker.h"
#include "policy/condition.h"
#include "policy/cost.h"
#include "policy/limiter.h"
#include "policy/rate.h"
#include "policy/retry.h"

#define SP_LIMIT_CHAIN_LINKS 8
#define SP_LIMIT_LINK_CONDITIONS 8
#define SP_LIMIT_REMOTES 16
#define SP_LIMIT_REMOTE_KEYS 8
#define SP_LIMIT_TOKENS 1024

/* --- chains ----------------------------------------------------------------------------------------------------- */

typedef enum sp_hedge_after { SP_HEDGE_NEVER, SP_HEDGE_P95, SP_HEDGE_FIXED } sp_hedge_after;

typedef struct sp_link_config {
    char name[32];        /* a worker ("cuda0", "cpu0") or a remote */
    int line;             /* in the file, for messages; 0 = from a preset */
    int64_t timeout_ns;   /* of one attempt; 0 = what the deadline leaves */
    sp_retry_settings retry;
    sp_limiter_settings concurrency; /* most 0 = as many as the worker takes */
    sp_breaker_settings breaker;
    sp_price price;       /* overrides the device's rate when any is set */
    int64_t microdollars_per_day; /* max_cost_per_day; 0 = unlimited */
    sp_hedge_after hedge; /* after it has run this long, ask the next link as well */
    int64_t hedge_ns;     /* SP_HEDGE_FIXED */
    bool simpler;         /* another, simpler model: its answers are never cached nor held to the reference */
    double tolerance;     /* largest difference of a probability from the reference link; 0 = the guard's */
    int condition_count;  /* all must hold */
    sp_condition conditions[SP_LIMIT_LINK_CONDITIONS];
} sp_link_config;

typedef struct sp_chain_config {
    char task[24]; /* "classify" */
    char reference[32]; /* the link that the others are held to; "" = the last local one */
    sp_retry_budget_settings budget;
    int link_count;
    sp_link_config links[SP_LIMIT_CHAIN_LINKS];
} sp_chain_config;

/* --- remotes ---------------------------------------------------------------------------------------------------- */

typedef enum sp_remote_kind { SP_REMOTE_SPILLWAY, SP_REMOTE_KSERVE } sp_remote_kind;

typedef struct sp_secret { /* exactly one is set; both "" = none */
    char env[64];
    char file[256];
} sp_secret;
/* Reads it, without the newline at its end. SP_NOT_FOUND names the variable or file, never its content. */
sp_status sp_secret_read(const sp_secret *secret, char *ret_text, size_t size_bytes, sp_error *reterr);

typedef struct sp_remote_key {
    sp_secret secret;
    sp_quota_settings quota;
} sp_remote_key;

typedef struct sp_remote_config {
    char name[32];
    sp_remote_kind kind;
    char url[512];     /* http:// or https://, without a path for spillway and kserve */
    char model[64];    /* kserve: the remote's model; "" = the request's */
    char input[64], output[64]; /* kserve: tensor names; "" = the only one */
    bool verify_tls;   /* default true */
    char ca_file[256];
    int64_t connect_timeout_ns; /* default 2 s */
    uint64_t response_limit_bytes;
    int key_count;
    sp_remote_key keys[SP_LIMIT_REMOTE_KEYS];
} sp_remote_config;

/* --- access ----------------------------------------------------------------------------------------------------- */

#define SP_SCOPE_INFER 1u
#define SP_SCOPE_ADMIN 2u
#define SP_SCOPE_METRICS 4u

typedef struct sp_token_config {
    char name[48];
    uint8_t sha256[32]; /* of the token's text */
    unsigned scopes;
    char tier[24];
    char tenant[48];
    bool local_only;
    double rate_per_s, burst; /* 0 = unlimited */
    int64_t requests_per_day; /* 0 = unlimited */
    int64_t expires_unix_s;   /* 0 = never */
} sp_token_config;

/* --- stores ----------------------------------------------------------------------------------------------------- */

typedef enum sp_durability { SP_DURABILITY_MEMORY, SP_DURABILITY_AOF_EVERYSEC, SP_DURABILITY_AOF_ALWAYS, SP_DURABILITY_DISK } sp_durability;
const char *sp_durability_name(sp_durability durability); /* "memory", "aof-everysec", "aof-always", "disk" */

typedef struct sp_jobs_config {
    char redis[256];          /* redis://host:port/db; "" = SQLite under data_dir */
    sp_durability least;      /* a job whose store gives less is refused; default: disk, or aof-always with Redis */
    int64_t ttl_s;            /* of finished jobs; default 7 days */
    int concurrency;          /* jobs of this process running at once; default 16 */
    int tries;                /* before a job goes to the dead letters; default 5 */
    sp_secret webhook_secret; /* HMAC-SHA256 key */
    bool allow_private_webhooks; /* hosts in private address ranges */
} sp_jobs_config;

typedef struct sp_cache_config {
    uint64_t memory_bytes; /* 0 = off */
    char redis[256];       /* "" = none */
    int64_t ttl_s;
} sp_cache_config;

typedef struct sp_retention {
    char task[24];
    int64_t seconds;
} sp_retention;

typedef struct sp_results_config {
    char mongodb[512]; /* mongodb://...; "" = SQLite under data_dir */
    char database[64];
    bool all;          /* results of plain requests too, not of jobs only */
    int retention_count;
    sp_retention retention[16];
} sp_results_config;

typedef struct sp_s3_config { /* output: {s3: {bucket, key}} */
    char endpoint[256], region[32];
    sp_secret access_key, secret_key;
} sp_s3_config;

/* --- all -------------------------------------------------------------------------------------------------------- */

typedef struct sp_rate_row { /* deploy/rates.yaml */
    char name[32];       /* device ("cpu", "l4") or provider */
    sp_price price;
    char as_of[16];      /* 2026-11-01 */
    char source[64];     /* whose price list */
} sp_rate_row;

typedef struct sp_guard_config {
    int per_mille;    /* of live answers that are recomputed on the reference when idle; default 1 */
    double tolerance; /* of probabilities; default 1e-3 (fp16 links) */
} sp_guard_config;

typedef struct sp_tracing_config {
    char otlp[256];   /* of a collector: http://host:4318; "" = spans are not exported */
    double rate;      /* of the traces that begin here; default 0.01 */
    char service[64]; /* service.name; default "spillway" */
} sp_tracing_config;

typedef struct sp_config {
    char path[512]; /* "" = built in */
    /* server; a command-line option wins over the file */
    char bind[256];
    int http_port, metrics_port, grpc_port, admin_port; /* admin_port -1 = on http_port */
    char workers[512]; /* "codec0,cpu0" */
    char model_repository[512], model[64]; /* "" = where models usually are; the repository's only or first */
    int more_repository_count; /* of served models alone, beside model_repository */
    char more_repositories[7][512];
    char model_control_mode[12]; /* "none", "poll", "explicit" */
    int load_model_count;        /* explicit: at start; "*" = all */
    char load_models[64][128];
    int repository_poll_s;
    bool strict_readiness, exit_on_error;
    uint64_t model_memory_bytes; /* that the served models of one worker may take together; 0 = a share of the machine's */
    char data_dir[512]; /* default "var/data" */
    bool require_sandbox;
    bool refuse_cpu_nodes; /* a model of which a device would leave nodes to the CPU is not loaded there */
    bool nvjpeg; /* cuda workers decode JPEG files of who asks for it (decode=nvjpeg) on the device */
    int drain_delay_s; /* -1 = by the place: none on a terminal, else 5 s */
    int spin_us, link_timeout_ms;
    char log_level[16];
    char access_log[256]; /* a file, or "stderr"; "" = none */
    int trusted_peer_count; /* whose X-Spillway-Tier, -Tenant and -Hops are believed */
    char trusted_peers[16][64]; /* address or CIDR */
    int host_count; /* names in Host and Origin that mean this server, beside those of loopback (without tokens) */
    char hosts[8][128];
    uint64_t http_max_input_bytes; /* of an inference's body; default SP_LIMIT_INFER_BODY_BYTES */
    bool shared_memory_anywhere;   /* also for clients that are not on this machine; default false */
    uint64_t fetch_limit_bytes; /* of user-given URLs; default SP_LIMIT_IMAGE_BODY_BYTES */
    bool fetch_private;         /* user-given URLs may point into private address ranges; default false */
    char preset[24];            /* "" = none */
    bool use_gpu;               /* USE_GPU_PIPELINE, default true: false has taken every device that is no CPU out of
                                   `workers` and of each chain; remotes stay */
    int chain_count;
    sp_chain_config *chains;
    int remote_count;
    sp_remote_config *remotes;
    int token_count;
    sp_token_config *tokens;
    int rate_count;
    sp_rate_row *rates;
    sp_jobs_config jobs;
    sp_cache_config cache;
    sp_results_config results;
    sp_s3_config s3;
    sp_guard_config guard;
    sp_tracing_config tracing;
    /* The snapshot's own: */
    uint32_t serial; /* grows with each one made in this process; 1 = first */
    char *text;      /* all of it as YAML that sp_config_parse_effective reads back, tokens left out: for net workers */
    size_t text_bytes;
    int references;
} sp_config;

/* What holds without a file. One reference. */
sp_status sp_config_new_default(sp_config **ret_config, sp_error *reterr);

/* Every complaint of one file, in order of lines: "spillway.yaml:12: chains.classify.links[0].timout: unknown key; did
 * you mean timeout?" */
typedef struct sp_complaints {
    sp_buf text; /* one a line; warnings begin with "warning: " behind the place */
    int count;   /* of errors */
    int warning_count; /* said also when the file is taken */
} sp_complaints;
void sp_complaints_init(sp_complaints *complaints);
void sp_complaints_done(sp_complaints *complaints);

/* Parses, fills defaults, applies the environment (SPILLWAY_HTTP_PORT, ..., USE_GPU_PIPELINE), expands the preset and
 * checks names across sections. path NULL: no file. SP_INVALID: *complaints has all; SP_NOT_FOUND: no such file. On SP_OK
 * *complaints may hold warnings. Any thread. */
sp_status sp_config_load(const char *path, sp_config **ret_config, sp_complaints *complaints, sp_error *reterr);
sp_status sp_config_parse(const char *name, const char *text, size_t text_bytes, sp_config **ret_config,
                          sp_complaints *complaints, sp_error *reterr);

/* One key that is set from outside the file. */
typedef struct sp_config_override {
    char key[32];    /* "http_port" */
    char value[512];
    char origin[48]; /* as told to people: "--http-port", "SPILLWAY_HTTP_PORT" */
} sp_config_override;
#define SP_CONFIG_OVERRIDES_MAX 64

/* What the environment says now; returns how many were filled in. A value that does not fit is cut, which its key's
 * check then tells. */
int sp_config_environment(sp_config_override ret_overrides[SP_CONFIG_OVERRIDES_MAX]);

/* As sp_config_load, but with these instead of the environment; of two for one key the later one wins. So a reload sees
 * what the command line and the environment said at the start. */
sp_status sp_config_load_over(const char *path, const sp_config_override *overrides, int override_count, sp_config **ret_config,
                              sp_complaints *complaints, sp_error *reterr);

/* Reads `text` of another process' snapshot: nothing is overridden, expanded or held to workers. */
sp_status sp_config_parse_effective(const char *text, size_t text_bytes, sp_config **ret_config, sp_error *reterr);

/* The snapshot as YAML: every key that is set or has a default, presets expanded, secrets as where they lie, passwords in
 * URLs as ***. */
void sp_config_write(const sp_config *config, sp_buf *out);

/* Names (file keys, separated by a comma) whose change from `from` to `to` a running server cannot follow; "" = none. */
void sp_config_restart_keys(const sp_config *from, const sp_config *to, char *ret_text, size_t size_bytes);

sp_config *sp_config_ref(sp_config *config); /* atomic */
void sp_config_unref(sp_config *config);
const sp_chain_config *sp_config_chain(const sp_config *config, const char *task); /* NULL = none written: workers in order */
int sp_config_remote(const sp_config *config, const char *name); /* -1 = none */
/* What a link or device costs: the row of this name ("cuda0", a remote's name), else of its kind ("cuda"), else the first
 * whose name is a word of it ("l4" of "NVIDIA L4"). NULL = unknown. */
const sp_price *sp_config_rate(const sp_config *config, const char *name);

/* The chain that a preset makes of these workers ("codec0,cuda0,cpu0"); also what stands behind `preset:`, which adds the
 * remotes. SP_INVALID: no such preset; SP_UNAVAILABLE: none of the workers can be a link of it. */
sp_status sp_config_preset(const char *preset, const char *workers, sp_chain_config *ret_chain, sp_error *reterr);

/* "cuda" of "cuda0" and of "cuda12". */
void sp_config_kind_of(const char *worker, char ret_kind[32]);

#endif
