import ServiceLifecycle

/// A part of the server that runs until the service group stops it.
struct PartService: Service {
  let work: @Sendable () async throws -> Void

  func run() async throws {
    do {
      try await cancelWhenGracefulShutdown { try await work() }
    } catch is CancellationError {
      // The part ends as requested. Throwing would end all other services at once, in the middle of their responses.
    }
  }
}
