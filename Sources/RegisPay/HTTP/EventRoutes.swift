import HTTPTypes
import Hummingbird
import LogStore
import ServiceLifecycle
import Synchronization

/// The log as server-sent events, from any offset on and then live. An event's id is its offset, so a client that lost
/// the connection goes on with `Last-Event-ID` where it was.
final class EventRoutes: Sendable {
  private let reader: LogReader
  private let follower: LogFollower
  private let connections = Atomic<Int>(0)

  /// Streams open at once; each holds a connection for as long as its client likes.
  private static let connectionLimit = 64
  /// How long nothing is sent at most, so that a client that has gone is noticed and no proxy takes the stream for dead.
  private let heartbeat: Duration
  /// From one look at the log to the next, for each stream that is open: at most 500 looks a second, whatever happens.
  private static let pause = Duration.milliseconds(2)
  /// From one look to the next at what the disk can't read.
  private static let unreadablePause = Duration.milliseconds(250)
  /// Bytes that are written at once.
  private static let pieceLimit = 64 << 10

  init(follower: LogFollower, heartbeat: Duration = .seconds(10)) {
    self.follower = follower
    self.heartbeat = heartbeat
    reader = follower.reader
  }

  func add(to router: Routes) {
    router.answer("/api/v1/events", [.get: { request, _ in try self.open(request) }])
  }

  private func open(_ request: Request) throws -> Response {
    let query = request.uri.queryParameters
    var place = reader.endOffset
    if let id = request.headers[.lastEventID] {
      guard let last = UInt64(id), last < .max else { throw Problem.badRequest("Last-Event-ID must be an offset.") }
      place = last + 1
    } else if let from = query["from"], from != "end" {
      guard let offset = UInt64(from) else { throw Problem.badRequest("from must be an offset, or end.") }
      place = offset
    }
    let type = query["type"].map { Array($0.utf8) }
    guard connections.add(1, ordering: .relaxed).newValue <= Self.connectionLimit else {
      connections.subtract(1, ordering: .relaxed)
      throw Problem.unavailable("\(Self.connectionLimit) event streams are open already.")
    }
    let slot = Slot(of: self)
    let body = ResponseBody { [place] writer in
      try await self.send(from: place, type: type, to: &writer)
      try await writer.finish(nil)
      withExtendedLifetime(slot) {}
    }
    return Response(
      status: .ok,
      headers: [.contentType: "text/event-stream", .cacheControl: "no-store", .xContentTypeOptions: "nosniff"],
      body: body)
  }

  /// Sends until the client is gone or the server stops.
  private func send(from start: UInt64, type: [UInt8]?, to writer: inout any ResponseBodyWriter) async throws {
    let portions = EventPortions(follower: follower, type: type)
    let clock = ContinuousClock()
    var place = start
    try await writer.write(ByteBuffer(string: ": from offset \(place)\n\n"))
    var lastSent = clock.now
    while !Task.isCancelled, !Task.isShuttingDownGracefully {
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
      if portion.isAtEnd, try await waitForEvents(at: place, until: lastSent + heartbeat) {
        // Each look at the log is a way to another thread and back: of a busy log a stream takes several events at once.
        try? await clock.sleep(until: begin + Self.pause * connections.load(ordering: .relaxed))
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
        try? await Task.sleep(until: deadline)
        return false
      }
      defer { group.cancelAll() }
      return try await group.next() ?? false
    }
  }

  /// A connection's place among the limited number; given back when the response is over, however it ended.
  private final class Slot: Sendable {
    private let routes: EventRoutes
    init(of routes: EventRoutes) { self.routes = routes }
    deinit { routes.connections.subtract(1, ordering: .relaxed) }
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

  /// Bytes of a portion, but for its last event.
  private static let byteLimit = 64 << 10

  /// The next portion; nil where a place of the log can't be read at the moment, or was found damaged just now.
  func readIfPossible(from place: UInt64) async throws(LogStoreError) -> Portion? {
    do throws(LogStoreError) {
      return try await RequestThreads.run(.long) { () throws(LogStoreError) in try read(from: place) }
    } catch {
      guard error.isOfAPlace else { throw error }
      return nil
    }
  }

  /// Reads until the portion is over. What is not wanted is looked at where it stands, without an allocation.
  func read(from place: UInt64) throws(LogStoreError) -> Portion {
    var end = PortionEnd()
    var bytes: [UInt8] = []
    let logEnd = follower.reader.endOffset
    let next = try follower.forEach(
      from: place, passed: { range in if !range.offsets.isEmpty { Self.write(range, to: &bytes) } }
    ) { event in
      if isWanted(event) { Self.write(event.copy(), to: &bytes) }
      return bytes.count < Self.byteLimit && !end.isReached(after: event.payload.byteCount)
    }
    return Portion(next: next, bytes: ByteBuffer(bytes: bytes), isAtEnd: next >= logEnd)
  }

  private func isWanted(_ event: borrowing EventView) -> Bool {
    guard let type else { return true }
    return event.type.withUnsafeBytes { $0.elementsEqual(type) }
  }

  private static func write(_ event: Event, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: "id: \(event.offset)\ndata: ".utf8)
    // Compact JSON holds no line break, which would end the field.
    JSONValue.object(EventJSON.members(of: event)).write(to: &bytes)
    bytes.append(contentsOf: "\n\n".utf8)
  }

  /// Tells of events that can't be read. The id is that of the last of them, so that a client goes on behind.
  private static func write(_ range: DamagedRange, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: "id: \(range.offsets.upperBound - 1)\nevent: missing\ndata: ".utf8)
    let data: JSONValue = [
      "from": .integer(range.offsets.lowerBound), "to": .integer(range.offsets.upperBound - 1),
      "reason": .string("the log is damaged there"),
    ]
    data.write(to: &bytes)
    bytes.append(contentsOf: "\n\n".utf8)
  }
}
