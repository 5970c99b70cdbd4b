/// The calls of a consumer that are in flight: their slots, and at most one call at a time for a step of a payment. Two calls with one
/// key would race, and the response to one could end the payment while the other still has an effect. A pure value, but for the
/// calls that it stops; the caller passes the time.
struct CallsInFlight {
  private(set) var slots: CallSlots
  /// The steps that are being called, each with the work for the same step that came meanwhile, such as after a cancellation that
  /// was refused.
  private var waiting: [CallKey: [StepWork]] = [:]
  /// For each call, by its number.
  private var stops: [Int: CallStop] = [:]

  init(limits: CallSlots.Limits) { slots = CallSlots(limits: limits) }

  /// Begins a call, unless one of the same step of the same payment is in flight: then the work waits until ``end(_:of:isAccepted:now:)``
  /// returns it.
  ///
  /// - Returns: the call's number, and what stops the call; nil when the work waits.
  mutating func begin(_ lane: CallSlots.Lane, for work: StepWork, now: CallSlots.Instant) -> (Int, CallStop)? {
    let key = CallKey(work)
    guard waiting[key] == nil else {
      waiting[key]?.append(work)
      return nil
    }
    waiting[key] = []
    let number = slots.begin(lane, now: now)
    let stop = CallStop()
    stops[number] = stop
    return (number, stop)
  }

  /// - Parameter isAccepted: the other side has carried out the call.
  /// - Returns: the work that has waited for the call's end, in the order in which it came.
  mutating func end(_ number: Int, of work: StepWork, isAccepted: Bool, now: CallSlots.Instant) -> [StepWork] {
    slots.end(number, isAccepted: isAccepted, now: now)
    stops[number] = nil
    return waiting.removeValue(forKey: CallKey(work)) ?? []
  }

  /// Marks the calls that have become slow.
  mutating func age(to now: CallSlots.Instant) { slots.age(to: now) }

  /// Stops calls that hang, for others that wait: see ``CallSlots/abandon(for:now:)``.
  mutating func abandon(for waiting: Int, now: CallSlots.Instant) {
    for number in slots.abandon(for: waiting, now: now) { stops[number]?.stop() }
  }
}
