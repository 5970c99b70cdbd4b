// Frames and their records as docs/FORMAT.md defines them. This file owns the byte positions of their fields.
//
// A reader checks records in runs, one call for each run: a call and a test of every field from outside would cost more than
// the checksum of a small record.
//
// The functions keep no state and allocate nothing. Any thread may call them, each thread on a reader of its own.
#ifndef CFRAME_H
#define CFRAME_H

#include <stddef.h>
#include <stdint.h>

/// Byte positions in a frame's header, counted from the start of the frame, and the header's length.
enum {
  CFRAME_CHECKSUM_AT = 0,
  CFRAME_BYTE_COUNT_AT = 4,
  CFRAME_FIRST_OFFSET_AT = 8,
  CFRAME_TIMESTAMP_AT = 16,
  CFRAME_EVENT_COUNT_AT = 24,
  CFRAME_RECORD_COUNT_AT = 28,
  CFRAME_SYNCED_POSITION_AT = 32,
  CFRAME_CHAIN_AT = 36,
  CFRAME_BODY_CHECKSUM_AT = 40,
  CFRAME_FLAGS_AT = 44,
  CFRAME_HEADER_BYTE_COUNT = 48,
};

/// Byte positions in the fixed part of a record, counted from the start of the record, and the length of the fixed part.
enum {
  CRECORD_CHECKSUM_AT = 0,
  CRECORD_BYTE_COUNT_AT = 4,
  CRECORD_KIND_AT = 8,
  CRECORD_FLAGS_AT = 9,
  CRECORD_NAME_LENGTH_AT = 10,
  CRECORD_TYPE_LENGTH_AT = 11,
  CRECORD_METADATA_LENGTH_AT = 12,
  CRECORD_VERSION_AT = 16,
  CRECORD_RELATIVE_OFFSET_AT = 24,
  CRECORD_FRAME_DISTANCE_AT = 28,
  CRECORD_FIXED_BYTE_COUNT = 32,
};

/// The result of a check: sound, or the first thing that is wrong.
typedef enum {
  CFRAME_SOUND = 0,
  /// No header with a length and counts that fit, known flags, and a checksum that matches its bytes and position.
  CFRAME_NO_HEADER,
  /// No record with lengths that fit, known fields, and a checksum that matches its bytes and position.
  CFRAME_NO_RECORD,
  /// The record says that its frame begins elsewhere.
  CFRAME_OTHER_FRAME,
  /// The offset of a frame or a record does not continue the one before it.
  CFRAME_WRONG_OFFSET,
  /// The frame has more or fewer events than its header says.
  CFRAME_WRONG_COUNT,
  /// The bytes behind the last record are not padding: fewer than eight zeros.
  CFRAME_WRONG_PADDING,
  /// The body checksum does not match the records and the padding.
  CFRAME_WRONG_BODY,
  /// The frame was written after another frame than the one before it.
  CFRAME_WRONG_CHAIN,
} cframe_fault;

/// Reads the frames of one segment in order. All positions count bytes from the segment's start.
typedef struct {
  // Set by the caller.
  /// The segment's first byte.
  const uint8_t *bytes;
  /// The reader touches no byte from here on. A frame must end at or before it.
  uint64_t limit;
  uint64_t base_offset;
  /// The checksum's register after the store id and the base offset.
  uint32_t checksum_seed;

  // Kept by the reader: the frame that it is in.
  /// Records of the frame that are not checked yet. With 0 the reader is between two frames.
  uint32_t records_left;
  uint64_t frame_position;
  uint64_t frame_end;
  /// The position of the next record, or, between frames, of the next frame.
  uint64_t position;
  /// The offset of the next event minus the base offset.
  uint64_t relative_offset;
  uint64_t timestamp;
  uint32_t events_left;
  /// The register of the body checksum over the records so far.
  uint32_t body;
  uint32_t body_expected;
  /// The header checksum of the frame entered last, or the chain value that the segment's first frame must have. Compared
  /// only if `has_chain` is set; it is not where the reader begins in the middle of a segment.
  uint32_t chain;
  uint32_t has_chain;

  /// The run checked last: the number of its records and the position of the first.
  uint32_t run_records;
  uint64_t run_position;
  /// The position of the fault, after a fault.
  uint64_t fault_position;
} cframe_reader;

/// Returns 1 if a frame's header is at `position`: the frame ends before `limit`, the numbers of records and events fit its
/// length, the flags are known, and the checksum matches the bytes and the position. Does not check the records.
int cframe_is_header(
    const uint8_t *bytes, uint64_t limit, uint64_t position, uint64_t base_offset, uint32_t checksum_seed);

/// Returns 1 if a record is at `position`: it ends before `limit`, its lengths fit, its fields are possible, and its checksum
/// matches the bytes and the position. The record counts only if it lies before the durable end.
int cframe_is_record(const uint8_t *bytes, uint64_t limit, uint64_t position, uint32_t checksum_seed);

/// Checks the header of the frame at `position`, whatever its first offset, and moves to the frame's first record. The
/// reader must be between frames. A fault leaves the reader where it was; the same holds for the next two functions.
cframe_fault cframe_enter(cframe_reader *reader);

/// Checks the next records of the frame: those that begin within `byte_count` bytes, and at least one if there is one. With
/// the last record it also checks the frame as a whole: counts, padding, body checksum. The reader must be in a frame. On
/// success `run_records` records from `run_position` on are sound.
cframe_fault cframe_check(cframe_reader *reader, uint64_t byte_count);

/// As `cframe_check`. Between frames it enters the next frame first, whose first offset and chain must continue the frame
/// before.
cframe_fault cframe_advance(cframe_reader *reader, uint64_t byte_count);

/// Writes the checksums of `count` records that stand back to back from `records` on and are complete but for them. The
/// first record's position will be `position` in the segment with this `checksum_seed`. The records' lengths must be right.
/// Returns the register of the body checksum: `body`, continued with the records' checksums.
uint32_t cframe_finish_records(
    uint8_t *records, uint32_t count, uint64_t position, uint32_t checksum_seed, uint32_t body);

#endif
