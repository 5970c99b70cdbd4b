import LogStore

/// The payments log as ``ActivityFill`` reads it. Its calls block for the disk.
protocol ActivityLog: Sendable {
  /// The first event from an offset on; nil if there is none below the end.
  func first(from offset: UInt64, below end: UInt64) throws(LogStoreError) -> ActivityEvent?

  /// Visits all events at these offsets in order.
  ///
  /// - Returns: false if some can't be read.
  func forEach(in offsets: Range<UInt64>, _ body: (ActivityEvent) -> Void) throws(LogStoreError) -> Bool

  /// The time of a payment's first event, in microseconds since 1970; nil if it can't be read.
  func begin(of payment: PaymentID) -> UInt64?
}

/// An event of the log, as far as ``ActivityFill`` needs it.
struct ActivityEvent: Sendable, Hashable {
  var offset: UInt64
  var microseconds: UInt64
  /// Nil for an event that neither begins nor ends a payment.
  var kind: PaymentFlow.Kind?
  /// Only of an event that begins or completes a payment.
  var payment: PaymentID?
}

extension LogFollower: ActivityLog {
  func first(from offset: UInt64, below end: UInt64) throws(LogStoreError) -> ActivityEvent? {
    var found: ActivityEvent?
    _ = try forEachNow(from: offset) { event in
      if event.offset < end { found = ActivityEvent(offset: event.offset, microseconds: event.timestampMicroseconds) }
      return false
    }
    return found
  }

  func forEach(in offsets: Range<UInt64>, _ body: (ActivityEvent) -> Void) throws(LogStoreError) -> Bool {
    var isWhole = true
    _ = try forEachNow(
      from: offsets.lowerBound, passed: { range in if range.offsets.overlaps(offsets) { isWhole = false } }
    ) { view in
      guard view.offset < offsets.upperBound else { return false }
      body(ActivityEvent(view))
      return view.offset + 1 < offsets.upperBound
    }
    return isWhole
  }

  func begin(of payment: PaymentID) -> UInt64? {
    // What can't be read is left out; the consumers report it.
    try? reader.stream(payment.stream, limit: 1, endsWithTask: false).first?.timestampMicroseconds
  }
}

extension ActivityEvent {
  private static let initiated = Array(PaymentEvent.TypeName.initiated.rawValue.utf8)
  private static let completed = Array(PaymentEvent.TypeName.completed.rawValue.utf8)
  private static let unknown = Array(PaymentEvent.TypeName.outcomeUnknown.rawValue.utf8)
  private static let otherEnds = [PaymentEvent.TypeName.declined, .cancelled, .failed].map { Array($0.rawValue.utf8) }

  /// Copies only a payment's id, and the rare event of an unknown outcome.
  fileprivate init(_ view: borrowing EventView) {
    self.init(offset: view.offset, microseconds: view.timestampMicroseconds)
    kind = view.type.withUnsafeBytes { type -> PaymentFlow.Kind? in
      if type.elementsEqual(Self.initiated) { return .accepted }
      if type.elementsEqual(Self.completed) { return .completed }
      return Self.otherEnds.contains { type.elementsEqual($0) } ? .endedOtherwise : nil
    }
    let isUnknown = view.type.withUnsafeBytes { $0.elementsEqual(Self.unknown) }
    if isUnknown {
      let event = view.copy()
      // An event that can't be read counts nowhere; the completion consumer reports it.
      kind = (try? PaymentEvent(type: event.type, payload: event.payload)).flatMap(PaymentFlow.Kind.init)
    }
    if kind == .accepted || kind == .completed {
      payment = view.stream.withUnsafeBytes { PaymentID(stream: String(decoding: $0, as: UTF8.self)) }
    }
  }
}
