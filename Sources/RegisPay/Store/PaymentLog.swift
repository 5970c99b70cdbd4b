import LogStore
import Logging

/// Loads payments from their streams and appends to them. All code that does either goes through it.
///
/// Safe to use from any task.
public struct PaymentLog: Sendable {
  public let store: LogStore
  /// Closed while the log can't append; all copies of this value share it.
  let gate: RecordGate
  /// What of the log can't be read, and which payments that affects.
  public let damage: DamageStatus
  /// The log's end at the start of the process. An earlier process may have tried what was requested before it.
  public let openedAt: UInt64
  private let restorations = KnownRestorations()
  /// Gives the age of events that an earlier process has appended.
  let time: SteadyTime
  /// Gives idempotency records their age.
  let leastTime: LeastTime
  /// Gives the age of events that this process has appended.
  private let appendTimes: AppendTimes
  /// The clock of waits on the log.
  let waitTime: WaitTime
  /// What this process has appended.
  let flow = PaymentFlow()
  private let write: @Sendable (Append) async throws(LogStoreError) -> Appended

  /// - Parameter logger: logs damage.
  public init(_ store: LogStore, logger: Logger? = nil) {
    self.init(store, logger: logger) { append async throws(LogStoreError) in try await store.append(append) }
  }

  /// - Parameter times: go on from where an earlier process left them.
  init(_ store: LogStore, times: (steady: SteadyTime, least: LeastTime), logger: Logger) {
    self.init(store, logger: logger, times: times) { append async throws(LogStoreError) in
      try await store.append(append)
    }
  }

  /// - Parameters:
  ///   - times: nil for the time of the store and this machine.
  ///   - now: a clock that nobody can set.
  ///   - write: appends instead of the store.
  init(
    _ store: LogStore, logger: Logger? = nil, times: (steady: SteadyTime, least: LeastTime)? = nil,
    now: @escaping @Sendable () -> ContinuousClock.Instant = { .now },
    write: @escaping @Sendable (Append) async throws(LogStoreError) -> Appended
  ) {
    self.store = store
    self.write = write
    gate = RecordGate(store)
    damage = DamageStatus(store.reader, logger: logger)
    openedAt = store.reader.endOffset
    time =
      times?.steady ?? SteadyTime(logTime: { Clock.microseconds() + store.clockLeadMicroseconds }, now: now)
    leastTime = times?.least ?? LeastTime(startMicroseconds: Clock.microseconds(), now: now)
    appendTimes = AppendTimes(end: { store.reader.endOffset }, now: now)
    waitTime = WaitTime(now: now)
  }

  /// Whether events of this type are on a payments log. The simulator's log has none of them.
  static func writes(_ type: String) -> Bool {
    PaymentEvent.TypeName(rawValue: type) != nil || type == IdempotencyRecord.eventType
      || SkippedWork.TypeName(rawValue: type) != nil || type == LogRestoration.eventType
      || type == OperatorAction.eventType
  }

  // MARK: - Restorations

  /// Reads from the log whether it was restored from a backup. Call it before any payment is loaded. Blocks for some reads.
  ///
  /// - Parameter isRestored: it was, since the last process that used it.
  /// - Returns: why that could not be written on the log, if it could not; then it holds for this process only.
  func noteRestorations(isRestored: Bool) async throws(LogStoreError) -> LogStoreError? {
    restorations.current = try LogRestorations(on: self)
    guard isRestored, reader.endOffset > 0 else { return nil }
    let new = try LogRestoration(of: reader)
    restorations.current.add(new)
    do throws(LogStoreError) {
      try await append(Append([new.event]))
      return nil
    } catch {
      return error
    }
  }

  /// What the log says about the tries of a step; see ``Loaded/trace(of:openedAt:restorations:keyLifetime:)``.
  func trace(of work: PaymentWork, in loaded: Loaded, keyLifetime: Duration?) -> StepTrace {
    loaded.trace(of: work, openedAt: openedAt, restorations: restorations.current, keyLifetime: keyLifetime)
  }

  // MARK: - Ages

  /// The time that an event would get now, in microseconds since 1970.
  var microseconds: UInt64 { Clock.microseconds() + store.clockLeadMicroseconds }

  /// Records the time. Call it about once a second, so that ages are known.
  func noteTime() {
    _ = time.microseconds()
    appendTimes.note()
  }

  /// The age of a step's idempotency key, at most. Independent of the machine's clock for requests of this process. For requests
  /// of an earlier process the log's times count, up to the time that the last process left in a file (``TimeRecord``).
  func age(of trace: StepTrace) -> Duration {
    guard let asked = trace.asked else { return .zero }
    if let age = appendTimes.age(of: asked.offset) { return age.upperBound }
    let now = time.microseconds()
    return now > asked.microseconds ? .microseconds(Int64(clamping: now - asked.microseconds)) : .zero
  }

  /// The age of an idempotency record, at least.
  ///
  /// - Parameter event: that holds the record.
  func leastAge(of record: IdempotencyRecord, in event: Event) -> Duration {
    if let age = appendTimes.age(of: event.offset) { return age.lowerBound }
    var now = leastTime.microseconds()
    // An earlier version kept no time in the record: the log's time counts, by the clock that is behind.
    if record.leastMicroseconds == nil { now = min(now, waitTime.microseconds()) }
    let begun = record.leastMicroseconds ?? event.timestampMicroseconds
    return now > begun ? .microseconds(Int64(clamping: now - begun)) : .zero
  }

  /// Appends, and reports the result to the gate.
  @discardableResult
  func append(_ append: Append) async throws(LogStoreError) -> Appended {
    do throws(LogStoreError) {
      let appended = try await write(append)
      gate.appended()
      return appended
    } catch {
      gate.failed(error)
      damage.note(error)
      throw error
    }
  }

  public var reader: LogReader { store.reader }
  /// Reads the log in order.
  public var follower: LogFollower { LogFollower(reader, damage) }

  /// A payment with its stream's version, which an append to the payment must name.
  public struct Loaded: Sendable {
    public var payment: Payment
    public var version: UInt64
    public var events: [Event]
    /// The first event that this program can't read; nil as a rule. The payment then shows the state of the other events, and
    /// refuses commands: the unknown event may be a refund.
    public var newerEvent: NewerEvent?
  }

  /// An event whose type or data this program doesn't know; usually a newer program wrote it.
  public struct NewerEvent: Sendable, Hashable {
    public var version: UInt64
    public var type: String
    public var reason: String
  }

  /// Creates a payment and makes it durable.
  public func initiate(_ money: Money) async throws(LogStoreError) -> PaymentID {
    guard let id = try await initiate(money, for: nil) else {
      preconditionFailure("no other request can have created a payment with a random id")
    }
    return id
  }

  /// Creates a payment and makes it durable, together with the record of the request that asked for it.
  ///
  /// - Parameter trace: that the request named.
  /// - Returns: nil when another request has used the key first; nothing was appended.
  func initiate(
    _ money: Money, for claim: IdempotencyStore.Claim?, trace: TraceContext? = nil
  ) async throws(LogStoreError) -> PaymentID? {
    let id = PaymentID.random()
    var append = Append(
      newEvent(.initiated(id, money), of: id, version: 1, .init(trace: trace)), expecting: .noStream)
    claim?.add(.created(id), to: &append)
    do {
      try await self.append(append)
      flow.count([.initiated(id, money)], from: nil, to: microseconds)
      return id
    } catch {
      guard case .conflict(let stream, _, _) = error, stream == claim?.stream else { throw error }
      return nil
    }
  }

  /// Loads a payment from its stream; nil when there is no such payment.
  ///
  /// Skips events of an unknown type and unreadable events, which a newer program may have written; see
  /// ``Loaded/newerEvent``.
  ///
  /// - Parameter version: loads the payment as of this version.
  public func load(_ id: PaymentID, upTo version: UInt64 = .max) throws(PaymentLogError) -> Loaded? {
    let events: [Event]
    do throws(LogStoreError) {
      // Not cancelled with the task: the outcome of a call must be recorded even when the server stops meanwhile.
      events = try reader.stream(id.stream, limit: Int(clamping: version), endsWithTask: false)
    } catch {
      throw failure(error, of: id)
    }
    var payment: Payment?
    var newer: NewerEvent?
    let restorations = restorations.current
    for event in events {
      var known: PaymentEvent
      do {
        known = try PaymentEvent(type: event.type, payload: event.payload)
        known = restorations.weakened(known, at: event.offset)
      } catch {
        newer = newer ?? NewerEvent(version: event.version, type: event.type, reason: error.description)
        continue
      }
      do {
        if payment == nil { payment = try Payment(known) } else { try payment?.apply(known) }
      } catch {
        // After an unknown event, later ones need not fit.
        guard newer != nil else { throw .illegal(id, version: event.version, error) }
      }
    }
    if let newer { damage.note(id, .newerEvent, reason: newer.reason) } else { damage.noteReadable(id) }
    guard let payment, let last = events.last else {
      if let newer { throw .newerEvent(id, newer) }
      return nil
    }
    return Loaded(payment: payment, version: last.version, events: events, newerEvent: newer)
  }

  /// Converts the error of a read of a payment's stream, or of an append to it, and notes damage.
  private func failure(_ error: LogStoreError, of id: PaymentID) -> PaymentLogError {
    let failure: PaymentLogError
    switch error {
    case .streamIncomplete(_, let missing): failure = .incomplete(id, missing: missing)
    case .damaged(let damage), .unreadable(let damage): failure = .damaged(id, damage)
    default: return .store(error)
    }
    damage.note(id, .incomplete, reason: failure.description)
    damage.note(error)
    return failure
  }

  /// The most events of a stream that is read on the threads for short work.
  private static let shortStream: UInt64 = 256

  /// Loads a payment on the request threads and converts it there; nil when there is no such payment. A long stream is read on
  /// the threads for long work, so that short ones don't wait for it.
  ///
  /// - Parameter version: loads the payment as of this version.
  func view<Value: Sendable>(
    _ id: PaymentID, upTo version: UInt64 = .max, _ make: @escaping @Sendable (Loaded) -> Value
  ) async throws(PaymentLogError) -> Value? {
    let first = min(version, Self.shortStream)
    let (value, isWhole) = try await RequestThreads.run(.short) { () throws(PaymentLogError) -> (Value?, Bool) in
      guard let loaded = try load(id, upTo: first) else { return (nil, true) }
      guard loaded.version < first || first == version else { return (nil, false) }
      return (make(loaded), true)
    }
    if isWhole { return value }
    return try await RequestThreads.run(.long) { () throws(PaymentLogError) in try load(id, upTo: version).map(make) }
  }

  /// How a command ended.
  public enum Executed: Sendable, Hashable {
    /// - Parameter version: of the stream after these events.
    case appended([PaymentEvent], version: UInt64)
    /// The payment's state forbids it; nothing was appended.
    case refused(PaymentRefusal)
  }

  /// Records the outcome of a step and commits a cursor, atomically. After a conflicting append, the payment is read again and
  /// the command decided again. Recording the same outcome again appends nothing.
  ///
  /// - Parameters:
  ///   - work: the step; nil if the events belong to no trace that a request named.
  ///   - calls: that were made for it; kept with the first event.
  ///   - known: the payment as it was loaded before the step; decided on first.
  func record(
    _ command: PaymentCommand, of work: PaymentWork? = nil, on id: PaymentID, calls: [CallRecord] = [],
    as known: Loaded? = nil,
    cursor: CursorCommit
  ) async throws(PaymentLogError) -> Executed {
    try await execute(command, on: id, as: known, .outcome(of: work, calls, cursor))
  }

  /// Executes a person's command. The same command twice is two intents, unless both have one idempotency key.
  ///
  /// - Parameters:
  ///   - claim: of the request's key; recorded together with the outcome.
  ///   - trace: that the request named.
  ///   - actor: who has the API key of the person; nil without one.
  func request(
    _ command: PaymentCommand, of id: PaymentID, for claim: IdempotencyStore.Claim? = nil, trace: TraceContext? = nil,
    by actor: KeyHolder? = nil
  ) async throws(PaymentLogError) -> Executed {
    try await execute(command, on: id, as: nil, .request(claim, EventMetadata(trace: trace, actor: actor)))
  }

  /// Where a command comes from.
  private enum Origin {
    case outcome(of: PaymentWork?, [CallRecord], CursorCommit)
    case request(IdempotencyStore.Claim?, EventMetadata)

    var claim: IdempotencyStore.Claim? { if case .request(let claim, _) = self { claim } else { nil } }
    var cursor: CursorCommit? { if case .outcome(_, _, let cursor) = self { cursor } else { nil } }

    /// What to keep with one of the events that follow.
    ///
    /// - Parameter isFirst: of these events.
    func metadata(of event: PaymentEvent, isFirst: Bool, _ loaded: Loaded) -> EventMetadata {
      switch self {
      case .outcome(let work, let calls, _):
        // A cancellation that waited for the outcome has a trace of its own.
        let work = event == .cancellationRequested ? PaymentWork(.cancel) : work
        return EventMetadata(trace: work.flatMap(loaded.namedTrace), calls: isFirst ? calls : [])
      case .request(_, let metadata): return metadata
      }
    }
  }

  private func execute(
    _ command: PaymentCommand, on id: PaymentID, as known: Loaded?, _ origin: Origin
  ) async throws(PaymentLogError) -> Executed {
    let (claim, cursor) = (origin.claim, origin.cursor)
    var known = known
    while true {
      let found: Loaded?
      if let known {
        found = known
      } else if cursor == nil {
        found = try await view(id) { $0 }
      } else {
        found = try load(id)
      }
      guard let loaded = found else { throw .missing(id) }
      if let newer = loaded.newerEvent { throw .newerEvent(id, newer) }
      let isReadNow = known == nil
      known = nil
      let events: [PaymentEvent]
      do {
        events = try loaded.payment.decide(command)
      } catch {
        // The payment as loaded before the step refuses; as it is now it may not.
        guard isReadNow else { continue }
        return try await recordRefusal(error, for: claim)
      }
      var append = Append([], conditions: [id.stream: .version(loaded.version)])
      for (index, event) in events.enumerated() {
        var new = newEvent(
          event, of: id, version: loaded.version + UInt64(index) + 1,
          origin.metadata(of: event, isFirst: index == 0, loaded))
        // An id made of the content would make it a repeat of an equal command just before.
        if cursor == nil { new.id = nil }
        append.events.append(new)
      }
      if let cursor { append.cursors = [cursor] }
      let version = loaded.version + UInt64(events.count)
      claim?.add(.changed(id, version: version), to: &append)
      do {
        // A repeat was counted when it was first appended.
        if try await !self.append(append).isRepeat {
          flow.count(events, from: loaded.events.first?.timestampMicroseconds, to: microseconds)
        }
        return .appended(events, version: version)
      } catch {
        switch error {
        case .conflict(let stream, _, _): if stream == claim?.stream { throw .requestTaken }
        // Another decision that begins with the same event came first: the same as a conflict. The loop ends, since the next
        // load is of a later version.
        case .eventIDReused(let known) where known.stream == id.stream && known.version > loaded.version: continue
        default:
          if case .store = failure(error, of: id) { throw .append(error) }
          throw failure(error, of: id)
        }
      }
    }
  }

  private func recordRefusal(
    _ refusal: PaymentRefusal, for claim: IdempotencyStore.Claim?
  ) async throws(PaymentLogError) -> Executed {
    guard let claim else { return .refused(refusal) }
    var append = Append([])
    claim.add(.refused(name: refusal.name, detail: "\(refusal)"), to: &append)
    do {
      try await self.append(append)
      return .refused(refusal)
    } catch {
      guard case .conflict = error else { throw .append(error) }
      throw .requestTaken
    }
  }

  private func newEvent(
    _ event: PaymentEvent, of id: PaymentID, version: UInt64, _ metadata: EventMetadata
  ) -> NewEvent {
    let payload = event.payload
    return NewEvent(
      stream: id.stream, type: event.type, payload: metadata.added(to: payload),
      // Without the metadata: two tries with the same outcome have made other calls.
      id: id.eventID(version: version, type: event.type, payload: payload))
  }
}
