/// An event to append. Nothing is checked here; ``LogStore/append(_:endsWithTask:)`` checks it against ``Limits``.
public struct NewEvent: Sendable, Hashable {
  /// The stream's id, 1…255 bytes of UTF-8. Two ids are the same if their bytes are.
  public var stream: String
  /// The event's type, 1…255 bytes of UTF-8.
  public var type: String
  /// The event's data, in any encoding; LogStore does not interpret it. With ``metadata`` at most ``Limits/eventBytes``.
  public var payload: [UInt8]
  /// Data about the event, such as a trace id, in any encoding; LogStore does not interpret it.
  public var metadata: [UInt8]
  /// Names this event in the whole store, and makes the append repeatable if all of its events have one: see
  /// ``LogStore/append(_:endsWithTask:)``. Without one, the event gets an id derived from its offset.
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

/// An event that was read: a copy that can be kept and sent anywhere. ``EventView`` is the borrowed form.
public struct Event: Sendable, Hashable {
  /// The position in the whole log, counted in events from 0, without gaps.
  public var offset: UInt64
  /// The stream's id.
  public var stream: String
  /// The position in the stream, from 1, without gaps.
  public var version: UInt64
  /// The event's type.
  public var type: String
  /// The id that the event was appended with, or the one derived from its offset.
  public var id: EventID
  /// Microseconds since 1970-01-01 UTC; never less than the time of an earlier offset.
  public var timestampMicroseconds: UInt64
  /// The event's metadata.
  public var metadata: [UInt8]
  /// The event's payload.
  public var payload: [UInt8]
}

/// The condition on a stream's last version for an append to happen.
public enum StreamCondition: Sendable, Hashable {
  /// The stream may be at any version, or not exist.
  case any
  /// The stream has no event.
  case noStream
  /// The stream has at least one event.
  case streamExists
  /// The last event has this version; 0 is the same as ``noStream``.
  case version(UInt64)
}

/// One atomic append: all of it becomes durable, or none.
public struct Append: Sendable {
  /// Events in order, for any number of streams. May be empty if ``cursors`` is not.
  public var events: [NewEvent]
  /// Conditions on streams, each stream named once. Streams without a condition are appended to at any version. A stream
  /// that gets no event may have a condition too.
  public var conditions: StreamConditions
  /// Checkpoints of consumers, committed together with the events.
  public var cursors: [CursorCommit]

  /// Events for any number of streams, conditions on streams, and cursors: all or nothing.
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

/// A consumer's checkpoint: the offset that it reads next.
///
/// A checkpoint behind the cursor's present one is refused with ``LogStoreError/cursorBehind(name:checkpoint:present:)``, unless
/// ``isReset`` moves the cursor back or ``mayLag`` lets it stay. Committing the present checkpoint again is no error and
/// changes nothing.
public struct CursorCommit: Sendable, Hashable {
  /// 1…255 bytes of UTF-8.
  public var name: String
  /// The offset to read next; at most the end of the log after this append.
  public var checkpoint: UInt64
  /// Sets the cursor even if this moves it back.
  public var isReset: Bool
  /// A checkpoint behind the cursor's present one changes nothing, and the append is not refused. For a consumer that
  /// commits from several tasks, where a later checkpoint may overtake an earlier one.
  public var mayLag: Bool
  /// In the log, the place of a cursor that is deleted.
  static let deletedOffset = UInt64.max
  /// Set by ``deleting(_:)``.
  private(set) var isDeletion = false

  /// Moves the cursor `name` to `checkpoint`, and creates it if there is none.
  public init(name: String, checkpoint: UInt64, isReset: Bool = false, mayLag: Bool = false) {
    self.name = name
    self.checkpoint = checkpoint
    self.isReset = isReset
    self.mayLag = mayLag
  }

  /// Deletes a cursor, atomically with the append that it is part of. Deleting a cursor that does not exist is no error.
  /// The name can be used again, from any offset.
  public static func deleting(_ name: String) -> CursorCommit {
    var commit = CursorCommit(name: name, checkpoint: Self.deletedOffset, isReset: true)
    commit.isDeletion = true
    return commit
  }
}

/// Where an append's events are in the log.
public struct Appended: Sendable, Hashable {
  /// The events' offsets, in the order of the append.
  public var offsets: Range<UInt64>
  /// The events' versions in their streams, in the order of the append.
  public var versions: [UInt64]
  /// The same append was made before. These are the original's offsets and versions, and nothing was written now.
  public var isRepeat: Bool
}

/// Limits that protect memory and the format. An append over one of them is refused before anything is written.
public enum Limits {
  /// Bytes of a stream id, an event type or a cursor's name.
  public static let nameBytes = 255
  /// Bytes of an event's metadata and payload together.
  public static let eventBytes = 16 << 20
  /// Bytes of one append on disk.
  public static let frameBytes = 64 << 20
  /// Cursors in a store; every new segment begins with a copy of all of them.
  public static let cursors = 1024
  /// Bytes of a segment file, smallest and largest.
  public static let segmentBytes = (64 << 10)...(1 << 30)
  /// Offsets and versions are below it, so that nobody who counts on from one can overflow. Only a forged log comes near.
  static let countLimit: UInt64 = 1 << 63
}
