# SPDX-License-Identifier: Apache-2.0
"""H.264 in which every picture is a pair of fields, which no encoder at hand writes: 32 x 32, noise in I_PCM macroblocks.
Numbers in comments are sections of ITU-T H.264."""
import random


class Bits:
    def __init__(self):
        self.text = []

    def fixed(self, count, value):
        self.text.append(format(value, f"0{count}b"))

    def golomb(self, value):  # ue(v), 9.1
        digits = format(value + 1, "b")
        self.text.append("0" * (len(digits) - 1) + digits)

    def align(self):
        self.text = ["".join(self.text)]
        self.text.append("0" * (-len(self.text[0]) % 8))

    def raw(self, data):
        self.text.append("".join(format(byte, "08b") for byte in data))

    def nal(self, header):
        """With the stop bit, emulation prevention and a start code (7.3.1, annex B)."""
        self.text.append("1")
        self.align()
        text = "".join(self.text)
        out, zeros = bytearray((0, 0, 0, 1, header)), 0
        for at in range(0, len(text), 8):
            byte = int(text[at:at + 8], 2)
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


def parameters():
    sps = Bits()
    for count, value in ((8, 77), (8, 0), (8, 30)):  # main profile, level 3
        sps.fixed(count, value)
    for value in (0, 4, 2, 2):  # id, 8 bits of frame_num, order as decoded, two references
        sps.golomb(value)
    sps.fixed(1, 0)
    sps.golomb(1)  # two macroblocks wide
    sps.golomb(0)  # one pair of rows high
    sps.fixed(6, 0b001000)  # fields allowed, no adaptive ones; 8x8 inference; no cropping, no VUI
    pps = Bits()
    for value in (0, 0):
        pps.golomb(value)
    pps.fixed(2, 0)  # CAVLC
    for value in (0, 0, 0):
        pps.golomb(value)
    pps.fixed(3, 0)
    for value in (0, 0, 0):
        pps.golomb(value)
    pps.fixed(3, 0b100)  # deblocking may be switched off
    return sps.nal(0x67) + pps.nal(0x68)


def field(frame_number, bottom, idr, rng):
    bits = Bits()
    for value in (0, 7, 0):  # first macroblock, I slice, parameters
        bits.golomb(value)
    bits.fixed(8, frame_number)
    bits.fixed(2, 2 + bottom)  # a field
    if idr:
        bits.golomb(0)
        bits.fixed(2, 0)
    else:
        bits.fixed(1, 0)
    bits.golomb(0)
    bits.golomb(1)  # no deblocking
    for _ in range(2):
        bits.golomb(25)  # I_PCM
        bits.align()
        bits.raw(bytes(rng.randrange(16, 236) for _ in range(256)) + bytes([128]) * 128)
    return bits.nal(0x65 if idr else 0x41)


def field_coded_h264(frames, group):
    rng = random.Random(1)
    delimiter, out = b"\0\0\0\1\x09\xf0", []
    for i in range(frames):
        first = i % group == 0
        out += [delimiter, parameters() if first else b"", field(i % group, 0, first, rng)]
        out += [delimiter, field(i % group, 1, False, rng)]
    return b"".join(out)
