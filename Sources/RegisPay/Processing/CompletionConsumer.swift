import LogStore
import Logging

/// Logs every completed payment once (at most twice after a crash), and every event that can't be read. It reads the whole log
/// from its own checkpoint, so it also counts the events that other consumers skip.
public struct CompletionConsumer: Sendable {
  public static let cursorName = "payment-completed"

  private let store: LogStore
  private let follower: LogFollower
  private let health: Health
  private let registry: ConsumerRegistry
  private let cursorInterval: Duration
  private let logger: Logger

  /// - Parameters:
  ///   - registry: where the consumer reports how far it is.
  ///   - cursorInterval: the shortest time between two commits of the checkpoint.
  init(
    log: PaymentLog, health: Health, registry: ConsumerRegistry = ConsumerRegistry(),
    cursorInterval: Duration = .seconds(1), logger: Logger
  ) {
    store = log.store
    follower = log.follower
    self.health = health
    self.registry = registry
    self.cursorInterval = cursorInterval
    self.logger = logger
  }

  /// Runs until its task is cancelled.
  public func run() async throws(LogStoreError) {
    var nextOffset = try store.reader.cursor(Self.cursorName) ?? 0
    var checkpoint = nextOffset
    var lastCommit = ContinuousClock.now
    while !Task.isCancelled {
      do {
        let (events, next) = try follower.events(from: nextOffset, limit: 256)
        for event in events { handle(event) }
        let hasMoved = next > nextOffset
        nextOffset = next
        let isDue = lastCommit.duration(to: .now) >= cursorInterval
        if nextOffset > checkpoint && isDue {
          try await commit(nextOffset)
          (checkpoint, lastCommit) = (nextOffset, .now)
        }
        registry.setCompletion(.init(checkpoint: checkpoint, nextOffset: nextOffset))
        health.report(Self.cursorName, fault: nil)
        guard !hasMoved else {
          // A long log may take minutes: let other tasks run in between.
          await Task.yield()
          continue
        }
        if nextOffset > checkpoint {
          // At the log's end with a checkpoint to commit: sleep until that is due. Ends early only when the task is cancelled.
          try? await Task.sleep(until: lastCommit + cursorInterval)
        } else {
          _ = try await store.reader.waitForEvents(at: nextOffset)
        }
      } catch {
        if case .closed = error { return }
        health.report(Self.cursorName, fault: "\(error)")
        logger.error("can't follow the log", metadata: ["offset": "\(nextOffset)", "error": "\(error)"])
        // Ends early only when the task is cancelled.
        try? await Task.sleep(for: .seconds(5))
      }
    }
    if nextOffset > checkpoint { try await commit(nextOffset) }
  }

  private func commit(_ checkpoint: UInt64) async throws(LogStoreError) {
    _ = try await store.append(Append([], cursors: [CursorCommit(name: Self.cursorName, checkpoint: checkpoint)]))
  }

  private func handle(_ event: Event) {
    guard event.type != IdempotencyRecord.eventType, SkippedWork.TypeName(rawValue: event.type) == nil else { return }
    do {
      guard case .completed = try PaymentEvent(type: event.type, payload: event.payload) else { return }
      logger.info("payment completed", metadata: ["payment": "\(event.stream)", "offset": "\(event.offset)"])
    } catch {
      health.countSkippedEvent()
      logger.warning("skipped an event", metadata: ["offset": "\(event.offset)", "reason": "\(error)"])
    }
  }
}
