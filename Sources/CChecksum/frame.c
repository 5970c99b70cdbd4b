#include "CFrame.h"

#include "crc32c.h"

enum {
  HEADER_BYTES = CFRAME_HEADER_BYTE_COUNT,
  RECORD_BYTES = CRECORD_FIXED_BYTE_COUNT,
  // A record's fixed part and a name of one byte.
  SHORTEST_RECORD_BYTES = RECORD_BYTES + 1,
  // A checksum covers everything behind itself.
  CHECKSUM_BYTES = 4,
  FLAG_SNAPSHOT = 1,
  ID_BYTES = 16,
  KIND_EVENT = 1,
  KIND_LOST_STREAM = 4,
  FLAG_ID = 1,
  CACHE_LINE_BYTES = 64,
  // As long as a run.
  PREFETCH_DISTANCE_BYTES = 8192,
};

/// The checksum that a header or a record of `length` bytes must begin with, at a position of the segment with this seed.
ALWAYS_INLINE uint32_t own_checksum(
    crc_function crc, uint32_t checksum_seed, uint64_t position, const uint8_t *bytes, uint32_t length) {
  return ~crc(crc(checksum_seed, (const uint8_t *)&position, 8), bytes + CHECKSUM_BYTES, length - CHECKSUM_BYTES);
}

/// Whether the fields of a record of `length` bytes, at least those of its fixed part, are possible.
ALWAYS_INLINE int has_possible_fields(const uint8_t *record, uint64_t length) {
  // Kind, flags and two lengths in one load.
  uint32_t kinds = load32(record + CRECORD_KIND_AT);
  uint64_t kind = kinds & 0xFF;
  uint64_t flags = kinds >> 8 & 0xFF;
  uint64_t name = kinds >> 16 & 0xFF;
  uint64_t type = kinds >> 24;
  uint64_t metadata = load32(record + CRECORD_METADATA_LENGTH_AT);
  // Sums of few bits: none can overflow.
  if (kind == KIND_EVENT) {
    // A version is at least 1 and less than 2^63, so that counting on from it cannot overflow.
    return (flags <= FLAG_ID) & (name > 0) & (type > 0) & ((int64_t)load64(record + CRECORD_VERSION_AT) > 0) &
           (RECORD_BYTES + flags * ID_BYTES + name + type + metadata <= length);
  }
  return kind > KIND_EVENT && kind <= KIND_LOST_STREAM && flags == 0 && name > 0 && type == 0 && metadata == 0 &&
         RECORD_BYTES + name == length;
}

/// Whether the fields of the header of a frame of `length` bytes are possible. This also tells a header from a record of 48
/// bytes, whose checksum covers the same bytes: where a header has its number of records, the record has its distance from
/// its frame, which is at least 48. No record fits into a frame of 48 bytes.
ALWAYS_INLINE int has_possible_counts(const uint8_t *header, uint32_t length) {
  uint64_t records = load32(header + CFRAME_RECORD_COUNT_AT);
  return (HEADER_BYTES + SHORTEST_RECORD_BYTES * records <= length) &
         (load32(header + CFRAME_EVENT_COUNT_AT) <= records) & (load32(header + CFRAME_FLAGS_AT) <= FLAG_SNAPSHOT);
}

ALWAYS_INLINE int is_header(
    const uint8_t *bytes, uint64_t limit, uint64_t position, uint64_t base_offset, uint32_t checksum_seed,
    crc_function crc) {
  if (position > limit || limit - position < HEADER_BYTES) {
    return 0;
  }
  const uint8_t *header = bytes + position;
  uint32_t length = load32(header + CFRAME_BYTE_COUNT_AT);
  if (length < HEADER_BYTES || length % 8 != 0 || length > limit - position) {
    return 0;
  }
  if (!has_possible_counts(header, length)) {
    return 0;
  }
  uint64_t first_offset = load64(header + CFRAME_FIRST_OFFSET_AT);
  return load32(header + CFRAME_CHECKSUM_AT) == own_checksum(crc, checksum_seed, position, header, HEADER_BYTES) &&
         first_offset >= base_offset && first_offset - base_offset <= UINT32_MAX;
}

ALWAYS_INLINE int is_record(
    const uint8_t *bytes, uint64_t limit, uint64_t position, uint32_t checksum_seed, crc_function crc) {
  if (position > limit || limit - position < RECORD_BYTES) {
    return 0;
  }
  const uint8_t *record = bytes + position;
  uint32_t length = load32(record + CRECORD_BYTE_COUNT_AT);
  if (length < RECORD_BYTES || length > limit - position) {
    return 0;
  }
  return load32(record + CRECORD_CHECKSUM_AT) == own_checksum(crc, checksum_seed, position, record, length) &&
         has_possible_fields(record, length);
}

ALWAYS_INLINE cframe_fault enter(cframe_reader *reader, crc_function crc) {
  uint64_t position = reader->position;
  if (!is_header(reader->bytes, reader->limit, position, reader->base_offset, reader->checksum_seed, crc)) {
    reader->fault_position = position;
    return CFRAME_NO_HEADER;
  }
  const uint8_t *header = reader->bytes + position;
  reader->frame_position = position;
  reader->frame_end = position + load32(header + CFRAME_BYTE_COUNT_AT);
  reader->position = position + HEADER_BYTES;
  reader->relative_offset = load64(header + CFRAME_FIRST_OFFSET_AT) - reader->base_offset;
  reader->timestamp = load64(header + CFRAME_TIMESTAMP_AT);
  reader->events_left = load32(header + CFRAME_EVENT_COUNT_AT);
  reader->records_left = load32(header + CFRAME_RECORD_COUNT_AT);
  reader->body = ~0u;
  reader->body_expected = load32(header + CFRAME_BODY_CHECKSUM_AT);
  reader->chain = load32(header + CFRAME_CHECKSUM_AT);
  reader->has_chain = 1;
  return CFRAME_SOUND;
}

#define FAULT(what, at)                                                                                                \
  do {                                                                                                                 \
    reader->fault_position = (at);                                                                                     \
    return (what);                                                                                                     \
  } while (0)

ALWAYS_INLINE cframe_fault check(cframe_reader *reader, uint64_t byte_count, crc_function crc) {
  const uint8_t *bytes = reader->bytes;
  const uint32_t checksum_seed = reader->checksum_seed;
  const uint64_t frame_position = reader->frame_position;
  const uint64_t frame_end = reader->frame_end;
  const uint64_t start = reader->position;
  const uint64_t run_end = byte_count < frame_end - start ? start + byte_count : frame_end;
  uint64_t position = start;
  uint64_t relative_offset = reader->relative_offset;
  uint32_t records_left = reader->records_left;
  uint32_t body = reader->body;
  if (records_left > 0) {
    do {
      // Invariant: position <= frame_end <= limit.
      if (!is_record(bytes, frame_end, position, checksum_seed, crc)) {
        FAULT(CFRAME_NO_RECORD, position);
      }
      const uint8_t *record = bytes + position;
      // Prefetches the next run while this one is checked and handed out. Processors prefetch by themselves, but some not
      // beyond a page, and none while nothing reads. Any address is harmless. What was just read needs no prefetch.
      uint64_t length = load32(record + CRECORD_BYTE_COUNT_AT);
      uint64_t ahead = length > PREFETCH_DISTANCE_BYTES ? length : PREFETCH_DISTANCE_BYTES;
      for (; ahead < length + PREFETCH_DISTANCE_BYTES; ahead += CACHE_LINE_BYTES) {
        __builtin_prefetch(record + ahead, 0, 2);
      }
      // Compares relative offset and distance, which are neighbours, in one load. A relative offset of more than 32 bits is
      // found below.
      if (load64(record + CRECORD_RELATIVE_OFFSET_AT) != (relative_offset | (position - frame_position) << 32)) {
        if (load32(record + CRECORD_FRAME_DISTANCE_AT) != position - frame_position) {
          FAULT(CFRAME_OTHER_FRAME, position + CRECORD_FRAME_DISTANCE_AT);
        }
        FAULT(CFRAME_WRONG_OFFSET, position + CRECORD_RELATIVE_OFFSET_AT);
      }
      relative_offset += record[CRECORD_KIND_AT] == KIND_EVENT;
      body = crc(body, record + CRECORD_CHECKSUM_AT, CHECKSUM_BYTES);
      position += load32(record + CRECORD_BYTE_COUNT_AT);
      records_left--;
    } while (records_left > 0 && position < run_end);
  }
  // The next record would begin where the frame ends. In a frame without padding only this test finds that before the run's
  // records are handed out.
  if (records_left > 0 && position == frame_end) {
    FAULT(CFRAME_NO_RECORD, position);
  }
  if (relative_offset > UINT32_MAX + 1ull) {
    FAULT(CFRAME_WRONG_OFFSET, start + CRECORD_RELATIVE_OFFSET_AT);
  }
  uint64_t events = relative_offset - reader->relative_offset;
  if (events > reader->events_left) {
    FAULT(CFRAME_WRONG_COUNT, frame_position + CFRAME_EVENT_COUNT_AT);
  }
  uint32_t events_left = reader->events_left - (uint32_t)events;
  if (records_left == 0) {
    if (events_left != 0) {
      FAULT(CFRAME_WRONG_COUNT, frame_position + CFRAME_EVENT_COUNT_AT);
    }
    if (frame_end - position >= 8) {
      FAULT(CFRAME_WRONG_PADDING, position);
    }
    for (uint64_t padding = position; padding < frame_end; padding++) {
      if (bytes[padding] != 0) {
        FAULT(CFRAME_WRONG_PADDING, position);
      }
    }
    if (~crc(body, bytes + position, frame_end - position) != reader->body_expected) {
      FAULT(CFRAME_WRONG_BODY, frame_position + CFRAME_BODY_CHECKSUM_AT);
    }
    position = frame_end;
  }
  reader->run_records = reader->records_left - records_left;
  reader->run_position = start;
  reader->position = position;
  reader->relative_offset = relative_offset;
  reader->records_left = records_left;
  reader->events_left = events_left;
  reader->body = body;
  return CFRAME_SOUND;
}

ALWAYS_INLINE cframe_fault advance(cframe_reader *reader, uint64_t byte_count, crc_function crc) {
  if (reader->records_left > 0) {
    return check(reader, byte_count, crc);
  }
  cframe_reader before = *reader;
  cframe_fault fault = enter(reader, crc);
  if (fault == CFRAME_SOUND && reader->relative_offset != before.relative_offset) {
    reader->fault_position = before.position + CFRAME_FIRST_OFFSET_AT;
    fault = CFRAME_WRONG_OFFSET;
  }
  if (fault == CFRAME_SOUND && before.has_chain &&
      load32(reader->bytes + before.position + CFRAME_CHAIN_AT) != before.chain) {
    reader->fault_position = before.position + CFRAME_CHAIN_AT;
    fault = CFRAME_WRONG_CHAIN;
  }
  if (fault == CFRAME_SOUND) {
    fault = check(reader, byte_count, crc);
  }
  if (fault != CFRAME_SOUND) {
    before.fault_position = reader->fault_position;
    *reader = before;
  }
  return fault;
}

ALWAYS_INLINE uint32_t finish_records(
    uint8_t *records, uint32_t count, uint64_t position, uint32_t checksum_seed, uint32_t body, crc_function crc) {
  while (count--) {
    uint32_t length = load32(records + CRECORD_BYTE_COUNT_AT);
    uint32_t checksum = own_checksum(crc, checksum_seed, position, records, length);
    memcpy(records + CRECORD_CHECKSUM_AT, &checksum, CHECKSUM_BYTES);
    body = crc(body, (const uint8_t *)&checksum, CHECKSUM_BYTES);
    records += length;
    position += length;
  }
  return body;
}

// Compiles every function once for each way, with the checksum inlined, and chooses between them.

#define WAY(name, target, crc)                                                                                         \
  target static int is_header_##name(                                                                                  \
      const uint8_t *bytes, uint64_t limit, uint64_t position, uint64_t base_offset, uint32_t checksum_seed) {         \
    return is_header(bytes, limit, position, base_offset, checksum_seed, crc);                                         \
  }                                                                                                                    \
  target static int is_record_##name(const uint8_t *bytes, uint64_t limit, uint64_t position, uint32_t checksum_seed) {\
    return is_record(bytes, limit, position, checksum_seed, crc);                                                      \
  }                                                                                                                    \
  target static cframe_fault enter_##name(cframe_reader *reader) { return enter(reader, crc); }                        \
  target static cframe_fault check_##name(cframe_reader *reader, uint64_t byte_count) {                                \
    return check(reader, byte_count, crc);                                                                             \
  }                                                                                                                    \
  target static cframe_fault advance_##name(cframe_reader *reader, uint64_t byte_count) {                              \
    return advance(reader, byte_count, crc);                                                                           \
  }                                                                                                                    \
  target static uint32_t finish_records_##name(                                                                        \
      uint8_t *records, uint32_t count, uint64_t position, uint32_t checksum_seed, uint32_t body) {                    \
    return finish_records(records, count, position, checksum_seed, body, crc);                                         \
  }

static uint32_t crc_default(uint32_t crc, const uint8_t *bytes, size_t length) {
  return cchecksum_crc32c_instruction(crc, bytes, length);
}

WAY(default, , crc_default)

#if defined(__x86_64__)

WAY(by_instruction, INSTRUCTION_TARGET, crc_by_instruction)
WAY(by_folding, FOLDING_TARGET, crc_by_folding)

#define CHOOSE(name, ...)                                                                                              \
  (crc32c_can_fold ? name##_by_folding(__VA_ARGS__)                                                                    \
                   : crc32c_has_instruction ? name##_by_instruction(__VA_ARGS__) : name##_default(__VA_ARGS__))

#else

#define CHOOSE(name, ...) name##_default(__VA_ARGS__)

#endif

int cframe_is_header(
    const uint8_t *bytes, uint64_t limit, uint64_t position, uint64_t base_offset, uint32_t checksum_seed) {
  return CHOOSE(is_header, bytes, limit, position, base_offset, checksum_seed);
}

int cframe_is_record(const uint8_t *bytes, uint64_t limit, uint64_t position, uint32_t checksum_seed) {
  return CHOOSE(is_record, bytes, limit, position, checksum_seed);
}

cframe_fault cframe_enter(cframe_reader *reader) { return CHOOSE(enter, reader); }

cframe_fault cframe_check(cframe_reader *reader, uint64_t byte_count) { return CHOOSE(check, reader, byte_count); }

cframe_fault cframe_advance(cframe_reader *reader, uint64_t byte_count) { return CHOOSE(advance, reader, byte_count); }

uint32_t cframe_finish_records(
    uint8_t *records, uint32_t count, uint64_t position, uint32_t checksum_seed, uint32_t body) {
  return CHOOSE(finish_records, records, count, position, checksum_seed, body);
}
