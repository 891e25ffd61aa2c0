/* SPDX-License-Identifier: Apache-2.0
 * Every bound of the program, each with the reason for its number and the answer when it is reached. */
#ifndef SP_BASE_LIMITS_H
#define SP_BASE_LIMITS_H

/* Requests in the house at once. 256 in flight keep a GPU's batches full at any latency we aim for; beyond it a
 * request is told SP_BUSY at once, which is better than a queue nobody will live to see answered. */
#define SP_LIMIT_SLOTS 256

/* Request bytes that travel inside a slot. Most photographs for classification and every small tensor fit; larger
 * bodies get a memfd of their own. */
#define SP_LIMIT_SLOT_INLINE_BYTES (64u * 1024)

/* Answer bytes of one slot. Top-5 with labels is under 1 KiB; an echo answers what fitted inline. */
#define SP_LIMIT_ANSWER_BYTES (72u * 1024)

/* Largest image upload. A 45-megapixel camera JPEG is about 25 MiB. Beyond: SP_TOO_LARGE. */
#define SP_LIMIT_IMAGE_BODY_BYTES (32u * 1024 * 1024)

/* Largest body of a plain inference, and the most that its tensors may take once they are unpacked: Triton's own bound for
 * JSON. One answer's tensors are bounded alike (SP_ANSWER_STRIDE). Beyond: SP_TOO_LARGE. */
#define SP_LIMIT_INFER_BODY_BYTES (64u * 1024 * 1024)

/* Bytes of all bodies in the house together. 256 slots of 32 MiB would be 8 GiB; this is what a small machine can hold
 * beside its models. Beyond: SP_BUSY for the one that would pass it. */
#define SP_LIMIT_BODIES_BYTES (512u * 1024 * 1024)

/* A body that is too large is still read and thrown away up to here (or SP_LIMIT_SWALLOW_MS), so that clients which
 * write everything before they read see the 413 instead of a reset. */
#define SP_LIMIT_SWALLOW_BYTES (128u * 1024 * 1024)
#define SP_LIMIT_SWALLOW_MS 5000

/* Largest picture we decode: 64 megapixels are 192 MB of RGB8, which one worker can hold beside its model. Decided
 * from the header, before a pixel is allocated: SP_TOO_LARGE. */
#define SP_LIMIT_IMAGE_PIXELS (64u * 1000 * 1000)

/* Longest side; 65,500 is JPEG's own bound, and it keeps width * 4 far below INT_MAX. SP_TOO_LARGE. */
#define SP_LIMIT_IMAGE_SIDE 65500

/* Largest video: an hour of 1080p at 2 Mbit/s. It is spooled to disk, never held in memory. Beyond: SP_TOO_LARGE. */
#define SP_LIMIT_VIDEO_BODY_BYTES (1024ull * 1024 * 1024)

/* Bodies of videos that are being handed in, all together, on disk: four of the largest. Beyond: SP_BUSY. And how many at once: each
 * holds two buffers (512 KiB) between the loop and the thread that writes. */
#define SP_LIMIT_UPLOADS_BYTES (4ull * SP_LIMIT_VIDEO_BODY_BYTES)
#define SP_LIMIT_UPLOADS 64

/* Pixels of one frame of a video: 8K (7,680 x 4,320) fits; the analysis holds about 120 bytes a pixel. Frames and seconds of one
 * video: six hours at 30 a second; the index has 8 bytes a frame, and the result of one chunk must fit an answer (64 MiB).
 * SP_TOO_LARGE, decided from the packets, before a frame is decoded. */
#define SP_LIMIT_VIDEO_PIXELS (34u * 1000 * 1000)
#define SP_LIMIT_VIDEO_FRAMES 650000u
#define SP_LIMIT_VIDEO_SECONDS 21600.0

/* The files of one report together, as a tar in memory: what the longest video's tables and a film of it may take, below what a
 * sandboxed process may write (worker/sandbox.h). SP_TOO_LARGE. */
#define SP_LIMIT_REPORT_BYTES (1000ull * 1024 * 1024)

/* Scans of one progressive JPEG. Encoders write about ten; each costs a pass over every coefficient, so a few KB of
 * empty scans could otherwise hold a core for minutes. SP_TOO_LARGE. */
#define SP_LIMIT_JPEG_SCANS 100

/* Scans times pixels: the largest picture may have 31 scans, a 20-megapixel one all 100. 8,000 x 8,000 pixels with 99
 * scans took 7 s here, which is too near to what the watchdog grants. SP_TOO_LARGE. */
#define SP_LIMIT_JPEG_SCAN_PIXELS (2000ull * 1000 * 1000)

/* One unpacked strip or tile of a TIFF file: a picture of the most pixels in 8-bit RGBA as a single strip fits. Beyond:
 * SP_TOO_LARGE. */
#define SP_LIMIT_TIFF_BLOCK_BYTES (256u * 1024 * 1024)

/* Metadata that we unpack while looking for the orientation (PNG's compressed text chunks). XMP packets have a few KB;
 * what is longer is read up to here. */
#define SP_LIMIT_IMAGE_TEXT_BYTES (256u * 1024)

/* Default and longest deadline of a request. 30 s is what most HTTP clients wait. */
#define SP_LIMIT_DEADLINE_DEFAULT_MS 30000
#define SP_LIMIT_DEADLINE_MAX_MS 600000

/* After a cancelled or expired lease, how long a worker may take to return it before it is killed. */
#define SP_LIMIT_LEASE_GRACE_MS 1000

/* Budget of one batch before its first p99 is known, and the least it ever is (DESIGN: max(2 s, 10 x p99)). */
#define SP_LIMIT_BATCH_BUDGET_MIN_MS 2000

/* Worker processes of one house; executor threads of one worker; items of one batch. */
#define SP_LIMIT_WORKERS 16
#define SP_LIMIT_EXECUTORS 16
#define SP_LIMIT_BATCH 32

/* Shares of the memory limit, in percent: from the first on new requests are told SP_BUSY, from the second on the largest
 * worker is ended by us (its requests go on elsewhere), before the kernel picks somebody for us. */
#define SP_LIMIT_MEMORY_SHED_PERCENT 92
#define SP_LIMIT_MEMORY_KILL_PERCENT 97

/* Attempts recorded for one request; later ones overwrite the last place. */
#define SP_LIMIT_ATTEMPTS 16

/* How long a body that crashed workers twice is refused, and how many such bodies are remembered (the oldest goes
 * first; each costs an attacker two worker restarts of a few hundred ms). */
#define SP_LIMIT_POISON_MS (10 * 60 * 1000)
#define SP_LIMIT_POISON_ENTRIES 256

/* An upload slower than this after the grace is answered 408: a slot is not a parking place. */
#define SP_LIMIT_UPLOAD_FLOOR_BYTES_PER_S (16 * 1024)
#define SP_LIMIT_UPLOAD_FLOOR_AFTER_MS 5000

/* Connections in all and from one address; beyond: refused at accept. */
#define SP_LIMIT_CONNECTIONS 1024
#define SP_LIMIT_CONNECTIONS_PER_ADDRESS 512

/* One HTTP connection's pool for request line, headers and the chunk being read. */
#define SP_LIMIT_HTTP_CONNECTION_BYTES (32u * 1024)

/* One log line; what is longer is cut and ends in "...". */
#define SP_LIMIT_LOG_LINE_BYTES 2048

/* JSON answers and metrics pages. */
#define SP_LIMIT_JSON_BYTES (1024u * 1024)

/* Model files; ImageNet classifiers are 5 to 500 MB, protobuf itself ends at 2 GiB. */
#define SP_LIMIT_MODEL_BYTES (2047u * 1024 * 1024)

/* Inputs + outputs of a model, and the text of one label. */
#define SP_LIMIT_MODEL_IO 64
#define SP_LIMIT_LABEL_BYTES 128

/* Classes of one classifier: ImageNet-21k has 21,843. The label file and spillway.json are bounded with them. */
#define SP_LIMIT_CLASSES 65536
#define SP_LIMIT_LABEL_FILE_BYTES (SP_LIMIT_CLASSES * SP_LIMIT_LABEL_BYTES)
#define SP_LIMIT_MODEL_SETTINGS_BYTES (64u * 1024)

/* Models of one repository. */
#define SP_LIMIT_MODELS 256

/* Named counters and histograms of one process. */
#define SP_LIMIT_METRICS 2048

#endif
