import DequeModule

/// The events between the log and the broker, and the order in which they go.
///
/// Of a payment one event is in flight at a time: the next one goes when the broker has taken it. So the order of a payment's
/// messages is the log's, whatever is refused, returned or sent again after a lost connection, and a message that is repeated is
/// repeated before the next one is sent for the first time. Events of different payments go in the log's order unless they wait.
///
/// A message that the broker refuses or returns holds all messages for its exchange: after a delay one is tried, and the others go
/// when the broker has taken that one. Messages for other exchanges go on.
struct PublishQueue: Sendable {
  typealias Name = PaymentEvent.TypeName

  /// An exchange whose messages wait.
  struct Hold: Sendable {
    var reason: String
    var until: ContinuousClock.Instant
    /// Failed tries in a row.
    var attempts: Int
    /// One message is in flight, or ready, to find out.
    var isProbing = false
    fileprivate var events: Deque<IntegrationEvent> = []
  }

  private let backoff: Backoff
  /// Of each payment its events in the log's order; the first one is in flight, ready or held.
  private var lines: [PaymentID: Deque<IntegrationEvent>] = [:]
  private var ready: Deque<IntegrationEvent> = []
  /// Sent and not confirmed, by ascending tag.
  private var inFlight: Deque<(tag: UInt64, event: IntegrationEvent)> = []
  private(set) var holds: [Name: Hold] = [:]
  /// Events that are not finished.
  private(set) var count = 0

  init(backoff: Backoff) { self.backoff = backoff }

  var inFlightCount: Int { inFlight.count }

  /// Takes the log's next event.
  mutating func add(_ event: IntegrationEvent) {
    count += 1
    lines[event.payment, default: []].append(event)
    if lines[event.payment]?.count == 1 { makeReady(event) }
  }

  private mutating func makeReady(_ event: IntegrationEvent) {
    if holds[event.type] == nil { ready.append(event) } else { holds[event.type]?.events.append(event) }
  }

  /// The event to send next; nil if none may be sent. ``sent(_:tag:)`` follows.
  mutating func next(_ now: ContinuousClock.Instant) -> IntegrationEvent? {
    for (type, hold) in holds where !hold.isProbing && hold.until <= now {
      // A hold without events ends with the first one that comes, or with the next declaration that succeeds.
      guard let event = holds[type]?.events.popFirst() else { continue }
      holds[type]?.isProbing = true
      return event
    }
    while let event = ready.popFirst() {
      guard holds[event.type] != nil else { return event }
      holds[event.type]?.events.append(event)
    }
    return nil
  }

  /// Whether ``next(_:)`` would return an event.
  func hasNext(_ now: ContinuousClock.Instant) -> Bool {
    ready.contains { holds[$0.type] == nil }
      || holds.values.contains { !$0.isProbing && $0.until <= now && !$0.events.isEmpty }
  }

  /// Whether all events wait for held exchanges.
  var isAllHeld: Bool {
    !holds.isEmpty && inFlight.count <= holds.count && ready.allSatisfy { holds[$0.type] != nil }
  }

  /// An exchange could be declared: if it is held and nothing waits for it, the hold is over.
  mutating func endIdleHold(_ type: Name) {
    if let hold = holds[type], hold.events.isEmpty, !hold.isProbing { holds[type] = nil }
  }

  /// When a held exchange is tried next; nil if none waits for a time.
  var nextTry: ContinuousClock.Instant? {
    holds.values.filter { !$0.isProbing && !$0.events.isEmpty }.map(\.until).min()
  }

  /// - Parameter tag: greater than all before on this connection.
  mutating func sent(_ event: IntegrationEvent, tag: UInt64) { inFlight.append((tag, event)) }

  /// An event that could not be sent, and was not: it goes first on the next connection.
  mutating func putBack(_ event: IntegrationEvent) {
    ready.prepend(event)
    for type in holds.keys where type == event.type { holds[type]?.isProbing = false }
  }

  /// What is in flight with this tag, or up to it if `multiple`; it is not in flight any more.
  mutating func take(_ tag: UInt64, multiple: Bool) -> [IntegrationEvent] {
    var taken: [IntegrationEvent] = []
    if multiple {
      while let first = inFlight.first, first.tag <= tag {
        taken.append(first.event)
        inFlight.removeFirst()
      }
    } else if let first = inFlight.first, first.tag == tag {
      // The usual case: brokers confirm in the order of the messages.
      taken.append(first.event)
      inFlight.removeFirst()
    } else if let index = inFlight.firstIndex(where: { $0.tag == tag }) {
      taken.append(inFlight.remove(at: index).event)
    }
    return taken
  }

  /// The broker has taken the message.
  ///
  /// - Returns: whether this ends the hold of its exchange.
  mutating func confirmed(_ event: IntegrationEvent) -> Bool {
    count -= 1
    lines[event.payment]?.removeFirst()
    let hold = holds.removeValue(forKey: event.type)
    if let hold { ready.append(contentsOf: hold.events) }
    if let following = lines[event.payment]?.first { makeReady(following) } else { lines[event.payment] = nil }
    return hold != nil
  }

  /// The broker has not taken the message, and said so.
  mutating func refused(_ event: IntegrationEvent, _ reason: String, _ now: ContinuousClock.Instant) {
    hold(event.type, reason, now)
    holds[event.type]?.events.prepend(event)
  }

  /// Holds the messages for an exchange, such as one that could not be declared.
  ///
  /// Several messages that were in flight together count as one try.
  mutating func hold(_ type: Name, _ reason: String, _ now: ContinuousClock.Instant) {
    var hold = holds[type] ?? Hold(reason: reason, until: now, attempts: 0)
    if hold.isProbing || hold.attempts == 0 {
      hold.attempts += 1
      hold.until = now + backoff.delay(attempts: hold.attempts)
    }
    hold.reason = reason
    hold.isProbing = false
    holds[type] = hold
  }

  /// The connection is lost: what was in flight may have arrived or not, and is sent again, in its order.
  ///
  /// - Returns: how many messages that are.
  mutating func disconnected() -> Int {
    for type in holds.keys { holds[type]?.isProbing = false }
    let lost = inFlight.map(\.event)
    ready.prepend(contentsOf: lost)
    inFlight = []
    return lost.count
  }

  /// Forgets all events, as the log is read from another offset.
  mutating func removeAll() {
    (lines, ready, inFlight, count) = ([:], [], [], 0)
    for type in holds.keys {
      holds[type]?.events = []
      holds[type]?.isProbing = false
    }
  }
}
