import HTTPTypes
import Hummingbird
import LogStore
import ServiceLifecycle

/// The log as server-sent events, from any offset on and then live. An event's id names the store and its offset, so a
/// client that lost the connection goes on with `Last-Event-ID` where it was, and is refused by a log that is not the one
/// that it followed.
final class EventRoutes: Sendable {
  private let reader: LogReader
  private let follower: LogFollower
  private let slots: StreamSlots

  /// How long nothing is sent at most, so that a client that has gone is noticed and no proxy takes the stream for dead.
  private let heartbeat: Duration
  /// How often it is looked whether the client's key is valid still.
  private static let keyCheck = Duration.seconds(1)
  /// From one look at the log to the next, for each stream that is open: at most 500 looks a second, whatever happens.
  private static let pause = Duration.milliseconds(2)
  /// From one look to the next at what the disk can't read.
  private static let unreadablePause = Duration.milliseconds(250)
  /// Bytes that are written at once.
  private static let pieceLimit = 64 << 10

  init(follower: LogFollower, limits: HTTPLimits = HTTPLimits(), heartbeat: Duration = .seconds(10)) {
    self.follower = follower
    self.heartbeat = heartbeat
    reader = follower.reader
    slots = StreamSlots(limit: limits.streams, limitPerClient: limits.streamsPerClient)
  }

  func add(to router: Routes) {
    router.answer("/api/v1/events", [.get: { request, context in try self.open(request, context) }])
  }

  private func open(_ request: Request, _ context: HTTPRequestContext) throws -> Response {
    let query = try EventStreamQuery(
      request.uri.queryParameters, lastEventID: request.headers[values: .lastEventID], storeID: reader.storeID,
      end: reader.endOffset)
    let slot = try slots.take(context.client)
    let body = ResponseBody { writer in
      do {
        try await self.send(query, while: context.isStillAllowed, to: &writer)
      } catch is CancellationError {
        // The server stops, and the stream ends as a whole answer does.
      }
      try await writer.finish(nil)
      withExtendedLifetime(slot) {}
    }
    return Response(
      status: .ok,
      headers: [.contentType: "text/event-stream", .cacheControl: "no-store", .xContentTypeOptions: "nosniff"],
      body: body)
  }

  /// Sends until the client is gone, its key is not valid any more, or the server stops.
  private func send(
    _ query: EventStreamQuery, while isAllowed: @Sendable () -> Bool, to writer: inout any ResponseBodyWriter
  ) async throws {
    let portions = EventPortions(follower: follower, type: query.type.map { Array($0.rawValue.utf8) })
    let clock = ContinuousClock()
    var place = query.place
    try await writer.write(ByteBuffer(string: ": from offset \(place)\n\n"))
    var lastSent = clock.now
    while !Task.isCancelled, !Task.isShuttingDownGracefully {
      guard isAllowed() else {
        return try await writer.write(ByteBuffer(string: ": ended, as the key is not valid any more\n\n"))
      }
      let begin = clock.now
      guard let portion = try await portions.readIfPossible(from: place) else {
        // The stream stays open and goes on where it is, as soon as that can be read or is passed over.
        try await Task.sleep(for: Self.unreadablePause)
        if lastSent.duration(to: clock.now) >= heartbeat {
          try await writer.write(ByteBuffer(string: ":\n\n"))
          lastSent = clock.now
        }
        continue
      }
      place = portion.next
      var bytes = portion.bytes
      // Piece by piece: the next one is given to the connection when this one is gone.
      while let piece = bytes.readSlice(length: min(bytes.readableBytes, Self.pieceLimit)), piece.readableBytes > 0 {
        try await writer.write(piece)
        lastSent = clock.now
      }
      let deadline = min(lastSent + heartbeat, clock.now + Self.keyCheck)
      if portion.isAtEnd, try await waitForEvents(at: place, until: deadline) {
        // Each look at the log is a way to another thread and back: of a busy log a stream takes several events at once.
        // Cancelled it returns at once, and the loop ends with the stream's last chunk.
        try? await clock.sleep(until: begin + Self.pause * slots.count)
      }
      // Also while the log goes on and nothing of it is wanted here.
      if lastSent.duration(to: clock.now) >= heartbeat {
        try await writer.write(ByteBuffer(string: ":\n\n"))
        lastSent = clock.now
      }
    }
  }

  /// - Returns: false when it is time for a heartbeat, or to stop.
  private func waitForEvents(at place: UInt64, until deadline: ContinuousClock.Instant) async throws -> Bool {
    try await withThrowingTaskGroup(of: Bool.self) { [reader] group in
      group.addTask { try await cancelWhenGracefulShutdown { try await reader.waitForEvents(at: place) } }
      group.addTask {
        // Cancelled once events are there: then nobody reads what this returns.
        try? await Task.sleep(until: deadline)
        return false
      }
      defer { group.cancelAll() }
      return try await group.next() ?? false
    }
  }
}

extension HTTPField.Name {
  // A token by RFC 9110, which is all that the initialiser asks.
  fileprivate static let lastEventID = HTTPField.Name("Last-Event-ID")!
}

/// Reads a log for an event stream, a bounded part at a time.
private struct EventPortions: Sendable {
  struct Portion: Sendable {
    /// Where to go on.
    var next: UInt64
    /// The events that are wanted, as the stream sends them.
    var bytes: ByteBuffer
    /// There was no more when it was read.
    var isAtEnd: Bool
  }

  let follower: LogFollower
  /// In UTF-8; nil for all.
  let type: [UInt8]?
  private let storeID: String

  init(follower: LogFollower, type: [UInt8]?) {
    self.follower = follower
    self.type = type
    storeID = follower.reader.storeID
  }

  /// Bytes of a portion, but for its last event.
  private static let byteLimit = 64 << 10

  /// The next portion; nil where a place of the log can't be read at the moment, or was found damaged just now.
  func readIfPossible(from place: UInt64) async throws(LogStoreError) -> Portion? {
    do throws(LogStoreError) {
      return try await RequestThreads.run(.long) { () throws(LogStoreError) in try read(from: place) }
    } catch {
      guard error.isLocalDamage else { throw error }
      return nil
    }
  }

  /// Reads until the portion is over. What is not wanted is looked at where it stands, without an allocation.
  func read(from place: UInt64) throws(LogStoreError) -> Portion {
    var end = PortionEnd()
    var bytes: [UInt8] = []
    let logEnd = follower.reader.endOffset
    let next = try follower.forEach(
      from: place, passed: { range in if !range.offsets.isEmpty { write(range, to: &bytes) } }
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

  /// Tells of events that can't be read. The id is that of the last of them, so that a client goes on behind.
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
