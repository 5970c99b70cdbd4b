// Frames and their records as docs/FORMAT.md has them: checked in runs, in one call for as many as are wanted, since a
// call and a look at each field from outside cost more than the checksum of a small record.
//
// Nothing is kept and nothing allocated; every function may be called from any thread, on a walk of its own.
#ifndef CFRAME_H
#define CFRAME_H

#include <stddef.h>
#include <stdint.h>

/// What is wrong with a frame, if anything.
typedef enum {
  CFRAME_SOUND = 0,
  /// No header with a length and counts that fit, known flags, and a checksum that matches its bytes and place.
  CFRAME_NO_HEADER,
  /// No record with lengths that fit, known fields, and a checksum that matches its bytes and place.
  CFRAME_NO_RECORD,
  /// A record that says that its frame begins elsewhere.
  CFRAME_OTHER_FRAME,
  /// A frame or a record whose offset does not continue what was before it.
  CFRAME_WRONG_OFFSET,
  /// More or fewer events than the header says.
  CFRAME_WRONG_COUNT,
  /// Bytes behind the last record that are not the padding: zeros, fewer than eight.
  CFRAME_WRONG_PADDING,
  /// A body checksum that does not match the records and the padding.
  CFRAME_WRONG_BODY,
  /// A frame that was written after another one than the one before it.
  CFRAME_WRONG_CHAIN,
} cframe_fault;

/// A walk over the frames of one segment. All positions are bytes from the segment's start.
typedef struct {
  // Set by the caller.
  /// The segment's first byte.
  const uint8_t *bytes;
  /// Nothing from here on is looked at; a frame must end at or before it.
  uint64_t limit;
  uint64_t base_offset;
  /// The checksum's register after the store id and the base offset.
  uint32_t place;

  // Kept by the walk: the frame that it is in.
  /// Records of the frame that are not checked yet. With 0 the walk stands between two frames.
  uint32_t records_left;
  uint64_t frame_position;
  uint64_t frame_end;
  /// Where the next record is, or, between frames, the next frame.
  uint64_t position;
  /// The offset of the next event less the base offset.
  uint64_t relative_offset;
  uint64_t timestamp;
  uint32_t events_left;
  /// The register of the body checksum, over the records so far.
  uint32_t body;
  uint32_t body_expected;
  /// The header checksum of the frame that was entered last, or what the segment's first frame must follow on from; looked
  /// at if `has_chain`: not where the walk begins in the middle.
  uint32_t chain;
  uint32_t has_chain;

  /// The records that were checked last, one after the other: how many, and where the first is.
  uint32_t run_records;
  uint64_t run_position;
  /// After a fault: where it is.
  uint64_t fault_position;
} cframe_reader;

/// Whether there is a header of a frame at `position`, with a length that fits before `limit`, numbers of records and events
/// that fit that length, known flags, and a checksum that matches its bytes and place. Says nothing about the records.
int cframe_is_header(const uint8_t *bytes, uint64_t limit, uint64_t position, uint64_t base_offset, uint32_t place);

/// Whether there is a record at `position`, with lengths that fit before `limit`, possible fields, and a checksum that
/// matches its bytes and place. It counts only if it lies before the durable end.
int cframe_is_record(const uint8_t *bytes, uint64_t limit, uint64_t position, uint32_t place);

/// Checks the header of the frame at `position`, whatever its first offset, and stands before its first record. The walk
/// must be between frames. After a fault it is where it was; so it is with the two that follow.
cframe_fault cframe_enter(cframe_reader *reader);

/// Checks the next records of the frame, as many as begin within `byte_count` bytes and at least one, if there is one;
/// with the last one also everything about the frame as a whole: counts, padding, body checksum. The walk must be in a
/// frame. On success `run_records` records from `run_position` on are sound.
cframe_fault cframe_check(cframe_reader *reader, uint64_t byte_count);

/// As `cframe_check`, and enters the next frame before, if the walk is between frames: its first offset and its chain must
/// continue the one before.
cframe_fault cframe_advance(cframe_reader *reader, uint64_t byte_count);

/// Writes the checksums of `count` records that stand one after the other from `records` on, complete but for them. The
/// first is to stand at `position` of the segment with this `place`. The lengths in them must be right. Gives back the
/// register of the body checksum, `body` continued with the records' checksums.
uint32_t cframe_finish_records(uint8_t *records, uint32_t count, uint64_t position, uint32_t place, uint32_t body);

#endif
