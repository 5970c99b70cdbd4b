import LogStore

/// Payments on the log: the one place that loads a payment from its stream and appends to it.
///
/// Safe to use from any task.
public struct PaymentLog: Sendable {
  public let store: LogStore

  public init(_ store: LogStore) { self.store = store }

  public var reader: LogReader { store.reader }

  /// A payment with its stream's version, which an append to it must name.
  public struct Loaded: Sendable {
    public var payment: Payment
    public var version: UInt64
    public var events: [Event]
  }

  /// Makes a new payment durable.
  public func initiate(_ money: Money) async throws(LogStoreError) -> PaymentID {
    let id = PaymentID.random()
    _ = try await store.append(Append(newEvent(.initiated(id, money), of: id, version: 1), expecting: .noStream))
    return id
  }

  /// The payment as its stream tells it now; nil when there is no such payment.
  ///
  /// Events of an unknown type or unreadable are passed over, as a newer program may have written them.
  ///
  /// - Parameter version: as it was then, if there is a later one.
  public func load(_ id: PaymentID, upTo version: UInt64 = .max) throws(PaymentLogError) -> Loaded? {
    let events: [Event]
    do throws(LogStoreError) {
      events = try reader.stream(id.stream, limit: Int(clamping: version))
    } catch .streamIncomplete(_, let missing) {
      throw .incomplete(id, missing: missing)
    } catch {
      throw .store(error)
    }
    var payment: Payment?
    for event in events {
      guard let known = try? PaymentEvent(type: event.type, payload: event.payload) else { continue }
      do {
        if payment == nil { payment = try Payment(known) } else { try payment?.apply(known) }
      } catch {
        throw .illegal(id, version: event.version, error)
      }
    }
    guard let payment, let last = events.last else { return nil }
    return Loaded(payment: payment, version: last.version, events: events)
  }

  /// How a command ended.
  public enum Executed: Sendable, Hashable {
    case appended([PaymentEvent])
    /// The payment's state forbids it; nothing was appended.
    case refused(PaymentRefusal)
  }

  /// Records what came of a step, against what the stream says now, and commits a cursor with it, atomically. When
  /// somebody else appended in between, it is read and decided anew. Recording the same again appends nothing.
  public func record(
    _ command: PaymentCommand, on id: PaymentID, cursor: CursorCommit
  ) async throws(PaymentLogError) -> Executed {
    try await execute(command, on: id, cursor: cursor)
  }

  /// Carries out what a person asks, each time anew: the same asked twice is two intents.
  public func request(_ command: PaymentCommand, of id: PaymentID) async throws(PaymentLogError) -> Executed {
    try await execute(command, on: id, cursor: nil)
  }

  private func execute(
    _ command: PaymentCommand, on id: PaymentID, cursor: CursorCommit?
  ) async throws(PaymentLogError) -> Executed {
    while true {
      guard let loaded = try load(id) else { throw .missing(id) }
      let events: [PaymentEvent]
      do {
        events = try loaded.payment.decide(command)
      } catch {
        return .refused(error)
      }
      var append = Append([], conditions: [id.stream: .version(loaded.version)])
      for (index, event) in events.enumerated() {
        var new = newEvent(event, of: id, version: loaded.version + UInt64(index) + 1)
        // By its content it would be taken for a repeat of an equal one that came just before.
        if cursor == nil { new.id = nil }
        append.events.append(new)
      }
      if let cursor { append.cursors = [cursor] }
      do {
        _ = try await store.append(append)
        return .appended(events)
      } catch {
        guard case .conflict = error else { throw .store(error) }
      }
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
  case store(LogStoreError)
  /// The stream does not tell a payment.
  case illegal(PaymentID, version: UInt64, IllegalTransition)
  case missing(PaymentID)
  /// The log was repaired, and these versions of the payment's stream could not be saved.
  case incomplete(PaymentID, missing: ClosedRange<UInt64>)

  public var description: String {
    switch self {
    case .store(let error): error.description
    case .illegal(let id, let version, let error): "version \(version) of payment \(id) is not possible: \(error)"
    case .missing(let id): "there is no payment \(id)"
    case .incomplete(let id, let missing):
      "versions \(missing.lowerBound) to \(missing.upperBound) of payment \(id) were lost when the log was repaired"
    }
  }
}
