import LogStore
import Logging

/// Carries out one step of every payment: reads the log from its own durable cursor, calls the provider for each event
/// that asks for its step, and appends what came of it together with its place.
///
/// Delivery is at least once: after a crash the calls from the cursor on are made again with the same keys, unless the
/// payment's stream says that the step is done. One payment that fails waits without a call slot; the others go on. A
/// long wait is put on the log and found again by ``DelayedWork``: the cursor goes on, and a restart changes nothing.
public actor StepConsumer {
  private enum Message: Sendable {
    /// The log has grown past what was read.
    case readable
    /// A time that was waited for has come.
    case due(ContinuousClock.Instant)
    case tick
    /// - Parameter slot: of the call; nil when there was none.
    case ended(StepWork, StepEnding, slot: Int?)
    /// What had to wait and is due now, and of which kinds there was more than fits.
    case delayed([DelayedQueue.Item], fullKinds: [Bool])
    /// What was passed over is on the log, up to an offset; nil if it could not be written.
    case passed(UInt64?)
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
  private let breakers: Breakers
  private let board: RetryStatus
  private let health: Health
  private let options: Options
  private let logger: Logger
  private let clock = ContinuousClock()
  private let mailbox = AsyncStream<Message>.makeStream()

  private var window: InFlightWindow<StepRequest>
  private var delayed: DelayedQueue
  private var isAskingForDelayed = false
  /// Of some kinds there was more due than was asked for, then.
  private var askedInFull: (kinds: [Bool], at: ContinuousClock.Instant)?
  private var isDelayedNext = false
  private var slots: CallSlots
  /// Of the calls out, by their numbers.
  private var stops: [Int: CallStop] = [:]
  /// Calls that the other side has accepted.
  private var acceptedCount = 0
  private var lastAccepted: ContinuousClock.Instant?
  /// Of unfinished offsets that have failed: how often while others got through, and how many those were by then.
  private var ownFailures: [UInt64: (count: Int, acceptedBefore: Int)] = [:]
  private var committedPlace: UInt64 = 0
  /// Tasks that end with a message.
  private var taskCount = 0
  private var isWatching = false
  private var isReadable = true
  /// It is written down what was passed over; nothing is read before that.
  private var isPassing = false
  private var isStopping = false
  private var timer: ContinuousClock.Instant?

  /// The durable cursor of the step's consumer.
  public static func cursorName(of step: PaymentStep) -> String { "payment-\(step.rawValue)" }

  /// - Parameters:
  ///   - step: what is done; it decides which events are answered and the cursor's name.
  ///   - breaker: shared by all that call the same dependency.
  public init(
    _ step: PaymentStep, log: PaymentLog, delays: any DelayedWork, provider: any StepProvider, breaker: Breaker,
    board: RetryStatus, health: Health, tries: Tries = .init(), options: Options = .init(), logger: Logger
  ) {
    self.step = step
    askingTypes = PaymentEvent.TypeName.allCases.filter { $0.mayAsk(for: step) }.map { Array($0.rawValue.utf8) }
    self.cursorName = Self.cursorName(of: step)
    self.log = log
    self.delays = delays
    breakers = Breakers(step, of: breaker)
    self.board = board
    self.health = health
    self.options = options
    var logger = logger
    logger[metadataKey: "consumer"] = "\(cursorName)"
    self.logger = logger
    call = StepCall(
      log: log, cursorName: cursorName, provider: provider, breakers: breakers, health: health, tries: tries,
      options: options, clock: clock, logger: logger)
    self.window = InFlightWindow(place: 0, limit: options.unfinishedLimit)
    self.delayed = DelayedQueue(limit: options.callLimit)
    self.slots = CallSlots(limits: options.slotLimits)
  }

  public var progress: Progress {
    Progress(
      step: step, name: cursorName, place: window.place, committed: committedPlace, callsUnderWay: slots.count,
      slowCalls: slots.slowCount, unfinished: window.unfinishedCount, waiting: window.waitingCount,
      breaker: breakers.shown)
  }

  /// Ends ``run()`` once the calls under way have ended, or after the stop limit. May be called from anywhere, also
  /// before ``run()``.
  public nonisolated func stop() { mailbox.continuation.yield(.stop) }

  /// Commits the cursor and looks for what is due, as ``run()`` does with each cursor interval. May be called from anywhere.
  nonisolated func tick() { mailbox.continuation.yield(.tick) }

  /// Works until ``stop()`` or until its task is cancelled. To be called once.
  ///
  /// - Throws: when its place can't be read at the start.
  public func run() async throws(LogStoreError) {
    let place = try log.reader.cursor(cursorName) ?? 0
    window = InFlightWindow(place: place, limit: options.unfinishedLimit)
    committedPlace = place
    let interval = options.cursorInterval
    await withDiscardingTaskGroup { group in
      group.addTask { [self] in
        while !Task.isCancelled {
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
    await commitCursor()
  }

  private func handle(_ message: Message, in group: inout DiscardingTaskGroup) async {
    switch message {
    case .readable: isWatching = false
    case .due(let instant): if timer == instant { timer = nil }
    case .tick:
      log.noteTime()
      await commitCursor()
      askForDelayed(in: &group)
    case .delayed(let items, let fullKinds):
      isAskingForDelayed = false
      askedInFull = fullKinds.isEmpty ? nil : (fullKinds, clock.now)
      for item in items { delayed.admit(item) }
    case .passed(let place):
      taskCount -= 1
      isPassing = false
      // If not, it is met again with the next tick.
      if let place { window.move(to: place) } else { isReadable = false }
    case .ended(let work, let ending, let slot):
      taskCount -= 1
      if let slot {
        let isAccepted = if case .finished(isAccepted: true, _) = ending { true } else { false }
        slots.end(slot, isAccepted: isAccepted, now: clock.now)
        stops[slot] = nil
      }
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
    case .retry(let failure, let isOutage):
      logRetry(work, failure)
      switch work {
      case .read(let offset, let request): retry(request, at: offset, failure, isOutage, in: &group)
      case .delayed(let item): retry(item, failure, isOutage, in: &group)
      }
    case .abandoned:
      switch work {
      case .read(let offset, _): window.putBack(offset)
      case .delayed(let item): delayed.putBack(item)
      }
    }
  }

  private func retry(
    _ request: StepRequest, at offset: UInt64, _ failure: CallRetry, _ isOutage: Bool,
    in group: inout DiscardingTaskGroup
  ) {
    let attempts = window.attempts(offset) + 1
    let isTimeout = failure.cause == .noAnswer
    let before = ownFailures[offset] ?? (count: 0, acceptedBefore: acceptedCount)
    let isOwn = failure.isJudgedByPayments ? !isOutage : acceptedCount > before.acceptedBefore
    let failures = before.count + (isOwn ? 1 : 0)
    ownFailures[offset] = (failures, acceptedCount)
    let wait = options.backoff(failure).delay(attempts: attempts, atLeast: failure.after)
    // A long wait that the other side asks for holds over a restart, too, and during an outage: memory is for short ones.
    let isLong =
      wait >= options.durableDelay
      && (failures >= options.ownFailuresToDelay || failure.asksForWait(options.durableDelay))
    // What hangs may hang for days: it must neither pin the cursor nor pile up here.
    let hangs =
      isTimeout
      && (window.timeouts(offset) + 1 >= options.timeoutsToDelay || window.patientCount >= slots.limits.patient)
    if isLong || hangs {
      delay(.read(offset, request), for: wait, attempts, failures, failure, in: &group)
    } else {
      window.retry(offset, due: clock.now + wait, isTimeout: isTimeout)
      board.set(request.id, .init(work: request.work, attempts: attempts, reason: failure.reason))
    }
  }

  private func retry(
    _ item: DelayedQueue.Item, _ failure: CallRetry, _ isOutage: Bool, in group: inout DiscardingTaskGroup
  ) {
    let isOwn =
      failure.isJudgedByPayments
      ? !isOutage : lastAccepted.map { $0.duration(to: clock.now) < options.durableDelay } ?? false
    // Its place in the list of what waits stays, and it is told again as soon as calls go out.
    guard isOwn || !isOutage || failure.asksForWait(options.durableDelay) else { return delayed.finish(item) }
    let attempts = item.delay.attempts + 1
    delay(
      .delayed(item), for: options.backoff(failure).delay(attempts: attempts, atLeast: failure.after), attempts,
      item.delay.ownFailures + (isOwn ? 1 : 0), failure, in: &group)
  }

  private func logRetry(_ work: StepWork, _ failure: CallRetry) {
    let attempts =
      switch work {
      case .read(let offset, _): window.attempts(offset) + 1
      case .delayed(let item): item.delay.attempts + 1
      }
    logger.warning(
      "a step failed and will be tried again",
      metadata: [
        "payment": "\(work.id)", "step": "\(work.work)", "attempts": "\(attempts)", "reason": "\(failure.reason)",
      ])
  }

  /// Puts the wait on the log; then it is not this consumer's memory that keeps it.
  private func delay(
    _ work: StepWork, for wait: Duration, _ attempts: Int, _ ownFailures: Int, _ failure: CallRetry,
    in group: inout DiscardingTaskGroup
  ) {
    let now = log.waitTime.microseconds()
    let delay = Delay(
      work.work, untilMicroseconds: now + wait.microseconds, attempts: attempts,
      ownFailures: ownFailures, reason: failure.reason, isUnanswered: failure.cause == .noAnswer,
      beganMicroseconds: now)
    taskCount += 1
    group.addTask { [mailbox, call] in
      var ending = await call.record(.delay(delay), of: work, as: nil, isAccepted: false) {
        await self.place(finishing: work)
      }
      // It is told again, as it is due still.
      if case .retry = ending, case .delayed = work { ending = .finished(isAccepted: false) }
      mailbox.continuation.yield(.ended(work, ending, slot: nil))
    }
  }

  private func askForDelayed(in group: inout DiscardingTaskGroup) {
    let kinds = [false, true].filter { delayed.room(isUnanswered: $0) > 0 }
    guard !isStopping, !isAskingForDelayed, !kinds.isEmpty else { return }
    // What is known already is told again: as much as can be known.
    let limit = delayed.limit
    isAskingForDelayed = true
    group.addTask { [mailbox, delays, step, health, logger, time = log.waitTime, name = cursorName + "-delays"] in
      let now = time.microseconds()
      var items: [DelayedQueue.Item] = []
      var fullKinds: [Bool] = []
      do {
        for kind in kinds {
          let due = try await delays.due(
            step, isUnanswered: kind, by: now, orBegunAfter: now + WaitTime.tolerance.microseconds,
            limit: limit)
          items += due.map { .init(id: $0.id, delay: $0.delay) }
          if due.count >= limit { fullKinds.append(kind) }
        }
        health.report(name, fault: nil)
      } catch {
        if !Task.isCancelled {
          health.report(name, fault: "can't read what is due: \(error)")
          logger.error("can't read what is due", metadata: ["error": "\(error)"])
        }
      }
      mailbox.continuation.yield(.delayed(items, fullKinds: fullKinds))
    }
  }

  /// Takes in events that fit, a bounded number at a time: behind a long log there are calls that want to end.
  private func read(in group: inout DiscardingTaskGroup) {
    guard !isStopping, !isPassing else { return }
    do {
      for _ in 0..<Self.batchesAtOnce where !window.isFull {
        var count = 0
        var passed: [Range<UInt64>] = []
        let next = try log.follower.forEach(
          from: window.readPlace, passed: { range in if !range.offsets.isEmpty { passed.append(range.offsets) } }
        ) { event in
          guard passed.isEmpty else { return false }
          count += 1
          window.move(to: event.offset)
          if let work = work(askedBy: event) { window.admit(work) } else { window.skip() }
          return count < Self.batch && !window.isFull
        }
        if !passed.isEmpty {
          pass(over: passed, in: &group)
          break
        }
        // Damage at the end of what was read has no event behind it.
        window.move(to: next)
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

  /// Writes down what was passed over, before the cursor goes behind it: it may have asked for the step, and is looked at
  /// again when it can be read; see ``SkippedWork``.
  private func pass(over ranges: [Range<UInt64>], in group: inout DiscardingTaskGroup) {
    isPassing = true
    taskCount += 1
    group.addTask { [mailbox, log, step, logger] in
      var place = ranges.last?.upperBound
      do {
        try await log.append(Append(ranges.map { SkippedWork.event(.passed, .init(step: step, offsets: $0)) }))
      } catch {
        logger.error("can't write down what was passed over", metadata: ["error": "\(error)"])
        place = nil
      }
      mailbox.continuation.yield(.passed(place))
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
    guard !isStopping else { return }
    var now = clock.now
    window.wake(at: now)
    slots.age(to: now)
    while let next = nextLane {
      now = clock.now
      guard log.gate.isOpen else { return wake(at: now + Self.gatePoll, in: &group) }
      let hasUntried = window.hasReady(.first) && slots.hasRoom(.first)
      switch breakers.admit(hasUntried: hasUntried, now: now) {
      case .wait(let until): return wake(at: until, in: &group)
      case .pass(let pass): start(pass.isTrial && hasUntried ? .first : next, pass, now: now, in: &group)
      }
    }
    // Calls may go out, and there is no room.
    let waiting = readyCount(.first) + readyCount(.again)
    for number in slots.giveUp(for: waiting, now: now) { stops[number]?.stop() }
    if waiting > 0, let probe = slots.nextProbe, probe > now { wake(at: probe, in: &group) }
    if let asked = askedInFull, asked.kinds.contains(where: { delayed.readyCount(isUnanswered: $0) == 0 }) {
      let due = asked.at + Self.delayedPoll
      if due <= now { askForDelayed(in: &group) } else { wake(at: due, in: &group) }
    }
    if let due = window.nextDue { wake(at: due, in: &group) }
    if waiting > 0, let aging = slots.nextAging { wake(at: aging, in: &group) }
  }

  /// How soon to look again whether the log can append.
  private static let gatePoll = Duration.milliseconds(250)
  /// How soon to ask again for what is due, after there was more of it than fits: the list follows the log only after a
  /// while.
  private static let delayedPoll = Duration.milliseconds(250)

  /// The lane of the next call, if there is work and room: repeats first, since they have less of the slots.
  private var nextLane: CallSlots.Lane? {
    [.patient, .again, .first].first { readyCount($0) > 0 && slots.hasRoom($0) }
  }

  /// How much of a lane is ready, here and of what has waited on the log.
  private func readyCount(_ lane: CallSlots.Lane) -> Int {
    window.readyCount(lane) + (lane.isUnanswered.map { delayed.readyCount(isUnanswered: $0) } ?? 0)
  }

  private func start(
    _ lane: CallSlots.Lane, _ pass: Breakers.Pass, now: ContinuousClock.Instant, in group: inout DiscardingTaskGroup
  ) {
    guard let (work, ownFailures) = take(lane) else { return breakers.abandoned(pass, now: now) }
    taskCount += 1
    let slot = slots.begin(lane, now: now)
    let stop = CallStop()
    stops[slot] = stop
    group.addTask { [mailbox, call] in
      let ending = await call.carryOut(work, pass, ownFailures: ownFailures, stop: stop) {
        await self.place(finishing: work)
      }
      mailbox.continuation.yield(.ended(work, ending, slot: slot))
    }
  }

  private func take(_ lane: CallSlots.Lane) -> (work: StepWork, ownFailures: Int)? {
    if let isUnanswered = lane.isUnanswered {
      // What has waited on the log and what waits here take turns.
      isDelayedNext.toggle()
      if isDelayedNext || !window.hasReady(lane), let item = delayed.next(isUnanswered: isUnanswered) {
        return (.delayed(item), item.delay.ownFailures)
      }
    }
    guard let (offset, request) = window.next(lane) else { return nil }
    return (.read(offset, request), ownFailures[offset]?.count ?? 0)
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

  /// Moves the cursor past what was skipped or done already. While the log can't append, it is what finds out whether it
  /// can again.
  private func commitCursor() async {
    let place = window.place
    let isGateOpen = log.gate.isOpen
    guard place > committedPlace || !isGateOpen else { return }
    do {
      try await log.append(Append([], cursors: [CursorCommit(name: cursorName, checkpoint: place, mayLag: true)]))
      noteCommitted(place)
      if !isGateOpen, log.gate.isOpen { logger.notice("the log can append again, and calls go out again") }
    } catch {
      // Said once, not with every tick.
      if isGateOpen { logger.error("can't move the cursor", metadata: ["error": "\(error)"]) }
    }
  }
}
