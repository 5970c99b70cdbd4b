import LogStore
import Logging

/// Delivers messages about payments to one endpoint. It reads the log from the endpoint's checkpoint, has a bounded number of
/// messages in flight, and stores failed ones for a retry. A failure here affects no other endpoint and no payment.
///
/// Delivery is at least once: a message that was in flight when the process died is sent again, with the same id.
/// ``WebhookOptions/callLimit`` and ``WebhookOptions/waitingLimit`` bound the memory; all else stays on the log.
///
/// The worker is the only owner of its endpoint: its state is authoritative, and the journal writes the changes in the order in
/// which the worker makes them. A person's command is written first and then takes effect; one command runs at a time. The
/// consequence of a try takes effect at once and is written until that succeeds. A repeated write uses the current state and not
/// the earlier one, so that it never undoes a later decision.
actor EndpointWorker {
  enum Message: Sendable {
    /// The state has changed: check what can be started.
    case wake
    /// The log has grown past what was read.
    case readable
    case due(UInt64)
    case ended(UInt64, WebhookAttempt.Ended)
    /// The consequence of a try is on disk, or could not be written.
    case recorded([WebhookChange], WebhookStoreError?)
    case stop
    case stopNow
  }

  struct Waiting: Sendable {
    var event: WaitingEvent
    var isInFlight = false
  }

  nonisolated let id: String
  let log: PaymentLog
  let journal: WebhookJournal
  let options: WebhookOptions
  let logger: Logger
  let clock: WebhookClock
  let sender: WebhookSender
  let warnings: WebhookWarnings
  let metrics: WebhookMetrics
  let carefulStart: CarefulStart
  private let logEndAtStart: UInt64
  /// A try to this endpoint has ended in this process, so a call to it does not crash the process every time.
  private var hasEnded = false
  let mailbox = AsyncStream<Message>.makeStream()

  var endpoint: WebhookEndpoint {
    didSet { warnings.set(id, endpoint.disabled?.reason) }
  }
  var progress: WebhookProgress
  var waiting: [UInt64: Waiting]
  /// Its unfinished events are those whose first try is in flight. Its checkpoint is the last one that was given to the journal.
  let subscription: Subscription
  /// Tries that are in flight, or whose consequence is not on disk yet.
  var inFlightCount = 0
  /// When the next new message is sent to an endpoint that keeps failing.
  var probeMicroseconds: UInt64 = 0
  var deliveriesSinceTrim = 0
  /// Since its last result a message found no room in this process, such as a socket. Logged once.
  var waitsForRoom = false
  var isTesting = false
  var isRemoved = false
  /// A command is running; others wait in `waitingCommands`.
  var isCommandRunning = false
  var waitingCommands: [CheckedContinuation<Void, Never>] = []
  /// Counts calls of ``disable(_:)``, which does not wait for a command to end.
  var disableCount = 0
  /// Tries that ended while a removal or a new URL was being written; they are processed after the write.
  var endedDuringWrite: [(offset: UInt64, ended: WebhookAttempt.Ended)]?
  var isStopping = false

  var commitMicroseconds: UInt64 = 0
  private var isWatching = false
  private var isReadable = true
  private var timer: (due: UInt64, task: Task<Void, Never>)?
  /// The latest reading of the clock.
  var lastReading: WebhookClock.Reading

  init(
    _ stored: WebhookTable.StoredEndpoint, log: PaymentLog, journal: WebhookJournal, options: WebhookOptions,
    warnings: WebhookWarnings, metrics: WebhookMetrics, start: CarefulStart, logger: Logger
  ) {
    let reading = options.clock.read()
    lastReading = reading
    let stored = stored.bounded(at: reading.now, options)
    carefulStart = start
    logEndAtStart = log.reader.endOffset
    id = stored.endpoint.id
    endpoint = stored.endpoint
    progress = stored.progress
    // A log that was restored from a backup may end before the checkpoint.
    subscription = log.follower.subscription(from: min(stored.progress.checkpoint, log.reader.endOffset))
    progress.checkpoint = subscription.checkpoint
    waiting = Dictionary(uniqueKeysWithValues: stored.waiting.map { ($0.offset, Waiting(event: $0)) })
    self.log = log
    self.journal = journal
    self.warnings = warnings
    self.metrics = metrics
    self.options = options
    clock = options.clock
    sender = WebhookSender(options: options)
    var logger = logger
    logger[metadataKey: "webhook"] = "\(stored.endpoint.id)"
    self.logger = logger
    warnings.set(id, endpoint.disabled?.reason)
  }

  /// Ends ``run()`` once the calls in flight have ended, or after the stop limit. May be called from any thread, also before
  /// ``run()``.
  nonisolated func stop() { mailbox.continuation.yield(.stop) }

  /// Works until ``stop()``, or until the endpoint is removed. Call it once.
  func run() async {
    await withDiscardingTaskGroup { group in
      mailbox.continuation.yield(.wake)
      for await message in mailbox.stream {
        handle(message, in: &group)
        if isStopping || isRemoved, inFlightCount == 0 { break }
        startWork(in: &group)
      }
      timer?.task.cancel()
      group.cancelAll()
    }
    if !isRemoved { commitCheckpoint() }
    await sender.close()
  }

  private func handle(_ message: Message, in group: inout DiscardingTaskGroup) {
    switch message {
    case .wake: if isRemoved { group.cancelAll() }
    case .readable: isWatching = false
    case .due(let due): if timer?.due == due { timer = nil }
    case .ended(let offset, var ended):
      // The try began before now, also if the clock was set back during it.
      ended.startMicroseconds = min(ended.startMicroseconds, now())
      if case .suspended = ended.result {} else { hasEnded = true }
      if endedDuringWrite == nil { end(offset, ended) } else { endedDuringWrite?.append((offset, ended)) }
    case .recorded(_, nil): inFlightCount -= 1
    case .recorded(let changes, _?):
      guard !isStopping, !isRemoved else {
        inFlightCount -= 1
        return
      }
      group.addTask { [clock] in
        await clock.sleep(clock.read().elapsed + 1_000_000)
        await self.recordAgain(changes)
      }
    case .stop:
      isStopping = true
      group.addTask { [mailbox, limit = options.stopLimit] in
        try? await Task.sleep(for: limit)
        mailbox.continuation.yield(.stopNow)
      }
    // Cancelled tries still report their end.
    case .stopNow: group.cancelAll()
    }
  }

  func record(_ changes: [WebhookChange]) {
    journal.enqueue(changes) { [mailbox] in mailbox.continuation.yield(.recorded(changes, $0)) }
  }

  /// Repeats a failed write with the current state, because later changes may be on disk already. When the worker stops, it does
  /// not repeat the write, and the event is sent again after the next start.
  private func recordAgain(_ changes: [WebhookChange]) async {
    await takeTurn()
    defer { endTurn() }
    guard !isStopping, !isRemoved else {
      inFlightCount -= 1
      mailbox.continuation.yield(.wake)
      return
    }
    record(changes.map(current))
  }

  private func current(_ change: WebhookChange) -> WebhookChange {
    switch change {
    case .wait(_, let event): current(event.offset)
    case .done(_, let offset): current(offset)
    case .progress: checkpointChange()
    case .configure, .disable:
      .disable(id: id, endpoint.disabled, updatedMicroseconds: endpoint.updatedMicroseconds)
    case .add, .delivery, .trimDeliveries, .remove: change
    }
  }

  private func current(_ offset: UInt64) -> WebhookChange {
    waiting[offset].map { .wait(id: id, $0.event) } ?? .done(id: id, offset: offset)
  }

  /// The endpoint has failed so often in a row that it gets one message at a time.
  var isFailing: Bool { progress.failuresInRow >= options.failureLimit }

  // MARK: - Starting tries

  private func startWork(in group: inout DiscardingTaskGroup) {
    guard !isStopping, !isRemoved, endedDuringWrite == nil else { return }
    var due: [UInt64] = []
    let now = self.now()
    if endpoint.disabled == nil {
      if now < progress.heldUntilMicroseconds {
        due.append(progress.heldUntilMicroseconds)
      } else {
        startWaiting(now, in: &group)
        startNew(now, in: &group)
        if inFlightCount < callLimit, let next = nextDue() { due.append(next) }
        if isFailing { due.append(probeMicroseconds) }
        if !isReadable { due.append(now + 5_000_000) }
      }
    }
    if subscription.nextCheckpoint > subscription.checkpoint {
      if now >= commitMicroseconds {
        commitCheckpoint()
        commitMicroseconds = now + options.cursorInterval.microseconds
      } else {
        due.append(commitMicroseconds)
      }
    }
    // Work that is due already does not wait for the time.
    if let next = due.filter({ $0 > now }).min() { wake(at: next) }
  }

  private var callLimit: Int { isFailing ? 1 : options.callLimit }

  private func nextDue() -> UInt64? {
    waiting.values.lazy.filter { !$0.isInFlight }.map(\.event.dueMicroseconds).min()
  }

  private func startWaiting(_ now: UInt64, in group: inout DiscardingTaskGroup) {
    guard inFlightCount < callLimit, let next = nextDue(), next <= now else { return }
    let ready = waiting.values.filter { !$0.isInFlight && $0.event.dueMicroseconds <= now }
      .sorted { ($0.event.dueMicroseconds, $0.event.offset) < ($1.event.dueMicroseconds, $1.event.offset) }
    for entry in ready.prefix(callLimit - inFlightCount) {
      waiting[entry.event.offset]?.isInFlight = true
      start(.offset(entry.event.offset), entry.event.offset, in: &group)
    }
  }

  private func startNew(_ now: UInt64, in group: inout DiscardingTaskGroup) {
    guard !isFailing || now >= probeMicroseconds else { return }
    let room = min(callLimit - inFlightCount, options.waitingLimit - waiting.count - subscription.unfinishedCount)
    guard room > 0 else { return }
    let events: [Event]
    let isAtEnd: Bool
    do throws(LogStoreError) {
      (events, isAtEnd) = try read(room)
      isReadable = true
    } catch {
      // `startWork` reads again after some seconds.
      if isReadable {
        logger.error(
          "can't read the log for a webhook", metadata: ["offset": "\(subscription.readOffset)", "error": "\(error)"])
      }
      isReadable = false
      return
    }
    for event in events { start(.event(event), event.offset, in: &group) }
    if isFailing, !events.isEmpty { probeMicroseconds = now + options.probeInterval.microseconds }
    guard events.count < room else { return }
    if isAtEnd { watch(in: &group) } else { mailbox.continuation.yield(.wake) }
  }

  /// Reads on until it has found `room` events for the endpoint, or until the portion ends so that other work gets its turn.
  private func read(_ room: Int) throws(LogStoreError) -> (events: [Event], isAtEnd: Bool) {
    var room = room
    var end = PortionEnd()
    var isOver = false
    // Compared in the mapped file without a copy: most events are skipped.
    let types = (endpoint.events ?? Set(PaymentEvent.TypeName.allCases)).map { Array($0.rawValue.utf8) }
    let logEnd = log.reader.endOffset
    let portion = try log.follower.read(subscription) { event -> Subscription.Choice<Event> in
      guard room > 0, !isOver else { return .stop }
      isOver = end.isReached(after: event.payload.byteCount)
      let isWanted = event.type.withUnsafeBytes { type in types.contains { $0.elementsEqual(type) } }
      guard isWanted, waiting[event.offset] == nil else { return .skip }
      room -= 1
      return .take(event.copy())
    }
    for range in portion.passed { subscription.finish(range) }
    return (portion.items.map(\.item), portion.offsets.upperBound >= logEnd)
  }

  private func start(_ source: WebhookAttempt.Source, _ offset: UInt64, in group: inout DiscardingTaskGroup) {
    inFlightCount += 1
    let attempt = WebhookAttempt(log: log, sender: sender, clock: clock, start: carefulStart, tracing: options.tracing)
    // After crashes, a message about a new event is as dangerous as one that was due, until one try has ended.
    let isSuspect = offset < logEndAtStart || !hasEnded
    // Taken here, so that the ticket of a try started before the endpoint is disabled is lower than that of a later try.
    let ticket = carefulStart.ticket
    group.addTask { [mailbox, endpoint] in
      let ended = await attempt.run(source, for: endpoint, isSuspect: isSuspect, ticket: ticket)
      mailbox.continuation.yield(.ended(offset, ended))
    }
  }

  // MARK: - Waiting

  private func wake(at due: UInt64) {
    if let timer, timer.due == due { return }
    timer?.task.cancel()
    let now = self.now()
    let end = lastReading.elapsed + (due > now ? due - now : 0)
    let task = Task { [mailbox, clock] in
      await clock.sleep(end)
      if !Task.isCancelled { mailbox.continuation.yield(.due(due)) }
    }
    timer = (due, task)
  }

  private func watch(in group: inout DiscardingTaskGroup) {
    guard !isWatching else { return }
    isWatching = true
    group.addTask { [mailbox, subscription] in
      // If the log is closed or damaged, there is no further event to wait for.
      if (try? await subscription.waitForMore()) == true { mailbox.continuation.yield(.readable) }
    }
  }

  /// Moves the durable checkpoint past events that the endpoint does not get.
  func commitCheckpoint() {
    // If this write fails, the next one writes a later checkpoint.
    journal.enqueue([checkpointChange()]) { _ in }
  }

  func checkpointChange() -> WebhookChange {
    progress.checkpoint = subscription.nextCheckpoint
    subscription.noteCommitted(progress.checkpoint)
    return .progress(id: id, progress)
  }
}
