import LogStore
import Logging

/// Logs every completed payment once (at most twice after a crash), and every event that can't be read. It reads the whole log
/// from its own checkpoint, so it also counts the events that other consumers skip.
public struct CompletionConsumer: Sendable {
  public static let cursorName = "payment-completed"

  /// How long it waits for more events when it has caught up.
  private static let pace = Duration.milliseconds(100)

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
    var logger = logger
    logger[metadataKey: "consumer"] = "\(Self.cursorName)"
    self.logger = logger
  }

  /// Runs until its task is cancelled.
  public func run() async throws(LogStoreError) {
    let subscription = try store.subscription(
      Self.cursorName, options: LogFollower.subscriptionOptions(commitInterval: cursorInterval))
    registry.set(completion: subscription)
    let isOpen = await follower.repeatUntilCancelled {
      let (events, offsets) = try follower.events(of: subscription, limit: 256)
      for event in events { handle(event) }
      try await subscription.commitIfDue()
      health.report(Self.cursorName, fault: nil)
      if offsets.isEmpty {
        _ = try await subscription.waitForMore()
        // Nobody waits for a log line, so one reading takes the events of many commits. Only the end of the task throws.
        try? await Task.sleep(for: Self.pace)
      } else {
        // A long log may take minutes: let other tasks run in between.
        await Task.yield()
      }
    } failed: { error in
      health.report(Self.cursorName, fault: "\(error)")
      logger.error(
        "can't follow the log", metadata: ["offset": "\(subscription.readOffset)", "error": "\(error)"])
    }
    if isOpen { try await subscription.commit() }
  }

  private func handle(_ event: Event) {
    guard ![IdempotencyRecord.eventType, LogRestoration.eventType, OperatorAction.eventType].contains(event.type),
      SkippedWork.TypeName(rawValue: event.type) == nil
    else { return }
    do {
      guard case .completed = try PaymentEvent(type: event.type, payload: event.payload) else { return }
      logger.info("payment completed", metadata: fields(event))
    } catch {
      health.countSkippedEvent()
      logger.warning("skipped an event", metadata: fields(event, reason: "\(error)"))
    }
  }

  private func fields(_ event: Event, reason: String? = nil) -> Logger.Metadata {
    var fields: Logger.Metadata = ["offset": "\(event.offset)"]
    if let payment = PaymentID(stream: event.stream) {
      fields["payment"] = "\(payment)"
      fields["trace_id"] = "\((EventMetadata.trace(in: event.payload)?.parent.trace ?? payment.traceID).text)"
    }
    if let reason { fields["reason"] = "\(reason)" }
    return fields
  }
}
