/// Consecutive sound records of one frame, with nothing lost between them.
struct SalvagedRun {
  var segment: Segment
  var records: [Record] = []
  /// The frame's time in microseconds since 1970. If its header is damaged, the time of the last frame before it.
  var timestamp: UInt64
  var hasOwnTimestamp: Bool
  /// The frame is the first of a segment: it holds the checkpoints of all cursors.
  var isSnapshot: Bool
  /// No record of the frame is lost.
  var isWholeFrame: Bool
  /// The size of the whole file; the last segment made from it may be as long.
  var fileByteCount: UInt64
}

/// Offsets whose events are missing.
struct SalvagedGap {
  var offsets: Range<UInt64>
  /// What was found in their place; nil if they were missing before, according to an earlier repair.
  var damage: Damage?
  /// What an index file says about them.
  var events: [LostEvent]
  /// What an earlier repair noted about streams.
  var streams: [LostStream]
}
