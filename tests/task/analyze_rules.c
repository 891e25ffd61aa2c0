/* SPDX-License-Identifier: Apache-2.0
 * task/analyze: the rules over frames: scenes, tracks of what moves, spots that stand still, key frames. */
#include "analyze_fake.h"
#include "task/analyze_internal.h"
#include "test.h"

#include <stdlib.h>

#define FRAMES 120

typedef struct video {
    sp_video_index *index;
    sp_analyze_params params;
    sp_frame_record records[FRAMES];
    sp_analysis *analysis;
} video;

static video *video_new(void)
{
    video *v = calloc(1, sizeof(*v));
    REQUIRE(v != NULL);
    v->index = fake_index(FRAMES, 48);
    v->params = sp_analyze_params_default();
    for (uint32_t i = 0; i < FRAMES; i++)
        v->records[i] = fake_record(v->index, i);
    return v;
}

static const sp_analysis *merged(video *v)
{
    sp_analysis_free(v->analysis);
    v->analysis = fake_analysis(v->index, &v->params, v->records);
    return v->analysis;
}

static void video_free(video *v)
{
    sp_analysis_free(v->analysis);
    free(v->index);
    free(v);
}

static void moves(video *v, uint32_t frame, sp_frame_region region)
{
    sp_frame_record *r = &v->records[frame];
    r->motion[r->motion_count++] = region;
}

static void spot(video *v, uint32_t frame, sp_frame_region region)
{
    sp_frame_record *r = &v->records[frame];
    r->defects[r->defect_count++] = region;
}

/* --- arithmetic --- */

TEST(roots_are_floors)
{
    for (int i = 0; i < 2000; i++) {
        uint64_t x = test_random() >> (test_random() % 64), root = sp_isqrt(x);
        CHECK((unsigned __int128)root * root <= x && (unsigned __int128)(root + 1) * (root + 1) > x);
    }
    CHECK_INT(sp_isqrt(0), 0);
    CHECK_INT(sp_isqrt(UINT64_MAX), UINT32_MAX);
}

TEST(numbers_are_written_by_integers)
{
    static const struct {
        int64_t value, divisor;
        int digits;
        const char *text;
    } rows[] = {
        { 1536, 1024, 3, "1.500" }, { -1536, 1024, 3, "-1.500" }, { 1, 1024, 3, "0.001" }, { 0, 7, 2, "0.00" },
        { 2, 3, 0, "1" }, { -1, 10000, 3, "0.000" }, { 999999, 1000000, 3, "1.000" }, { INT64_MAX, 1000, 3, "9223372036854775.807" },
        { 5, 1000000, 6, "0.000005" }, { -5, 10, 0, "-1" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_buf out;
        sp_buf_init(&out, 100);
        sp_put_fixed(&out, rows[i].value, rows[i].divisor, rows[i].digits);
        CHECK_TEXT((const char *)out.data, rows[i].text);
        sp_buf_done(&out);
    }
}

/* --- scenes --- */

TEST(cuts_make_scenes)
{
    video *v = video_new();
    v->records[29].cut = v->records[69].cut = 1;
    const sp_analysis *a = merged(v);
    CHECK_INT(a->scene_count, 3);
    CHECK_INT(a->scenes[1].first, 30);
    CHECK_INT(a->scenes[1].last, 69);
    CHECK_INT(a->verdicts[30].scene, 1);
    CHECK_INT(a->verdicts[29].scene, 0);
    video_free(v);
}

TEST(a_flash_is_no_scene_and_a_double_cut_is_one)
{
    video *v = video_new();
    v->records[29].cut = v->records[31].cut = 1; /* the same picture on both sides */
    CHECK_INT(merged(v)->scene_count, 1);
    for (int i = 32; i < FRAMES; i++)
        v->records[i].mean = 60000; /* another one */
    CHECK_INT(merged(v)->scene_count, 2);
    CHECK_INT(v->analysis->scenes[0].last, 29);
    video_free(v);
}

TEST(blur_and_exposure)
{
    video *v = video_new();
    v->records[3].sharpness = 2500 * SP_BLUR_FOCUS - 1; /* the deviation is 50 */
    v->records[4].sharpness = 49999;                    /* focus 19, and under a quarter of 500 */
    v->records[5].sharpness = 50000;
    v->records[6].mean = SP_DARK_MEAN - 1;
    v->records[7].bright = SP_BRIGHT_SHARE + 1;
    v->records[8].deviation = SP_FLAT_DEVIATION - 1;
    const sp_analysis *a = merged(v);
    CHECK_INT(a->verdicts[3].blurred, 1);
    CHECK_INT(a->verdicts[4].blurred, 1);
    CHECK_INT(a->verdicts[5].blurred, 0);
    CHECK_INT(a->scenes[0].blurred, 2);
    CHECK_INT(a->verdicts[6].exposure, SP_EXPOSURE_DARK);
    CHECK_INT(a->verdicts[7].exposure, SP_EXPOSURE_BRIGHT);
    CHECK_INT(a->verdicts[8].exposure, SP_EXPOSURE_FLAT);
    CHECK_INT(a->verdicts[9].exposure, SP_EXPOSURE_OK);
    video_free(v);
}

/* --- tracks --- */

TEST(what_moves_is_followed_over_segments_and_short_gaps)
{
    video *v = video_new();
    for (uint32_t i = 10; i < 90; i++) {
        if (i % 20 < 4 && i > 20)
            continue; /* unseen for four frames */
        moves(v, i, fake_region((int)i * 2, 50, 40, 30));
        moves(v, i, fake_region(250 - (int)i * 2, 120, 30, 30)); /* the other way, on another line */
    }
    const sp_analysis *a = merged(v);
    CHECK_INT(a->motion.found, 2);
    REQUIRE(a->motion.count == 2);
    const sp_track *t = &a->motion.tracks[a->motion.tracks[0].begin_y < 100 * 256 ? 0 : 1];
    CHECK_INT(t->first, 10);
    CHECK_INT(t->last, 89);
    CHECK_INT(t->x0, 20);
    CHECK_INT(t->x1, 89 * 2 + 40);
    CHECK_INT(t->path, 256 * 2 * 79);
    CHECK_INT(t->end_x - t->begin_x, 256 * 2 * 79);
    video_free(v);
}

TEST(a_long_gap_a_cut_and_a_short_life_end_a_track)
{
    video *v = video_new();
    for (uint32_t i = 0; i < 60; i++) {
        if (i < 20 || i >= 26)
            moves(v, i, fake_region(100, 50, 40, 30)); /* six frames unseen: another track */
    }
    v->records[39].cut = 1;
    moves(v, 100, fake_region(10, 10, 20, 20));
    moves(v, 101, fake_region(10, 10, 20, 20)); /* two frames only */
    v->params.track_min_frames = 3;
    const sp_analysis *a = merged(v);
    REQUIRE(a->motion.count == 3);
    CHECK_INT(a->motion.tracks[0].last, 19);
    CHECK_INT(a->motion.tracks[1].first, 26);
    CHECK_INT(a->motion.tracks[1].last, 38); /* over the cut nothing is read */
    CHECK_INT(a->motion.tracks[2].first, 40);
    video_free(v);
}

TEST(a_spot_that_stands_still_is_a_defect_and_one_that_moves_is_not)
{
    video *v = video_new();
    for (uint32_t i = 5; i < 60; i++) {
        spot(v, i, fake_region(200, 100, 4, 4));
        spot(v, i, fake_region(10 + 3 * (int)i, 30, 4, 4));
    }
    v->params.defect_min_frames = 10;
    for (uint32_t i = 80; i < 89; i++)
        spot(v, i, fake_region(20, 20, 4, 4)); /* nine frames: one too few */
    v->records[30].cut = 1; /* a mark on the lens outlives a scene */
    const sp_analysis *a = merged(v);
    REQUIRE(a->defects.count == 1);
    CHECK(sp_track_is_on_lens(a, &a->defects.tracks[0]));
    CHECK_INT(a->defects.tracks[0].first, 5);
    CHECK_INT(a->defects.tracks[0].last, 59);
    CHECK_INT(a->defects.tracks[0].seen, 55);
    CHECK_INT(a->defects.tracks[0].x0, 200);
    video_free(v);
}

TEST(a_spot_that_stays_while_the_picture_moves_is_on_the_lens)
{
    video *v = video_new();
    for (uint32_t i = 0; i < 30; i++)
        spot(v, i, fake_region(200, 100, 4, 4));
    const sp_analysis *a = merged(v);
    REQUIRE(a->defects.count == 1);
    CHECK(!sp_track_is_on_lens(a, &a->defects.tracks[0]));
    for (uint32_t i = 10; i < 10 + SP_LENS_FRAMES; i++)
        v->records[i].moving = FAKE_W * FAKE_H / 2;
    a = merged(v);
    REQUIRE(a->defects.count == 1);
    CHECK(sp_track_is_on_lens(a, &a->defects.tracks[0]));
    video_free(v);
}

/* Far more tracks than are told: the heaviest stay, and the same ones however often the list was cut on the way. */
TEST(too_many_tracks_leave_the_heaviest)
{
    uint32_t frames = 4000;
    sp_video_index *index = fake_index(frames, 64);
    sp_frame_record *records = calloc(frames, sizeof(*records));
    sp_analyze_params params = sp_analyze_params_default();
    params.track_min_frames = 1;
    REQUIRE(records != NULL);
    for (uint32_t i = 0; i < frames; i++) {
        records[i] = fake_record(index, i);
        records[i].cut = i + 1 < frames && i % 8 == 7;
        records[i].has_pair = 1;
        records[i].motion_count = 12;
        for (int k = 0; k < 12; k++)
            records[i].motion[k] = fake_region(20 * k, (int)(i % 8) * 26, 1 + (int)(test_random() % 5), 1 + (int)(test_random() % 5));
    }
    sp_analysis *a = fake_analysis(index, &params, records);
    CHECK_INT(a->motion.found, 12 * (4000 - 499)); /* nothing over a cut */
    CHECK_INT(a->motion.count, SP_LIMIT_TRACKS);
    uint64_t least = UINT64_MAX, heavy = 0;
    for (uint32_t i = 0; i < a->motion.count; i++)
        least = SP_MIN(least, a->motion.tracks[i].weight);
    for (uint32_t i = 0; i < frames; i++) {
        for (int k = 0; k < 12; k++)
            heavy += !records[i].cut && (uint64_t)records[i].motion[k].area * records[i].motion[k].strength > least;
    }
    CHECK(heavy < SP_LIMIT_TRACKS);
    sp_analysis_free(a);
    free(records);
    free(index);
}

/* --- key frames --- */

TEST(key_frames_are_sharp_moving_and_apart)
{
    video *v = video_new();
    uint32_t numbers[SP_LIMIT_KEY_FRAMES];
    v->params.key_frames = 4;
    for (uint32_t i = 0; i < FRAMES; i++)
        v->records[i].flow_mean = i + 1 < FRAMES ? 500 : 0;
    v->records[50].sharpness = v->records[51].sharpness = 900000; /* neighbours: one of them is enough */
    v->records[90].flow_mean = 2000;
    v->records[20].damaged = 1;
    v->records[20].sharpness = 5000000;
    REQUIRE(sp_analysis_key_frames(merged(v), numbers) == 4);
    bool fifty = false, ninety = false;
    for (int i = 0; i < 4; i++) {
        fifty |= numbers[i] == 50;
        ninety |= numbers[i] == 90;
        CHECK(numbers[i] != 51 && numbers[i] != 20);
        CHECK(i == 0 || numbers[i] >= numbers[i - 1] + FRAMES / 4 / 2);
    }
    CHECK(fifty && ninety);
    video_free(v);
}

TEST(alike_frames_are_chosen_by_number_and_spread)
{
    video *v = video_new();
    uint32_t numbers[SP_LIMIT_KEY_FRAMES];
    v->params.key_frames = 3;
    REQUIRE(sp_analysis_key_frames(merged(v), numbers) == 3);
    CHECK_INT(numbers[0], 0);
    CHECK_INT(numbers[1], 40);
    CHECK_INT(numbers[2], 80);
    v->params.key_frames = 64;
    CHECK_INT(sp_analysis_key_frames(merged(v), numbers), 64);
    v->params.key_frames = 0;
    CHECK_INT(sp_analysis_key_frames(merged(v), numbers), 0);
    video_free(v);
}
