/* SPDX-License-Identifier: Apache-2.0
 * A detector's kernels: twins against the scalar reference, the reference against a plain model that is written from the
 * contract alone, and the whole run. Odd sizes, NaN scores, degenerate boxes, ties. */
#include "boxes.h"

#include "kernels/nms_run.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int sizes[] = { 0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 100, 127, 129, 333, 1000, 2100 };

static float random_unit(void)
{
    return (float)((double)(test_random() >> 11) / 9007199254740992.0);
}

static float random_score(int kind)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-42f, 3e38f, -3e38f, 0.5f };
    switch (kind) {
    case 0:
        return random_unit();
    case 1:
        return (float)test_random_between(0, 4) / 4; /* ties */
    case 2:
        return random_unit() < 0.02f ? random_unit() : 0.0f; /* as a detector's: few pass */
    default:
        return test_random() % 2 ? odd[test_random() % SP_ARRAY_LEN(odd)] : random_unit() * 2 - 1;
    }
}

static float *scores_new(int n, int kind)
{
    float *score = malloc((size_t)n * sizeof(float) + 1);
    REQUIRE(score != NULL);
    for (int i = 0; i < n; i++)
        score[i] = random_score(kind);
    return score;
}

void check_filter_f32(const sp_kernel_table *twin)
{
    for (size_t at = 0; at < SP_ARRAY_LEN(sizes); at++) {
        for (int kind = 0; kind < 4; kind++) {
            int n = sizes[at];
            float *score = scores_new(n, kind), threshold = kind == 3 ? -INFINITY : 0.5f;
            int32_t *index[2] = { malloc(((size_t)n + SP_BOX_SLACK) * 4), malloc(((size_t)n + SP_BOX_SLACK) * 4) };
            int expected = 0, count = sp_filter_f32_c(index[0], score, n, threshold);
            CHECK_INT(twin->filter_f32(index[1], score, n, threshold), count);
            CHECK_BYTES(index[0], index[1], (size_t)count * 4);
            for (int i = 0; i < n; i++) {
                if (score[i] > threshold)
                    CHECK(expected < count && index[0][expected++] == i);
            }
            CHECK_INT(expected, count);
            free(score);
            free(index[0]);
            free(index[1]);
        }
    }
}

void check_best_columns_f32(const sp_kernel_table *twin)
{
    for (size_t at = 0; at < SP_ARRAY_LEN(sizes); at++) {
        for (int kind = 0; kind < 4; kind++) {
            int n = sizes[at], rows = test_random_between(1, 20);
            size_t stride = (size_t)n + (size_t)test_random_between(0, 5);
            float *src = scores_new((int)stride * rows, kind);
            float *best[2] = { malloc(((size_t)n + SP_BOX_SLACK) * 4), malloc(((size_t)n + SP_BOX_SLACK) * 4) };
            int32_t *which[2] = { malloc(((size_t)n + SP_BOX_SLACK) * 4), malloc(((size_t)n + SP_BOX_SLACK) * 4) };
            sp_best_columns_f32_c(best[0], which[0], src, n, rows, stride);
            twin->best_columns_f32(best[1], which[1], src, n, rows, stride);
            CHECK_BYTES(best[0], best[1], (size_t)n * 4);
            CHECK_BYTES(which[0], which[1], (size_t)n * 4);
            for (int i = 0; i < n; i++) {
                int first = 0;
                float most = -INFINITY;
                for (int r = 0; r < rows; r++) {
                    if (src[(size_t)r * stride + (size_t)i] > most) {
                        most = src[(size_t)r * stride + (size_t)i];
                        first = r;
                    }
                }
                CHECK(best[0][i] == most && which[0][i] == first);
            }
            free(src);
            for (int k = 0; k < 2; k++) {
                free(best[k]);
                free(which[k]);
            }
        }
    }
}

/* The order of the contract: falling, equal ones by lower index, NaN last. */
static bool goes_before(const float *score, int a, int b)
{
    bool nan_a = isnan(score[a]), nan_b = isnan(score[b]);
    if (nan_a != nan_b)
        return nan_b;
    if (!nan_a && score[a] != score[b])
        return score[a] > score[b];
    return a < b;
}

void check_order_f32(const sp_kernel_table *twin)
{
    for (size_t at = 0; at < SP_ARRAY_LEN(sizes); at++) {
        for (int kind = 0; kind < 4; kind++) {
            int n = sizes[at];
            float *score = scores_new(n, kind);
            int32_t *index = malloc((size_t)n * 4 + 1);
            bool *seen = calloc((size_t)n + 1, sizeof(bool));
            uint64_t *spare = malloc((size_t)n * 16 + 1);
            twin->order_f32(index, score, n, spare);
            for (int i = 0; i < n; i++) {
                REQUIRE(index[i] >= 0 && index[i] < n && !seen[index[i]]);
                seen[index[i]] = true;
                CHECK(i == 0 || goes_before(score, index[i - 1], index[i]));
            }
            free(score);
            free(index);
            free(seen);
            free(spare);
        }
    }
}

/* --- suppression -------------------------------------------------------------------------------------------------- */

typedef struct boxes {
    int n;
    float *corners[4]; /* x0, y0, x1, y1 */
    int32_t *class_id;
} boxes;

static boxes boxes_new(int n, int kind)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, 1e30f, -1e30f };
    boxes b = { .n = n, .class_id = malloc((size_t)n * 4 + 1) };
    for (int p = 0; p < 4; p++)
        b.corners[p] = malloc((size_t)n * 4 + 1);
    for (int i = 0; i < n; i++) {
        float side = kind == 0 ? 640.0f : 60.0f, x = random_unit() * side, y = random_unit() * side;
        b.corners[0][i] = x;
        b.corners[1][i] = y;
        b.corners[2][i] = x + random_unit() * 50;
        b.corners[3][i] = y + random_unit() * 50;
        b.class_id[i] = test_random_between(0, 3);
        if (kind == 2) { /* whole numbers on a small grid: equal boxes, boxes without area, ratios that are exact */
            for (int p = 0; p < 4; p++)
                b.corners[p][i] = (float)test_random_between(0, 6);
        }
        if (kind == 3 && test_random() % 4 == 0)
            b.corners[test_random() % 4][i] = odd[test_random() % SP_ARRAY_LEN(odd)];
    }
    return b;
}

static void boxes_free(boxes *b)
{
    for (int p = 0; p < 4; p++)
        free(b->corners[p]);
    free(b->class_id);
}

static sp_box_planes planes_of(const boxes *b, bool agnostic)
{
    return (sp_box_planes){ b->corners[0], b->corners[1], b->corners[2], b->corners[3], agnostic ? NULL : b->class_id };
}

/* The contract, read aloud: every pair is asked, nothing is kept in order to be quick. */
static bool overlap(const boxes *b, int i, int k, float iou)
{
    float area[2], lo[2], hi[2];
    const int pair[2] = { i, k };
    for (int s = 0; s < 2; s++) {
        float w = b->corners[2][pair[s]] - b->corners[0][pair[s]], h = b->corners[3][pair[s]] - b->corners[1][pair[s]];
        area[s] = (w < 0 ? 0 : w) * (h < 0 ? 0 : h);
    }
    for (int axis = 0; axis < 2; axis++) {
        lo[axis] = b->corners[axis][i] > b->corners[axis][k] ? b->corners[axis][i] : b->corners[axis][k];
        hi[axis] = b->corners[2 + axis][i] < b->corners[2 + axis][k] ? b->corners[2 + axis][i] : b->corners[2 + axis][k];
    }
    float w = hi[0] - lo[0], h = hi[1] - lo[1], inter = (w > 0 ? w : 0) * (h > 0 ? h : 0);
    float both = area[0] + area[1];
    return inter > iou * (both - inter);
}

static int plain_nms(const boxes *b, bool agnostic, float iou, int most, int32_t *ret_kept)
{
    bool *gone = calloc((size_t)b->n + 1, sizeof(bool));
    int count = 0;
    for (int i = 0; i < b->n && count < most; i++) {
        if (gone[i])
            continue;
        ret_kept[count++] = i;
        for (int later = i + 1; later < b->n; later++) {
            if ((agnostic || b->class_id[i] == b->class_id[later]) && overlap(b, later, i, iou))
                gone[later] = true;
        }
    }
    free(gone);
    return count;
}

void check_nms_f32(const sp_kernel_table *twin)
{
    static const float thresholds[] = { 0.0f, 0.3f, 0.45f, 0.5f, 0.9f, 1.0f, 7.0f };
    for (size_t at = 0; at < SP_ARRAY_LEN(sizes); at++) {
        for (int kind = 0; kind < 8; kind++) {
            boxes b = boxes_new(sizes[at], kind % 4);
            bool agnostic = kind >= 4;
            float iou = thresholds[test_random() % SP_ARRAY_LEN(thresholds)];
            int most = test_random() % 2 ? SP_MAX(b.n, 1) : test_random_between(1, b.n + 1);
            sp_box_planes planes = planes_of(&b, agnostic);
            int32_t *kept[2] = { malloc((size_t)most * 4 + 4), malloc((size_t)most * 4 + 4) };
            float *spare = aligned_alloc(64, SP_ALIGN_UP(SP_NMS_SPARE(most) * 4, (size_t)64));
            memset(spare, 0xff, SP_NMS_SPARE(most) * 4); /* NaN: what was there before must not matter */
            int expected = plain_nms(&b, agnostic, iou, most, kept[0]);
            int count = twin->nms_f32(kept[1], &planes, b.n, iou, most, spare);
            CHECK_INT(count, expected);
            CHECK_BYTES(kept[0], kept[1], (size_t)SP_MIN(count, expected) * 4);
            free(kept[0]);
            free(kept[1]);
            free(spare);
            boxes_free(&b);
        }
    }
}

TEST(kernels_nms_leaves_boxes_without_area_or_number_alone)
{
    const float x0[] = { 0, 5, 5, 9, 0, NAN }, y0[] = { 0, 5, 5, 9, 0, 0 }, x1[] = { 10, 5, 5, 3, 10, 10 },
                y1[] = { 10, 9, 9, 3, 10, 10 };
    const sp_box_planes planes = { x0, y0, x1, y1, NULL };
    _Alignas(64) float spare[SP_NMS_SPARE(6)];
    int32_t kept[6];
    sp_kernels_init();
    CHECK_INT(sp_kernels.nms_f32(kept, &planes, 6, 0.5f, 6, spare), 5); /* only the second whole box goes */
    CHECK(kept[0] == 0 && kept[1] == 1 && kept[2] == 2 && kept[3] == 3 && kept[4] == 5);
}

TEST(kernels_nms_run_takes_equal_scores_by_index_and_no_nan)
{
    const float boxes4[] = { 0, 0, 9, 9, 20, 0, 29, 9, 0, 0, 9, 9, 40, 0, 49, 9, 60, 0, 69, 9 };
    const float score[] = { 0.5f, 0.5f, 0.5f, NAN, 0.9f };
    int32_t kept[5];
    sp_nms_scratch *scratch = sp_nms_scratch_new(5);
    REQUIRE(scratch != NULL);
    sp_nms_params params = { .threshold = 0.25f, .iou = 0.5f };
    CHECK_INT(sp_nms_run(scratch, boxes4, score, NULL, 5, &params, kept), 3);
    CHECK(kept[0] == 4 && kept[1] == 0 && kept[2] == 1);
    params.most = 2;
    CHECK_INT(sp_nms_run(scratch, boxes4, score, NULL, 5, &params, kept), 2);
    params = (sp_nms_params){ .threshold = 0.5f, .iou = 0.5f };
    CHECK_INT(sp_nms_run(scratch, boxes4, score, NULL, 5, &params, kept), 1); /* above the threshold, not at it */
    params = (sp_nms_params){ .threshold = 0, .iou = 2, .candidates = 3 };
    CHECK_INT(sp_nms_run(scratch, boxes4, score, NULL, 5, &params, kept), 3);
    CHECK_INT(sp_nms_run(scratch, boxes4, score, NULL, 0, &params, kept), 0);
    sp_nms_scratch_free(scratch);
}
