import HTTPTypes
import Hummingbird
import LogStore
import ServiceLifecycle
import Synchronization

/// The log as server-sent events, from any offset on and then live. An event's id is its offset, so a client that lost
/// the connection goes on with `Last-Event-ID` where it was.
final class EventRoutes: Sendable {
  private let reader: LogReader
  private let connections = Atomic<Int>(0)

  /// Streams open at once; each holds a connection for as long as its client likes.
  private static let connectionLimit = 64
  /// How often something is sent at least, so that a client that has gone is noticed.
  private static let heartbeat = Duration.seconds(10)

  init(reader: LogReader) { self.reader = reader }

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
    let type = query["type"].map(String.init)
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
  private func send(from start: UInt64, type: String?, to writer: inout any ResponseBodyWriter) async throws {
    var place = start
    try await writer.write(ByteBuffer(string: ": from offset \(place)\n\n"))
    while !Task.isCancelled, !Task.isShuttingDownGracefully {
      let events = try reader.events(from: place, limit: 256)
      place = events.last.map { $0.offset + 1 } ?? place
      var bytes: [UInt8] = []
      for event in events where type == nil || event.type == type { Self.write(event, to: &bytes) }
      if !bytes.isEmpty { try await writer.write(ByteBuffer(bytes: bytes)) }
      guard events.isEmpty else { continue }
      if try await !waitForEvents(at: place) { try await writer.write(ByteBuffer(string: ":\n\n")) }
    }
  }

  /// - Returns: false when it is time for a heartbeat, or to stop.
  private func waitForEvents(at place: UInt64) async throws -> Bool {
    try await withThrowingTaskGroup(of: Bool.self) { [reader] group in
      group.addTask { try await cancelWhenGracefulShutdown { try await reader.waitForEvents(at: place) } }
      group.addTask {
        try? await Task.sleep(for: Self.heartbeat)
        return false
      }
      defer { group.cancelAll() }
      return try await group.next() ?? false
    }
  }

  private static func write(_ event: Event, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: "id: \(event.offset)\ndata: ".utf8)
    // Compact JSON holds no line break, which would end the field.
    JSONValue.object(EventJSON.members(of: event)).write(to: &bytes)
    bytes.append(contentsOf: "\n\n".utf8)
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
