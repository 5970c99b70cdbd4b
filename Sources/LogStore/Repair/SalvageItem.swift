/// Sound records of one frame that follow one on another, with nothing lost between.
struct SalvagedRun {
  var segment: Segment
  var records: [Record] = []
  /// Microseconds since 1970 of the frame; if its header is damaged, that of the last frame before it.
  var timestamp: UInt64
  var hasOwnTimestamp: Bool
  /// The frame is a segment's first: it holds the places of all cursors.
  var isSnapshot: Bool
  /// No record of it is lost.
  var isWholeFrame: Bool
  /// The file as a whole: what is made of its last part may be as long.
  var fileByteCount: UInt64
}

/// Offsets whose events are not there.
struct SalvagedGap {
  var offsets: Range<UInt64>
  /// What was found where they should be; nil if they were missing before, as an earlier repair says.
  var damage: Damage?
  /// What an index tells of them.
  var events: [LostEvent]
  /// What an earlier repair has noted of streams.
  var streams: [LostStream]
}
