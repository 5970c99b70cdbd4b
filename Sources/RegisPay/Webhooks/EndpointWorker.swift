import LogStore
import Logging

/// Tells one endpoint what becomes of payments: reads the log from the endpoint's own place, has a bounded number of
/// messages on their way at once, and keeps what failed for another try. Nothing that goes wrong here is noticed by
/// another endpoint or by a payment.
///
/// Delivery is at least once: what was under way when the process died is sent again, with the same id. Memory is
/// bounded by ``WebhookOptions/callLimit`` and ``WebhookOptions/waitingLimit``; all else stays on the log.
///
/// It is the only owner of its endpoint: what it holds is the truth, and the journal writes the changes in the order in
/// which they are made here. What a person asks for is written first and holds from then on; one such command is carried
/// out at a time. What follows from a try holds at once, and is written until that succeeds: not as it was at first, but
/// as it is then, so that it never takes back what was decided since.
actor EndpointWorker {
  enum Message: Sendable {
    /// Something has changed: see what can be done.
    case wake
    /// The log has grown past what was read.
    case readable
    case due(UInt64)
    case ended(UInt64, WebhookAttempt.Ended)
    /// What came of a try is on disk, or could not be written.
    case recorded([WebhookChange], WebhookStoreError?)
    case stop
    case stopNow
  }

  struct Waiting: Sendable {
    var event: WaitingEvent
    var isUnderWay = false
  }

  nonisolated let id: String
  let log: PaymentLog
  let journal: WebhookJournal
  let options: WebhookOptions
  let logger: Logger
  let clock: WebhookClock
  let sender: WebhookSender
  let warnings: WebhookWarnings
  let careful: CarefulStart
  private let logEndAtStart: UInt64
  /// A message to this endpoint has ended in this process, so a call to it does not crash the process each time.
  private var hasEnded = false
  let mailbox = AsyncStream<Message>.makeStream()

  var endpoint: WebhookEndpoint {
    didSet { warnings.set(id, endpoint.disabled?.reason) }
  }
  var progress: WebhookProgress
  var waiting: [UInt64: Waiting]
  /// Everything below is done, in `waiting`, or in `firstTries`.
  var readPlace: UInt64
  /// Events that are tried for the first time.
  var firstTries: Set<UInt64> = []
  /// Tries that are under way, or whose end is not on disk yet.
  var underWay = 0
  /// When one message is let through to an endpoint that fails.
  var probeMicroseconds: UInt64 = 0
  var deliveriesSinceTrim = 0
  var isTesting = false
  var isRemoved = false
  /// One command is carried out, and the others wait for their turn.
  var isCommanded = false
  var turns: [CheckedContinuation<Void, Never>] = []
  /// Counts ``disable(_:)``, which does not wait for a command to end.
  var disableCount = 0
  /// Tries that ended while a removal or another URL was being written: they count after that.
  var endedMeanwhile: [(offset: UInt64, ended: WebhookAttempt.Ended)]?
  var isStopping = false

  private var committedPlace: UInt64
  var commitMicroseconds: UInt64 = 0
  private var isWatching = false
  private var isReadable = true
  private var timer: (due: UInt64, task: Task<Void, Never>)?
  /// When the clock was looked at last.
  var looked: WebhookClock.Look

  init(
    _ kept: WebhookTable.Kept, log: PaymentLog, journal: WebhookJournal, options: WebhookOptions,
    warnings: WebhookWarnings, start: CarefulStart, logger: Logger
  ) {
    let look = options.clock.look()
    looked = look
    let kept = kept.bounded(at: look.now, options)
    careful = start
    logEndAtStart = log.reader.endOffset
    id = kept.endpoint.id
    endpoint = kept.endpoint
    progress = kept.progress
    // A log that was restored from a backup may end before the place.
    readPlace = min(kept.progress.place, log.reader.endOffset)
    progress.place = readPlace
    committedPlace = kept.progress.place
    waiting = Dictionary(uniqueKeysWithValues: kept.waiting.map { ($0.offset, Waiting(event: $0)) })
    self.log = log
    self.journal = journal
    self.warnings = warnings
    self.options = options
    clock = options.clock
    sender = WebhookSender(options: options)
    var logger = logger
    logger[metadataKey: "webhook"] = "\(kept.endpoint.id)"
    self.logger = logger
    warnings.set(id, endpoint.disabled?.reason)
  }

  /// Ends ``run()`` once the calls under way have ended, or after the stop limit. May be called from anywhere, also before
  /// ``run()``.
  nonisolated func stop() { mailbox.continuation.yield(.stop) }

  /// Works until ``stop()``, or until the endpoint is removed. To be called once.
  func run() async {
    await withDiscardingTaskGroup { group in
      mailbox.continuation.yield(.wake)
      for await message in mailbox.stream {
        handle(message, in: &group)
        if isStopping || isRemoved, underWay == 0 { break }
        goOn(in: &group)
      }
      timer?.task.cancel()
      group.cancelAll()
    }
    if !isRemoved { commitPlace() }
    await sender.close()
  }

  private func handle(_ message: Message, in group: inout DiscardingTaskGroup) {
    switch message {
    case .wake: if isRemoved { group.cancelAll() }
    case .readable: isWatching = false
    case .due(let due): if timer?.due == due { timer = nil }
    case .ended(let offset, var ended):
      // It has begun before now, whatever the clock was then.
      ended.startMicroseconds = min(ended.startMicroseconds, now())
      if case .suspended = ended.result {} else { hasEnded = true }
      if endedMeanwhile == nil { end(offset, ended) } else { endedMeanwhile?.append((offset, ended)) }
    case .recorded(_, nil): underWay -= 1
    case .recorded(let changes, _?):
      guard !isStopping, !isRemoved else {
        underWay -= 1
        return
      }
      group.addTask { [clock] in
        await clock.sleep(clock.look().passed + 1_000_000)
        await self.recordAgain(changes)
      }
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

  func record(_ changes: [WebhookChange]) {
    journal.enqueue(changes) { [mailbox] in mailbox.continuation.yield(.recorded(changes, $0)) }
  }

  /// Writes again what could not be written, as it is now: what happened since may be on disk already. When the worker
  /// stops it is left, and the event is sent again at the next start.
  private func recordAgain(_ changes: [WebhookChange]) async {
    await takeTurn()
    defer { endTurn() }
    guard !isStopping, !isRemoved else {
      underWay -= 1
      mailbox.continuation.yield(.wake)
      return
    }
    record(changes.map(present))
  }

  private func present(_ change: WebhookChange) -> WebhookChange {
    switch change {
    case .wait(_, let event): present(event.offset)
    case .done(_, let offset): present(offset)
    case .progress: notePlace()
    case .configure, .disable:
      .disable(id: id, endpoint.disabled, updatedMicroseconds: endpoint.updatedMicroseconds)
    case .add, .delivery, .trimDeliveries, .remove: change
    }
  }

  private func present(_ offset: UInt64) -> WebhookChange {
    waiting[offset].map { .wait(id: id, $0.event) } ?? .done(id: id, offset: offset)
  }

  /// The lowest offset that is neither done nor kept among those that wait.
  var place: UInt64 { firstTries.min() ?? readPlace }

  /// It has failed so often in a row that it gets one message at a time.
  var isFailing: Bool { progress.failuresInRow >= options.failureLimit }

  // MARK: - Starting tries

  private func goOn(in group: inout DiscardingTaskGroup) {
    guard !isStopping, !isRemoved, endedMeanwhile == nil else { return }
    var due: [UInt64] = []
    let now = self.now()
    if endpoint.disabled == nil {
      if now < progress.heldUntilMicroseconds {
        due.append(progress.heldUntilMicroseconds)
      } else {
        startWaiting(now, in: &group)
        startNew(now, in: &group)
        if underWay < callLimit, let next = nextDue() { due.append(next) }
        if isFailing { due.append(probeMicroseconds) }
        if !isReadable { due.append(now + 5_000_000) }
      }
    }
    if place > committedPlace {
      if now >= commitMicroseconds {
        commitPlace()
        commitMicroseconds = now + options.cursorInterval.microseconds
      } else {
        due.append(commitMicroseconds)
      }
    }
    // What is due already waits for something else than the time.
    if let next = due.filter({ $0 > now }).min() { wake(at: next) }
  }

  private var callLimit: Int { isFailing ? 1 : options.callLimit }

  private func nextDue() -> UInt64? {
    waiting.values.lazy.filter { !$0.isUnderWay }.map(\.event.dueMicroseconds).min()
  }

  private func startWaiting(_ now: UInt64, in group: inout DiscardingTaskGroup) {
    guard underWay < callLimit, let next = nextDue(), next <= now else { return }
    let ready = waiting.values.filter { !$0.isUnderWay && $0.event.dueMicroseconds <= now }
      .sorted { ($0.event.dueMicroseconds, $0.event.offset) < ($1.event.dueMicroseconds, $1.event.offset) }
    for entry in ready.prefix(callLimit - underWay) {
      waiting[entry.event.offset]?.isUnderWay = true
      start(.offset(entry.event.offset), entry.event.offset, in: &group)
    }
  }

  private func startNew(_ now: UInt64, in group: inout DiscardingTaskGroup) {
    guard !isFailing || now >= probeMicroseconds else { return }
    let room = min(callLimit - underWay, options.waitingLimit - waiting.count - firstTries.count)
    guard room > 0 else { return }
    let events: [Event]
    let isAtEnd: Bool
    do throws(LogStoreError) {
      (events, isAtEnd) = try read(room)
      isReadable = true
    } catch {
      // Read again in a while.
      if isReadable { logger.error("can't read the log", metadata: ["offset": "\(readPlace)", "error": "\(error)"]) }
      isReadable = false
      return
    }
    for event in events {
      firstTries.insert(event.offset)
      start(.event(event), event.offset, in: &group)
    }
    if isFailing, !events.isEmpty { probeMicroseconds = now + options.probeInterval.microseconds }
    guard events.count < room else { return }
    if isAtEnd { watch(in: &group) } else { mailbox.continuation.yield(.wake) }
  }

  /// Goes on in the log until so many events are found that the endpoint is to be told of, or until others have to get a turn.
  private func read(_ room: Int) throws(LogStoreError) -> (events: [Event], isAtEnd: Bool) {
    var events: [Event] = []
    var portion = PortionEnd()
    // Compared where they stand: most events are passed over.
    let types = (endpoint.events ?? Set(PaymentEvent.TypeName.allCases)).map { Array($0.rawValue.utf8) }
    let end = log.reader.endOffset
    readPlace = try log.follower.forEach(from: readPlace) { event in
      let isWanted = event.type.withUnsafeBytes { type in types.contains { $0.elementsEqual(type) } }
      if isWanted, waiting[event.offset] == nil, !firstTries.contains(event.offset) { events.append(event.copy()) }
      return events.count < room && !portion.isReached(after: event.payload.byteCount)
    }
    return (events, readPlace >= end)
  }

  private func start(_ source: WebhookAttempt.Source, _ offset: UInt64, in group: inout DiscardingTaskGroup) {
    underWay += 1
    let attempt = WebhookAttempt(log: log, sender: sender, clock: clock, start: careful)
    // After crashes, a message about something new is as dangerous as one that was due, until one has ended.
    let isSuspect = offset < logEndAtStart || !hasEnded
    // Taken here, so that what is started before the endpoint is disabled comes before that.
    let ticket = careful.ticket
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
    let end = looked.passed + (due > now ? due - now : 0)
    let task = Task { [mailbox, clock] in
      await clock.sleep(end)
      if !Task.isCancelled { mailbox.continuation.yield(.due(due)) }
    }
    timer = (due, task)
  }

  private func watch(in group: inout DiscardingTaskGroup) {
    guard !isWatching else { return }
    isWatching = true
    group.addTask { [mailbox, reader = log.reader, place = readPlace] in
      // Closed or damaged: nothing more can be told from here.
      if (try? await reader.waitForEvents(at: place)) == true { mailbox.continuation.yield(.readable) }
    }
  }

  /// Moves the kept place past what the endpoint is not told of.
  func commitPlace() {
    progress.place = place
    committedPlace = progress.place
    // Should it fail, the next one writes a later place.
    journal.enqueue([.progress(id: id, progress)]) { _ in }
  }

  func notePlace() -> WebhookChange {
    progress.place = place
    committedPlace = progress.place
    return .progress(id: id, progress)
  }
}
