import LogStore
import Logging

/// Carries out one step of every payment: reads the log from its durable checkpoint, calls the provider for each event that
/// requests the step, and appends the outcome together with the checkpoint.
///
/// Delivery is at least once: after a crash, calls from the checkpoint on are made again with the same keys, unless the
/// payment's stream says that the step is done. A payment that fails waits without a call slot, and the others proceed. A long
/// wait goes on the log, and ``DelayedWork`` finds it when it is over: the checkpoint moves past it, and it survives a restart.
///
/// If workers in other processes make the calls, it makes none: it only moves the checkpoint past what is done (``WorkTracker``), and
/// records what can't be read.
public actor StepConsumer {
  private static let batch = 256
  private static let batchesAtOnce = 16
  /// How soon to check again whether the log can append.
  private static let gatePoll = Duration.milliseconds(250)
  /// How soon to load due work again after there was more of it than fits: the list follows the log with a delay.
  private static let delayedPoll = Duration.milliseconds(250)

  let step: PaymentStep
  private let filter: StepFilter
  private let cursorName: String
  private let log: PaymentLog
  let delayedWork: DelayedWorkLoader
  let call: StepCall
  let breakers: Breakers
  private let retryStatus: RetryStatus
  private let health: Health
  private let options: Options
  private let logger: Logger
  private let clock = ContinuousClock()
  private let mailbox = AsyncStream<Message>.makeStream()

  private var subscription: Subscription
  private var window: InFlightWindow<StepRequest>
  /// What is read and not known to be done; used instead of the window if workers make the calls.
  private var tracker = WorkTracker()
  private var isChecking = false
  /// How many calls workers have; nil if this consumer makes the calls.
  private let handed: (@Sendable () -> Int)?
  private var retries: RetryPolicy
  private var delayed: DelayedQueue
  private var isLoadingDelayed = false
  /// The kinds of due work of which there was more than fits, and when that was.
  private var fullKinds: (kinds: [Bool], at: ContinuousClock.Instant)?
  private var isDelayedNext = false
  private var calls: CallsInFlight
  /// Tasks that end with a message.
  private var taskCount = 0
  private var isWatching = false
  private var isReadable = true
  /// Passed-over ranges whose append failed.
  private var unrecorded: [DamagedRange] = []
  private var isStopping = false
  private var timer: ContinuousClock.Instant?

  /// - Parameters:
  ///   - step: decides which events the consumer handles, and its cursor's name.
  ///   - breaker: shared by all consumers that call the same dependency.
  ///   - handed: how many calls workers in other processes have, if they make the calls.
  public init(
    _ step: PaymentStep, log: PaymentLog, delays: any DelayedWork, provider: any StepProvider, breaker: Breaker,
    retryStatus: RetryStatus, health: Health, tries: Tries = .init(), options: Options = .init(),
    tracing: Tracing = .init(), metrics: StepMetrics = .init(), handed: (@Sendable () -> Int)? = nil, logger: Logger
  ) {
    self.step = step
    self.handed = handed
    self.cursorName = Self.cursorName(of: step)
    var logger = logger
    logger[metadataKey: "consumer"] = "\(cursorName)"
    self.log = log
    breakers = Breakers(step, of: breaker)
    self.retryStatus = retryStatus
    self.health = health
    self.options = options
    self.logger = logger
    filter = StepFilter(step, health: health, logger: logger)
    delayedWork = DelayedWorkLoader(
      step: step, source: delays, waitTime: log.waitTime, health: health, healthName: cursorName + "-delays",
      logger: logger)
    call = StepCall(
      log: log, cursorName: cursorName, provider: provider, breakers: breakers, health: health, tries: tries,
      tracing: tracing, metrics: metrics[step], options: options, clock: clock, logger: logger)
    // Until `run()` knows the checkpoint.
    subscription = log.follower.subscription(from: 0)
    window = InFlightWindow(limit: options.unfinishedLimit)
    retries = RetryPolicy(options)
    delayed = DelayedQueue(limit: options.callLimit)
    calls = CallsInFlight(limits: options.slotLimits)
  }

  public var status: Status {
    Status(
      step: step, name: cursorName, nextOffset: subscription.nextCheckpoint, checkpoint: subscription.checkpoint,
      inFlight: handed?() ?? calls.slots.count, slowCalls: calls.slots.slowCount,
      unfinished: handed == nil ? window.unfinishedCount : tracker.count,
      waiting: window.waitingCount,
      breaker: breakers.shown)
  }

  // MARK: - Running

  /// Ends ``run()`` once the calls in flight have ended, or after the stop limit. Safe to call from anywhere, also before
  /// ``run()``.
  public nonisolated func stop() { mailbox.continuation.yield(.stop) }

  /// Commits the checkpoint and loads due work, as ``run()`` does at each cursor interval. Safe to call from anywhere.
  nonisolated func tick() { mailbox.continuation.yield(.tick) }

  /// Makes a call now if any is ready, though the breakers are open. Safe to call from anywhere.
  nonisolated func tryNow() {
    breakers.tryNow(clock.now)
    tick()
  }

  /// Runs until ``stop()`` or until its task is cancelled. Call it once.
  ///
  /// - Throws: when the checkpoint can't be read at the start.
  public func run() async throws(LogStoreError) {
    subscription = log.follower.subscription(from: try log.reader.cursor(cursorName) ?? 0)
    let interval = options.cursorInterval
    await withDiscardingTaskGroup { group in
      group.addTask { [self] in
        while !Task.isCancelled {
          // Ends early only when the task is cancelled.
          try? await Task.sleep(for: interval)
          tick()
        }
      }
      mailbox.continuation.yield(.readable)
      for await message in mailbox.stream {
        await handle(message, in: &group)
        if isStopping && taskCount == 0 { break }
        read(in: &group)
        startCalls(in: &group)
        watch(in: &group)
      }
      group.cancelAll()
    }
    await commitCheckpoint()
  }

  private func handle(_ message: Message, in group: inout DiscardingTaskGroup) async {
    switch message {
    case .readable: isWatching = false
    case .due(let instant): if timer == instant { timer = nil }
    case .tick:
      log.noteTime()
      await commitCheckpoint()
      recordPassed(unrecorded, in: &group)
      loadDelayed(in: &group)
      checkTracked(in: &group)
    case .checked(let done, let open):
      taskCount -= 1
      isChecking = false
      tracker.add(open)
      done.forEach(subscription.finish)
    case .delayed(let due):
      isLoadingDelayed = false
      fullKinds = due.fullKinds.isEmpty ? nil : (due.fullKinds, clock.now)
      for item in due.items { delayed.admit(item) }
    case .passed(let ranges, let isRecorded):
      taskCount -= 1
      // After a failed append, the next tick repeats it.
      if isRecorded { ranges.forEach(subscription.finish) } else { unrecorded += ranges }
    case .ended(let work, let ending, let slot):
      taskCount -= 1
      if let slot {
        let isAccepted = if case .finished(isAccepted: true, _) = ending { true } else { false }
        for waiting in calls.end(slot, of: work, isAccepted: isAccepted, now: clock.now).reversed() { putBack(waiting) }
      }
      end(work, ending, in: &group)
    case .stop:
      isStopping = true
      group.addTask { [mailbox, limit = options.stopLimit] in
        // Ends early only when the consumer stops before the limit.
        try? await Task.sleep(for: limit)
        mailbox.continuation.yield(.stopNow)
      }
    // Cancelled tries still report their end.
    case .stopNow: group.cancelAll()
    }
  }

  private func wake(at instant: ContinuousClock.Instant, in group: inout DiscardingTaskGroup) {
    // An earlier timer is set; after it the next one is.
    if let timer, timer <= instant { return }
    timer = instant
    group.addTask { [mailbox, clock] in
      // Ends early only when the consumer stops.
      try? await clock.sleep(until: instant)
      mailbox.continuation.yield(.due(instant))
    }
  }

  // MARK: - Reading the log

  /// Admits events that fit, a bounded number at a time: on a long log, ended calls must be handled in between.
  private func read(in group: inout DiscardingTaskGroup) {
    guard !isStopping, hasRoomToRead else { return }
    do {
      for _ in 0..<Self.batchesAtOnce where self.room > 0 {
        var (room, left) = (self.room, Self.batch)
        let portion = try log.follower.read(subscription) { event -> Subscription.Choice<StepRequest> in
          guard room > 0, left > 0 else { return .stop }
          left -= 1
          guard let request = filter.request(in: event) else { return .skip }
          room -= 1
          return .take(request)
        }
        for (offset, request) in portion.items {
          if handed == nil { window.admit(request, at: offset) } else { tracker.read(request, at: offset) }
        }
        recordPassed(portion.passed.filter { !$0.offsets.isEmpty }, in: &group)
        guard !portion.offsets.isEmpty else { break }
      }
      isReadable = true
      health.report(cursorName, fault: nil)
    } catch {
      isReadable = false
      health.report(cursorName, fault: "can't read the log: \(error)")
      logger.error(
        "can't read the log", metadata: ["offset": "\(subscription.readOffset)", "error": "\(error)"])
    }
  }

  /// How much more work fits.
  private var room: Int { handed == nil ? window.room : max(0, options.unfinishedLimit - tracker.count) }
  private var hasRoomToRead: Bool {
    handed == nil ? window.hasRoomToRead : room >= max(options.unfinishedLimit / 40, 1)
  }

  /// Appends the ranges that were passed over, so that the checkpoint may move past them: their events may have requested the
  /// step. ``SkippedWork`` reads them again when they become readable.
  private func recordPassed(_ ranges: [DamagedRange], in group: inout DiscardingTaskGroup) {
    guard !isStopping, !ranges.isEmpty else { return }
    unrecorded.removeAll(where: ranges.contains)
    taskCount += 1
    group.addTask { [mailbox, log, step, logger] in
      let events = ranges.map { SkippedWork.event(.passed, .init(step: step, offsets: $0.offsets)) }
      do {
        try await log.append(Append(events))
        mailbox.continuation.yield(.passed(ranges, isRecorded: true))
      } catch {
        logger.error("can't record a passed-over range", metadata: ["error": "\(error)"])
        mailbox.continuation.yield(.passed(ranges, isRecorded: false))
      }
    }
  }

  private func watch(in group: inout DiscardingTaskGroup) {
    // The next tick retries a failed read; waiting for more events would return at once.
    guard isReadable, !isWatching, !isStopping, hasRoomToRead else { return }
    isWatching = true
    group.addTask { [mailbox, subscription] in
      do {
        if try await subscription.waitForMore() { mailbox.continuation.yield(.readable) }
      } catch {
        // Closed or damaged: the next tick reads again and reports it.
      }
    }
  }

  /// Commits the checkpoint past work that was skipped or done before. While the log can't append, this commit finds out
  /// whether it can again.
  private func commitCheckpoint() async {
    let next = subscription.nextCheckpoint
    let isGateOpen = log.gate.isOpen
    guard next > subscription.checkpoint || !isGateOpen else { return }
    do {
      try await log.append(Append([], cursors: [CursorCommit(name: cursorName, checkpoint: next, mayLag: true)]))
      subscription.noteCommitted(next)
      if !isGateOpen, log.gate.isOpen { logger.notice("the log can append again, and calls go out again") }
    } catch {
      // Logged once, not at each tick.
      if isGateOpen { logger.error("can't commit the checkpoint", metadata: ["error": "\(error)"]) }
    }
  }

  /// The checkpoint to commit together with the outcome of some work.
  private func checkpoint(finishing work: StepWork) -> StepCall.Checkpoint {
    switch work {
    case .read(let offset, _): { [subscription] in subscription.nextCheckpoint(finishing: offset) }
    case .delayed: { [subscription] in subscription.nextCheckpoint }
    }
  }

  // MARK: - Calls

  private func startCalls(in group: inout DiscardingTaskGroup) {
    guard !isStopping, handed == nil else { return }
    var now = clock.now
    window.wake(at: now)
    calls.age(to: now)
    while let next = nextLane {
      now = clock.now
      guard log.gate.isOpen else { return wake(at: now + Self.gatePoll, in: &group) }
      let hasUntried = window.hasReady(.first) && calls.slots.hasRoom(.first)
      switch breakers.admit(hasUntried: hasUntried, now: now) {
      case .wait(let until): return wake(at: until, in: &group)
      case .pass(let pass): start(pass.isTrial && hasUntried ? .first : next, pass, now: now, in: &group)
      }
    }
    // The breakers admit calls, and no lane with ready work has room.
    let waiting = readyCount(.first) + readyCount(.retry)
    calls.abandon(for: waiting, now: now)
    if waiting > 0, let probe = calls.slots.nextProbe, probe > now { wake(at: probe, in: &group) }
    if let full = fullKinds, full.kinds.contains(where: { delayed.readyCount(didTimeOut: $0) == 0 }) {
      let due = full.at + Self.delayedPoll
      if due <= now { loadDelayed(in: &group) } else { wake(at: due, in: &group) }
    }
    if let due = window.nextDue { wake(at: due, in: &group) }
    if waiting > 0, let aging = calls.slots.nextAging { wake(at: aging, in: &group) }
  }

  /// The lane of the next call, if it has ready work and room. Retries come first, since they have fewer slots.
  private var nextLane: CallSlots.Lane? {
    [.timedOut, .retry, .first].first { readyCount($0) > 0 && calls.slots.hasRoom($0) }
  }

  /// The ready work of a lane, including work that has waited on the log.
  private func readyCount(_ lane: CallSlots.Lane) -> Int {
    window.readyCount(lane) + (lane.didTimeOut.map { delayed.readyCount(didTimeOut: $0) } ?? 0)
  }

  private func start(
    _ lane: CallSlots.Lane, _ pass: Breakers.Pass, now: ContinuousClock.Instant, in group: inout DiscardingTaskGroup
  ) {
    guard let (work, ownFailures) = take(lane) else { return breakers.abandoned(pass, now: now) }
    guard let (slot, stop) = calls.begin(lane, for: work, now: now) else { return breakers.abandoned(pass, now: now) }
    taskCount += 1
    group.addTask { [mailbox, call, checkpoint = checkpoint(finishing: work)] in
      let ending = await call.carryOut(work, pass, ownFailures: ownFailures, stop: stop, checkpoint: checkpoint)
      mailbox.continuation.yield(.ended(work, ending, slot: slot))
    }
  }

  private func take(_ lane: CallSlots.Lane) -> (work: StepWork, ownFailures: Int)? {
    if let didTimeOut = lane.didTimeOut {
      // Work from the log and work from memory take turns.
      isDelayedNext.toggle()
      if isDelayedNext || !window.hasReady(lane), let item = delayed.next(didTimeOut: didTimeOut) {
        return (.delayed(item), item.delay.ownFailures)
      }
    }
    guard let (offset, request) = window.next(lane) else { return nil }
    return (.read(offset, request), retries.ownFailures(offset))
  }

  // MARK: - Ends and retries

  private func end(_ work: StepWork, _ ending: StepEnding, in group: inout DiscardingTaskGroup) {
    switch (ending, work) {
    case (.finished(let isAccepted, let committed), _):
      if isAccepted { retries.noteAccepted(now: clock.now) }
      subscription.noteCommitted(committed)
      retryStatus.clear(work.id, work.work)
      switch work {
      case .read(let offset, _):
        retries.finish(offset)
        window.finish(offset)
        subscription.finish(offset)
      case .delayed(let item): delayed.finish(item)
      }
    case (.retry(let failure, let isOutage), .read(let offset, _)):
      let attempts = window.attempts(offset) + 1
      call.logRetry(work, failure, attempts: attempts)
      let isTimeout = failure.cause == .timeout
      let wait = retries.wait(
        after: failure, isOutage: isOutage, at: offset, attempts: attempts,
        timeouts: window.timeouts(offset) + (isTimeout ? 1 : 0),
        hasRoomForTimeouts: window.timedOutCount < calls.slots.limits.timedOut)
      guard !wait.isOnLog else { return delay(work, wait, failure, in: &group) }
      window.retry(offset, due: clock.now + wait.duration, isTimeout: isTimeout)
      retryStatus.set(work.id, .init(work: work.work, attempts: attempts, reason: failure.reason))
    case (.retry(let failure, let isOutage), .delayed(let item)):
      call.logRetry(work, failure, attempts: item.delay.attempts + 1)
      guard let wait = retries.wait(after: failure, isOutage: isOutage, of: item.delay, now: clock.now) else {
        // Its wait stays on the log: the item is loaded again as soon as calls go out.
        return delayed.finish(item)
      }
      delay(work, wait, failure, in: &group)
    case (.abandoned, _): putBack(work)
    }
  }

  private func putBack(_ work: StepWork) {
    switch work {
    case .read(let offset, _): window.putBack(offset)
    case .delayed(let item): delayed.putBack(item)
    }
  }

  /// Appends the wait to the log, which holds it from then on instead of this consumer's memory.
  private func delay(
    _ work: StepWork, _ wait: RetryPolicy.Wait, _ failure: CallRetry, in group: inout DiscardingTaskGroup
  ) {
    taskCount += 1
    group.addTask { [mailbox, call, checkpoint = checkpoint(finishing: work)] in
      let ending = await call.delay(work, wait, failure, checkpoint: checkpoint)
      mailbox.continuation.yield(.ended(work, ending, slot: nil))
    }
  }

  private func loadDelayed(in group: inout DiscardingTaskGroup) {
    let kinds = [false, true].filter { delayed.room(didTimeOut: $0) > 0 }
    guard !isStopping, handed == nil, !isLoadingDelayed, !kinds.isEmpty else { return }
    isLoadingDelayed = true
    // The source returns known items again, so the limit is all that the queue can hold, not the room left.
    group.addTask { [mailbox, delayedWork, limit = delayed.limit] in
      mailbox.continuation.yield(.delayed(await delayedWork.load(kinds, limit: limit)))
    }
  }

  // MARK: - Calls that workers make

  /// The checkpoint past all that is known to be done.
  var checkpointOfDone: StepCall.Checkpoint { { [subscription] in subscription.nextCheckpoint } }

  /// Looks which of the tracked work is done, off this actor.
  private func checkTracked(in group: inout DiscardingTaskGroup) {
    guard handed != nil, !isStopping, !isChecking else { return }
    let items = tracker.takeToCheck()
    guard !items.isEmpty else { return }
    isChecking = true
    taskCount += 1
    group.addTask { [mailbox, call, checkpoint = checkpointOfDone] in
      var (done, open): ([UInt64], [WorkTracker.Item]) = ([], [])
      for item in items {
        if await call.isDone(item.request, at: item.offset, checkpoint) {
          done.append(item.offset)
        } else {
          open.append(item)
        }
      }
      mailbox.continuation.yield(.checked(done: done, open: open))
    }
  }
}

extension StepCall {
  /// Whether the step is not due any more, or waits on the log. A payment that refuses commands is skipped: that is recorded.
  fileprivate func isDone(_ request: StepRequest, at offset: UInt64, _ checkpoint: Checkpoint) async -> Bool {
    do throws(PaymentLogError) {
      guard let known = try log.load(request.id) else { throw PaymentLogError.missing(request.id) }
      if let newer = known.newerEvent { throw PaymentLogError.newerEvent(request.id, newer) }
      return !known.payment.isDue(request.work) || known.payment.delay(of: request.work) != nil
    } catch {
      if case .store = error { return false }
      if case .finished = await skip(.read(offset, request), error, checkpoint) { return true }
      return false
    }
  }
}
