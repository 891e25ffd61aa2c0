/* SPDX-License-Identifier: Apache-2.0
 * Fills the kernel table from what the CPU and the system can do. */
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

sp_kernel_table sp_kernels;
static sp_kernel_level level_in_use;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#ifdef __x86_64__
/* The compiler's runtime reads cpuid and XCR0, so a level counts only when the system saves its registers. */
static bool have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool have_vnni_vbmi(void)
{
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

static void overwrite_planes_avx2(sp_kernel_table *table)
{
    table->grey_y8 = sp_grey_y8_avx2;
    table->grey_y16 = sp_grey_y16_avx2;
    table->blur_across = sp_blur_across_avx2;
    table->blur_down = sp_blur_down_avx2;
    table->sobel3 = sp_sobel3_avx2;
    table->sobel_wide = sp_sobel_wide_avx2;
    table->box_down = sp_box_down_avx2;
    table->box_across = sp_box_across_avx2;
    table->sizes32 = sp_sizes32_avx2;
    table->maxima32 = sp_maxima32_avx2;
    table->grey_rgb8 = sp_grey_rgb8_avx2;
    table->gradient3 = sp_gradient3_avx2;
    table->maxima3 = sp_maxima3_avx2;
    table->mask_of_bits = sp_mask_of_bits_avx2;
    table->bits_of_mask = sp_bits_of_mask_avx2;
    table->rows_max = sp_rows_max_avx2;
    table->rows_min = sp_rows_min_avx2;
    table->fold_box = sp_fold_box_avx2;
    table->subtract_u8 = sp_subtract_u8_avx2;
    table->laplace_u8 = sp_laplace_u8_avx2;
    table->difference_u8 = sp_difference_u8_avx2;
    table->nonzero_u8 = sp_nonzero_u8_avx2;
    table->threshold_u8 = sp_threshold_u8_avx2;
    table->or_u8 = sp_or_u8_avx2;
    table->and_u8 = sp_and_u8_avx2;
    table->measure_flow = sp_measure_flow_avx2;
}

static void overwrite_flow_avx2(sp_kernel_table *table)
{
    table->flow_smooth = sp_flow_smooth_avx2;
    table->flow_mix_u8 = sp_flow_mix_u8_avx2;
    table->flow_mix_f32 = sp_flow_mix_f32_avx2;
    table->flow_across = sp_flow_across_avx2;
    table->flow_expand = sp_flow_expand_avx2;
    table->flow_update = sp_flow_update_avx2;
    table->flow_window = sp_flow_window_avx2;
    table->flow_solve = sp_flow_solve_avx2;
}

static void overwrite_avx2(sp_kernel_table *table)
{
    table->weights = sp_weights_avx2;
    table->pack_h = sp_pack_h_avx2;
    table->pack_v = sp_pack_v_avx2;
    table->resize_h = sp_resize_h_avx2;
    table->resize_v = sp_resize_v_avx2;
    table->to_block = sp_to_block_avx2;
    table->from_block = sp_from_block_avx2;
    table->plain_h = sp_plain_h_avx2;
    table->plain_v = sp_plain_v_avx2;
    table->norm_f32 = sp_norm_f32_avx2;
    table->softmax_f32 = sp_softmax_f32_avx2;
    table->topk_f32 = sp_topk_f32_avx2;
    table->filter_f32 = sp_filter_f32_avx2;
    table->best_columns_f32 = sp_best_columns_f32_avx2;
    table->nms_f32 = sp_nms_f32_avx2;
    table->canary_f32 = sp_canary_f32_avx2;
    overwrite_flow_avx2(table);
    overwrite_planes_avx2(table);
}

static void overwrite_planes_avx512(sp_kernel_table *table)
{
    table->grey_y8 = sp_grey_y8_avx512;
    table->grey_y16 = sp_grey_y16_avx512;
    table->blur_across = sp_blur_across_avx512;
    table->blur_down = sp_blur_down_avx512;
    table->sobel3 = sp_sobel3_avx512;
    table->sobel_wide = sp_sobel_wide_avx512;
    table->box_down = sp_box_down_avx512;
    table->box_across = sp_box_across_avx512;
    table->sizes32 = sp_sizes32_avx512;
    table->maxima32 = sp_maxima32_avx512;
    table->grey_rgb8 = sp_grey_rgb8_avx512;
    table->gradient3 = sp_gradient3_avx512;
    table->maxima3 = sp_maxima3_avx512;
    table->mask_of_bits = sp_mask_of_bits_avx512;
    table->bits_of_mask = sp_bits_of_mask_avx512;
    table->rows_max = sp_rows_max_avx512;
    table->rows_min = sp_rows_min_avx512;
    table->fold_box = sp_fold_box_avx512;
    table->subtract_u8 = sp_subtract_u8_avx512;
    table->laplace_u8 = sp_laplace_u8_avx512;
    table->difference_u8 = sp_difference_u8_avx512;
    table->nonzero_u8 = sp_nonzero_u8_avx512;
    table->threshold_u8 = sp_threshold_u8_avx512;
    table->or_u8 = sp_or_u8_avx512;
    table->and_u8 = sp_and_u8_avx512;
    table->measure_flow = sp_measure_flow_avx512;
}

static void overwrite_flow_avx512(sp_kernel_table *table)
{
    table->flow_smooth = sp_flow_smooth_avx512;
    table->flow_mix_u8 = sp_flow_mix_u8_avx512;
    table->flow_mix_f32 = sp_flow_mix_f32_avx512;
    table->flow_across = sp_flow_across_avx512;
    table->flow_expand = sp_flow_expand_avx512;
    table->flow_update = sp_flow_update_avx512;
    table->flow_window = sp_flow_window_avx512;
    table->flow_solve = sp_flow_solve_avx512;
}

/* A CPU with AVX-512 but without VNNI or VBMI (Skylake-X, Cascade Lake) keeps the AVX2 resize. */
static void overwrite_avx512(sp_kernel_table *table)
{
    table->plain_v = sp_plain_v_avx512;
    table->softmax_f32 = sp_softmax_f32_avx512;
    table->topk_f32 = sp_topk_f32_avx512;
    table->filter_f32 = sp_filter_f32_avx512;
    table->best_columns_f32 = sp_best_columns_f32_avx512;
    table->nms_f32 = sp_nms_f32_avx512;
    table->canary_f32 = sp_canary_f32_avx512;
    overwrite_planes_avx512(table);
    overwrite_flow_avx512(table);
    if (!have_vnni_vbmi())
        return;
    table->weights = sp_weights_avx512;
    table->pack_h = sp_pack_h_avx512;
    table->pack_v = sp_pack_v_avx512;
    table->resize_h = sp_resize_h_avx512;
    table->resize_v = sp_resize_v_avx512;
    table->plain_h = sp_plain_h_avx512;
    table->norm_f32 = sp_norm_f32_avx512;
    table->norm_f16 = sp_norm_f16_avx512;
}
#endif

bool sp_kernels_at(sp_kernel_level level, sp_kernel_table *ret_table)
{
    sp_kernel_table table;
#define SP_KERNEL(name, result, parameters) table.name = sp_##name##_c;
#include "kernels/kernels.inc"
#undef SP_KERNEL
#ifdef __x86_64__
    __builtin_cpu_init();
    if ((level >= SP_LEVEL_AVX2 && !have_avx2()) || (level >= SP_LEVEL_AVX512 && !have_avx512()))
        return false;
    if (level >= SP_LEVEL_AVX2)
        overwrite_avx2(&table);
    if (level >= SP_LEVEL_AVX512)
        overwrite_avx512(&table);
#else
    if (level != SP_LEVEL_SCALAR)
        return false;
#endif
    *ret_table = table;
    return true;
}

bool sp_kernels_force(sp_kernel_level level)
{
    sp_kernels_init();
    sp_kernel_table table;
    if (!sp_kernels_at(level, &table))
        return false;
    sp_kernels = table;
    level_in_use = level;
    return true;
}

static void fill(void)
{
    static const char *const names[SP_LEVEL_COUNT] = { "scalar", "avx2", "avx512" };
    const char *mask = getenv("SPILLWAY_CPU");
    int level = SP_LEVEL_COUNT - 1;
    for (int i = 0; mask && i < SP_LEVEL_COUNT; i++) {
        if (strcmp(mask, names[i]) == 0)
            level = i;
    }
    while (!sp_kernels_at((sp_kernel_level)level, &sp_kernels))
        level--;
    level_in_use = (sp_kernel_level)level;
}

void sp_kernels_init(void)
{
    (void)pthread_once(&once, fill); /* fails only for an invalid once */
}

const char *sp_kernels_level(void)
{
    sp_kernels_init();
    switch (level_in_use) {
    case SP_LEVEL_SCALAR:
        return "scalar";
    case SP_LEVEL_AVX2:
        return "avx2";
    default:
#ifdef __x86_64__
        if (have_vnni_vbmi())
            return "avx512+vnni+vbmi";
#endif
        return "avx512";
    }
}
