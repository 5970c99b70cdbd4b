/// An event to be appended. Nothing is checked here; ``LogStore/append(_:endsWithTask:)`` checks against ``Limits``.
public struct NewEvent: Sendable, Hashable {
  /// The stream's id, 1…255 bytes of UTF-8. Two ids are the same when their bytes are.
  public var stream: String
  /// The event's type, 1…255 bytes of UTF-8.
  public var type: String
  /// The event's data, in any encoding; LogStore does not look at it. With ``metadata`` at most ``Limits/eventBytes``.
  public var payload: [UInt8]
  /// Data about the event, such as a trace's id, in any encoding; LogStore does not look at it.
  public var metadata: [UInt8]
  /// Names this event in the whole store, and makes the append repeatable if all of its events have one: see
  /// ``LogStore/append(_:endsWithTask:)``. Without one the event gets an id derived from its place.
  public var id: EventID?

  /// An event for `stream`, without metadata and without an id of its own unless they are given.
  public init(stream: String, type: String, payload: [UInt8], metadata: [UInt8] = [], id: EventID? = nil) {
    self.stream = stream
    self.type = type
    self.payload = payload
    self.metadata = metadata
    self.id = id
  }
}

/// An event as it was read: a copy that may be kept and sent anywhere. ``EventView`` is the borrowed form.
public struct Event: Sendable, Hashable {
  /// Place in the whole log, from 0, without gaps.
  public var offset: UInt64
  /// The stream's id.
  public var stream: String
  /// Place in the stream, from 1, without gaps.
  public var version: UInt64
  /// The event's type.
  public var type: String
  /// The id that the event was appended with, or the one derived from its place.
  public var id: EventID
  /// Microseconds since 1970-01-01 UTC; never less than that of an earlier offset.
  public var timestampMicroseconds: UInt64
  /// The bytes that the event was appended with as its metadata.
  public var metadata: [UInt8]
  /// The bytes that the event was appended with as its payload.
  public var payload: [UInt8]
}

/// What a stream's last version must be for an append to happen.
public enum StreamCondition: Sendable, Hashable {
  /// The stream may be at any version, or not exist.
  case any
  /// The stream has no event.
  case noStream
  /// The stream has at least one event.
  case streamExists
  /// The last event's version; 0 is the same as ``noStream``.
  case version(UInt64)
}

/// One atomic append: all of it becomes durable, or none.
public struct Append: Sendable {
  /// Events in order; for any number of streams. May be empty if ``cursors`` is not.
  public var events: [NewEvent]
  /// Conditions on streams, each stream named once. Streams without one are appended to at any version.
  /// A stream may be named that gets no event.
  public var conditions: StreamConditions
  /// Places of consumers, committed together with the events.
  public var cursors: [CursorCommit]

  /// Events for any number of streams, conditions on streams, and cursors, all or nothing.
  public init(_ events: [NewEvent], conditions: StreamConditions = [:], cursors: [CursorCommit] = []) {
    self.events = events
    self.conditions = conditions
    self.cursors = cursors
  }

  /// One event for one stream.
  public init(_ event: NewEvent, expecting condition: StreamCondition = .any, cursors: [CursorCommit] = []) {
    self.init([event], conditions: StreamConditions(event.stream, condition), cursors: cursors)
  }
}

/// A consumer's durable place: the offset that it reads next.
///
/// A place behind the cursor's present one is refused with ``LogStoreError/cursorBehind(name:checkpoint:present:)``, unless
/// ``isReset`` moves the cursor back or ``mayLag`` lets it stay. The present place is no error, and changes nothing.
public struct CursorCommit: Sendable, Hashable {
  /// 1…255 bytes of UTF-8.
  public var name: String
  /// The offset to read next; at most the end of the log as it is after this append.
  public var checkpoint: UInt64
  /// Sets the cursor to the place, also if that is behind its present one.
  public var isReset: Bool
  /// A place behind the cursor's present one changes nothing, and the append is not refused: for a consumer that commits from
  /// several tasks, where a later place may overtake an earlier one.
  public var mayLag: Bool
  /// In the log, the place of a cursor that is deleted.
  static let deletedOffset = UInt64.max
  /// Made by ``deleting(_:)``.
  private(set) var isDeletion = false

  /// Moves the cursor `name` to `checkpoint`, and makes the cursor if there is none.
  public init(name: String, checkpoint: UInt64, isReset: Bool = false, mayLag: Bool = false) {
    self.name = name
    self.checkpoint = checkpoint
    self.isReset = isReset
    self.mayLag = mayLag
  }

  /// Deletes a cursor, atomically with the append that it is part of; one that isn't there is no error. The name can be used
  /// again, from any place on.
  public static func deleting(_ name: String) -> CursorCommit {
    var commit = CursorCommit(name: name, checkpoint: Self.deletedOffset, isReset: true)
    commit.isDeletion = true
    return commit
  }
}

/// Where an append's events are.
public struct Appended: Sendable, Hashable {
  /// The events' offsets, in the order given.
  public var offsets: Range<UInt64>
  /// The events' versions in their streams, in the order given.
  public var versions: [UInt64]
  /// The same append was made before; these are the first one's places, and nothing was written now.
  public var isRepeat: Bool
}

/// Bounds that protect memory and the format; an append over one of them is refused before anything is written.
public enum Limits {
  /// Bytes of a stream id, an event type or a cursor's name.
  public static let nameBytes = 255
  /// Bytes of metadata and payload together.
  public static let eventBytes = 16 << 20
  /// Bytes of one append on disk.
  public static let frameBytes = 64 << 20
  /// Cursors in a store; every new segment begins with a copy of all.
  public static let cursors = 1024
  /// Bytes of a segment file, smallest and largest.
  public static let segmentBytes = (64 << 10)...(1 << 30)
  /// Offsets and versions are below it, so that nobody who counts on from one can overflow. Only a forged log comes near.
  static let countLimit: UInt64 = 1 << 63
}
