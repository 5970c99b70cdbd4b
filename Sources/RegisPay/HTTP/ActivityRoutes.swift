import Hummingbird
import NIOCore
import ServiceLifecycle

/// `GET /api/v1/activity`, what the server did in the last hour, and `GET /api/v1/activity/stream`, how it stands, once a second.
final class ActivityRoutes: Sendable {
  private let activity: Activity
  private let slots: StreamSlots

  /// - Parameter slots: shared with other kinds of streams.
  init(activity: Activity, slots: StreamSlots) {
    self.activity = activity
    self.slots = slots
  }

  func add(to router: Routes) {
    router.handle("/api/v1/activity", [.get: { _, _ in try await self.show() }])
    router.handle("/api/v1/activity/stream", [.get: { _, context in try self.open(context) }])
  }

  private func show() async throws -> Response {
    let tick = await activity.tick()
    // The points' JSON takes some milliseconds, which would hold up an event loop.
    let bytes = await RequestThreads.run(.short) { [activity] in
      Array("{\"stepSeconds\":\(ActivityPoint.seconds),\"points\":".utf8) + activity.history.json
        + Array(",\"tick\":".utf8) + tick + [UInt8(ascii: "}")]
    }
    return Response(bytes: bytes, contentType: "application/json; charset=utf-8")
  }

  private func open(_ context: HTTPRequestContext) throws -> Response {
    let slot = try slots.take(context.client)
    let body = ResponseBody { [activity] writer in
      try await Self.send(activity, while: context.isStillAllowed, to: &writer)
      try await writer.finish(nil)
      withExtendedLifetime(slot) {}
    }
    return Response(eventStream: body)
  }

  /// Sends ticks until the client is gone, its key is no longer valid, or the server stops. A client that doesn't read gets no
  /// further tick until it has taken the one before, and then the latest.
  private static func send(
    _ activity: Activity, while isAllowed: @Sendable () -> Bool, to writer: inout any ResponseBodyWriter
  ) async throws {
    try await writer.write(ByteBuffer(string: ": one tick a second\n\n"))
    let (number, ticks) = activity.follow()
    defer { activity.end(number) }
    // Ends with the task, too.
    for await tick in ticks.cancelOnGracefulShutdown() {
      guard isAllowed() else {
        return try await writer.write(ByteBuffer(string: ": ended: the key is no longer valid\n\n"))
      }
      try await writer.write(tick)
    }
  }
}
