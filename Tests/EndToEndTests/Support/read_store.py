#!/usr/bin/env python3
"""Reads a LogStore without LogStore: written from docs/FORMAT.md alone, with Python's standard library.

    read_store.py DIRECTORY            prints OFFSET, STREAM, VERSION, TYPE, PAYLOAD as `logstore dump` does
    read_store.py DIRECTORY --cursors  prints NAME, PLACE for every cursor, sorted by name

Exit code 0; 1 when the store is damaged, with `damaged FILE @BYTE: reason` on standard error. A last write that a
crash cut short is left out and noted on standard error, and so is each gap that a repair has left: `missing FIRST..LAST`.
It never writes.
"""

import fcntl
import os
import struct
import sys
import time

HEADER_BYTES = 4096
FRAME_HEADER = struct.Struct("<IIQQIIIIII")
RECORD_HEADER = struct.Struct("<IIBBBBIQII")
FRAME_BYTES_MAX = 64 << 20
EVENT_BYTES_MAX = 16 << 20
SHORTEST_RECORD = RECORD_HEADER.size + 1
NONE = (1 << 64) - 1
EVENT, CURSOR, CURSOR_RESET, LOST_STREAM = 1, 2, 3, 4


def make_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = make_table()


def crc32c(*pieces):
    table = TABLE
    crc = 0xFFFFFFFF
    for piece in pieces:
        for byte in piece:
            crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Damaged(Exception):
    def __init__(self, path, position, reason):
        super().__init__(f"damaged {path} @{position}: {reason}")


class Invalid(Exception):
    """A frame that is not valid, for whatever reason."""


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def check_header(path, data, zeros, known=(1,)):
    """The version of a header whose checksum, version and zeros are right."""
    if crc32c(data[:-4]) != struct.unpack_from("<I", data, len(data) - 4)[0]:
        raise Damaged(path, len(data) - 4, "header checksum")
    (version,) = struct.unpack_from("<I", data, 8)
    if version > max(known):
        raise Damaged(path, 8, f"format version {version} is newer than this reader")
    if version not in known:
        raise Damaged(path, 8, f"format version {version}")
    for first, end in zeros(version):
        if data[first:end].strip(b"\0"):
            raise Damaged(path, first, "bytes that are to be zero")
    return version


def stream_key(name):
    """The upper 48 bits of a stream's hash, as six bytes."""
    mask = (1 << 64) - 1
    value = 0xCBF29CE484222325
    for byte in name:
        value = (value ^ byte) * 0x100000001B3 & mask
    value ^= value >> 32
    value = value * 0x9E3779B97F4A7C15 & mask
    value ^= value >> 29
    return (value >> 16).to_bytes(6, "big")


class Segment:
    def __init__(self, directory, name, store_id):
        self.path = os.path.join(directory, name)
        self.data = data = read_file(self.path)
        if len(data) < HEADER_BYTES:
            raise Damaged(self.path, len(data), "shorter than its header")
        if data[:8] != b"LSSEGMNT":
            raise Damaged(self.path, 0, "not a segment")
        zeros = lambda version: ((68, 72), (80 if version == 2 else 72, 4092))
        version = check_header(self.path, data[:HEADER_BYTES], zeros, (1, 2))
        self.length_field = struct.unpack_from("<I", data, 12)[0]
        self.base, self.previous, self.size, _, self.chain = struct.unpack_from("<QQQQI", data, 32)
        # Where the segment before ends: before the base offset, if there is a gap between.
        self.previous_end = struct.unpack_from("<Q", data, 72)[0] if version == 2 else self.base
        self.follows_gap = version == 2
        if version == 2 and not self.previous_end < self.base:
            raise Damaged(self.path, 72, "a gap that is none")
        if data[16:32] != store_id:
            raise Damaged(self.path, 16, "belongs to another store")
        if self.base != int(name[:20]):
            raise Damaged(self.path, 32, f"base offset {self.base} does not agree with the name")
        if self.length_field != HEADER_BYTES or self.size % 4096:
            raise Damaged(self.path, 12, "header length or file size")
        self.prefix = store_id + struct.pack("<Q", self.base)

    def header_passes(self, position):
        """Does a frame header with possible fields and a right header checksum stand here?"""
        if position + FRAME_HEADER.size > len(self.data):
            return False
        checksum, length, _, _, events, records, _, _, _, flags = FRAME_HEADER.unpack_from(self.data, position)
        if length % 8 or FRAME_HEADER.size + SHORTEST_RECORD * records > length or events > records or flags > 1:
            return False
        return position + length <= len(self.data) and checksum == crc32c(
            self.prefix, struct.pack("<Q", position), self.data[position + 4 : position + FRAME_HEADER.size]
        )

    def has_proof_behind(self, position):
        """Is there a frame header behind `position` that was written after it was known to be on disk?"""
        data = self.data
        # Most of the space behind the end is zeros, and a frame's length is not zero.
        end = len(data.rstrip(b"\0"))
        for candidate in range(position + 8, end, 8):
            if candidate + FRAME_HEADER.size > len(data):
                break
            (synced,) = struct.unpack_from("<I", data, candidate + 32)
            if position < synced <= candidate and self.header_passes(candidate):
                return True
        return False


class Reader:
    def __init__(self, directory):
        self.directory = directory
        path = os.path.join(directory, "store")
        data = read_file(path)
        if len(data) != 64 or data[:8] != b"LOGSTORE":
            raise Damaged(path, 0, "not a store file of 64 bytes")
        check_header(path, data, lambda _: ((12, 16), (40, 60)))
        self.store_id = data[16:32]
        self.offset = 0
        self.timestamp = 0
        self.versions = {}
        # How many gaps there were before a stream's last event: over one its versions may jump.
        self.gaps_before = {}
        self.gaps = []
        self.lost_versions = {}
        self.cursors = {}
        self.torn = None
        self.lock = None

    def durable_end(self):
        """The durable end that a living writer tells, as (offset, base offset of its segment, position in it).

        None when there is no writer; one is then kept out while this process lives.
        """
        path = os.path.join(self.directory, "lock")
        deadline = time.monotonic() + 10
        try:
            self.lock = open(path, "rb")
        except FileNotFoundError:
            return None
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                pass
            try:
                data = read_file(os.path.join(self.directory, "tail"))
            except FileNotFoundError:
                data = b""
            if len(data) >= 40:
                end, _, base, position, state, version, checksum = struct.unpack_from("<QQQIIII", data)
                if crc32c(data[:36]) == checksum and version == 1 and state == 2:
                    return end, base, position
            if time.monotonic() > deadline:
                raise Damaged(os.path.join(self.directory, "tail"), 0, "a writer lives, and tells no durable end")
            time.sleep(0.001)

    def events(self):
        """Yields (offset, stream, version, type, payload) in order."""
        durable = self.durable_end()
        names = sorted(n for n in os.listdir(self.directory) if n.endswith(".log") and len(n) == 24 and n[:20].isdigit())
        if not names:
            return
        segments = [Segment(self.directory, name, self.store_id) for name in names]
        if segments[0].base != 0 or segments[0].previous != NONE:
            raise Damaged(segments[0].path, 32, "not the first segment of a store")
        chain = 0
        for index, segment in enumerate(segments):
            successor = segments[index + 1] if index + 1 < len(segments) else None
            if index > 0 and segment.previous != segments[index - 1].base:
                raise Damaged(segment.path, 40, "the segment before this one is missing")
            if segment.previous_end != self.offset or segment.chain != chain:
                raise Damaged(segment.path, 32, "does not follow on from the segment before")
            if segment.follows_gap:
                self.gaps.append((self.offset, segment.base))
                self.offset = segment.base
            clean = None if successor or durable else self.clean()
            if clean and clean[2] != segment.base:
                raise Damaged(segment.path, 32, f"the last segment was {clean[2]} at the clean close")
            if successor is None and not durable and any(end > segment.base for end in self.index_ends()):
                raise Damaged(segment.path, len(segment.data), "has an index, but the segment after it is missing")
            if len(segment.data) < segment.size and (successor or clean or durable):
                raise Damaged(segment.path, len(segment.data), f"shorter than the {segment.size} bytes in its header")
            position = HEADER_BYTES
            chain = segment.chain
            while True:
                if successor and self.offset == successor.previous_end and chain == successor.chain and position > HEADER_BYTES:
                    self.expect_zeros(segment, position)
                    break
                if durable and segment.base == durable[1] and position == durable[2]:
                    if self.offset != durable[0]:
                        raise Damaged(segment.path, position, f"offset {self.offset} at the durable end {durable[0]}")
                    return
                if clean and position == clean[3]:
                    if self.offset != clean[1] or chain != clean[0]:
                        raise Damaged(segment.path, position, "another end than at the clean close")
                    self.expect_zeros(segment, position)
                    return
                try:
                    events, cursors, length, timestamp = self.frame(segment, position, chain)
                except Invalid as reason:
                    first = position == HEADER_BYTES
                    if first or successor or clean or durable or segment.has_proof_behind(position):
                        raise Damaged(segment.path, position, str(reason)) from None
                    if segment.data[position:].strip(b"\0"):
                        self.torn = f"{segment.path} @{position}: {reason}"
                    return
                (chain,) = struct.unpack_from("<I", segment.data, position)
                for _, stream, version, _, _ in events:
                    self.versions[stream] = version
                    self.gaps_before[stream] = len(self.gaps)
                for name, place, is_reset in cursors:
                    self.cursors[name] = place if is_reset else max(place, self.cursors.get(name, 0))
                self.offset += len(events)
                self.timestamp = timestamp
                position += length
                yield from events

    def index_ends(self):
        """The offsets at which index files end, by their names: <base>-<end>.idx."""
        for name in os.listdir(self.directory):
            base, dash, end = name[:-4].partition("-")
            if name.endswith(".idx") and dash and len(base) == len(end) == 20 and base.isdigit() and end.isdigit():
                yield int(end)

    def clean(self):
        path = os.path.join(self.directory, "clean")
        try:
            data = read_file(path)
        except FileNotFoundError:
            return None
        if len(data) != 64 or data[:8] != b"LSCLEAN1":
            raise Damaged(path, 0, "not a clean file of 64 bytes")
        check_header(path, data, lambda _: ((56, 60),))
        if data[16:32] != self.store_id:
            raise Damaged(path, 16, "belongs to another store")
        (chain,) = struct.unpack_from("<I", data, 12)
        end, base, position = struct.unpack_from("<QQQ", data, 32)
        return chain, end, base, position

    def expect_zeros(self, segment, position):
        rest = segment.data[position:].lstrip(b"\0")
        if rest:
            raise Damaged(segment.path, len(segment.data) - len(rest), "not zero behind the last frame")

    def frame(self, segment, position, chain):
        """Checks one frame; returns its events and cursors, and nothing of it counts before all of it is checked."""
        data = segment.data
        if position + FRAME_HEADER.size > len(data):
            raise Invalid("the file ends")
        if not segment.header_passes(position):
            raise Invalid("frame header checksum")
        (_, length, first, timestamp, event_count, record_count, synced, frame_chain, body, flags) = FRAME_HEADER.unpack_from(
            data, position
        )
        end = position + length
        if length < 48 or length % 8 or end > min(len(data), segment.size):
            raise Invalid(f"frame length {length}")
        if first != self.offset or frame_chain != chain or timestamp < self.timestamp or synced > position:
            raise Invalid("the frame does not follow on from the one before")
        if (position == HEADER_BYTES) != bool(flags & 1) or flags & 1 and event_count:
            raise Invalid("the first frame of a segment, and no other, is a cursor snapshot, without events")
        if length > FRAME_BYTES_MAX and not flags & 1:
            raise Invalid("the frame is over the limit")
        at = position + FRAME_HEADER.size
        events, cursors, checksums, versions = [], [], [], {}
        for _ in range(record_count):
            if at + RECORD_HEADER.size > end:
                raise Invalid("a record crosses the end of its frame")
            fields = RECORD_HEADER.unpack_from(data, at)
            checksum, size, kind, record_flags, name_length, type_length, metadata_length, number, relative, back = fields
            place = at + RECORD_HEADER.size + (16 if record_flags & 1 else 0)
            if back != at - position or size > end - at or place - at + name_length + type_length + metadata_length > size:
                raise Invalid("record length")
            if checksum != crc32c(segment.prefix, struct.pack("<Q", at), data[at + 4 : at + size]):
                raise Invalid(f"record checksum at {at}")
            checksums.append(checksum)
            name = data[place : place + name_length]
            kind_name = data[place + name_length : place + name_length + type_length]
            payload = data[place + name_length + type_length + metadata_length : at + size]
            if segment.base + relative != self.offset + len(events):
                raise Invalid(f"record offset at {at}")
            if kind == EVENT:
                if metadata_length + len(payload) > EVENT_BYTES_MAX:
                    raise Invalid(f"the event at {at} is over the limit")
                version = versions.get(name, self.versions.get(name, 0)) + 1
                may_jump = name not in versions and self.gaps_before.get(name, 0) < len(self.gaps)
                least = max(version, self.lost_versions.get(stream_key(name), 0) + 1 if self.lost_versions else 0)
                if not (number == version or may_jump and number >= least) or not name or not kind_name:
                    raise Invalid(f"version {number} at {at}, expected {version}")
                versions[name] = number
                events.append((self.offset + len(events), name, number, kind_name, payload))
            elif record_flags or type_length or metadata_length or payload:
                raise Invalid(f"a record at {at} with what only events have")
            elif kind in (CURSOR, CURSOR_RESET):
                cursors.append((name, number, kind == CURSOR_RESET))
            elif kind == LOST_STREAM and position == HEADER_BYTES and segment.follows_gap and len(name) == 6 and number:
                self.lost_versions[name] = max(number, self.lost_versions.get(name, 0))
            else:
                raise Invalid(f"record kind {kind} at {at}")
            at += size
        padding = data[at:end]
        if len(padding) > 7 or padding.strip(b"\0") or len(events) != event_count:
            raise Invalid("padding or number of events")
        if body != crc32c(struct.pack(f"<{len(checksums)}I", *checksums), padding):
            raise Invalid("body checksum")
        return events, cursors, length, timestamp


def escape(data):
    return data.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")


def main(arguments):
    directory = arguments[1]
    out = sys.stdout.buffer
    try:
        reader = Reader(directory)
        for offset, stream, version, kind, payload in reader.events():
            if "--cursors" not in arguments:
                fields = [str(offset).encode(), escape(stream), str(version).encode(), escape(kind), escape(payload)]
                out.write(b"\t".join(fields) + b"\n")
        if "--cursors" in arguments:
            for name, place in sorted(reader.cursors.items()):
                out.write(escape(name) + b"\t" + str(place).encode() + b"\n")
    except Damaged as damage:
        out.flush()
        print(damage, file=sys.stderr)
        return 1
    for first, end in reader.gaps:
        print(f"missing {first}..{end - 1}", file=sys.stderr)
    if reader.torn:
        print(f"note: torn: {reader.torn}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
