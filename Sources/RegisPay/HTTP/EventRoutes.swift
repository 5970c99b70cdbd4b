import HTTPTypes
import Hummingbird
import LogStore
import ServiceLifecycle

/// The log as server-sent events, from any offset on and then live. An event's id names the store and the offset. So a client that
/// lost its connection resumes with `Last-Event-ID`, and a log other than the one it followed refuses it.
final class EventRoutes: Sendable {
  private let reader: LogReader
  private let follower: LogFollower
  private let slots: StreamSlots

  /// The longest time without data, so that the server notices a client that has gone and no proxy takes the stream for dead.
  private let heartbeat: Duration
  /// How often the server checks whether the client's key is still valid.
  private static let keyCheckInterval = Duration.seconds(1)
  /// Pause between two reads of the log, times the number of open streams: at most 500 reads a second in all.
  private static let pause = Duration.milliseconds(2)
  /// Pause between two tries to read what the disk can't read.
  private static let unreadablePause = Duration.milliseconds(250)
  /// Bytes in one write.
  private static let pieceLimit = 64 << 10

  /// - Parameter slots: shared with other kinds of streams.
  init(follower: LogFollower, slots: StreamSlots = StreamSlots(HTTPLimits()), heartbeat: Duration = .seconds(10)) {
    self.follower = follower
    self.heartbeat = heartbeat
    self.slots = slots
    reader = follower.reader
  }

  func add(to router: Routes) {
    router.handle("/api/v1/events", [.get: { request, context in try self.open(request, context) }])
  }

  private func open(_ request: Request, _ context: HTTPRequestContext) throws -> Response {
    let query = try EventStreamQuery(
      request.uri.formParameters, lastEventID: request.headers[values: .lastEventID], storeID: reader.storeID,
      end: reader.endOffset)
    let slot = try slots.take(context.client)
    let body = ResponseBody { writer in
      do {
        try await self.send(query, while: context.isStillAllowed, to: &writer)
      } catch is CancellationError {
        // The server stops, and the stream ends like a complete response.
      }
      try await writer.finish(nil)
      withExtendedLifetime(slot) {}
    }
    return Response(eventStream: body)
  }

  /// Sends events until the client is gone, its key is no longer valid, or the server stops.
  private func send(
    _ query: EventStreamQuery, while isAllowed: @Sendable () -> Bool, to writer: inout any ResponseBodyWriter
  ) async throws {
    let portions = EventPortions(follower: follower, type: query.type.map { Array($0.utf8) })
    let clock = ContinuousClock()
    var nextOffset = query.offset
    try await writer.write(ByteBuffer(string: ": from offset \(nextOffset)\n\n"))
    var lastSent = clock.now
    while !Task.isCancelled, !Task.isShuttingDownGracefully {
      guard isAllowed() else {
        return try await writer.write(ByteBuffer(string: ": ended: the key is no longer valid\n\n"))
      }
      let begin = clock.now
      guard let portion = try await portions.readIfPossible(from: nextOffset) else {
        // The stream stays open and continues once the events can be read or are passed over.
        try await Task.sleep(for: Self.unreadablePause)
        if lastSent.duration(to: clock.now) >= heartbeat {
          try await writer.write(ByteBuffer(string: ":\n\n"))
          lastSent = clock.now
        }
        continue
      }
      nextOffset = portion.next
      var bytes = portion.bytes
      // Piece by piece: the connection gets the next one when the client has taken this one.
      while let piece = bytes.readSlice(length: min(bytes.readableBytes, Self.pieceLimit)), piece.readableBytes > 0 {
        try await writer.write(piece)
        lastSent = clock.now
      }
      let deadline = min(lastSent + heartbeat, clock.now + Self.keyCheckInterval)
      if portion.isAtEnd, try await waitForEvents(at: nextOffset, until: deadline) {
        // Each read of the log is a hop to another thread and back, so a stream takes several events of a busy log at once.
        // When the task is cancelled, the sleep returns at once and the loop ends with the stream's last chunk.
        try? await clock.sleep(until: begin + Self.pause * slots.count)
      }
      // Also while the log grows and this stream wants none of its events.
      if lastSent.duration(to: clock.now) >= heartbeat {
        try await writer.write(ByteBuffer(string: ":\n\n"))
        lastSent = clock.now
      }
    }
  }

  /// - Returns: false when it is time for a heartbeat, or to stop.
  private func waitForEvents(at offset: UInt64, until deadline: ContinuousClock.Instant) async throws -> Bool {
    try await withThrowingTaskGroup(of: Bool.self) { [reader] group in
      group.addTask { try await cancelWhenGracefulShutdown { try await reader.waitForEvents(at: offset) } }
      group.addTask {
        // Cancelled once events have arrived; its result is not used then.
        try? await Task.sleep(until: deadline)
        return false
      }
      defer { group.cancelAll() }
      return try await group.next() ?? false
    }
  }
}

extension Response {
  /// A response of server-sent events.
  init(eventStream body: ResponseBody) {
    self.init(
      status: .ok,
      headers: [.contentType: "text/event-stream", .cacheControl: "no-store", .xContentTypeOptions: "nosniff"],
      body: body)
  }
}

extension HTTPField.Name {
  // A token by RFC 9110, which is all that the initialiser asks.
  fileprivate static let lastEventID = HTTPField.Name("Last-Event-ID")!
}

/// Reads a log for an event stream, one bounded portion at a time.
private struct EventPortions: Sendable {
  struct Portion: Sendable {
    /// The offset after the portion.
    var next: UInt64
    /// The wanted events, in the form that the stream sends.
    var bytes: ByteBuffer
    /// The portion reaches the end of the log as of the read.
    var isAtEnd: Bool
  }

  let follower: LogFollower
  /// The wanted type in UTF-8; nil for all.
  let type: [UInt8]?
  private let storeID: String

  init(follower: LogFollower, type: [UInt8]?) {
    self.follower = follower
    self.type = type
    storeID = follower.reader.storeID
  }

  /// Bytes of a portion; its last event may exceed them.
  private static let byteLimit = 64 << 10

  /// The next portion; nil if the log can't be read there at the moment, or was just found to be damaged there.
  func readIfPossible(from offset: UInt64) async throws(LogStoreError) -> Portion? {
    do throws(LogStoreError) {
      return try await RequestThreads.run(.long) { () throws(LogStoreError) in try read(from: offset) }
    } catch {
      guard error.isLocalDamage else { throw error }
      return nil
    }
  }

  /// Reads one portion. Unwanted events are skipped in the mapped file, without an allocation.
  func read(from offset: UInt64) throws(LogStoreError) -> Portion {
    var end = PortionEnd()
    var bytes: [UInt8] = []
    let logEnd = follower.reader.endOffset
    let next = try follower.forEach(
      from: offset, passed: { range in if !range.offsets.isEmpty { write(range, to: &bytes) } }
    ) { event in
      if isWanted(event) { write(event.copy(), to: &bytes) }
      return bytes.count < Self.byteLimit && !end.isReached(after: event.payload.byteCount)
    }
    return Portion(next: next, bytes: ByteBuffer(bytes: bytes), isAtEnd: next >= logEnd)
  }

  private func isWanted(_ event: borrowing EventView) -> Bool {
    guard let type else { return true }
    return event.type.withUnsafeBytes { $0.elementsEqual(type) }
  }

  private func write(_ event: Event, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: "id: \(storeID)-\(event.offset)\ndata: ".utf8)
    // Compact JSON holds no line break, which would end the field.
    JSONValue.object(EventJSON.members(of: event)).write(to: &bytes)
    bytes.append(contentsOf: "\n\n".utf8)
  }

  /// Reports events that can't be read. The id is that of the last of them, so that a client resumes after them.
  private func write(_ range: DamagedRange, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: "id: \(storeID)-\(range.offsets.upperBound - 1)\nevent: missing\ndata: ".utf8)
    let data: JSONValue = [
      "from": .integer(range.offsets.lowerBound), "to": .integer(range.offsets.upperBound - 1),
      "reason": .string("the log is damaged there"),
    ]
    data.write(to: &bytes)
    bytes.append(contentsOf: "\n\n".utf8)
  }
}
