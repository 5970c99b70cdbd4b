import LogStore

/// All charges of the simulator, in the order they were made: read from its log when somebody asks, a page at a time, so
/// that any number of them takes no memory.
struct Ledger: Sendable {
  let reader: LogReader

  /// Charges of a page, at most.
  private static let pageLimit = 256
  /// Events that are looked at for one page, at most: others ask in between.
  private static let eventLimit = 4096

  /// Hands out every charge that was made before the call, as it stands when its page is made.
  func forEachPage(_ body: ([Charge]) async throws -> Void) async throws {
    let end = reader.endOffset
    var place: UInt64 = 0
    while place < end {
      var streams: [String] = []
      var eventCount = 0
      place = try reader.forEach(from: place) { event in
        eventCount += 1
        if event.type.withUnsafeBytes({ $0.elementsEqual(Charge.EventType.created.rawValue.utf8) }) {
          streams.append(event.stream.withUnsafeBytes { String(decoding: $0, as: UTF8.self) })
        }
        return streams.count < Self.pageLimit && eventCount < Self.eventLimit
      }
      let page = try streams.compactMap { Charge(try reader.stream($0)) }
      if !page.isEmpty { try await body(page) }
      await Task.yield()
    }
  }

  /// Every charge that was made before the call.
  func all() async throws -> [Charge] {
    var charges: [Charge] = []
    try await forEachPage { charges += $0 }
    return charges
  }
}
