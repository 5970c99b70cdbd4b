import Logging
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

extension PartService {
  /// Reads a listener's certificate and key again and again.
  static func refreshing(_ tls: ServerTLS, every interval: Duration, _ logger: Logger) -> PartService {
    PartService {
      while !Task.isCancelled {
        try await Task.sleep(for: interval)
        await RequestThreads.run(.long) { tls.refresh(logger) }
      }
    }
  }

  /// Looks again and again whether damage to a log has been mended.
  static func rechecking(_ damage: DamageStatus) -> PartService {
    PartService {
      while !Task.isCancelled {
        try await Task.sleep(for: .seconds(15))
        await RequestThreads.run(.long) { damage.recheck() }
      }
    }
  }
}
