/// An append as the caller's task has encoded it, so that the one committing thread has little left to do: records back
/// to back, complete but for what only their place decides (version, offset, checksum).
struct EncodedAppend: Sendable {
  struct Event: Sendable {
    var start: Int
    var byteCount: Int
    /// Index in ``streams``.
    var stream: Int
    var id: EventID?
  }

  struct Stream: Sendable {
    var key: StreamKey
    var condition: StreamCondition
  }

  struct Cursor: Sendable {
    var start: Int
    var byteCount: Int
    var name: [UInt8]
    var place: UInt64
    var isReset: Bool
  }

  var bytes: [UInt8] = []
  var events: [Event] = []
  /// Each stream once.
  var streams: [Stream] = []
  var cursors: [Cursor] = []

  /// Checks an append against the limits and encodes it.
  init(_ append: Append) throws(LogStoreError) {
    guard !append.events.isEmpty || !append.cursors.isEmpty else {
      throw .invalidArgument("an append without events and cursors")
    }
    var byteCount = 0
    for event in append.events {
      byteCount += Record.byteCount + Record.idByteCount + event.stream.utf8.count + event.type.utf8.count
      byteCount += event.metadata.count + event.payload.count
    }
    guard byteCount <= Limits.frameBytes else { throw Self.tooLarge(byteCount) }
    bytes.reserveCapacity(byteCount)
    events.reserveCapacity(append.events.count)
    streams.reserveCapacity(append.events.count)
    var conditions: [StreamKey: StreamCondition] = [:]
    for (name, condition) in append.conditions { conditions[StreamKey(Array(name.utf8))] = condition }
    var known: [StreamKey: Int] = [:]
    for event in append.events {
      try encode(event, &known, conditions)
    }
    for (key, condition) in conditions where known[key] == nil {
      try Self.check(key.name.count, "the stream id's length in bytes")
      streams.append(Stream(key: key, condition: condition))
    }
    for cursor in append.cursors { try encode(cursor) }
    guard bytes.count + FrameHeader.byteCount + 8 <= Limits.frameBytes else { throw Self.tooLarge(bytes.count) }
  }

  private mutating func encode(
    _ event: NewEvent, _ known: inout [StreamKey: Int], _ conditions: [StreamKey: StreamCondition]
  ) throws(LogStoreError) {
    let name = Array(event.stream.utf8)
    try Self.check(name.count, "the stream id's length in bytes")
    try Self.check(event.type.utf8.count, "the event type's length in bytes")
    let content = event.metadata.count + event.payload.count
    guard content <= Limits.eventBytes else {
      throw .limitExceeded(
        what: "the size of metadata and payload in bytes", actual: UInt64(content), limit: UInt64(Limits.eventBytes))
    }
    let key = StreamKey(name)
    let stream = known[key] ?? streams.count
    if stream == streams.count {
      known[key] = stream
      streams.append(Stream(key: key, condition: conditions[key] ?? .any))
    }
    let start = bytes.count
    appendHeader(
      .event, nameLength: name.count, typeLength: event.type.utf8.count, metadataLength: event.metadata.count,
      payloadLength: event.payload.count, id: event.id)
    bytes.append(contentsOf: name)
    bytes.append(contentsOf: event.type.utf8)
    if !event.metadata.isEmpty { bytes.append(contentsOf: event.metadata) }
    bytes.append(contentsOf: event.payload)
    events.append(Event(start: start, byteCount: bytes.count - start, stream: stream, id: event.id))
  }

  private mutating func encode(_ cursor: CursorCommit) throws(LogStoreError) {
    let name = Array(cursor.name.utf8)
    try Self.check(name.count, "the cursor name's length in bytes")
    let start = bytes.count
    bytes.append(contentsOf: Self.cursorRecord(name: name, isReset: cursor.isReset))
    cursors.append(
      Cursor(
        start: start, byteCount: bytes.count - start, name: name, place: cursor.place, isReset: cursor.isReset))
  }

  /// A cursor's record without its place; also for snapshots.
  static func cursorRecord(name: [UInt8], isReset: Bool) -> [UInt8] {
    var encoded = EncodedAppend()
    encoded.appendHeader(
      isReset ? .cursorReset : .cursor, nameLength: name.count, typeLength: 0, metadataLength: 0, payloadLength: 0,
      id: nil)
    encoded.bytes.append(contentsOf: name)
    return encoded.bytes
  }

  private init() {}

  /// Checksum, version, offset and distance stay zero: only the record's place decides them.
  private mutating func appendHeader(
    _ kind: RecordKind, nameLength: Int, typeLength: Int, metadataLength: Int, payloadLength: Int, id: EventID?
  ) {
    let byteCount = Record.byteCount + (id == nil ? 0 : Record.idByteCount)
    withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 8) { header in
      header.initializeMemory(as: UInt8.self, repeating: 0)
      header.set(UInt32(byteCount + nameLength + typeLength + metadataLength + payloadLength), at: 4)
      header[8] = kind.rawValue
      header[9] = id == nil ? 0 : Record.idFlag
      header[10] = UInt8(nameLength)
      header[11] = UInt8(typeLength)
      header.set(UInt32(metadataLength), at: 12)
      if let id {
        header.set(id.high.byteSwapped, at: Record.byteCount)
        header.set(id.low.byteSwapped, at: Record.byteCount + 8)
      }
      bytes.append(contentsOf: UnsafeRawBufferPointer(header))
    }
  }

  private static func check(_ length: Int, _ what: String) throws(LogStoreError) {
    guard length > 0 else { throw .invalidArgument("\(what) is 0, at least 1 is needed") }
    guard length <= Limits.nameBytes else {
      throw .limitExceeded(what: what, actual: UInt64(length), limit: UInt64(Limits.nameBytes))
    }
  }

  private static func tooLarge(_ byteCount: Int) -> LogStoreError {
    .limitExceeded(
      what: "the size of the append in bytes", actual: UInt64(byteCount), limit: UInt64(Limits.frameBytes))
  }
}
