import CLinux

/// An append, encoded by the caller's task so that the single commit thread has little left to do. The records lie back to
/// back and are complete except for what depends on their position (version, offset, distance, checksum).
///
/// Two allocations, and one more for several events or for cursors. Keep it so.
struct EncodedAppend: Sendable {
  struct Stream: Sendable {
    var hash: UInt64
    /// The position of the stream's name in ``bytes``.
    var namePosition: Int
    var nameLength: Int
    var condition: StreamCondition
  }

  struct Cursor: Sendable {
    var start: Int
    var byteCount: Int
    var name: [UInt8]
    var checkpoint: UInt64
    var isReset: Bool
    var mayLag: Bool
    var isDeletion: Bool
  }

  /// The names of streams with conditions, then the events' records, then the cursors'.
  private(set) var bytes: [UInt8]
  private(set) var eventsStart = 0
  private(set) var eventsByteCount = 0
  private(set) var eventCount: Int
  /// Each stream once, including streams without events.
  private(set) var streams: [Stream] = []
  /// The index of each event's stream. Empty if only one stream has events; that is the last one.
  private(set) var streamOfEvent: [UInt32] = []
  private(set) var cursors: [Cursor] = []
  private(set) var hasIDs = false

  /// Checks an append against the limits and encodes it.
  init(_ append: Append) throws(LogStoreError) {
    let sizes = try Self.check(append)
    eventCount = append.events.count
    var encoder = Encoder(eventCount: append.events.count, conditionCount: append.conditions.count)
    bytes = [UInt8](unsafeUninitializedCapacity: sizes.byteCount) { buffer, initialized in
      encoder.encode(append, into: UnsafeMutableRawBufferPointer(buffer))
      initialized = encoder.position
    }
    eventsStart = encoder.eventsStart
    eventsByteCount = encoder.eventsEnd - encoder.eventsStart
    streams = encoder.streams
    streamOfEvent = encoder.streamOfEvent
    cursors = encoder.cursors
    hasIDs = sizes.hasIDs
  }

  /// Bytes of all records.
  var recordByteCount: Int { bytes.count - eventsStart }

  /// An event as the caller gave it.
  struct Given {
    /// The position of its record in ``EncodedAppend/bytes``.
    var position: Int
    var id: EventID?
  }

  /// The events with the ids that the caller gave. Costs an allocation.
  var given: [Given] {
    bytes.withUnsafeBytes { bytes in
      var position = eventsStart
      return (0..<eventCount).map { _ in
        let start = position
        position += Record.byteCount(in: bytes, at: start)
        return Given(position: start, id: Record.storedID(in: bytes, at: start))
      }
    }
  }

  /// The index of an event's stream.
  @inline(__always)
  func stream(of event: Int) -> Int {
    streamOfEvent.isEmpty ? streams.count - 1 : Int(streamOfEvent[event])
  }

  func key(of stream: Int) -> StreamKey {
    StreamKey(Array(nameBytes(of: stream)), hash: streams[stream].hash)
  }

  func name(of stream: Int) -> String { String(decoding: nameBytes(of: stream), as: UTF8.self) }

  private func nameBytes(of stream: Int) -> ArraySlice<UInt8> {
    bytes[streams[stream].namePosition..<streams[stream].namePosition + streams[stream].nameLength]
  }

  // MARK: - Limits

  private struct Sizes {
    var byteCount = 0
    var hasIDs = false
  }

  private static func check(_ append: Append) throws(LogStoreError) -> Sizes {
    guard !append.events.isEmpty || !append.cursors.isEmpty else {
      throw .invalidArgument("an append without events and cursors")
    }
    var sizes = Sizes()
    var mayShareIDs = false
    // Spans, here and where they are copied: holding a payload would count a reference, which writes to the very memory
    // that is still to be fetched.
    let events = append.events.span
    for index in events.indices {
      let name = events[index].stream.utf8.count
      let type = events[index].type.utf8.count
      let content = events[index].metadata.count + events[index].payload.count
      try check(name, "the stream id's length in bytes")
      try check(type, "the event type's length in bytes")
      guard content <= Limits.eventBytes else {
        throw .limitExceeded(
          what: "the size of metadata and payload in bytes", actual: UInt64(content), limit: UInt64(Limits.eventBytes))
      }
      if events.count > 1 { prefetch(events[index].payload.span.bytes) }
      let hasID = events[index].id != nil
      if hasID, sizes.hasIDs { mayShareIDs = true }
      sizes.hasIDs = sizes.hasIDs || hasID
      sizes.byteCount += Record.byteCount + (hasID ? Record.idByteCount : 0) + name + type + content
    }
    if mayShareIDs { try checkIDs(append.events) }
    for index in append.cursors.indices {
      try check(append.cursors[index].name.utf8.count, "the cursor name's length in bytes")
      sizes.byteCount += Record.byteCount + append.cursors[index].name.utf8.count
    }
    // The bytes that one frame has to hold. The names of conditions are not written.
    let frameByteCount = sizes.byteCount + FrameHeader.byteCount + 8
    guard frameByteCount <= Limits.frameBytes else {
      throw .limitExceeded(
        what: "the size of the append in bytes, with its frame,", actual: UInt64(frameByteCount),
        limit: UInt64(Limits.frameBytes))
    }
    for (name, _) in append.conditions {
      try check(name.utf8.count, "the stream id's length in bytes")
      sizes.byteCount += name.utf8.count
    }
    return sizes
  }

  /// Refuses two events with one id: an id names one event.
  private static func checkIDs(_ events: [NewEvent]) throws(LogStoreError) {
    var known: [EventID: Int] = [:]
    known.reserveCapacity(events.count)
    for (index, event) in events.enumerated() {
      guard let id = event.id, let before = known.updateValue(index, forKey: id) else { continue }
      throw .invalidArgument(
        "the append's events \(before) and \(index), counted from 0, have the same id \(id); give each an id of its own"
      )
    }
  }

  /// Prefetches what is copied soon, for all events of an append at once: they may be anywhere in memory.
  @inline(__always)
  private static func prefetch(_ bytes: RawSpan) {
    bytes.withUnsafeBytes { bytes in
      guard let start = bytes.baseAddress else { return }
      // The processor fetches the rest of a large one by itself.
      for position in stride(from: 0, to: min(bytes.count, 512), by: 64) { clinux_prefetch(start + position) }
    }
  }

  private static func check(_ length: Int, _ what: String) throws(LogStoreError) {
    guard length > 0 else { throw .invalidArgument("\(what) is 0, at least 1 is needed") }
    guard length <= Limits.nameBytes else {
      throw .limitExceeded(what: what, actual: UInt64(length), limit: UInt64(Limits.nameBytes))
    }
  }

  /// A cursor's record without its checkpoint, for snapshots.
  static func cursorRecord(name: [UInt8]) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: Record.byteCount + name.count) { buffer, initialized in
      let bytes = UnsafeMutableRawBufferPointer(buffer)
      Record.begin(
        bytes, .cursor, nameLength: name.count, typeLength: 0, metadataLength: 0, payloadLength: 0, id: nil)
      UnsafeMutableRawBufferPointer(rebasing: bytes[Record.byteCount...]).copyBytes(from: name)
      initialized = buffer.count
    }
  }
}

/// Writes an append's bytes. Their number is known and their limits are checked.
private struct Encoder {
  /// Above this many streams, they are looked up in a table.
  private static let fewStreams = 8

  private(set) var position = 0
  private(set) var eventsStart = 0
  private(set) var eventsEnd = 0
  private(set) var streams: [EncodedAppend.Stream] = []
  private(set) var streamOfEvent: [UInt32] = []
  private(set) var cursors: [EncodedAppend.Cursor] = []

  init(eventCount: Int, conditionCount: Int) {
    streams.reserveCapacity(max(conditionCount, min(eventCount, Self.fewStreams)))
  }

  mutating func encode(_ append: Append, into bytes: UnsafeMutableRawBufferPointer) {
    // Most appends have one event and a condition on its stream; that condition needs no name of its own.
    if append.conditions.count == 1, append.events.count == 1,
      let (name, condition) = append.conditions.first, sameBytes(name, append.events[0].stream)
    {
      encodeEvents(append, into: bytes)
      streams[0].condition = condition
    } else {
      for (name, condition) in append.conditions {
        let start = position
        put(name, into: bytes)
        streams.append(
          EncodedAppend.Stream(
            hash: streamHash(UnsafeRawBufferPointer(bytes).part(start, position - start)), namePosition: start,
            nameLength: position - start, condition: condition))
      }
      encodeEvents(append, into: bytes)
    }
    eventsEnd = position
    if append.events.isEmpty { eventsStart = position }
    for index in append.cursors.indices { encode(append.cursors[index], into: bytes) }
  }

  private mutating func encodeEvents(_ append: Append, into bytes: UnsafeMutableRawBufferPointer) {
    eventsStart = position
    let count = append.events.count
    if count > 1 { streamOfEvent.reserveCapacity(count) }
    // Twice as many slots as there can be streams.
    let slotCount = count + streams.count > Self.fewStreams ? powerOfTwo(atLeast: 2 * (count + streams.count)) : 0
    withUnsafeTemporaryAllocation(of: UInt32.self, capacity: max(slotCount, 1)) { slots in
      let slots = UnsafeMutableBufferPointer(rebasing: slots[..<slotCount])
      slots.initialize(repeating: 0)
      for index in streams.indices where slotCount > 0 { slots[free(streams[index].hash, slots)] = UInt32(index) + 1 }
      let events = append.events.span
      for index in events.indices {
        let stream = encode(events, index, into: bytes, slots)
        if count > 1 {
          streamOfEvent.append(UInt32(stream))
        } else if stream != streams.count - 1 {
          // If no stream is named per event, the last stream is the only event's.
          streams.swapAt(stream, streams.count - 1)
        }
      }
    }
  }

  /// Returns the index of the event's stream.
  @inline(__always)
  private mutating func encode(
    _ events: Span<NewEvent>, _ index: Int, into bytes: UnsafeMutableRawBufferPointer,
    _ slots: UnsafeMutableBufferPointer<UInt32>
  ) -> Int {
    let start = position
    let id = events[index].id
    position += Record.byteCount + (id == nil ? 0 : Record.idByteCount)
    let namePosition = position
    put(events[index].stream, into: bytes)
    let typePosition = position
    put(events[index].type, into: bytes)
    let metadataPosition = position
    put(events[index].metadata.span.bytes, into: bytes)
    let payloadPosition = position
    put(events[index].payload.span.bytes, into: bytes)
    let nameLength = typePosition - namePosition
    Record.begin(
      UnsafeMutableRawBufferPointer(rebasing: bytes[start..<position]), .event, nameLength: nameLength,
      typeLength: metadataPosition - typePosition, metadataLength: payloadPosition - metadataPosition,
      payloadLength: position - payloadPosition, id: id)
    return stream(UnsafeRawBufferPointer(bytes), namePosition, nameLength, slots)
  }

  private mutating func encode(_ cursor: CursorCommit, into bytes: UnsafeMutableRawBufferPointer) {
    let start = position
    position += Record.byteCount
    put(cursor.name, into: bytes)
    let name = UnsafeRawBufferPointer(bytes).part(start + Record.byteCount, position - start - Record.byteCount)
    Record.begin(
      UnsafeMutableRawBufferPointer(rebasing: bytes[start..<position]), cursor.isReset ? .cursorReset : .cursor,
      nameLength: name.count, typeLength: 0, metadataLength: 0, payloadLength: 0, id: nil)
    cursors.append(
      EncodedAppend.Cursor(
        start: start, byteCount: position - start, name: Array(name), checkpoint: cursor.checkpoint,
        isReset: cursor.isReset,
        mayLag: cursor.mayLag, isDeletion: cursor.isDeletion))
  }

  /// The index of the stream with this name, added if it is new.
  @inline(__always)
  private mutating func stream(
    _ bytes: UnsafeRawBufferPointer, _ namePosition: Int, _ nameLength: Int, _ slots: UnsafeMutableBufferPointer<UInt32>
  ) -> Int {
    let name = bytes.part(namePosition, nameLength)
    let hash = streamHash(name)
    if slots.isEmpty {
      for index in streams.indices where isStream(index, hash, name, bytes) { return index }
    } else {
      var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
      while slots[slot] != 0 {
        let index = Int(slots[slot]) - 1
        if isStream(index, hash, name, bytes) { return index }
        slot = (slot + 1) & (slots.count - 1)
      }
      slots[slot] = UInt32(streams.count) + 1
    }
    streams.append(
      EncodedAppend.Stream(hash: hash, namePosition: namePosition, nameLength: nameLength, condition: .any))
    return streams.count - 1
  }

  @inline(__always)
  private func isStream(
    _ index: Int, _ hash: UInt64, _ name: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer
  ) -> Bool {
    streams[index].hash == hash && equal(name, bytes.part(streams[index].namePosition, streams[index].nameLength))
  }

  private func free(_ hash: UInt64, _ slots: UnsafeMutableBufferPointer<UInt32>) -> Int {
    var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
    while slots[slot] != 0 { slot = (slot + 1) & (slots.count - 1) }
    return slot
  }

  @inline(__always)
  private mutating func put(_ text: String, into bytes: UnsafeMutableRawBufferPointer) {
    let start = position
    let count: Int? = text.utf8.withContiguousStorageIfAvailable { source in
      copy(UnsafeRawBufferPointer(source), to: bytes, at: start)
      return source.count
    }
    if let count {
      position += count
    } else {
      put(Array(text.utf8).span.bytes, into: bytes)
    }
  }

  @inline(__always)
  private mutating func put(_ content: RawSpan, into bytes: UnsafeMutableRawBufferPointer) {
    let start = position
    content.withUnsafeBytes { copy($0, to: bytes, at: start) }
    position += content.byteCount
  }

  @inline(__always)
  private func copy(_ source: UnsafeRawBufferPointer, to bytes: UnsafeMutableRawBufferPointer, at position: Int) {
    UnsafeMutableRawBufferPointer(rebasing: bytes[position..<position + source.count]).copyMemory(from: source)
  }
}

private func powerOfTwo(atLeast count: Int) -> Int {
  count <= 1 ? 1 : 1 << (Int.bitWidth - (count - 1).leadingZeroBitCount)
}
