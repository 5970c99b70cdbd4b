import LogStore
import Logging

/// Payments on the log: the one place that loads a payment from its stream and appends to it.
///
/// Safe to use from any task.
public struct PaymentLog: Sendable {
  public let store: LogStore
  /// Closed while nothing can be appended; all copies of this value share it.
  let gate: RecordGate
  /// What of the log can't be read, and which payments that concerns.
  public let damage: DamageStatus
  /// The log's end when this was made, at the start of the process: what an earlier process may have tried is before it.
  public let openedAt: UInt64
  /// Tells how old what an earlier process has appended is.
  let time: SteadyTime
  /// Tells how old what this process has appended is.
  private let appendTimes: AppendTimes
  /// Tells how long payments wait on the log.
  let waitTime: WaitTime
  private let write: @Sendable (Append) async throws(LogStoreError) -> Appended

  /// - Parameter logger: tells of damage that is met.
  public init(_ store: LogStore, logger: Logger? = nil) {
    self.init(store, logger: logger) { append async throws(LogStoreError) in try await store.append(append) }
  }

  /// - Parameter time: goes on from where an earlier process left it.
  init(_ store: LogStore, time: SteadyTime, logger: Logger) {
    self.init(store, logger: logger, time: time) { append async throws(LogStoreError) in try await store.append(append)
    }
  }

  /// - Parameters:
  ///   - time: nil for that of the store and of this machine.
  ///   - now: time that passes whatever the clock is set to.
  ///   - write: takes the store's place in appending.
  init(
    _ store: LogStore, logger: Logger? = nil, time: SteadyTime? = nil,
    now: @escaping @Sendable () -> ContinuousClock.Instant = { .now },
    write: @escaping @Sendable (Append) async throws(LogStoreError) -> Appended
  ) {
    self.store = store
    self.write = write
    gate = RecordGate(store)
    damage = DamageStatus(store.reader, logger: logger)
    openedAt = store.reader.endOffset
    self.time = time ?? SteadyTime(logTime: { Clock.microseconds() + store.clockLeadMicroseconds }, now: now)
    appendTimes = AppendTimes(end: { store.reader.endOffset }, now: now)
    waitTime = WaitTime(now: now)
  }

  // MARK: - Ages

  /// To be called about once a second, so that ages are known.
  func noteTime() {
    _ = time.microseconds()
    appendTimes.note()
  }

  /// How old the idempotency key of a step can be: rather older than it is than younger. The clock has no part in that while
  /// the process runs. What an earlier process asked for is as old as the log's times say, by the time that the last process has left (``TimeRecord``).
  func age(of trace: StepTrace) -> Duration {
    guard let asked = trace.asked else { return .zero }
    if let age = appendTimes.age(of: asked.offset) { return age.upperBound }
    let now = time.microseconds()
    return now > asked.microseconds ? .microseconds(Int64(clamping: now - asked.microseconds)) : .zero
  }

  /// How long ago an event was appended: rather less than it is than more.
  func leastAge(of event: Event) -> Duration {
    if let age = appendTimes.age(of: event.offset) { return age.lowerBound }
    return .microseconds(Int64(clamping: waitTime.microseconds()) - Int64(clamping: event.timestampMicroseconds))
  }

  /// Appends, and tells the gate how it went.
  @discardableResult
  func append(_ append: Append) async throws(LogStoreError) -> Appended {
    do throws(LogStoreError) {
      let appended = try await write(append)
      gate.appended()
      return appended
    } catch {
      gate.failed(error)
      damage.met(error)
      throw error
    }
  }

  public var reader: LogReader { store.reader }
  /// For whoever reads the log in order.
  public var follower: LogFollower { LogFollower(reader, damage) }

  /// A payment with its stream's version, which an append to it must name.
  public struct Loaded: Sendable {
    public var payment: Payment
    public var version: UInt64
    public var events: [Event]
    /// The first event that this program can't read, if there is one. The payment is then shown as the others tell it, and
    /// nothing may be decided on it: what it does not know of may be a refund.
    public var newerEvent: NewerEvent?
  }

  /// An event of a type, or with data, that this program doesn't know: of a newer program, as a rule.
  public struct NewerEvent: Sendable, Hashable {
    public var version: UInt64
    public var type: String
    public var reason: String
  }

  /// Makes a new payment durable.
  public func initiate(_ money: Money) async throws(LogStoreError) -> PaymentID {
    guard let id = try await initiate(money, for: nil) else {
      preconditionFailure("nobody else can have begun a payment with a random id")
    }
    return id
  }

  /// Makes a new payment durable, and with it the request that asked for it.
  ///
  /// - Returns: nil when somebody else used the request's key first; nothing was appended.
  func initiate(_ money: Money, for claim: IdempotencyStore.Claim?) async throws(LogStoreError) -> PaymentID? {
    let id = PaymentID.random()
    var append = Append(newEvent(.initiated(id, money), of: id, version: 1), expecting: .noStream)
    claim?.add(.created(id), to: &append)
    do {
      try await self.append(append)
      return id
    } catch {
      guard case .conflict(let stream, _, _) = error, stream == claim?.stream else { throw error }
      return nil
    }
  }

  /// The payment as its stream tells it now; nil when there is no such payment.
  ///
  /// Events of an unknown type or unreadable are passed over, as a newer program may have written them; see
  /// ``Loaded/newerEvent``.
  ///
  /// - Parameter version: as it was then, if there is a later one.
  public func load(_ id: PaymentID, upTo version: UInt64 = .max) throws(PaymentLogError) -> Loaded? {
    let events: [Event]
    do throws(LogStoreError) {
      // What came of a call is recorded also when the server stops meanwhile.
      events = try reader.stream(id.stream, limit: Int(clamping: version), endsWithTask: false)
    } catch {
      throw failure(error, of: id)
    }
    var payment: Payment?
    var newer: NewerEvent?
    for event in events {
      let known: PaymentEvent
      do {
        known = try PaymentEvent(type: event.type, payload: event.payload)
      } catch {
        newer = newer ?? NewerEvent(version: event.version, type: event.type, reason: error.description)
        continue
      }
      do {
        if payment == nil { payment = try Payment(known) } else { try payment?.apply(known) }
      } catch {
        // Behind an event that isn't known nothing has to fit.
        guard newer != nil else { throw .illegal(id, version: event.version, error) }
      }
    }
    if let newer { damage.note(id, .newerEvent, reason: newer.reason) } else { damage.isWell(id) }
    guard let payment, let last = events.last else {
      if let newer { throw .newerEvent(id, newer) }
      return nil
    }
    return Loaded(payment: payment, version: last.version, events: events, newerEvent: newer)
  }

  /// What a failed read of a payment's stream, or a failed append to it, means for the payment.
  private func failure(_ error: LogStoreError, of id: PaymentID) -> PaymentLogError {
    let failure: PaymentLogError
    switch error {
    case .streamIncomplete(_, let missing): failure = .incomplete(id, missing: missing)
    case .damaged(let place), .unreadable(let place): failure = .damaged(id, place)
    default: return .store(error)
    }
    damage.note(id, .incomplete, reason: failure.description)
    damage.met(error)
    return failure
  }

  /// Events of a stream that take no longer than others may wait for.
  private static let shortStream: UInt64 = 256

  /// What is made of a payment as its stream tells it now, on threads for files; nil when there is no such payment. A
  /// stream that is long is read where nobody waits for a short one.
  ///
  /// - Parameter version: as it was then, if there is a later one.
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
    /// - Parameter version: of the stream, with these.
    case appended([PaymentEvent], version: UInt64)
    /// The payment's state forbids it; nothing was appended.
    case refused(PaymentRefusal)
  }

  /// Records what came of a step, against what the stream says now, and commits a cursor with it, atomically. When
  /// somebody else appended in between, it is read and decided anew. Recording the same again appends nothing.
  ///
  /// - Parameter known: the payment as it was read before the step, which is tried first.
  public func record(
    _ command: PaymentCommand, on id: PaymentID, as known: Loaded? = nil, cursor: CursorCommit
  ) async throws(PaymentLogError) -> Executed {
    try await execute(command, on: id, as: known, cursor: cursor)
  }

  /// Carries out what a person asks, each time anew: the same asked twice is two intents, unless it is under one key.
  ///
  /// - Parameter claim: of the request, to be kept with what comes of it.
  func request(
    _ command: PaymentCommand, of id: PaymentID, for claim: IdempotencyStore.Claim? = nil
  ) async throws(PaymentLogError) -> Executed {
    try await execute(command, on: id, as: nil, cursor: nil, for: claim)
  }

  private func execute(
    _ command: PaymentCommand, on id: PaymentID, as known: Loaded?, cursor: CursorCommit?,
    for claim: IdempotencyStore.Claim? = nil
  ) async throws(PaymentLogError) -> Executed {
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
        // What was read before the step says no: what it is now may not.
        guard isReadNow else { continue }
        return try await keep(error, for: claim)
      }
      var append = Append([], conditions: [id.stream: .version(loaded.version)])
      for (index, event) in events.enumerated() {
        var new = newEvent(event, of: id, version: loaded.version + UInt64(index) + 1)
        // By its content it would be taken for a repeat of an equal one that came just before.
        if cursor == nil { new.id = nil }
        append.events.append(new)
      }
      if let cursor { append.cursors = [cursor] }
      let version = loaded.version + UInt64(events.count)
      claim?.add(.changed(id, version: version), to: &append)
      do {
        try await self.append(append)
        return .appended(events, version: version)
      } catch {
        switch error {
        case .conflict(let stream, _, _): if stream == claim?.stream { throw .requestTaken }
        // Another decision came first that begins with the same event: as good as a conflict. It ends, since what is read next
        // is later.
        case .eventIDReused(let known) where known.stream == id.stream && known.version > loaded.version: continue
        default:
          if case .store = failure(error, of: id) { throw .append(error) }
          throw failure(error, of: id)
        }
      }
    }
  }

  private func keep(
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

  private func newEvent(_ event: PaymentEvent, of id: PaymentID, version: UInt64) -> NewEvent {
    let payload = event.payload
    return NewEvent(
      stream: id.stream, type: event.type, payload: payload,
      id: id.eventID(version: version, type: event.type, payload: payload))
  }
}

/// Why a payment could not be read or appended to.
public enum PaymentLogError: Error, Sendable, CustomStringConvertible {
  /// It could not be read.
  case store(LogStoreError)
  /// It was decided, and could not be appended.
  case append(LogStoreError)
  /// The stream does not tell a payment.
  case illegal(PaymentID, version: UInt64, IllegalTransition)
  case missing(PaymentID)
  /// Somebody else used the request's key first; nothing was appended.
  case requestTaken
  /// The log was repaired, and these versions of the payment's stream could not be saved.
  case incomplete(PaymentID, missing: ClosedRange<UInt64>)
  /// Some of the payment's events can't be read: the log is damaged there.
  case damaged(PaymentID, Damage)
  /// The payment has an event that this program doesn't know, so nothing may be decided on it.
  case newerEvent(PaymentID, PaymentLog.NewerEvent)

  /// The same may go well later: the log is not at fault with this payment.
  public var isTransient: Bool {
    switch self {
    case .store, .append, .requestTaken: true
    case .illegal, .missing, .incomplete, .damaged, .newerEvent: false
    }
  }

  public var description: String {
    switch self {
    case .store(let error), .append(let error): error.description
    case .illegal(let id, let version, let error): "version \(version) of payment \(id) is not possible: \(error)"
    case .missing(let id): "there is no payment \(id)"
    case .requestTaken: "another request has the same key"
    case .incomplete(let id, let missing):
      "versions \(missing.lowerBound) to \(missing.upperBound) of payment \(id) were lost when the log was repaired"
    case .damaged(let id, let damage): "payment \(id) is incomplete: \(damage)"
    case .newerEvent(let id, let event):
      "version \(event.version) of payment \(id) is of a newer program: \(event.reason)"
    }
  }
}
