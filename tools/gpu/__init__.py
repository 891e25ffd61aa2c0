# SPDX-License-Identifier: Apache-2.0
"""The parts of tools/gpu-check, one module each. A part is a function that takes the house (house.py) and returns what it found as a
dict with "good" and perhaps "rows", "peers", "measured"; None = the pack has nothing for it.

    house.py       the pack, its environment, time, the device's memory        server.py     a server under load; the soak
    kernels.py     libraries, twins, benches of kernels; the engine alone      clips.py       videos, cuda0 beside cpu0
    peers.py       runs cpu_peers.py and torch_peers.py                        sanitizer.py   compute-sanitizer over the twins
    mission.py     what is aimed at, what came out, pass or not                report.py      JSON rows to Markdown

What a part needs of a pack (tools/gpu-pack): the files that are not there are said, and their part is left out.

    twins, sanitizer   bin/test_cuda_*, lib/libspillway_cuda.so
    kernels            bin/bench-gpu-*, by the manifest's "benches"; clips/yolox-head.f32 (tools/make_head.py) for a real output
    engine             bin/bench-gpu-ort, lib/libonnxruntime*
    server, soak       bin/spillway, lib/libspillway_engine_onnxruntime.so, lib/libonnxruntime*, lib/libspillway_cuda.so;
                       lib/libspillway_media.so (JPEG alone will do) and a picture in clips/*.jp*g for the rows from JPEG
    there              the manifest's "wants": libraries that the engine's provider wants of the machine
    clips              bin/spillway, lib/libspillway_media.so with its codecs, clips/*.mp4"""
