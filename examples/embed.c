/* SPDX-License-Identifier: Apache-2.0
 * Spillway inside another program: classifies the pictures given on the command line with two threads that share one
 * model, then runs the same model once on a plain tensor.
 *
 *     cc embed.c -o embed $(pkg-config --cflags --libs spillway) -lpthread
 *     ./embed var/models cat.jpg dog.png */
#include <spillway.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 2, TOP_K = 3 };

typedef struct job {
    spillway *model;
    char **paths;
    int path_count;
    int first; /* this thread takes paths first, first + THREADS, ... */
    int failures;
} job;

static void *read_file(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long size;

    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0 &&
        (data = malloc((size_t)size + 1)) != NULL)
        *ret_bytes = fread(data, 1, (size_t)size, file);
    fclose(file);
    return data;
}

static int classify(spillway *model, const char *path)
{
    spillway_error err = { 0 };
    spillway_class best[TOP_K];
    spillway_timing timing;
    int32_t count;
    size_t byte_count = 0;
    void *bytes = read_file(path, &byte_count);

    if (!bytes) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    spillway_status status = spillway_classify(model, bytes, byte_count, NULL, best, TOP_K, &count, &timing, &err);
    free(bytes); /* the labels belong to the model, not to the bytes */
    if (status != SPILLWAY_OK) {
        fprintf(stderr, "%s: %s: %s\n", path, spillway_status_name(status), err.message);
        return 1;
    }
    /* One call, so that the threads' lines do not mix. */
    printf("%s: %s (%u) %.1f %%, %.1f ms\n", path, best[0].label, best[0].class_id, 100 * (double)best[0].probability,
           (double)timing.total_ns / 1e6);
    return 0;
}

static void *work(void *context)
{
    job *j = context;

    for (int i = j->first; i < j->path_count; i += THREADS)
        j->failures += classify(j->model, j->paths[i]);
    return NULL;
}

/* The element count of a port when each free dimension (batch) is one; its shape goes to `tensor`. */
static size_t shape_for_one(const spillway_port *port, spillway_tensor *tensor)
{
    size_t count = 1;

    tensor->dtype = port->dtype;
    tensor->rank = port->rank;
    for (int32_t d = 0; d < port->rank; d++) {
        tensor->dims[d] = port->dims[d] < 0 ? 1 : port->dims[d];
        count *= (size_t)tensor->dims[d];
    }
    return count;
}

static int infer_zeros(spillway *model)
{
    spillway_error err = { 0 };
    spillway_port in_port, out_port;
    spillway_tensor in = { 0 }, out = { 0 };

    if (spillway_input(model, 0, &in_port) || spillway_output(model, 0, &out_port))
        return 1;
    if (in_port.dtype != SPILLWAY_F32 || out_port.dtype != SPILLWAY_F32) {
        printf("the model's tensors are not f32; nothing inferred\n");
        return 0;
    }
    size_t in_count = shape_for_one(&in_port, &in), out_count = shape_for_one(&out_port, &out);
    float *zeros = calloc(in_count, sizeof(*zeros)), *values = calloc(out_count, sizeof(*values));
    int failed = 1;
    if (zeros && values) {
        in.data = zeros;
        in.size_bytes = in_count * sizeof(*zeros);
        out.data = values;
        out.size_bytes = out_count * sizeof(*values);
        failed = spillway_infer(model, &in, 1, &out, 1, &err) != SPILLWAY_OK;
        if (failed)
            fprintf(stderr, "infer: %s\n", err.message);
        else
            printf("infer: %s[%zu] of zeros gives %s[0] = %.6f\n", in_port.name, in_count, out_port.name, (double)values[0]);
    }
    free(zeros);
    free(values);
    return failed;
}

int main(int argc, char **argv)
{
    spillway_error err = { 0 };
    spillway_options options = spillway_options_default();
    spillway_model_info info;
    spillway *model;
    pthread_t threads[THREADS];
    job jobs[THREADS];
    int failures = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL_REPOSITORY PICTURE...\n", argv[0]);
        return 2;
    }
    options.model_repository = argv[1];
    options.lanes = THREADS; /* calls that may run at once */
    options.threads = 1;     /* inside one call */
    if (spillway_open(&options, &model, &err) != SPILLWAY_OK) {
        fprintf(stderr, "cannot open a model: %s: %s\n", spillway_status_name(err.status), err.message);
        return 1;
    }
    spillway_describe(model, &info);
    printf("spillway %s, %s version %s, %s on %s by %s\n", spillway_version(), info.name, info.version, info.precision,
           info.provider, info.engine);

    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){ .model = model, .paths = argv + 2, .path_count = argc - 2, .first = i };
        if (pthread_create(&threads[i], NULL, work, &jobs[i]) != 0)
            return 1;
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        failures += jobs[i].failures;
    }
    failures += infer_zeros(model);
    spillway_close(model);
    return failures ? 1 : 0;
}
