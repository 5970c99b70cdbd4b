import LogStore
import Logging

/// Logs every completed payment, once (twice at most after a crash), and every event that can't be read. It reads all
/// of the log by its own durable cursor, so it is also where what others skip is counted.
public struct CompletionConsumer: Sendable {
  public static let cursorName = "payment-completed"

  private let store: LogStore
  private let follower: LogFollower
  private let health: Health
  private let cursorInterval: Duration
  private let board: ConsumerRegistry
  private let logger: Logger

  /// - Parameters:
  ///   - board: where it shows how far it is.
  ///   - cursorInterval: how often at most the cursor is moved.
  init(
    log: PaymentLog, health: Health, board: ConsumerRegistry = ConsumerRegistry(),
    cursorInterval: Duration = .seconds(1),
    logger: Logger
  ) {
    self.board = board
    store = log.store
    follower = log.follower
    self.health = health
    self.cursorInterval = cursorInterval
    self.logger = logger
  }

  /// Works until its task is cancelled.
  public func run() async throws(LogStoreError) {
    var place = try store.reader.cursor(Self.cursorName) ?? 0
    var committed = place
    var lastCommit = ContinuousClock.now
    while !Task.isCancelled {
      do {
        let (events, next) = try follower.events(from: place, limit: 256)
        for event in events { handle(event) }
        let hasMoved = next > place
        place = next
        let isDue = lastCommit.duration(to: .now) >= cursorInterval
        if place > committed && isDue {
          try await commit(place)
          (committed, lastCommit) = (place, .now)
        }
        board.setCompletion(.init(committed: committed, place: place))
        health.report(Self.cursorName, fault: nil)
        guard !hasMoved else {
          // Behind a long log others want to run as well.
          await Task.yield()
          continue
        }
        if place > committed {
          // Caught up with a place to commit: look again when that is due.
          try? await Task.sleep(until: lastCommit + cursorInterval)
        } else {
          _ = try await store.reader.waitForEvents(at: place)
        }
      } catch {
        if case .closed = error { return }
        health.report(Self.cursorName, fault: "\(error)")
        logger.error("can't follow the log", metadata: ["offset": "\(place)", "error": "\(error)"])
        try? await Task.sleep(for: .seconds(5))
      }
    }
    if place > committed { try await commit(place) }
  }

  private func commit(_ place: UInt64) async throws(LogStoreError) {
    _ = try await store.append(Append([], cursors: [CursorCommit(name: Self.cursorName, checkpoint: place)]))
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
