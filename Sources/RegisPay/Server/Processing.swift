import LogStore
import Logging
import NIOPosix
import ServiceLifecycle

/// The payment consumers, as one service.
struct Processing: Service {
  let options: ServerOptions
  let parts: ServerParts
  /// Yields the server's own address once it listens; the simulators are there.
  let address: AsyncStream<String>
  let logger: Logger
  private let tries = Tries()

  func run() async throws {
    // Ends without an address if the server could not start.
    guard let ownURL = await address.first(where: { _ in true }) else { return }
    do throws(SmallFile.Failure) {
      try await RequestThreads.run(.long) { () throws(SmallFile.Failure) in try parts.known.recordPSP() }
    } catch {
      throw ServerError.directory(options.directory, reason: "\(error)")
    }
    guard !options.stepsFromBroker else { return try await handOut() }
    let psp = try PSPClient(
      baseURL: options.pspURL ?? ownURL + "/psp", timeLimit: options.callTimeLimit,
      authorization: authorization(options.pspURL, token: options.pspToken))
    defer { psp.close() }
    let notifications = try NotificationClient(
      baseURL: options.notificationsURL ?? ownURL + "/notifications", timeLimit: options.callTimeLimit,
      authorization: authorization(options.notificationsURL, token: options.notificationsToken))
    defer { notifications.close() }
    let pspBreaker = Breaker(name: "the PSP", options: options.breaker)
    let notificationBreaker = Breaker(name: "the notification service", options: options.breaker)
    let consumers = [
      consumer(.create, psp, pspBreaker), consumer(.settle, psp, pspBreaker), consumer(.cancel, psp, pspBreaker),
      consumer(.refund, psp, pspBreaker),
      consumer(.notify, notifications, notificationBreaker),
    ]
    register(consumers, pspBreaker, notificationBreaker)
    try await run(consumers)
  }

  /// Hands the calls to workers: the consumers only move their checkpoints.
  private func handOut() async throws {
    let pspBreaker = Breaker(name: "the PSP", options: options.breaker)
    let notificationBreaker = Breaker(name: "the notification service", options: options.breaker)
    let handed = PaymentStep.allCases.map { ($0, HandedCount()) }
    let consumers = handed.map { step, count in
      StepConsumer(
        step, log: parts.log, delays: parts.projection, provider: HandedProvider(),
        breaker: step == .notify ? notificationBreaker : pspBreaker, retryStatus: parts.retryStatus,
        health: parts.health, tries: tries, options: options.consumer, tracing: options.tracing.tracing,
        metrics: parts.stepMetrics, handed: { count.value }, logger: logger)
    }
    register(consumers, pspBreaker, notificationBreaker)
    let desks = zip(consumers, handed).map { consumer, handed in
      WorkDesk(
        of: consumer, log: parts.log, timeLimit: options.callTimeLimit, retryStatus: parts.retryStatus,
        options: options.consumer, count: handed.1)
    }
    parts.consumers.set(desks: desks)
    try await run(consumers, desks)
  }

  private func register(_ consumers: [StepConsumer], _ pspBreaker: Breaker, _ notificationBreaker: Breaker) {
    parts.consumers.set(consumers)
    parts.consumers.set(
      breakers: [
        .init(service: "psp", breaker: pspBreaker), .init(service: "notifications", breaker: notificationBreaker),
      ]
        + consumers.map { consumer in
          let service = consumer.breakers.dependency === pspBreaker ? "psp" : "notifications"
          return .init(service: service, step: consumer.step, breaker: consumer.breakers.address)
        })
  }

  private func run(_ consumers: [StepConsumer], _ desks: [WorkDesk] = []) async throws {
    let completion = CompletionConsumer(
      log: parts.log, health: parts.health, registry: parts.consumers, cursorInterval: options.consumer.cursorInterval,
      logger: logger)
    try await withGracefulShutdownHandler {
      try await withThrowingTaskGroup(of: Void.self) { group in
        // Each consumer runs on one event loop, with the calls that it makes.
        let executors = LoopExecutor.executors(of: MultiThreadedEventLoopGroup.singleton)
        for (number, consumer) in consumers.enumerated() {
          group.addTask(executorPreference: executors[number % executors.count]) { try await consumer.run() }
        }
        for desk in desks { group.addTask { await desk.run() } }
        group.addTask(executorPreference: executors.last) {
          try await cancelWhenGracefulShutdown { try await completion.run() }
        }
        let skipped = SkippedWork(log: parts.log, logger: logger)
        group.addTask(executorPreference: executors.first) {
          await cancelWhenGracefulShutdown { await skipped.run() }
        }
        try await group.waitForAll()
      }
    } onGracefulShutdown: {
      for desk in desks { desk.stop() }
      for consumer in consumers { consumer.stop() }
    }
  }

  /// - Parameter url: nil for the simulator, which knows the server by its own token.
  private func authorization(_ url: String?, token: String?) -> String? {
    url == nil ? parts.internalToken.authorization : token.map { "Bearer \($0)" }
  }

  private func consumer(_ step: PaymentStep, _ provider: any StepProvider, _ breaker: Breaker) -> StepConsumer {
    StepConsumer(
      step, log: parts.log, delays: parts.projection, provider: CarefulProvider(provider: provider, start: parts.start),
      breaker: breaker, retryStatus: parts.retryStatus, health: parts.health, tries: tries, options: options.consumer,
      tracing: options.tracing.tracing, metrics: parts.stepMetrics, logger: logger)
  }
}
