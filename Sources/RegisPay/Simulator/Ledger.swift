import LogStore

/// All charges of the simulator, in the order they were made: read from its log when somebody asks, a page at a time, so
/// that any number of them takes no memory, and nobody waits for more than a page.
struct Ledger: Sendable {
  let follower: LogFollower
  private var reader: LogReader { follower.reader }

  /// Charges of a page, at most.
  private static let pageLimit = 256

  /// Hands out every charge that was made before the call, as it stands when its page is made.
  func forEachPage(_ body: ([Charge]) async throws -> Void) async throws {
    let end = reader.endOffset
    var place: UInt64 = 0
    while place < end {
      let (charges, next) = try await RequestThreads.run(.long) { [place] () throws(LogStoreError) in
        try page(from: place)
      }
      if !charges.isEmpty { try await body(charges) }
      place = next
      try Task.checkCancellation()
    }
  }

  private func page(from place: UInt64) throws(LogStoreError) -> (charges: [Charge], next: UInt64) {
    var end = PortionEnd()
    var found: [(offset: UInt64, stream: String)] = []
    // What can't be read is seen in `/health`, and left out here.
    let next = try follower.forEachNow(from: place) { event in
      if event.type.withUnsafeBytes({ $0.elementsEqual(Charge.EventType.created.rawValue.utf8) }) {
        found.append((event.offset, event.stream.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }))
      }
      return found.count < Self.pageLimit && !end.isReached(after: event.payload.byteCount)
    }
    var charges: [Charge] = []
    end = PortionEnd()
    for (offset, stream) in found {
      // At least one, so that it goes on.
      if !charges.isEmpty, end.isReached(after: Self.lookUpCost) { return (charges, offset) }
      if let charge = try charge(stream) { charges.append(charge) }
    }
    return (charges, next)
  }

  private func charge(_ stream: String) throws(LogStoreError) -> Charge? {
    do throws(LogStoreError) {
      return Charge(try follower.look { reader throws(LogStoreError) in try reader.stream(stream) })
    } catch {
      guard error.isOfAPlace else { throw error }
      return nil
    }
  }

  /// A look-up of a stream takes as long as looking at so many bytes, or longer: the clock is asked for every second one.
  private static let lookUpCost = 64 << 10

  /// Every charge that was made before the call.
  func all() async throws -> [Charge] {
    var charges: [Charge] = []
    try await forEachPage { charges += $0 }
    return charges
  }
}
