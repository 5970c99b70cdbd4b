import Logging
import Synchronization

/// Makes the calls of steps for a server, in a process without a log: `regispay worker`.
///
/// A message of the broker names a payment. The worker asks the server what is to be done for it, makes the call, reports its outcome,
/// and settles the message as the server says. What the worker knows is lost with it, and nothing depends on it.
public final class Worker: Sendable {
  private struct State {
    /// Calls whose outcome is not reported yet.
    var calls = 0
    var isStopping = false
    var isReady = false
    /// When the server last gave an answer.
    var lastAnswer: ContinuousClock.Instant?
    var thread: DeliveryThread?
    /// Why the server gives no answer; logged when it changes.
    var reason: String?
  }

  /// Calls at once of a step, whose wait on the log was over.
  private static let dueLimit = 64
  /// Between two questions to a server that gives no answer.
  private static let backoff = Backoff(base: .milliseconds(250), cap: .seconds(15))
  /// An outcome is reported this often: then the server has given up on it.
  private static let reportLimit = 8
  /// The worker keeps its messages so long while the server gives no answer. Then others get them.
  private static let patience = Duration.seconds(5)
  /// For the thread, once it is to end.
  private static let threadLimit = Duration.seconds(2)

  private let options: WorkerOptions
  private let source: WorkSource
  private let psp: PSPClient?
  private let notifications: NotificationClient?
  private let logger: Logger
  private let state = Mutex(State())
  private let stopped = Promise<Void>()

  public init(_ options: WorkerOptions, logger: Logger) throws(EndpointError) {
    (self.options, self.logger) = (options, logger)
    source = try WorkSource(options)
    func authorization(_ token: String?) -> String? { token.map { "Bearer \($0)" } }
    if let url = options.pspURL {
      psp = try PSPClient(
        baseURL: url, timeLimit: options.callTimeLimit, authorization: authorization(options.pspToken))
    } else {
      psp = nil
    }
    if let url = options.notificationsURL {
      notifications = try NotificationClient(
        baseURL: url, timeLimit: options.callTimeLimit, authorization: authorization(options.notificationsToken))
    } else {
      notifications = nil
    }
  }

  /// Ends ``run(onReady:)``. May be called from any thread at any time.
  public func stop() { stopped.keep(()) }

  /// Works until ``stop()``. Then it takes no more, and lets the calls in flight end.
  ///
  /// - Parameter onReady: called once, when messages come.
  public func run(onReady: @escaping @Sendable () -> Void) async {
    let thread = makeThread(onReady)
    state.withLock { $0.thread = thread }
    let ended = Promise<Void>()
    thread.start { ended.keep(()) }
    let due = options.steps.map { step in Task { await takeDue(step) } }
    await stopped.value
    state.withLock { $0.isStopping = true }
    thread.pause()
    for task in due { task.cancel() }
    let end = ContinuousClock.now + options.stopLimit
    while state.withLock({ $0.calls }) > 0, ContinuousClock.now < end {
      // Nobody cancels this task.
      try? await Task.sleep(for: .milliseconds(20))
    }
    thread.stop()
    let limit = Task {
      // Ends early only when the thread has ended.
      try? await Task.sleep(for: Self.threadLimit)
      thread.cut()
      ended.keep(())
    }
    await ended.value
    limit.cancel()
    state.withLock { $0.thread = nil }
    source.close()
    psp?.close()
    notifications?.close()
  }

  private func makeThread(_ onReady: @escaping @Sendable () -> Void) -> DeliveryThread {
    let box = Promise<DeliveryThread>()
    let thread = DeliveryThread(
      options.broker, options.steps, prefetch: options.prefetch, logger: logger,
      onConsuming: { [self] in
        let isFirst = state.withLock { state in
          defer { state.isReady = true }
          return !state.isReady
        }
        if isFirst { onReady() }
      },
      handler: { [self] step, body, ticket in
        Task { await handle(step, body, ticket, await box.value) }
      })
    box.keep(thread)
    return thread
  }

  private var isStopping: Bool { state.withLock { $0.isStopping } }

  // MARK: - A message

  private func handle(
    _ step: PaymentStep, _ body: [UInt8]?, _ ticket: DeliveryThread.Ticket, _ thread: DeliveryThread
  ) async {
    guard let payment = body.flatMap(WorkMessage.payment) else {
      logger.error(
        "a message names no payment and goes to the dead letters",
        metadata: [
          "queue": "\(StepQueue(step: step).name)",
          "bytes": "\(body.map { String($0.count) } ?? "more than any that is read")",
        ])
      return thread.settle(ticket, .reject)
    }
    var failures = 0
    // The broker delivers a message again whose connection is lost.
    while !isStopping, thread.isCurrent(ticket) {
      let answer: WorkAnswer
      do throws(WorkSource.Failure) {
        let asked = ContinuousClock.now
        answer = try await carryOut(try await source.ask(step, payment), asked)
        failures = 0
        note(nil)
      } catch {
        failures += 1
        note(error.reason)
        await sleep(Self.backoff.delay(attempts: failures))
        continue
      }
      switch answer {
      case .acknowledge: return thread.settle(ticket, .acknowledge)
      case .wait(let duration): await sleep(duration)
      case .giveBack(let duration):
        await sleep(duration)
        return thread.settle(ticket, .giveBack)
      // carryOut(_:) returns none.
      case .call: return thread.settle(ticket, .giveBack)
      }
    }
  }

  /// Takes work whose wait on the log is over, until the task is cancelled. No message names it.
  private func takeDue(_ step: PaymentStep) async {
    var failures = 0
    let inFlight = CallCount()
    await withDiscardingTaskGroup { group in
      while !Task.isCancelled {
        guard inFlight.value.withLock({ $0 }) < Self.dueLimit else {
          await sleep(.milliseconds(50))
          continue
        }
        do throws(WorkSource.Failure) {
          let asked = ContinuousClock.now
          let answer = try await source.ask(step, nil)
          failures = 0
          note(nil)
          switch answer {
          case .wait(let duration), .giveBack(let duration): await sleep(max(duration, .milliseconds(50)))
          case .acknowledge: await sleep(.milliseconds(50))
          case .call:
            inFlight.value.withLock { $0 += 1 }
            group.addTask { await self.carryOutDue(answer, asked, inFlight) }
          }
        } catch {
          failures += 1
          note(error.reason)
          await sleep(Self.backoff.delay(attempts: failures))
        }
      }
    }
  }

  private func carryOutDue(_ answer: WorkAnswer, _ asked: ContinuousClock.Instant, _ inFlight: CallCount) async {
    // The log holds the work, whatever the answer is.
    _ = try? await carryOut(answer, asked)
    inFlight.value.withLock { $0 -= 1 }
  }

  private final class CallCount: Sendable {
    let value = Mutex(0)
  }

  // MARK: - A call

  /// Makes the call, if that is the answer, and reports its outcome.
  ///
  /// - Parameter asked: when the server was asked.
  /// - Returns: the server's next answer.
  private func carryOut(_ answer: WorkAnswer, _ asked: ContinuousClock.Instant) async throws(WorkSource.Failure)
    -> WorkAnswer
  {
    guard case .call(let order) = answer else { return answer }
    let mayBegin = state.withLock { state in
      if !state.isStopping { state.calls += 1 }
      return !state.isStopping
    }
    // The server takes it for a worker that has ended.
    guard mayBegin else { return .wait(.seconds(1)) }
    defer { state.withLock { $0.calls -= 1 } }
    let outcome = await call(order, asked)
    var failures = 0
    while true {
      do throws(WorkSource.Failure) {
        return try await source.report(outcome, of: order)
      } catch {
        // It knows of the call that it may have been made.
        if error.isUnknownCall { return .wait(.milliseconds(250)) }
        failures += 1
        guard failures < Self.reportLimit else { throw error }
        note(error.reason)
        await sleep(Self.backoff.delay(attempts: failures))
      }
    }
  }

  private func call(_ order: WorkOrder, _ asked: ContinuousClock.Instant) async -> CallOutcome {
    let provider: (any StepProvider)?
    if order.work.step == .notify { provider = notifications } else { provider = psp }
    guard let provider else {
      return .retry(CallRetry(.notMade, reason: "the worker has no URL for the step \(order.work.step.rawValue)"))
    }
    // A process that was stopped meanwhile must not use a key that is hours old.
    guard asked.duration(to: .now) < order.timeLimit else {
      return .retry(CallRetry(.notMade, reason: "the worker was stopped before the call"))
    }
    let stop = CallStop()
    let limit = Task {
      // Ends early only when the call has ended.
      try? await Task.sleep(for: order.timeLimit)
      if !Task.isCancelled { stop.stop() }
    }
    defer { limit.cancel() }
    let parent = TraceParent(order.payment.id.traceID, span: 1, isSampled: false)
    let context = CallContext(stop: stop, trace: order.trace ?? TraceContext(parent: parent, state: nil))
    let outcome = await CallContext.$current.withValue(context) {
      await provider.perform(order.work, for: order.payment)
    }
    guard case .retry(let failure) = outcome, stop.isStopped, failure.cause != .unreachable, failure.cause != .notMade
    else {
      return outcome
    }
    return .retry(CallRetry(.timeout, reason: "no response within \(order.timeLimit)"))
  }

  /// Takes messages only while the server answers: they would wait here, while another worker may have a way to it.
  ///
  /// - Parameter reason: why the server gives no answer; nil if it does.
  private func note(_ reason: String?) {
    let isNew = state.withLock { state in
      // A stop cancels what is asked.
      guard !state.isStopping else { return false }
      let now = ContinuousClock.now
      if reason == nil { state.lastAnswer = now }
      state.thread?.setTaking(state.lastAnswer.map { $0.duration(to: now) < Self.patience } ?? false)
      defer { state.reason = reason }
      return state.reason != reason
    }
    guard isNew else { return }
    if let reason {
      logger.warning(
        "the server gives no work",
        metadata: ["server": "\(BaseURL.shown(options.serverURL))", "reason": "\(reason)"])
    } else {
      logger.notice("the server gives work again", metadata: ["server": "\(BaseURL.shown(options.serverURL))"])
    }
  }

  /// Returns early when the task is cancelled.
  private func sleep(_ duration: Duration) async { try? await Task.sleep(for: duration) }
}
