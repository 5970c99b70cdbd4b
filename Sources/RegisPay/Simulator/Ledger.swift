import LogStore
import Logging

/// All charges of the simulator, in the order they were made: a projection of its log, in memory, that grows with the
/// number of charges. It follows the log from the start on beside everything else, so nothing waits for it but who asks.
actor Ledger {
  private let reader: LogReader
  private var place: UInt64 = 0
  private var charges: [Charge] = []
  private var indices: [String: Int] = [:]

  init(reader: LogReader) { self.reader = reader }

  /// Follows the log until its task is cancelled.
  func run(logger: Logger) async {
    while !Task.isCancelled {
      do {
        try await catchUp(to: reader.endOffset)
        _ = try await reader.waitForEvents(at: place)
      } catch {
        if case .closed = error { return }
        logger.error("the ledger can't follow the simulator's log", metadata: ["error": "\(error)"])
        try? await Task.sleep(for: .seconds(5))
      }
    }
  }

  /// Every charge that was made before the call.
  func all() async throws(LogStoreError) -> [Charge] {
    try await catchUp(to: reader.endOffset)
    return charges
  }

  private func catchUp(to end: UInt64) async throws(LogStoreError) {
    while place < end {
      let events = try reader.events(from: place, limit: 256)
      guard !events.isEmpty else { return }
      place = events.last.map { $0.offset + 1 } ?? place
      for event in events { take(event) }
      // A long log is read at the start; others may ask in between.
      await Task.yield()
    }
  }

  private func take(_ event: Event) {
    if let charge = Charge(event) {
      indices[event.stream] = charges.count
      charges.append(charge)
    } else if let index = indices[event.stream] {
      charges[index].apply(event)
    }
  }
}
