import LogStore
import Logging
import NIOPosix
import ServiceLifecycle

/// The consumers as one service.
struct Processing: Service {
  let options: ServerOptions
  let log: PaymentLog
  let projection: PaymentProjection
  let retryStatus: RetryStatus
  let consumerRegistry: ConsumerRegistry
  let health: Health
  /// Tells the server's own address once it listens; the simulators are there.
  let address: AsyncStream<String>
  /// For the simulators in this server, and nobody else.
  let own: InternalToken
  let logger: Logger
  let start: CarefulStart
  private let tries = Tries()

  func run() async throws {
    // Ends without one when the server could not start.
    guard let ownURL = await address.first(where: { _ in true }) else { return }
    let psp = try PSPClient(
      baseURL: options.pspURL ?? ownURL + "/psp", timeLimit: options.callTimeLimit,
      authorization: options.pspURL == nil ? own.authorization : nil)
    defer { psp.close() }
    let notifications = try NotificationClient(
      baseURL: options.notificationsURL ?? ownURL + "/notifications", timeLimit: options.callTimeLimit,
      authorization: options.notificationsURL == nil ? own.authorization : nil)
    defer { notifications.close() }
    let pspBreaker = Breaker(name: "the PSP", options: options.breaker)
    let consumers = [
      consumer(.create, psp, pspBreaker), consumer(.settle, psp, pspBreaker), consumer(.cancel, psp, pspBreaker),
      consumer(.refund, psp, pspBreaker),
      consumer(.notify, notifications, Breaker(name: "the notification service", options: options.breaker)),
    ]
    consumerRegistry.set(consumers)
    let completion = CompletionConsumer(
      log: log, health: health, registry: consumerRegistry, cursorInterval: options.consumer.cursorInterval,
      logger: logger)
    try await withGracefulShutdownHandler {
      try await withThrowingTaskGroup(of: Void.self) { group in
        // Each on one event loop, with the calls that it makes.
        let executors = LoopExecutor.executors(of: MultiThreadedEventLoopGroup.singleton)
        for (number, consumer) in consumers.enumerated() {
          group.addTask(executorPreference: executors[number % executors.count]) { try await consumer.run() }
        }
        group.addTask(executorPreference: executors.last) {
          try await cancelWhenGracefulShutdown { try await completion.run() }
        }
        let skipped = SkippedWork(log: log, logger: logger)
        group.addTask(executorPreference: executors.first) {
          await cancelWhenGracefulShutdown { await skipped.run() }
        }
        try await group.waitForAll()
      }
    } onGracefulShutdown: {
      for consumer in consumers { consumer.stop() }
    }
  }

  private func consumer(_ step: PaymentStep, _ provider: any StepProvider, _ breaker: Breaker) -> StepConsumer {
    StepConsumer(
      step, log: log, delays: projection, provider: CarefulProvider(provider: provider, start: start), breaker: breaker,
      retryStatus: retryStatus, health: health,
      tries: tries, options: options.consumer,
      logger: logger)
  }
}
