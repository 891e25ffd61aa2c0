/* SPDX-License-Identifier: Apache-2.0
 * How a picture becomes a model's input tensor: one description, carried by the model's card, executed by the fused
 * pre-processing kernel of whichever worker is asked. Plain data: it crosses process boundaries by memcpy. */
#ifndef SP_KERNELS_PREP_H
#define SP_KERNELS_PREP_H

#include <stdint.h>

typedef enum sp_resize_filter {
    SP_FILTER_BILINEAR = 0, /* antialiased, Pillow's Image.BILINEAR, to the bit */
    SP_FILTER_BICUBIC = 1,  /* antialiased, Pillow's Image.BICUBIC (a = -0.5), to the bit */
    SP_FILTER_PLAIN = 2,    /* two taps whatever the scale, OpenCV's INTER_LINEAR_EXACT, to the bit */
    /* Or-ed to BILINEAR or BICUBIC: across first, always, as Pillow up to 12. Without it the order is Pillow 13's: down
     * first when the picture is to become lower, and loses more than twice as many rows as columns. The order decides
     * last bits: the bytes between the two passes are rounded. */
    SP_FILTER_ACROSS_FIRST = 0x80,
} sp_resize_filter;

typedef enum sp_resize_fit {
    SP_FIT_SHORT_SIDE = 0, /* short side to resize_w, other side int(resize_w * long / short), as torchvision */
    SP_FIT_STRETCH = 1,    /* to resize_w x resize_h */
    SP_FIT_LETTERBOX = 2,  /* into resize_w x resize_h keeping the shape, centred, the rest `pad_value` */
    SP_FIT_CORNER = 3,     /* likewise, in the upper left corner; the side that does not bind is cut to whole pixels */
    SP_FIT_BGR = 0x80,     /* or-ed to any: the planes are B G R; mean and std stay those of R, G, B */
} sp_resize_fit;

typedef enum sp_tensor_dtype { SP_DTYPE_F32 = 1, SP_DTYPE_U8 = 2, SP_DTYPE_F16 = 10 } sp_tensor_dtype; /* ONNX's numbers */

/* Output: [3, crop_h, crop_w], planes R G B (or B G R), `dtype`; value = ((float)x / divisor - mean[c]) / std[c], each operation
 * rounded to f32 as numpy does; f16 is that, rounded to nearest even. The crop is centred as torchvision's CenterCrop:
 * top = int(round((h - crop_h) / 2.0)) with Python's round (half to even); likewise left. */
typedef struct sp_prep_spec {
    uint8_t filter; /* sp_resize_filter, perhaps | SP_FILTER_ACROSS_FIRST */
    uint8_t fit;    /* sp_resize_fit, perhaps | SP_FIT_BGR */
    uint8_t dtype;  /* sp_tensor_dtype: SP_DTYPE_F32 or SP_DTYPE_F16 */
    uint8_t pad_value;
    uint16_t resize_w, resize_h;
    uint16_t crop_w, crop_h; /* = the tensor's size; no larger than what the resize leaves */
    float divisor;
    float mean[3];
    float std[3];
} sp_prep_spec;

#endif
