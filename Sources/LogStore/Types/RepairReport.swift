/// What a repair saved, and what it could not save.
public struct RepairReport: Sendable {
  /// Offsets that are a gap of the new store.
  public struct Missing: Sendable {
    /// The offsets that have no events.
    public var offsets: Range<UInt64>
    /// What was found in the events' place; nil if an earlier repair found them missing.
    public var damage: Damage?
    /// The events that an index file lists; all of them, if there was a sound index file for the segment.
    public var events: [LostEvent]
  }

  /// A segment file that was not used for the new store, since it is of another store, or of another history of this one:
  /// of a copy that was written to separately.
  public struct LeftOut: Sendable {
    /// The file's path.
    public var file: String
    /// The offsets of its events; empty for another store's file.
    public var offsets: Range<UInt64>
    /// Events in sound frames.
    public var events: UInt64
    /// Why the file was not used.
    public var reason: String
  }

  /// The offset after the last event, saved or missing: what the next event will get.
  public var endOffset: UInt64 = 0
  /// Events that were saved.
  public var events: UInt64 = 0
  /// In order. Together with the saved events these are all offsets up to ``endOffset``.
  public var missing: [Missing] = []
  /// The number of offsets in ``missing``.
  public var missingEvents: UInt64 { missing.reduce(0) { $0 + $1.offsets.length } }
  /// Saved events from frames that lost others. A frame holds one or more appends and does not record
  /// where one ends: an append that these events belong to may be incomplete.
  public var partial: [Range<UInt64>] = []
  /// Saved events whose time was lost with their frame's header: they have the time of the frame before.
  public var guessedTimes: [Range<UInt64>] = []
  /// Events were lost at the end of the log, or may have been where the disk can't read it, and nothing tells how many: the
  /// next events get offsets that the lost ones had.
  public var isEndUnknown = false
  /// Segment files that are no part of the new store. They contradict the files that are, which have more proof.
  public var leftOut: [LeftOut] = []
  /// Every damaged place, including those in files that hold no events.
  public var findings: [Damage] = []
  /// An unfinished write behind the end of the log: no loss.
  public var tornTail: Damage?
  /// Segment files of the new store.
  public var segments = 0
  /// Cursors of the new store.
  public var cursors = 0
  /// Bytes of the new store's frames and headers.
  public var bytes: UInt64 = 0

  mutating func addGuessedTime(_ offsets: Range<UInt64>) {
    if let last = guessedTimes.last, last.upperBound == offsets.lowerBound {
      guessedTimes[guessedTimes.count - 1] = last.lowerBound..<offsets.upperBound
    } else {
      guessedTimes.append(offsets)
    }
  }
}

/// One of several histories that a store's files belong to: copies that were written to separately, where nothing tells
/// which of them is the store's own.
public struct RepairHistory: Sendable, Hashable {
  /// The segment files that not all histories share, in order; empty for a history that has none of the others' files.
  public var files: [String]
  /// Events in all of the history's files.
  public var events: UInt64
  /// The offset after its last event; nil if it is only known that the log did not end as in the others.
  public var endOffset: UInt64?
  /// The file to name to keep this history.
  public var keeping: String
}

/// An event that can't be read, or could not be saved, as far as an index file tells.
public struct LostEvent: Sendable, Hashable {
  /// The event's offset in the log.
  public var offset: UInt64
  /// nil if no other event of the stream was saved.
  public var stream: String?
  /// The event's version in its stream.
  public var version: UInt64
  /// The upper 48 bits of the stream's hash: what an index has of a stream's name. ``key(ofStream:)`` makes it of a name;
  /// two streams share one in about one of 2^48 pairs.
  public var key: UInt64
}
