import LogStore
import Logging

/// Carries out one step of every payment: reads the log from its own durable cursor, calls the provider for each event
/// that asks for its step, and appends what came of it together with its place.
///
/// Delivery is at least once: after a crash the calls from the cursor on are made again with the same keys, unless the
/// payment's stream says that the step is done. One payment that fails waits without a call slot; the others go on. A
/// long wait is put on the log and found again by ``DelayedWork``: the cursor goes on, and a restart changes nothing.
public actor StepConsumer {
  public struct Options: Sendable {
    /// Calls out at once.
    public var callLimit = 256
    /// Payments read and not finished, waiting for a retry included; with that many no further ones are read.
    public var unfinishedLimit = 10_000
    public var backoff = Backoff()
    /// A payment whose tries fail this often while the same step goes through for others is given up, for a person to
    /// look at. Failures during an outage don't count.
    public var ownFailureLimit = 30
    /// A wait from this length on goes on the log, if it is the payment's own: it has failed ``ownFailuresToDelay`` times
    /// while others went through, or the other side asked for it.
    public var durableDelay = Duration.seconds(10)
    public var ownFailuresToDelay = 3
    /// How often at most the cursor is moved without an event of ours.
    public var cursorInterval = Duration.seconds(1)
    /// How long calls under way may take to end when the server stops. Their payments go on at the next start.
    public var stopLimit = Duration.seconds(5)

    public init() {}
  }

  private enum Message: Sendable {
    /// The log has grown past what was read.
    case readable
    /// A time that was waited for has come.
    case due(ContinuousClock.Instant)
    case tick
    case ended(StepWork, StepEnding)
    /// What had to wait and is due now.
    case delayed([DelayedQueue.Item])
    case stop
    case stopNow
  }

  private static let batch = 256
  private static let batchesAtOnce = 16

  private let step: PaymentStep
  /// The types of events that may ask for the step, in UTF-8.
  private let askingTypes: [[UInt8]]
  private let cursorName: String
  private let log: PaymentLog
  private let delays: any DelayedWork
  private let call: StepCall
  private let breaker: Breaker
  private let board: WaitingBoard
  private let health: Health
  private let options: Options
  private let logger: Logger
  private let clock = ContinuousClock()
  private let mailbox = AsyncStream<Message>.makeStream()

  private var window: Window<StepRequest>
  private var delayed: DelayedQueue
  private var isAskingForDelayed = false
  /// Calls that the other side has accepted.
  private var acceptedCount = 0
  private var lastAccepted: ContinuousClock.Instant?
  /// Of unfinished offsets that have failed: how often while others got through, and how many those were by then.
  private var ownFailures: [UInt64: (count: Int, acceptedBefore: Int)] = [:]
  private var committedPlace: UInt64 = 0
  private var callCount = 0
  private var isWatching = false
  private var isReadable = true
  private var isStopping = false
  private var timer: ContinuousClock.Instant?

  /// The durable cursor of the step's consumer.
  public static func cursorName(of step: PaymentStep) -> String { "payment-\(step.rawValue)" }

  /// - Parameters:
  ///   - step: what is done; it decides which events are answered and the cursor's name.
  ///   - breaker: shared by all that call the same dependency.
  public init(
    _ step: PaymentStep, log: PaymentLog, delays: any DelayedWork, provider: any StepProvider, breaker: Breaker,
    board: WaitingBoard, health: Health, options: Options = .init(), logger: Logger
  ) {
    self.step = step
    askingTypes = PaymentEvent.TypeName.allCases.filter { $0.mayAsk(for: step) }.map { Array($0.rawValue.utf8) }
    self.cursorName = Self.cursorName(of: step)
    self.log = log
    self.delays = delays
    self.breaker = breaker
    self.board = board
    self.health = health
    self.options = options
    var logger = logger
    logger[metadataKey: "consumer"] = "\(cursorName)"
    self.logger = logger
    call = StepCall(
      log: log, cursorName: cursorName, provider: provider, breaker: breaker, health: health, clock: clock,
      logger: logger)
    self.window = Window(place: 0, limit: options.unfinishedLimit)
    self.delayed = DelayedQueue(limit: options.callLimit)
  }

  /// How far the consumer is, for people to see.
  public struct Progress: Sendable {
    public var step: PaymentStep
    public var name: String
    /// The lowest unfinished offset.
    public var place: UInt64
    /// Up to where that is durable.
    public var committed: UInt64
    public var callsUnderWay: Int
    /// Payments read and not finished.
    public var unfinished: Int
    /// Payments whose last try failed.
    public var waiting: Int
    public var breaker: Breaker
  }

  public var progress: Progress {
    Progress(
      step: step, name: cursorName, place: window.place, committed: committedPlace, callsUnderWay: callCount,
      unfinished: window.unfinishedCount, waiting: window.waitingCount, breaker: breaker)
  }

  /// Ends ``run()`` once the calls under way have ended, or after the stop limit. May be called from anywhere, also
  /// before ``run()``.
  public nonisolated func stop() { mailbox.continuation.yield(.stop) }

  /// Works until ``stop()`` or until its task is cancelled. To be called once.
  ///
  /// - Throws: when its place can't be read at the start.
  public func run() async throws(LogStoreError) {
    let place = try log.reader.cursor(cursorName) ?? 0
    window = Window(place: place, limit: options.unfinishedLimit)
    committedPlace = place
    let interval = options.cursorInterval
    await withDiscardingTaskGroup { group in
      group.addTask { [mailbox] in
        while !Task.isCancelled {
          try? await Task.sleep(for: interval)
          mailbox.continuation.yield(.tick)
        }
      }
      mailbox.continuation.yield(.readable)
      for await message in mailbox.stream {
        await handle(message, in: &group)
        if isStopping && callCount == 0 { break }
        read()
        startCalls(in: &group)
        watch(in: &group)
      }
      group.cancelAll()
    }
    await commitCursor()
  }

  private func handle(_ message: Message, in group: inout DiscardingTaskGroup) async {
    switch message {
    case .readable: isWatching = false
    case .due(let instant): if timer == instant { timer = nil }
    case .tick:
      await commitCursor()
      askForDelayed(in: &group)
    case .delayed(let items):
      isAskingForDelayed = false
      for item in items { delayed.admit(item) }
    case .ended(let work, let ending):
      callCount -= 1
      end(work, ending, in: &group)
    case .stop:
      isStopping = true
      group.addTask { [mailbox, limit = options.stopLimit] in
        try? await Task.sleep(for: limit)
        mailbox.continuation.yield(.stopNow)
      }
    // What is under way is cancelled, and still reports its end.
    case .stopNow: group.cancelAll()
    }
  }

  private func end(_ work: StepWork, _ ending: StepEnding, in group: inout DiscardingTaskGroup) {
    switch ending {
    case .finished(let isAccepted, let committed):
      if isAccepted { (acceptedCount, lastAccepted) = (acceptedCount + 1, clock.now) }
      noteCommitted(committed)
      board.clear(work.id, work.work)
      switch work {
      case .read(let offset, _):
        ownFailures[offset] = nil
        window.finish(offset)
      case .delayed(let item): delayed.finish(item)
      }
    case .retry(let failure):
      switch work {
      case .read(let offset, let request): retry(request, at: offset, failure, in: &group)
      case .delayed(let item): retry(item, failure, in: &group)
      }
    case .abandoned:
      switch work {
      case .read(let offset, _): window.putBack(offset)
      case .delayed(let item): delayed.putBack(item)
      }
    }
  }

  private func retry(
    _ request: StepRequest, at offset: UInt64, _ failure: CallRetry, in group: inout DiscardingTaskGroup
  ) {
    let attempts = window.attempts(offset) + 1
    let before = ownFailures[offset] ?? (count: 0, acceptedBefore: acceptedCount)
    let failures = before.count + (acceptedCount > before.acceptedBefore ? 1 : 0)
    ownFailures[offset] = (failures, acceptedCount)
    let wait = options.backoff.delay(attempts: attempts, atLeast: failure.after)
    logRetry(request.id, request.work, attempts, failure.reason)
    if wait >= options.durableDelay,
      failures >= options.ownFailuresToDelay || (failure.after != nil && !failure.isOutage)
    {
      delay(.read(offset, request), for: wait, attempts, failures, failure.reason, in: &group)
    } else {
      window.retry(offset, due: clock.now + wait)
      board.set(request.id, .init(work: request.work, attempts: attempts, reason: failure.reason))
    }
  }

  private func retry(
    _ item: DelayedQueue.Item, _ failure: CallRetry, in group: inout DiscardingTaskGroup
  ) {
    let isOwn = lastAccepted.map { $0.duration(to: clock.now) < options.durableDelay } ?? false
    // Its place in the list of what waits stays, and it is told again as soon as calls go out.
    guard isOwn || !failure.isOutage else { return delayed.finish(item) }
    let attempts = item.delay.attempts + 1
    logRetry(item.id, item.delay.work, attempts, failure.reason)
    delay(
      .delayed(item), for: options.backoff.delay(attempts: attempts, atLeast: failure.after), attempts,
      item.delay.ownFailures + (isOwn ? 1 : 0), failure.reason, in: &group)
  }

  private func logRetry(_ id: PaymentID, _ work: PaymentWork, _ attempts: Int, _ reason: String) {
    logger.warning(
      "a step failed and will be tried again",
      metadata: ["payment": "\(id)", "step": "\(work)", "attempts": "\(attempts)", "reason": "\(reason)"])
  }

  /// Puts the wait on the log; then it is not this consumer's memory that keeps it.
  private func delay(
    _ work: StepWork, for wait: Duration, _ attempts: Int, _ ownFailures: Int, _ reason: String,
    in group: inout DiscardingTaskGroup
  ) {
    let delay = Delay(
      work.work, untilMicroseconds: Clock.microseconds() + UInt64(max(0, wait / .microseconds(1))), attempts: attempts,
      ownFailures: ownFailures, reason: reason)
    callCount += 1
    group.addTask { [mailbox, call] in
      var ending = await call.record(.delay(delay), of: work, as: nil, isAccepted: false) {
        await self.place(finishing: work)
      }
      // It is told again, as it is due still.
      if case .retry = ending, case .delayed = work { ending = .finished(isAccepted: false) }
      mailbox.continuation.yield(.ended(work, ending))
    }
  }

  private func askForDelayed(in group: inout DiscardingTaskGroup) {
    let limit = delayed.room
    guard !isStopping, !isAskingForDelayed, limit > 0 else { return }
    isAskingForDelayed = true
    group.addTask { [mailbox, delays, step, health, logger, name = cursorName + "-delays"] in
      var items: [DelayedQueue.Item] = []
      do {
        items = try await delays.due(step, by: Clock.microseconds(), limit: limit).map {
          .init(id: $0.id, delay: $0.delay)
        }
        health.report(name, fault: nil)
      } catch {
        if !Task.isCancelled {
          health.report(name, fault: "can't read what is due: \(error)")
          logger.error("can't read what is due", metadata: ["error": "\(error)"])
        }
      }
      mailbox.continuation.yield(.delayed(items))
    }
  }

  /// Takes in events that fit, a bounded number at a time: behind a long log there are calls that want to end.
  private func read() {
    guard !isStopping else { return }
    do {
      for _ in 0..<Self.batchesAtOnce where !window.isFull {
        var count = 0
        try log.reader.forEach(from: window.readPlace) { event in
          count += 1
          window.move(to: event.offset)
          if let work = work(askedBy: event) { window.admit(work) } else { window.skip() }
          return count < Self.batch && !window.isFull
        }
        guard count > 0 else { break }
      }
      isReadable = true
      health.report(cursorName, fault: nil)
    } catch {
      isReadable = false
      health.report(cursorName, fault: "can't read the log: \(error)")
      logger.error("can't read the log", metadata: ["offset": "\(window.readPlace)", "error": "\(error)"])
    }
  }

  /// What the event asks this consumer to do; nil for nothing.
  private func work(askedBy view: borrowing EventView) -> StepRequest? {
    // Looked at where it stands: of a payment's events one asks for this step.
    let isAsking = view.type.withUnsafeBytes { type in askingTypes.contains { $0.elementsEqual(type) } }
    guard isAsking else { return nil }
    let event = view.copy()
    guard let id = PaymentID(stream: event.stream) else {
      health.countSkippedEvent()
      logger.warning("skipped an event outside a payment's stream", metadata: ["offset": "\(event.offset)"])
      return nil
    }
    // What can't be read is counted and logged by the completion consumer.
    guard let work = (try? PaymentEvent(type: event.type, payload: event.payload))?.work, work.step == step else {
      return nil
    }
    return StepRequest(id: id, work: work)
  }

  private func startCalls(in group: inout DiscardingTaskGroup) {
    while !isStopping, callCount < options.callLimit {
      let now = clock.now
      let hasDelayed = delayed.hasReadyWork && delayed.underWayCount < delayedCallLimit
      guard window.hasReadyWork || window.nextDue.map({ $0 <= now }) ?? false || hasDelayed else { break }
      switch breaker.admit(hasUntried: window.hasUntriedWork, now: now) {
      case .wait(let until):
        wake(at: until, in: &group)
        return
      case .pass(let pass):
        guard let (work, ownFailures) = next(pass, now: now) else {
          breaker.abandoned(pass, now: now)
          return
        }
        callCount += 1
        group.addTask { [mailbox, call, mayGiveUp = ownFailures >= options.ownFailureLimit] in
          let ending = await call.carryOut(work, pass, mayGiveUp: mayGiveUp) { await self.place(finishing: work) }
          mailbox.continuation.yield(.ended(work, ending))
        }
      }
    }
    if let due = window.nextDue { wake(at: due, in: &group) }
  }

  /// What had to wait long takes no more of the calls: most likely it fails again, and perhaps slowly.
  private var delayedCallLimit: Int { max(1, options.callLimit / 4) }

  private func next(_ pass: Breaker.Pass, now: ContinuousClock.Instant) -> (work: StepWork, ownFailures: Int)? {
    if !pass.isTrial, delayed.underWayCount < delayedCallLimit, let item = delayed.next() {
      return (.delayed(item), item.delay.ownFailures)
    }
    if let (offset, request) = window.next(now: now, untriedFirst: pass.isTrial) {
      return (.read(offset, request), ownFailures[offset]?.count ?? 0)
    }
    return delayed.next().map { (.delayed($0), $0.delay.ownFailures) }
  }

  private func wake(at instant: ContinuousClock.Instant, in group: inout DiscardingTaskGroup) {
    // A timer that is earlier already wakes us, and then the next is set.
    if let timer, timer <= instant { return }
    timer = instant
    group.addTask { [mailbox, clock] in
      try? await clock.sleep(until: instant)
      mailbox.continuation.yield(.due(instant))
    }
  }

  private func watch(in group: inout DiscardingTaskGroup) {
    // What can't be read now is tried again with the next tick; waiting for more would return at once.
    guard isReadable, !isWatching, !isStopping, !window.isFull else { return }
    isWatching = true
    group.addTask { [mailbox, reader = log.reader, place = window.readPlace] in
      do {
        if try await reader.waitForEvents(at: place) { mailbox.continuation.yield(.readable) }
      } catch {
        // Closed or damaged: the next tick reads again and reports it.
      }
    }
  }

  private func place(finishing work: StepWork) -> UInt64 {
    switch work {
    case .read(let offset, _): window.place(finishing: offset)
    case .delayed: window.place
    }
  }

  private func noteCommitted(_ place: UInt64) { committedPlace = max(committedPlace, place) }

  /// Moves the cursor past what was skipped or done already.
  private func commitCursor() async {
    let place = window.place
    guard place > committedPlace else { return }
    do {
      _ = try await log.store.append(Append([], cursors: [CursorCommit(name: cursorName, place: place)]))
      noteCommitted(place)
    } catch {
      logger.error("can't move the cursor", metadata: ["error": "\(error)"])
    }
  }
}
