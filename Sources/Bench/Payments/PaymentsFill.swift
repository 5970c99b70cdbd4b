import Glibc
import LogStore
import RegisPay

/// Writes payments with all their events, as a server would have, as fast as the log accepts them.
struct PaymentsFill {
  let directory: String
  /// Payments of one append.
  private static let batch = 1_000

  func run(_ count: Int, progress: (Int) -> Void) async throws {
    mkdir(directory, 0o755)
    var options = LogStore.Options()
    options.segmentBytes = ServerOptions(directory: directory).segmentBytes
    let store = try LogStore.open("\(directory)/payments", options: options)
    var done = 0
    while done < count {
      let now = min(Self.batch, count - done)
      let ids = (0..<now).map { _ in PaymentID.random() }
      // As in a server's log, the events of one payment are not adjacent: others lie between.
      for events in Self.events(ids, first: done) { _ = try await store.appendBuffered(Append(events)) }
      done += now
      if done % 100_000 == 0 { progress(done) }
    }
    try await store.flush()
    // The consumers have processed everything.
    let end = store.reader.endOffset
    let names = PaymentStep.allCases.map(StepConsumer.cursorName) + [CompletionConsumer.cursorName]
    _ = try await store.append(Append([], cursors: names.map { CursorCommit(name: $0, checkpoint: end) }))
    try await store.close()
  }

  private static func events(_ ids: [PaymentID], first: Int) -> [[NewEvent]] {
    func all(_ event: (Int, PaymentID) -> PaymentEvent) -> [NewEvent] {
      ids.enumerated().map { number, id in
        let event = event(first + number, id)
        return NewEvent(stream: id.stream, type: event.type, payload: event.payload)
      }
    }
    return [
      all { number, id in
        let currency = Currency.supported[number % Currency.supported.count]
        return .initiated(id, Money(minorUnits: Int64(1 + number % 100_000), currency: currency))
      },
      all { number, id in .created(reference: "\(id)") },
      all { _, _ in .settled },
      all { _, _ in .completed },
    ]
  }
}
