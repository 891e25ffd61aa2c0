#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns a FileDescriptorSet (protoc --descriptor_set_out --include_imports) into the tables of kserve/described.c:
describe.py IN OUT. Run by meson; needs nothing but Python.

inference.proto spells maps as the lists of entries that they are on the wire, since protobuf-c knows no maps. Those who ask
what the server speaks are told that they are maps: every nested message FooEntry{key = 1, value = 2} gets `map_entry`."""
import sys

# Field numbers of descriptor.proto.
SET_FILE = 1
FILE_NAME, FILE_PACKAGE, FILE_NEEDS, FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 1, 2, 3, 4, 5, 6
NAME, MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_OPTIONS, SERVICE_METHOD = 1, 2, 3, 4, 7, 2
MAP_ENTRY = bytes([7 << 3, 1])  # MessageOptions{map_entry = true}


def varint_read(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def fields(data):
    """[(number, kind, value)] of a message; descriptors have varints and lengths only."""
    out, at = [], 0
    while at < len(data):
        tag, at = varint_read(data, at)
        value, at = varint_read(data, at)
        if tag & 7 == 2:
            value, at = data[at:at + value], at + value
        elif tag & 7 != 0:
            raise SystemExit("describe.py: a descriptor has a field of kind %d" % (tag & 7))
        out.append((tag >> 3, tag & 7, value))
    return out


def written(parts):
    return b"".join(varint(n << 3 | kind) + (varint(len(v)) + v if kind == 2 else varint(v)) for n, kind, v in parts)


def every(parts, number):
    return [value for n, _, value in parts if n == number]


def name_of(data):
    return every(fields(data), NAME)[0].decode()


def as_maps(message, nested=False):
    parts = [(n, kind, as_maps(v, True) if n == MESSAGE_NESTED else v) for n, kind, v in fields(message)]
    entries = [name_of(field) for field in every(parts, MESSAGE_FIELD)] == ["key", "value"]
    if nested and entries and name_of(message).endswith("Entry") and not every(parts, MESSAGE_OPTIONS):
        parts.append((MESSAGE_OPTIONS, 2, MAP_ENTRY))
    return written(parts)


def symbols_of_message(message, scope):
    name = scope + name_of(message)
    yield name, True
    for inner in every(fields(message), MESSAGE_NESTED):
        yield from symbols_of_message(inner, name + ".")
    for enum in every(fields(message), MESSAGE_ENUM):
        yield name + "." + name_of(enum), False


def symbols_of_file(parts):
    """(full name, is a message)"""
    scope = every(parts, FILE_PACKAGE)[0].decode() + "."
    for message in every(parts, FILE_MESSAGE):
        yield from symbols_of_message(message, scope)
    for enum in every(parts, FILE_ENUM):
        yield scope + name_of(enum), False
    for service in every(parts, FILE_SERVICE):
        yield scope + name_of(service), False
        for method in every(fields(service), SERVICE_METHOD):
            yield scope + name_of(service) + "." + name_of(method), False


def needs_of(name, files, found):
    """The file and all that it imports, itself first."""
    if name not in found:
        found.append(name)
        for other in every(files[name], FILE_NEEDS):
            needs_of(other.decode(), files, found)
    return found


def main():
    files = {}
    for data in every(fields(open(sys.argv[1], "rb").read()), SET_FILE):
        parts = [(n, kind, as_maps(v) if n == FILE_MESSAGE else v) for n, kind, v in fields(data)]
        files[every(parts, FILE_NAME)[0].decode()] = parts
    order, symbols, services = list(files), [], []
    out = ["/* Made from the .proto files of this room; do not edit. */"]
    for i, name in enumerate(order):
        data = written(files[name])
        out.append("static const uint8_t file_%d[] = {" % i)
        out += ["".join("%d," % byte for byte in data[at:at + 32]) for at in range(0, len(data), 32)]
        out.append("};")
        package = every(files[name], FILE_PACKAGE)[0].decode()
        services += [package + "." + name_of(service) for service in every(files[name], FILE_SERVICE)]
        symbols += [(symbol, i, message) for symbol, message in symbols_of_file(files[name])]
    out.append("static const sp_described_file files[] = {")
    for i, name in enumerate(order):
        needs = [order.index(need) for need in needs_of(name, files, [])]
        views = ", ".join("{ file_%d, sizeof(file_%d) }" % (n, n) for n in needs)
        out.append('    { "%s", %d, { %s } },' % (name, len(needs), views))
    out += ["};", "static const sp_described_symbol symbols[] = {"]
    for symbol, i, message in sorted(symbols):
        out.append('    { "%s", %s, &files[%d] },' % (symbol, "true" if message else "false", i))
    listed = ", ".join('"%s"' % service for service in sorted(services))
    out += ["};", "static const char *const services[] = { %s, NULL };" % listed]
    open(sys.argv[2], "w").write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
